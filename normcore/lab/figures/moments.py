"""What the pages on the normalizers show a layer at work on: real activations, and tables of their moments."""

import torch
from torch import Tensor

from ... import moments, pool
from ..tasks.datasets import load
from .look import Html, captioned


def activations(shape: tuple[int, int, int, int] | list[int], seed: int = 0) -> Tensor:
    """What a first convolution makes of the embedded digits before it has learned anything, (N, C, H, W).

    Args:
        shape: N digits, C random 3x3 filters with biases, H = W pixels.
        seed: of the filters and of which digits.
    """
    n, c, size, width = shape
    if size != width:
        raise ValueError(f"the digits are square: H and W must be equal, got {size} and {width}")
    random = torch.Generator().manual_seed(seed)
    digits = torch.from_numpy(load("digits", size + 2).train.images.copy())
    chosen = digits[torch.randperm(len(digits), generator=random)[:n]].permute(0, 3, 1, 2) / 255
    filters, biases = torch.randn(c, 1, 3, 3, generator=random), torch.randn(c, generator=random)
    return torch.nn.functional.conv2d(chosen, filters, biases)


def show_moments(**tensors: Tensor) -> Html:
    """Mean and standard deviation of each instance's channel, and of their unions, as tables.

    The last column is of an instance with all its channels, the last row of a channel in all instances, the corner
    of everything: what layer, batch and full normalization take; the cells inside are instance normalization's.
    The further a mean is from 0 or a deviation from 1, the stronger is the colour of its cell.

    Args:
        tensors: (N, C, *spatial) by name, at most a few instances and channels.
    """
    tables = [(name, *_with_unions(x.detach().double())) for name, x in tensors.items()]
    far = max(float(mean.abs().max()) for _, mean, _ in tables)
    wide = max(float(std.log().abs().max()) for _, _, std in tables)
    drawn = "".join(
        _table(f"{name}: mean", mean, mean / far) + _table(f"{name}: standard deviation", std, std.log() / wide)
        for name, mean, std in tables
    )
    caption = "Rows are instances, columns channels. Blue is below mean 0 or deviation 1, orange above."
    return Html(captioned(f'<div class="nc-tables">{drawn}</div>', caption))


def _with_unions(x: Tensor) -> tuple[Tensor, Tensor]:
    """Means and standard deviations (N + 1, C + 1), the last of each axis pooled over it."""
    mean, var = moments(x)
    for dim in (0, 1):
        union = pool(mean[:, : x.shape[1]], var[:, : x.shape[1]], dim)
        mean, var = torch.cat((mean, union[0]), dim), torch.cat((var, union[1]), dim)
    return mean, var.sqrt()


def _table(title: str, values: Tensor, distance: Tensor) -> str:
    def cell(value: float, away: float) -> str:
        color = "217, 102, 31" if away > 0 else "43, 127, 196"
        text = f"{value:.2f}".replace("-0.00", "0.00").replace("-", "\N{MINUS SIGN}")
        return f'<td style="background: rgba({color}, {0.6 * min(abs(away), 1):.2f})">{text}</td>'

    names = [*(f"c{i}" for i in range(values.shape[1] - 1)), "all"]
    head = "".join(f'<th scope="col">{name}</th>' for name in names)
    rows = []
    for i, (numbers, away) in enumerate(zip(values.tolist(), distance.tolist(), strict=True)):
        name = "all" if i + 1 == len(values) else f"n{i}"
        rows.append(f'<tr><th scope="row">{name}</th>{"".join(map(cell, numbers, away))}</tr>')
    return f"<table><caption>{title}</caption><tr><th></th>{head}</tr>{''.join(rows)}</table>"
