"""What is read off a run: one number a measure, defined here once and used by every figure and every verdict.

========================  =============================================================================================
``test_accuracy`` ...     the mean of a curve over a window: split (``train``, ``batch``, ``test``) and ``loss`` or
                          ``accuracy``, of detection ``box_ap``, ``mask_ap50`` ..., of style transfer ``content`` and
                          ``style``, of super-resolution ``psnr`` and ``gain``, of adversarial
                          networks ``frechet`` and ``coverage``
``samples_to_loss``       convergence: images seen until the training loss, a mean over 1/40 of the run, is at most 0.3;
                          another loss stands in brackets, ``samples_to_loss[0.5]``
``steps_to_loss``         the same in optimizer steps
``saturation_step``       the step at which the training accuracy, a mean over 1/40 of the run, has made 95 % of its own
                          rise from the first such mean to the highest; all steps of a run whose accuracy does not rise
                          by 0.1: it does not train, and is the last to saturate
``jitter``                mean absolute change of the test accuracy from point to point, after its trend over the whole
                          run is taken out
``batch_jitter``          the same of the loss of the current batch, as a single step sees it
``overfitting``           training accuracy minus test accuracy, means over the window
``fall``                  the largest fall of the test accuracy from one point to the next
``peak``                  the test accuracy at the best step: the step chosen on one half of the test images, the
                          accuracy taken on the other, both ways, their mean
``highest``               the highest test accuracy of the curve, too high for being chosen on the images that it is
                          measured on; all that there is of a run from before the halves were logged
``peak_step``             the step of that point
``tau[batch_accuracy]``   whether a curve (here the batch's accuracy) rises or falls: Kendall's tau of values and steps
``tau_p[batch_accuracy]`` the p value of that tau
``progress``              training loss, mean over the first twentieth of the run minus mean over the last
``train_jitter``          the same as ``jitter`` of the training loss
``probe.column[k=v]``     of a probe, the median over its rows in the window, such as ``smoothness.beta`` or
                          ``distributions.wasserstein[layer=2]``; what is not finite counts as infinitely large
``log2(smoothness.beta)`` the binary logarithm of a measure, whose differences are factors
========================  =============================================================================================

A run that does not come down to the loss counts with all the images that it saw: a lower bound. A measure that a run
has not got (a run that diverged too early, a curve of too few points) is None.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import scipy  # see stats.py
from numpy.typing import NDArray

from ..config import AVERAGE_PRECISIONS, GENERATED, HALVES, RESTORED, RESTYLED, setting
from ..errors import UsageError
from ..runs.store import Run

LOSS = 0.3  # nats: the training loss that counts as converged
TRAINS, SATURATED = 0.1, 0.95  # a rise of accuracy from which a run trains, and the share of it where it saturates
TREND = 7  # points of the local parabola that is the trend of a curve (Savitzky & Golay 1964)
SPLITS = ("train", "batch", "test", "validation")
CURVES = ("loss", "accuracy", *HALVES, *AVERAGE_PRECISIONS, *RESTYLED, *RESTORED, *GENERATED)
LATE = (0.75, 1.0)  # the window where the end of a run is meant: its last quarter

Window = tuple[float, float]  # after the first of these steps, up to the second; where the two are one, at it


def curve(run: Run, metric: str, window: Window | None = None) -> NDArray[np.float64]:
    """The values of a curve, such as ``test_accuracy``, in the window."""
    split, _, name = metric.partition("_")
    points = run.curves.get(split, {})
    if name not in CURVES or (not points and split not in SPLITS):
        raise UsageError(f"unknown measure {metric!r}: one of {', '.join(MEASURES)}, or split and metric")
    if name not in points:  # of a run from before it was logged
        return np.array([])
    return np.array(points[name])[_inside(points["step"], window or (0, run.config.steps))]


def _inside(steps: Sequence[float], window: Window) -> NDArray[np.bool_]:
    at = np.asarray(steps, dtype=float)
    if window[0] == window[1]:  # the whole of a run of no steps
        return np.asarray(at == window[1])
    return np.asarray((at > window[0] + 1e-9) & (at <= window[1] + 1e-9))


def _mean(values: NDArray[np.float64]) -> float | None:
    return float(values.mean()) if values.size else None


def _samples_to_loss(run: Run, window: Window, loss: str = "") -> float | None:
    smooth = _smooth(run, "loss")
    if smooth.empty:
        return None
    reached = np.asarray(smooth.index, dtype=float)[(smooth <= _number(loss, LOSS)).to_numpy()]
    return float(reached[0] if reached.size else run.config.steps) * run.config.batch_size


def _smooth(run: Run, metric: str) -> "pd.Series[float]":
    """A training curve's running mean over 1/40 of the run, by step; not a number before the first is whole."""
    points = run.curves["train"]
    if metric not in points:
        return pd.Series(dtype=float)
    curve = pd.Series(points[metric], index=points["step"], dtype=float)
    return curve if curve.empty else curve.rolling(max(1, round(run.config.steps / 40 / points["step"][0]))).mean()


def _saturation_step(run: Run, window: Window) -> float | None:
    smooth = _smooth(run, "accuracy")
    if smooth.empty:
        return None
    smooth = smooth.dropna()
    rise = smooth - smooth.iloc[0] if len(smooth) else smooth
    if rise.empty or rise.max() < TRAINS:
        return float(run.config.steps)
    return float(np.asarray(rise.index, dtype=float)[(rise >= SATURATED * rise.max()).to_numpy()][0])


def _steps_to_loss(run: Run, window: Window, loss: str = "") -> float | None:
    samples = _samples_to_loss(run, window, loss)
    return None if samples is None else samples / run.config.batch_size


def _number(text: str, default: float) -> float:
    try:
        return float(text) if text else default
    except ValueError:
        raise UsageError(f"a loss in brackets is a number, such as steps_to_loss[0.5], got {text!r}") from None


def _jitter(run: Run, window: Window) -> float | None:
    return _jitter_of(run, "test_accuracy", window)


def _train_jitter(run: Run, window: Window) -> float | None:
    return _jitter_of(run, "train_loss", window)


def _batch_jitter(run: Run, window: Window) -> float | None:
    return _jitter_of(run, "batch_loss", window)


def _jitter_of(run: Run, metric: str, window: Window) -> float | None:
    """Of the points in the window; the trend is that of the whole curve, so that a window may be short."""
    whole, steps = curve(run, metric), run.curves.get(metric.partition("_")[0], {}).get("step", [])
    return jitter(whole, _inside(steps, window)[: whole.size]) if whole.size else None


def jitter(values: NDArray[np.float64], of: NDArray[np.bool_] | None = None) -> float | None:
    """Mean absolute change from point to point of what is left of a curve without its trend, a parabola fitted
    around each point; None for fewer points than the parabola has, or fewer than two to compare (``of``)."""
    if values.size < TREND:
        return None
    left = values - scipy.signal.savgol_filter(values, TREND, 2)
    changes = np.abs(np.diff(left if of is None else left[of]))
    return float(changes.mean()) if changes.size else None


def _overfitting(run: Run, window: Window) -> float | None:
    train, test = (_mean(curve(run, f"{split}_accuracy", window)) for split in ("train", "test"))
    return None if train is None or test is None else train - test


def _fall(run: Run, window: Window) -> float | None:
    values = curve(run, "test_accuracy", window)
    return float(-np.diff(values).min()) if values.size > 1 else None


def _highest(run: Run, window: Window) -> float | None:
    values = curve(run, "test_accuracy", window)
    return float(values.max()) if values.size else None


def _peak(run: Run, window: Window) -> float | None:
    a, b = (curve(run, f"test_{half}", window) for half in HALVES)
    return float(b[a.argmax()] + a[b.argmax()]) / 2 if a.size and b.size else None


def _peak_step(run: Run, window: Window) -> float | None:
    points = run.curves.get("test", {})
    values = points.get("accuracy")
    return float(points["step"][int(np.argmax(values))]) if values else None


def _tau(run: Run, window: Window, metric: str = "test_accuracy") -> float | None:
    return _kendall(curve(run, metric, window))[0]


def _tau_p(run: Run, window: Window, metric: str = "test_accuracy") -> float | None:
    return _kendall(curve(run, metric, window))[1]


def _kendall(values: NDArray[np.float64]) -> tuple[float | None, float | None]:
    """Kendall's tau of the values and their order, and its p value; a constant curve has neither trend nor doubt."""
    if values.size < 3:
        return None, None
    if np.ptp(values) == 0:
        return 0.0, 1.0
    found = scipy.stats.kendalltau(np.arange(values.size), values)
    return float(found.statistic), float(found.pvalue)


def _progress(run: Run, window: Window) -> float | None:
    steps = run.config.steps
    first, last = (curve(run, "train_loss", w) for w in ((0, steps / 20), (steps * 19 / 20, steps)))
    return float(first.mean() - last.mean()) if first.size and last.size else None


MEASURES: dict[str, Callable[..., float | None]] = {
    "samples_to_loss": _samples_to_loss,
    "steps_to_loss": _steps_to_loss,
    "saturation_step": _saturation_step,
    "jitter": _jitter,
    "batch_jitter": _batch_jitter,
    "train_jitter": _train_jitter,
    "overfitting": _overfitting,
    "fall": _fall,
    "peak": _peak,
    "highest": _highest,
    "peak_step": _peak_step,
    "progress": _progress,
}
#: measures that need what stands in their brackets
OF_A_CURVE: dict[str, Callable[..., float | None]] = {"tau": _tau, "tau_p": _tau_p}

_TAKING = {**OF_A_CURVE, "samples_to_loss": _samples_to_loss, "steps_to_loss": _steps_to_loss}

LOG2 = re.compile(r"log2\((?P<metric>.+)\)")
_PROBED = re.compile(r"(?P<probe>\w+)\.(?P<column>\w+)(\[(?P<where>[^\]]+)\])?")


def _of_probe(run: Run, metric: str, window: Window) -> float | None:
    """The median of a probe's column over the rows in the window that have these values in other columns."""
    found = _PROBED.fullmatch(metric)
    assert found
    columns = run.probes.get(found["probe"])
    if not columns:
        return None
    pairs = [pair.partition("=") for pair in (found["where"] or "").split(",") if pair]
    if not all(is_ for _, is_, _ in pairs):
        raise UsageError(f"{metric}: in brackets stand conditions such as layer=2")
    wanted = {column: value for column, _, value in pairs}
    missing = {found["column"], *wanted} - columns.keys()
    if missing:
        raise UsageError(f"{metric}: the probe {found['probe']} has no {', '.join(sorted(missing))}")
    rows = [
        math.inf if value is None else float(value)
        for i, (step, value) in enumerate(zip(columns["step"], columns[found["column"]], strict=True))
        if window[0] - 1e-9 <= step <= window[1] + 1e-9 and all(str(columns[k][i]) == v for k, v in wanted.items())
    ]
    middle = float(np.median(rows)) if rows else math.inf
    return middle if math.isfinite(middle) else None


def window(
    run: Run,
    epochs: Sequence[float] | None = None,
    of_run: Sequence[float] | None = None,
    samples: Sequence[float] | None = None,
) -> Window | None:
    """The steps from ... to ...: of ``epochs`` (counted from the end where negative, ``(-1, 0)`` is the last), of
    the run (``(0.75, 1)`` is its last quarter), or of so many images seen. None if none is given."""
    given = [w for w in (epochs, of_run, samples) if w is not None]
    if len(given) > 1:
        raise UsageError("a window is in epochs, in parts of the run or in samples, one of them")
    if not given:
        return None
    low, high = given[0]
    if samples is not None:
        scale = 1 / run.config.batch_size
    elif of_run is not None:
        scale = float(run.config.steps)
    else:
        scale = run.provenance["steps_per_epoch"]
        if low < 0:
            low, high = (run.config.steps / scale + e for e in (low, high))
    return low * scale, high * scale


def value(run: Run, metric: str, within: Window | None = None) -> float | None:
    """One measure of one run; a curve without a window is its last value."""
    if logarithm := LOG2.fullmatch(metric):
        number = value(run, logarithm["metric"], within)
        return math.log2(number) if number is not None and number > 0 else None
    whole = within or (0, run.config.steps)
    name, bracket, argument = metric.partition("[")
    if bracket and name in _TAKING:
        return _TAKING[name](run, whole, argument.removesuffix("]"))
    if metric in MEASURES:
        return MEASURES[metric](run, whole)
    if _PROBED.fullmatch(metric):
        return _of_probe(run, metric, whole)
    points = curve(run, metric, within)
    return _mean(points if within else points[-1:])


def measured(runs: Sequence[Run], also: Mapping[str, str] | None = None) -> pd.DataFrame:
    """One row a run: its configuration and every measure, those of the end over the last quarter of the run.

    Args:
        also: column -> a measure of a probe, taken over the whole run.
    """
    rows = []
    for run in runs:
        late = window(run, of_run=LATE)
        row: dict[str, Any] = {"key": run.key, "status": run.status, **setting(run.config)}
        row |= {name: value(run, name, late) for name in ("test_accuracy", "train_loss", "overfitting")}
        row |= {name: value(run, name) for name in MEASURES if name != "overfitting"}
        row |= {name: value(run, metric) for name, metric in (also or {}).items()}
        rows.append(row)
    return pd.DataFrame(rows)


def measure(runs: Sequence[Run], metric: str, epochs: Sequence[float] | None = None, **within: Any) -> pd.DataFrame:
    """One row a run, ``norm``, ``seed`` and ``value``: one measure in a :func:`window`. A run that has it not is
    left out."""
    rows = []
    for run in runs:
        found = value(run, metric, window(run, epochs, **within))
        if found is not None:
            rows.append({"norm": run.config.norm, "seed": run.config.seed, "value": found})
    return pd.DataFrame(rows, columns=["norm", "seed", "value"])


def basins(table: pd.DataFrame, metric: str, below: float, *, by: str = "variant") -> pd.DataFrame:
    """The learning rates that train: for each seed the longest stretch of neighbouring rates whose ``metric`` stays
    below a bound; a run that diverged does not train.

    Args:
        table: rows of :func:`measured`, one for each rate.

    Returns:
        ``by``, ``seed``, ``low`` and ``high``, the ends of the stretch, and ``decades``, the decimal logarithm of their
        ratio; where no rate trains the ends are NaN and the width is 0. ``low_open``, ``high_open`` and
        ``decades_open`` say that the stretch reaches an end of the rates that were tried: the number is a bound.
    """
    rows = []
    for (name, seed), runs in table.groupby([by, "seed"], sort=False):
        ordered = runs.sort_values("lr")
        good = ((ordered["status"] == "finished") & (ordered[metric] < below)).to_numpy()
        stretch, longest = list[float](), list[float]()
        for rate, trains in zip(ordered["lr"], good, strict=True):
            stretch = [*stretch, rate] if trains else []
            longest = max(longest, stretch, key=len)
        low, high = (longest[0], longest[-1]) if longest else (math.nan, math.nan)
        first, last = low == ordered["lr"].min(), high == ordered["lr"].max()
        rows.append({by: name, "seed": seed, "low": low, "high": high,
                     "decades": math.log10(high / low) if longest else 0.0,
                     "low_open": first, "high_open": last, "decades_open": first or last})  # fmt: skip
    return pd.DataFrame(rows)
