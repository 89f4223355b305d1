r"""The four passes over memory: moments and apply forward, sums and input gradient backward.

All take x of shape (N, C, *spatial) with M positions a channel, dense (see :func:`dense`), and tables of two
dimensions that broadcast to (N, C), in float32, or in float64 if x is. A tensor on a CPU goes through torch's own
vectorized kernels: to its batch norm kernels a contiguous one is one sample of N C channels and a channels_last one N
inputs of one sample each, to its group norm kernel a contiguous one is N samples of C groups. Everything else goes
through plain operations, on a CPU so few samples at a time that they stay in the cache.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from . import _torch

__all__ = ["apply", "blocks", "dense", "input_gradient", "moments", "over", "scratch_for", "sums", "table_dtype"]

SMALL = 2**19  # values in an input below which calls cost more than memory does
BLOCK = 2**19  # values that stay in a processor's cache while several operations go over them
FEW = 2**16  # values below which a few plain operations cost less than one of the kernels and what it wants prepared
SAMPLE = 2**15  # values of a channels_last sample below which a call of the kernels for each costs more than they save


def table_dtype(x: Tensor) -> torch.dtype:
    """The dtype of x's statistics: float64 for float64, else float32."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def over(table: Tensor, x: Tensor) -> Tensor:
    """A table (N, C) with the axes of x, so that it broadcasts over the spatial positions."""
    return table.reshape(table.shape + (1,) * (x.dim() - 2))


def memory_format(x: Tensor) -> torch.memory_format:
    """channels_last (2 or 3 spatial axes) if x is laid out so and in no other way, else contiguous."""
    if x.dim() in (4, 5) and not _torch.transforms_active() and not x.is_contiguous():
        last = torch.channels_last if x.dim() == 4 else torch.channels_last_3d
        if x.is_contiguous(memory_format=last):
            return last
    return torch.contiguous_format


def dense(x: Tensor, like: Tensor | None = None) -> Tensor:
    """x without gaps, in the memory format of ``like`` (by default its own); a copy only where it must be."""
    return x.contiguous(memory_format=memory_format(x if like is None else like))


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of every (n, c). Reads memory once on a CPU, elsewhere three times."""
    wide = table_dtype(x)
    if x.dim() == 2:
        return x.to(wide), torch.zeros_like(x, dtype=wide)
    if not x.numel():
        return x.new_zeros(x.shape[:2], dtype=wide), x.new_zeros(x.shape[:2], dtype=wide)
    n, c = x.shape[:2]
    if _torch.group_norm and x.dtype == wide and vectorized(x):
        # with eps = 0 the inverse of the standard deviation loses nothing, a constant channel's is infinite
        rows = x.view(n, c, -1)  # in three dimensions it cannot pass for channels_last, where the kernel squares means
        _, mean, rstd = _torch.group_norm(rows, None, None, n, c, rows.shape[2], c, 0.0)
        return mean.view(n, c), rstd.view(n, c).square_().reciprocal_()
    if _torch.batch_norm_moments and vectorized(x):
        still = x.new_zeros(n * c, dtype=wide)  # running averages, not moved, in whose dtype the kernel gives moments
        mean, var = _torch.batch_norm_moments(x.view(1, n * c, -1), still, still, 0.0)
        return mean.view(n, c), var.view(n, c)
    if _torch.batch_norm_moments and _large_samples(x):
        return _sample_moments(x)
    return _in_parts(_plain_moments, x)


def _sample_moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Of large channels_last samples: the kernel adds up in the order of memory, which far from zero is not exact, so
    that each sample is moved to where its first position is zero, within the cache."""
    first = x.flatten(2)[:, :, 0].to(table_dtype(x))
    moved = torch.empty_like(x[:1], dtype=first.dtype)
    parts = [
        _torch.batch_norm_moments(torch.sub(sample, start, out=moved), None, None, 0.0)
        for sample, start in zip(x.split(1), over(first, x).split(1), strict=True)
    ]
    mean, var = map(torch.stack, zip(*parts, strict=True))
    return mean.add_(first), var


def _plain_moments(x: Tensor) -> tuple[Tensor, Tensor]:
    spatial = tuple(range(2, x.dim()))
    x = x.to(table_dtype(x))
    mean = x.mean(spatial)
    return mean, (x - over(mean, x)).square_().mean(spatial)


def _in_parts(tables: Callable[..., tuple[Tensor, Tensor]], x: Tensor, *others: Tensor) -> tuple[Tensor, Tensor]:
    """The tables of x and others, on a CPU made of so few samples at a time that those of x stay in the cache."""
    if x.device.type != "cpu" or x.numel() <= BLOCK:
        return tables(x, *others)
    few = max(1, BLOCK // x[0].numel())
    parts = map(tables, *(t.split(few) for t in (x, *others)))
    first, second = (torch.cat(tables) for tables in zip(*parts, strict=True))
    return first, second


def apply(x: Tensor, center: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """scale (x - center) + shift in the dtype of x: one read, one write."""
    if _torch.batch_norm and _torch.unsafe_view and vectorized(x, FEW):
        rows = x.view(1, x.shape[0] * x.shape[1], -1)
        # contiguous: a reshaped expansion may keep a stride of 0, which sends the kernel a slow way
        scale, shift, center = (t.expand(x.shape[:2]).reshape(-1).contiguous() for t in (scale, shift, center))
        one = torch.ones_like(scale)
        y = _torch.batch_norm(rows, scale, shift, center, one, training=False, momentum=0.0, eps=0.0)
        return _torch.unsafe_view(y[0], x.shape)
    offset = over(torch.addcmul(shift, center, scale, value=-1), x)  # one pass, as torch's kernels have it
    return torch.addcmul(offset, x.to(scale.dtype), over(scale, x)).to(x.dtype)


def sums(dy: Tensor, x: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
    r""":math:`\sum dy` and :math:`\sum dy\,(x - \mu)` of every (n, c): reads dy and x once."""
    wide = mean.dtype
    if x.dim() == 2:
        return dy.to(wide), dy * (x.to(wide) - mean)
    if _torch.batch_norm_backward and (images := _images(x)):
        one = mean.new_ones(images[0].shape[1])
        parts = [
            _torch.batch_norm_backward(dys, xs, one, None, None, m, one, True, 0.0, [False, True, True])[1:]
            for dys, xs, m in zip(_images(dy), images, mean.reshape(-1, len(one)).contiguous(), strict=True)
        ]
        dot, total = map(torch.cat, zip(*parts, strict=True))
        return total.view(mean.shape), dot.view(mean.shape)
    return _in_parts(_plain_sums, x, dy, mean)


def _plain_sums(x: Tensor, dy: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
    spatial, dy = tuple(range(2, x.dim())), dy.to(mean.dtype)
    return dy.sum(spatial), torch.sub(x, over(mean, x)).mul_(dy).sum(spatial)


def input_gradient(dy: Tensor, x: Tensor, scale: Tensor, mean: Tensor, p: Tensor, q: Tensor) -> Tensor:
    """scale dy + p (x - mean) + q in the dtype of x."""
    if x.dtype != scale.dtype and vectorized(x, FEW):
        return _half_input_gradient(dy, x, scale, mean, p, q)
    if x.numel() >= FEW:
        dx = apply(x.to(scale.dtype), mean, p, q)
    else:
        dx = torch.sub(x, over(mean, x)).mul_(over(p, x)).add_(over(q, x))
    return dx.addcmul_(dy.to(scale.dtype), over(scale, x)).to(x.dtype)


def _half_input_gradient(dy: Tensor, x: Tensor, *tables: Tensor) -> Tensor:
    """The same for half precision, of which single precision is made in the cache alone."""
    dx = torch.empty_like(x)
    scale, mean, p, q = (t.expand(x.shape[:2]).unsqueeze(2) for t in tables)
    offset = torch.addcmul(q, mean, p, value=-1)
    rows = [t.flatten(2) for t in (dx, x, dy)]
    scratch = scratch_for(rows[0], scale.dtype, 2)
    for at in blocks(rows[0]):
        out, xs, dys = (t[at] for t in rows)
        here = at[:2]
        wide, other = scratch(out)
        wide.copy_(xs).mul_(p[here]).add_(offset[here]).addcmul_(other.copy_(dys), scale[here])
        out.copy_(wide)
    return dx


def blocks(x: Tensor) -> Iterator[tuple[slice, slice, slice]]:
    """Where the blocks of x (N, C, M) are: all channels of some samples or, of large samples, at some positions."""
    n, c, m = x.shape
    samples, positions = max(1, BLOCK // (c * m)), max(1, BLOCK // c)
    for i in range(0, n, samples):
        for j in range(0, m, positions):
            yield slice(i, i + samples), slice(None), slice(j, j + positions)


def scratch_for(x: Tensor, dtype: torch.dtype, number: int) -> Callable[[Tensor], list[Tensor]]:
    """Of a block of x: so many tensors of its shape, in memory that is used again for the next block."""
    memory = x.new_empty((number, min(x.numel(), max(BLOCK, x.shape[1]))), dtype=dtype)
    return lambda block: [row[: block.numel()].view(block.shape) for row in memory]


def vectorized(x: Tensor, least: int = 1) -> bool:
    """Whether torch's vectorized kernels serve x, contiguous and of so many values at least."""
    return x.device.type == "cpu" and x.dim() > 2 and x.is_contiguous() and x.numel() >= least


def _large_samples(x: Tensor) -> bool:
    """Whether torch's vectorized kernels are worth a call for every sample of x, which is channels_last."""
    return x.device.type == "cpu" and memory_format(x) != torch.contiguous_format and x[0].numel() >= SAMPLE


def _images(x: Tensor) -> Sequence[Tensor]:
    """The inputs of one sample that torch's batch norm kernels take for x, whose channels are the entries of a table
    (N, C) in turn: one or, of large channels_last samples, N. None where the kernels do not serve x."""
    if vectorized(x, FEW):
        return [x.view(1, x.shape[0] * x.shape[1], -1)]
    return x.split(1) if _large_samples(x) else ()
