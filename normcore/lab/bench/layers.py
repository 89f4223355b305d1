"""The speed of the layers, measured: against nn.BatchNorm2d, torch's layer of the same kind, and the memory floor.

All variants take turns within a round, so that a slow moment of the machine slows all of them, and what is
compared is the ratio of two times of the same round: its median over the rounds, with a 95 % interval.
"""

import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from tqdm import tqdm

from ...factory import NORMS, make_norm
from ...functional import set_engine
from ..provenance import choose_device, provenance
from ..runs.training import keep_memory

Shape = tuple[int, ...]

SHAPES: tuple[Shape, ...] = ((16, 16, 128, 128), (32, 64, 56, 56), (128, 256, 14, 14))
SMALL: Shape = (8, 16, 8, 8)
FORMS = ("channels_last", "bfloat16")  # of the input, with parameters in float32; measured at the middle shape, eager
CUDA_BATCH = 256  # instead of the batch sizes above, on a GPU
THREADS = 2  # on a CPU
WARM_UP = 3  # calls before the first round; the first of them compiles
ENGINES = ("eager", "compiled")
TEXT = "fnbl-text"  # FNBL with the semantics of its report's text
NAMES = (*NORMS, TEXT)
#: the layers whose statistics come from the engine's tables; the others work across the channels of a position
ON_ENGINE = ("bn", "ln", "in", "gn", "rms", "sn", "brn", "rbn", "vbn", "fnbb", TEXT)
FLOOR, BATCH_NORM = "floor", "bn torch"  # the rows that the others are compared with


class _PermutedLayerNorm(nn.LayerNorm):
    """What people write for layer normalization over the channels."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def _same_groups(channels: int) -> nn.Module:
    return nn.GroupNorm(make_norm("gn", channels).num_groups, channels)  # type: ignore[arg-type]


#: name -> torch's layer of the same kind
TWINS: dict[str, Callable[[int], nn.Module]] = {
    "bn": nn.BatchNorm2d,
    "ln": lambda channels: nn.GroupNorm(1, channels),
    "cln": _PermutedLayerNorm,
    "in": lambda channels: nn.InstanceNorm2d(channels, affine=True),
    "gn": _same_groups,
    "lrn": lambda channels: nn.LocalResponseNorm(5),
}


def layers(
    device: str = "auto",
    rounds: int = 21,
    *,
    names: Sequence[str] = NAMES,
    shapes: Sequence[Shape] | None = None,
    small: Shape = SMALL,
    forms: Sequence[str] = FORMS,
    engines: Sequence[str] = ENGINES,
    options: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """Times of forward and backward, float32, of every layer, its torch twin and the floor.

    The floor is four clones of the input: eight passes over memory, as few as a normalizer can do with (x read
    twice and y written; then x and dy read twice and dx written). On a CPU two threads work.

    Args:
        device: auto, cpu or cuda.
        rounds: rounds in which the variants take turns.
        names: which layers, of ``NAMES`` or of one's own; ``bn`` has to be one of them.
        shapes, small: input shapes; by default those of the limits.
        forms: of ``channels_last`` and ``bfloat16``, other forms of the input of the middle shape, for eager layers.
        engines: of ``eager`` and ``compiled``. A layer that does not heed the choice is timed once, as eager.
        options: layer -> options that it is made with.

    Returns:
        ``measured``, by shape and by ``layer engine``: ``ms``, the ratios ``to_batch_norm``, ``to_floor`` and
        ``to_twin`` (median and the ends of its 95 % interval), what is ``saved`` for the backward pass as a
        share of x, and in how many tensors larger than a table (``saved_large``); on CUDA the ``peak`` memory
        of a step as a multiple of x. Besides, the ``limits`` of :func:`judge`, the setting and its provenance.
    """
    chosen = choose_device(device)
    batch = CUDA_BATCH if chosen.type == "cuda" else None
    large = [tuple(s) for s in shapes or [(batch or n, *rest) for n, *rest in SHAPES]]
    other = [(large[len(large) // 2], form) for form in forms]
    measured: dict[str, dict[str, Any]] = {_words(shape): {} for shape in (*large, small)}
    with _threads(chosen):
        found = provenance(chosen)
        keep_memory()  # else the system takes pages back amid a round, and clears new ones
        try:
            for engine in engines:  # changing it drops what was compiled
                set_engine(engine)  # type: ignore[arg-type]
                for shape in (*large, small):
                    measured[_words(shape)].update(_measure(shape, "", chosen, engine, names, rounds, options or {}))
            set_engine("eager")
            for shape, form in other:
                measured[_words(shape, form)] = _measure(shape, form, chosen, "eager", names, rounds, options or {})
        finally:
            set_engine("auto")
    result = {
        "setting": {
            "rounds": rounds,
            "dtype": "float32",
            "shapes": [_words(s) for s in large],
            "small": _words(small),
            **{form: _words(shape, form) for shape, form in other},
        },
        "measured": measured,
        "provenance": found,
    }
    return {**result, "limits": judge(result)}


def _words(shape: Shape, form: str = "") -> str:
    return " x ".join(map(str, shape)) + (f" {form}" if form else "")


@contextmanager
def _threads(device: torch.device) -> Iterator[None]:
    before = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(THREADS)
    try:
        yield
    finally:
        torch.set_num_threads(before)


# --- one shape -------------------------------------------------------------------------------------------


class _Variant:
    """A layer and its input: forward and backward, with the gradients of the step before set to None."""

    def __init__(self, layer: nn.Module, x: Tensor, dy: Tensor) -> None:
        self.layer, self.x, self.dy = layer.to(x.device), x, dy
        self.leaves = [x, *self.layer.parameters()]

    def __call__(self) -> None:
        for leaf in self.leaves:
            leaf.grad = None
        self.layer(self.x).backward(self.dy)


def _measure(
    shape: Shape, form: str, device: torch.device, engine: str, names: Sequence[str], rounds: int,
    options: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:  # fmt: skip
    """The rows of one input and one engine; with ``eager`` the floor's too, and of a usual input the twins'."""
    x, dy = (torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(device) for seed in (0, 1))
    if form == "channels_last":
        x, dy = (t.to(memory_format=torch.channels_last) for t in (x, dy))
    elif form:
        x, dy = x.to(getattr(torch, form)), dy.to(getattr(torch, form))
    x.requires_grad_()
    variants = {
        f"{name} {engine}": _Variant(layer_named(name, shape[1], options.get(name, {})), x, dy) for name in names
    }
    if engine == "compiled":
        variants = {name: variant for name, variant in variants.items() if _is_compiled(variant)}
        if not variants:
            return {}
    twins = {f"{name} torch": _Variant(TWINS[name](shape[1]), x, dy) for name in names if name in TWINS}
    kept = twins if engine == "eager" and not form else {BATCH_NORM: twins[BATCH_NORM]}
    runs: dict[str, Callable[[], None]] = {**variants, **kept, FLOOR: lambda: _floor(x)}
    calls = max(10 if device.type == "cuda" else 1, min(64, 2**19 // x.numel()))  # that one time is of a millisecond
    times = take_turns(runs, rounds, calls, device, f"{_words(shape, form)}, {engine}")
    rows = {name: _ratios(name, times) for name in times}
    for name, variant in {**variants, **kept}.items():
        rows[name].update(_memory(variant))
    return rows if engine == "eager" else {name: rows[name] for name in variants}


def layer_named(name: str, channels: int, options: Mapping[str, Any]) -> nn.Module:
    return make_norm("fnbl", channels, semantics="text") if name == TEXT else make_norm(name, channels, **options)


def _is_compiled(variant: _Variant) -> bool:
    """Whether the layer heeds the compiled engine, told by what its output is made of; compiles it."""
    nodes = [variant.layer(variant.x).grad_fn]
    while nodes:
        node = nodes.pop()
        if node is None:
            continue
        if "CompiledFunction" in node.name():
            return True
        nodes += [following for following, _ in node.next_functions]
    return False


def _floor(x: Tensor) -> None:
    for _ in range(4):
        x.detach().clone()


def take_turns(
    runs: Mapping[str, Callable[[], None]], rounds: int, calls: int, device: torch.device, what: str
) -> dict[str, list[float]]:
    """Milliseconds a call of each variant in each round; every round has an order of its own."""
    for run in runs.values():
        for _ in range(WARM_UP):
            run()
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in tqdm(range(rounds), desc=what, leave=False, disable=None):
        for name in random.Random(turn).sample(list(runs), len(runs)):
            times[name].append(_milliseconds(runs[name], calls, device))
    return times


def _milliseconds(run: Callable[[], None], calls: int, device: torch.device) -> float:
    if device.type == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize(device)
        start.record()
        for _ in range(calls):
            run()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / calls
    started = time.perf_counter()
    for _ in range(calls):
        run()
    return (time.perf_counter() - started) * 1000 / calls


def _ratios(name: str, times: Mapping[str, list[float]]) -> dict[str, Any]:
    others = {"to_batch_norm": BATCH_NORM, "to_floor": FLOOR, "to_twin": f"{name.partition(' ')[0]} torch"}
    row: dict[str, Any] = {"ms": round(statistics.median(times[name]), 4)}
    for key, other in others.items():
        if other in times:
            row[key] = median_interval([a / b for a, b in zip(times[name], times[other], strict=True)])
    return row


def median_interval(values: Sequence[float]) -> list[float]:
    """Median, and the ends of its 95 % interval: the order statistics that the binomial distribution gives."""
    ordered = sorted(values)
    skip = max(0, int((len(ordered) - 1.96 * len(ordered) ** 0.5) / 2))
    return [round(v, 3) for v in (statistics.median(ordered), ordered[skip], ordered[-1 - skip])]


def _memory(variant: _Variant) -> dict[str, float]:
    x = variant.x
    table = 8 * x.shape[0] * x.shape[1]  # bytes of a table (N, C) in float64
    sizes = saved(lambda: variant.layer(variant.x)).values()
    row: dict[str, float] = {"saved": round(sum(sizes) / x.nbytes, 3), "saved_large": sum(s > table for s in sizes)}
    if x.is_cuda:
        x.grad = None
        torch.cuda.reset_peak_memory_stats(x.device)
        before = torch.cuda.memory_allocated(x.device)
        variant()
        row["peak"] = round((torch.cuda.max_memory_allocated(x.device) - before) / x.nbytes, 3)
    return row


def saved(run: Callable[[], object]) -> dict[int, int]:
    """Address and bytes of every storage that autograd keeps for the backward pass of what ``run`` computes."""
    storages: dict[int, torch.UntypedStorage] = {}  # kept alive, so that no address comes twice

    def pack(tensor: Tensor) -> Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        run()
    return {address: storage.nbytes() for address, storage in storages.items()}


# --- the limits ------------------------------------------------------------------------------------------

MET, NOISE, MISSED, NOT_MEASURED = "met", "within noise", "missed", "not measured"


class Limit(NamedTuple):
    """A bound on a ratio of these layers; ``engine`` "best" is the compiled one where it works, and ``inputs`` what the
    setting calls the inputs that it is about."""

    name: str
    says: str
    device: str
    layers: tuple[str, ...]
    engine: str
    value: str
    bound: float
    inputs: str = "shapes"


_ONE_SAVED = "of what is saved for the backward pass, x alone is larger than a table"
LIMITS = (
    Limit("eager", "eager, at most 1.2 times nn.BatchNorm2d", "cpu", ON_ENGINE, "eager", "to_batch_norm", 1.2),
    Limit("compiled", "compiled, no slower than nn.BatchNorm2d", "cpu", ON_ENGINE, "compiled", "to_batch_norm", 1.0),
    Limit("twins", "BN, LN, IN and GN no slower than torch's", "cpu", ("bn", "ln", "in", "gn"), "eager",
          "to_twin", 1.0),
    Limit("small", "small input, eager, at most 3 times nn.BatchNorm2d", "cpu", ON_ENGINE, "eager", "to_batch_norm",
          3.0, inputs="small"),
    Limit("batch", "BRN, RBN and FNBB at most 1.1 times nn.BatchNorm2d", "cpu", ("brn", "rbn", "fnbb"), "eager",
          "to_batch_norm", 1.1),
    Limit("channel", "ChannelLN at most 1.2 times nn.BatchNorm2d", "cpu", ("cln",), "eager", "to_batch_norm", 1.2),
    Limit("channels_last", "channels_last, at most 1.2 times nn.BatchNorm2d", "cpu", ON_ENGINE, "eager",
          "to_batch_norm", 1.2, inputs="channels_last"),
    Limit("bfloat16", "bfloat16, at most 1.2 times nn.BatchNorm2d", "cpu", ON_ENGINE, "eager", "to_batch_norm", 1.2,
          inputs="bfloat16"),
    Limit("memory", _ONE_SAVED, "cpu", ON_ENGINE, "eager", "saved_large", 1),
    Limit("memory, compiled", f"compiled, {_ONE_SAVED}", "cpu", ON_ENGINE, "compiled", "saved_large", 1),
    Limit("floor", "at most 1.3 times the memory floor", "cuda", ON_ENGINE, "best", "to_floor", 1.3),
    Limit("cuda", "no slower than nn.BatchNorm2d", "cuda", ON_ENGINE, "best", "to_batch_norm", 1.0),
    Limit("memory", _ONE_SAVED, "cuda", ON_ENGINE, "best", "saved_large", 1),
)  # fmt: skip


def judge(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Each limit of the device with the worst value that was measured, where, and the verdict.

    ``met``: no median is above the bound. ``missed``: a median is, with its whole interval. ``within noise``: a
    median is, but its interval reaches the bound.

    Args:
        found: as from :func:`layers`.
    """
    return [_judge(limit, found) for limit in LIMITS if limit.device == found["provenance"]["device"]]


def _judge(limit: Limit, found: Mapping[str, Any]) -> dict[str, Any]:
    row: dict[str, Any] = {"name": limit.name, "says": limit.says, "bound": limit.bound}
    cells = list(_cells(limit, found))
    if not cells:
        return {**row, "verdict": NOT_MEASURED, "worst": None, "where": "", "over": []}
    over = [cell for cell in cells if cell[1][0] > limit.bound]
    clear = any(low > limit.bound for _, (_, low, _) in over)
    where, worst = max(cells, key=lambda cell: cell[1][0])
    verdict = MISSED if clear else NOISE if over else MET
    return {**row, "verdict": verdict, "worst": list(worst), "where": where, "over": [name for name, _ in over]}


def _cells(limit: Limit, found: Mapping[str, Any]) -> Iterator[tuple[str, tuple[float, float, float]]]:
    """(layer and shape, median and interval) of all that the limit is about."""
    setting, measured = found["setting"], found["measured"]
    compiles = any(name.endswith(" compiled") for rows in measured.values() for name in rows)
    if limit.engine == "compiled" and not compiles:
        return
    inputs = setting.get(limit.inputs, [])
    for shape in [inputs] if isinstance(inputs, str) else inputs:
        for layer in limit.layers:
            # a layer that does not heed the compiled engine is the same under both
            chosen = f"{layer} eager" if limit.engine == "eager" else f"{layer} compiled"
            row = measured[shape].get(chosen) or measured[shape].get(f"{layer} eager", {})
            if limit.value in row:
                value = row[limit.value]
                yield f"{layer}, {shape}", tuple(value) if isinstance(value, list) else (value, value, value)


def side_by_side(found: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    """A row for each layer and engine with the median of ``key`` for each shape; None where it was not measured."""
    measured = found["measured"]
    names = dict.fromkeys(name for rows in measured.values() for name in rows)
    layers = list(dict.fromkeys(name.partition(" ")[0] for name in names))
    ordered = sorted(names, key=lambda name: layers.index(name.partition(" ")[0]))
    return [
        {"layer": name, **{shape: _median(rows.get(name, {}).get(key)) for shape, rows in measured.items()}}
        for name in ordered
    ]


def _median(value: Any) -> float | None:
    return value[0] if isinstance(value, list) else value
