"""What is read off a run: one number a measure, defined here once and used by every figure and every verdict.

========================  =============================================================================================
``test_accuracy`` ...     the mean of a curve over a window: split (``train``, ``batch``, ``test``) and ``loss`` or
                          ``accuracy``
``samples_to_loss``       convergence: images seen until the training loss, a mean over 1/40 of the run, is at most 0.3
``steps_to_loss``         the same in optimizer steps
``jitter``                mean absolute change of the test accuracy from point to point, after its trend is taken out
``batch_jitter``          the same of the loss of the current batch, as a single step sees it
``overfitting``           training accuracy minus test accuracy, means over the window
``fall``                  the largest fall of the test accuracy from one point to the next
``peak``                  the highest test accuracy of the curve
``peak_step``             the step of that point
``progress``              training loss, mean over the first twentieth of the run minus mean over the last
========================  =============================================================================================

A run that does not come down to the loss counts with all the images that it saw: a lower bound. A measure that a run
has not got (a run that diverged too early, a curve of too few points) is None.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.signal import savgol_filter

from .errors import UsageError
from .runs import Run

LOSS = 0.3  # nats: the training loss that counts as converged
TREND = 7  # points of the local parabola that is the trend of a curve (Savitzky & Golay 1964)
LATE = (0.75, 1.0)  # the window where the end of a run is meant: its last quarter

Window = tuple[float, float]  # after the first of these steps, up to the second


def curve(run: Run, metric: str, window: Window | None = None) -> NDArray[np.float64]:
    """The values of a curve, such as ``test_accuracy``, in the window."""
    split, _, name = metric.partition("_")
    points = run.curves.get(split, {})
    if name not in ("loss", "accuracy") or (not points and split not in ("train", "batch", "test", "validation")):
        raise UsageError(f"unknown measure {metric!r}: one of {', '.join(MEASURES)}, or split and metric")
    low, high = window or (0, run.config.steps)
    pairs = zip(points.get("step", ()), points.get(name, ()), strict=True)
    return np.array([value for step, value in pairs if low + 1e-9 < step <= high + 1e-9])


def _mean(values: NDArray[np.float64]) -> float | None:
    return float(values.mean()) if values.size else None


def _samples_to_loss(run: Run, window: Window) -> float | None:
    steps, losses = np.array(run.curves["train"]["step"]), np.array(run.curves["train"]["loss"])
    if not losses.size:
        return None
    smooth = pd.Series(losses).rolling(max(1, round(run.config.steps / 40 / steps[0]))).mean()
    reached = steps[(smooth <= LOSS).to_numpy()]
    return float(reached[0] if reached.size else run.config.steps) * run.config.batch_size


def _steps_to_loss(run: Run, window: Window) -> float | None:
    samples = _samples_to_loss(run, window)
    return None if samples is None else samples / run.config.batch_size


def _jitter(run: Run, window: Window) -> float | None:
    return jitter(curve(run, "test_accuracy", window))


def _batch_jitter(run: Run, window: Window) -> float | None:
    return jitter(curve(run, "batch_loss", window))


def jitter(values: NDArray[np.float64]) -> float | None:
    """Mean absolute change from point to point of what is left of a curve without its trend, a parabola fitted
    around each point; None for fewer points than the parabola has."""
    if values.size < TREND:
        return None
    return float(np.abs(np.diff(values - savgol_filter(values, TREND, 2))).mean())


def _overfitting(run: Run, window: Window) -> float | None:
    train, test = (_mean(curve(run, f"{split}_accuracy", window)) for split in ("train", "test"))
    return None if train is None or test is None else train - test


def _fall(run: Run, window: Window) -> float | None:
    values = curve(run, "test_accuracy", window)
    return float(-np.diff(values).min()) if values.size > 1 else None


def _peak(run: Run, window: Window) -> float | None:
    values = curve(run, "test_accuracy", window)
    return float(values.max()) if values.size else None


def _peak_step(run: Run, window: Window) -> float | None:
    points = run.curves.get("test", {})
    values = points.get("accuracy")
    return float(points["step"][int(np.argmax(values))]) if values else None


def _progress(run: Run, window: Window) -> float | None:
    steps = run.config.steps
    first, last = (curve(run, "train_loss", w) for w in ((0, steps / 20), (steps * 19 / 20, steps)))
    return float(first.mean() - last.mean()) if first.size and last.size else None


MEASURES: dict[str, Callable[[Run, Window], float | None]] = {
    "samples_to_loss": _samples_to_loss,
    "steps_to_loss": _steps_to_loss,
    "jitter": _jitter,
    "batch_jitter": _batch_jitter,
    "overfitting": _overfitting,
    "fall": _fall,
    "peak": _peak,
    "peak_step": _peak_step,
    "progress": _progress,
}


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
    if metric in MEASURES:
        return MEASURES[metric](run, within or (0, run.config.steps))
    points = curve(run, metric, within)
    return _mean(points if within else points[-1:])


def measured(runs: Sequence[Run]) -> pd.DataFrame:
    """One row a run: its configuration and every measure, those of the end over the last quarter of the run."""
    rows = []
    for run in runs:
        late = window(run, of_run=LATE)
        config = run.config
        row: dict[str, Any] = {"key": run.key, "status": run.status}
        row |= {name: getattr(config, name) for name in ("dataset", "colours", "norm", "lr", "batch_size", "seed")}
        row |= {name: value(run, name, late) for name in ("test_accuracy", "train_loss", "overfitting")}
        row |= {name: value(run, name) for name in MEASURES if name != "overfitting"}
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
