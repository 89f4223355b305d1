"""What is looked at along a sequence: the loss at each time step, and how far running averages are from what they
stand for."""

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from ..tasks.text import PerStep
from .landscape import Forward

Row = dict[str, Any]
END = 0.1  # the share of the steps that is their beginning, and that is their end


def stretch(step: int, steps: int) -> str:
    """Where a time step, from 1 on, stands: in the ``first`` tenth of those that are trained on, in the ``last``,
    ``between`` them, or ``beyond``."""
    if step > steps:
        return "beyond"
    return "first" if step <= END * steps else "last" if step > (1 - END) * steps else "between"


def losses(forward: Forward, model: nn.Module, batches: Iterable[tuple[Any, Tensor]], steps: int) -> list[Row]:
    """The mean loss (nats) at each time step, from how many sequences, and how far it is above the mean over all
    ``first`` steps (``rise``).

    Args:
        batches: sequences (N, T), or packed, with what follows each of their characters.
        steps: of the longest sequence that is trained on.
    """
    totals: dict[int, Tensor] = {}
    for x, y in batches:
        found = F.cross_entropy(forward(model, x), y, reduction="none").double()
        columns = found.split(x.batch_sizes.tolist()) if isinstance(x, PackedSequence) else found.unbind(1)
        for step, own in enumerate(columns, 1):
            new = torch.stack([own.sum(), own.new_tensor(len(own))])
            totals[step] = totals[step] + new if step in totals else new
    sums = {step: total.tolist() for step, total in totals.items()}
    first = [total for step, total in sums.items() if stretch(step, steps) == "first"]
    base = sum(loss for loss, _ in first) / sum(number for _, number in first) if first else float("nan")
    return [
        {"time": step, "stretch": stretch(step, steps), "sequences": int(number), "loss": loss / number,
         "rise": loss / number - base}
        for step, (loss, number) in sums.items()
    ]  # fmt: skip


def errors(forward: Forward, model: nn.Module, batches: Iterable[tuple[Any, Tensor]], steps: int) -> list[Row]:
    r"""How far the running averages of each time step are from mean :math:`\mu` and variance :math:`\sigma^2` of what
    the normalizer is given there, over all that is trained on, in evaluation mode; of the channels the median:

    - ``mean``: :math:`|\hat\mu_c - \mu_c| / \sigma_c`, in standard deviations;
    - ``var``: :math:`|\log_2(\hat\sigma_c^2 / \sigma_c^2)|`, in doublings;

    the mean over the normalizers of the network that have averages for each step, with the number of ``sequences`` and
    of the ``batches`` that the averages are of. No row for a step where all sequences are alike, and none
    of a network without such normalizers.
    """
    layers = [part for part in model.modules() if isinstance(part, PerStep)]
    seen = {layer: _Moments(layer) for part in layers for layer in part if hasattr(layer, "running_mean")}
    for x, _ in batches if seen else ():
        forward(model, x)
    rows = []
    for step in range(min((len(part) for part in layers), default=0)):
        own = [seen[part[step]] for part in layers if part[step] in seen]
        apart = [found for moments in own if (found := moments.apart()) is not None]
        if apart:
            mean, var = (sum(values) / len(values) for values in zip(*apart, strict=True))
            rows.append({"time": step + 1, "stretch": stretch(step + 1, steps), "sequences": own[0].number,
                         "batches": int(own[0].layer.num_batches_tracked), "mean": mean, "var": var})  # fmt: skip
    return rows


class _Moments:
    """Of what a layer is given, from now on: the number, the sum and the sum of squares, in double precision."""

    def __init__(self, layer: Any) -> None:
        self.layer, self.number = layer, 0
        self.sums: Tensor | None = None
        layer.register_forward_pre_hook(lambda _, inputs: self.add(inputs[0].double()))

    def add(self, x: Tensor) -> None:
        new = torch.stack([x.sum(0), x.square().sum(0)])
        self.sums, self.number = new if self.sums is None else self.sums + new, self.number + len(x)

    def apart(self) -> tuple[float, float] | None:
        """How far the layer's running mean and variance are from these; None where there is no variance."""
        if self.sums is None:
            return None
        mean, square = self.sums / self.number
        var = square - mean.square()
        varying = var > 1e-9 * square  # of the others there is only rounding
        if not varying.any():
            return None
        mean, var = mean[varying], var[varying]
        moved = (self.layer.running_mean.double()[varying] - mean).abs() / var.sqrt()
        ratio = (self.layer.running_var.double()[varying].clamp_min(1e-30) / var).log2().abs()
        return float(moved.median()), float(ratio.median())
