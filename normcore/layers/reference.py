"""Statistics of a reference batch: ReferenceBatchNorm and VirtualBatchNorm."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..functional import affine, fused_norm, moments, pool
from .base import Norm, RunningNorm

__all__ = ["ReferenceBatchNorm", "VirtualBatchNorm", "reference_pass"]


class _Reference(nn.Module):
    """The buffers of a reference batch. Its size is 0 as long as there is none."""

    reference_mean: Tensor
    reference_var: Tensor
    reference_size: Tensor

    def _register_reference(self, num_features: int, device: Any, dtype: Any) -> None:
        self.register_buffer("reference_mean", torch.zeros(num_features, device=device, dtype=dtype))
        self.register_buffer("reference_var", torch.ones(num_features, device=device, dtype=dtype))
        self.register_buffer("reference_size", torch.tensor(0, dtype=torch.long, device=device))

    @torch.no_grad()
    def set_reference(self, x: Tensor) -> None:
        """Take x, an input of this layer, for the reference batch.

        Args:
            x: (N, C, *spatial) with more than one value a channel.

        Raises:
            ValueError: a reference batch of another shape than the layer takes, or of one value a channel.
        """
        self._check_input(x)  # type: ignore[operator]
        if x.numel() <= x.shape[1]:
            raise ValueError(
                f"a reference batch has more than 1 value per channel, got {tuple(x.shape)}: its variance says nothing"
            )
        mean, var = pool(*moments(x), 0)
        self._keep_reference(mean, var, x.shape[0])

    @torch.no_grad()
    def _keep_reference(self, mean: Tensor, var: Tensor, size: int | Tensor) -> None:
        self.reference_mean.copy_(mean.view(-1))
        self.reference_var.copy_(var.view(-1))
        self.reference_size.fill_(size)

    def _reference(self) -> tuple[Tensor, Tensor, Tensor]:
        """Copies, so that a later batch that moves the buffers leaves this one's backward pass alone."""
        return self.reference_mean.clone(), self.reference_var.clone(), self.reference_size.clone()


def _present(reference: tuple[Tensor, ...], mean: Tensor, var: Tensor, size: int | Tensor) -> tuple[Tensor, ...]:
    """The reference or, as long as there is none, the batch's own statistics. Without a branch on a tensor's
    value, so that nothing waits for a GPU and nothing breaks a compiled or a captured graph."""
    there = reference[2] > 0
    own = (mean, var, size if isinstance(size, Tensor) else torch.full((), size, device=mean.device))
    return tuple(torch.where(there, a.to(b.dtype), b) for a, b in zip(reference, own, strict=True))


class ReferenceBatchNorm(_Reference, RunningNorm):
    r"""Batch Normalization with a fixed reference batch (S1: Luo, Li & Zuo 2020, Algorithms 2 and 3).

    .. math::

        \mu = (1 - \lambda)\,\mu_B + \lambda\,\mu_{fix}, \qquad
        \sigma^2 = (1 - \lambda)\,\sigma_B^2 + \lambda\,\sigma_{fix}^2, \qquad \lambda = \frac{1}{m + 1},

    then normalized, scaled and shifted as by :class:`BatchNorm`, with m the batch size and all variances
    biased. The reference is the first training batch, or what :meth:`set_reference` is given; it is kept in the
    ``state_dict``. At evaluation the running averages of the mixed mean and of m / (m - 1) times the mixed
    variance are used (Algorithm 3, which averages over many batches; ``momentum=None`` does so exactly).

    :class:`VirtualBatchNorm` weighs the other way round: its reference weighs m / (m + 1), passes through the
    network with the current weights, and no example sees another.

    Shape: (N, C, *spatial) and the same out.

    Args:
        num_features, eps, momentum, affine, track_running_stats, process_group, device, dtype: see
            :class:`RunningNorm`.

    Raises:
        ValueError: as :class:`BatchNorm`.

    On its first batch it is BatchNorm:

    >>> from normcore import BatchNorm
    >>> x = torch.randn(8, 3, 5, 5)
    >>> torch.allclose(ReferenceBatchNorm(3)(x), BatchNorm(3)(x), atol=1e-6)
    True
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **options: Any,
    ) -> None:
        super().__init__(
            num_features, eps, momentum, affine, track_running_stats, device=device, dtype=dtype, **options
        )
        self._register_reference(num_features, device, dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Normalize x."""
        self._check_input(x)
        if self._evaluates:
            return self._evaluate(x)
        empty = self._pass_empty(x)
        if empty is not None:
            return empty
        self._refuse_single_value(x)
        count = self._counts(x)
        positions = None if count is None else count.new_full((), x.shape[2:].numel())
        y, mean, var, size, *reference = fused_norm(
            x, self._mix, self.weight, self.bias, count, positions, *self._reference()
        )
        if self.training and not self.frozen:
            self._keep_reference(*reference)
        self._update(mean, var, size)
        return y

    def _mix(
        self,
        mean: Tensor,
        var: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        count: Tensor | None,
        positions: Tensor | None,
        *reference: Tensor,
    ) -> tuple[Tensor, ...]:
        samples = mean.new_full((), mean.shape[0])
        mean, var, total = self._pool_batch(mean, var, count)
        size = samples if total is None or positions is None else total / positions
        reference = _present(reference, mean, var, size)
        share = 1 / (size + 1)
        center = torch.lerp(mean, reference[0], share)
        variance = torch.lerp(var, reference[1], share)
        return center, *self._affine_tables(variance, weight, bias), center, variance, size, *reference


class VirtualBatchNorm(_Reference, Norm):
    r"""Virtual Batch Normalization (Salimans et al. 2016, section 3.4): each example against a reference batch.

    .. math::

        \mu = w \mu_{nc} + (1 - w)\,\mu_{ref}, \qquad
        \sigma^2 = w \sigma_{nc}^2 + (1 - w)\,\sigma_{ref}^2 + w (1 - w) (\mu_{nc} - \mu_{ref})^2,
        \qquad w = \frac{1}{m + 1},

    the moments of the reference batch's m samples and the example together (the law of total variance: what
    the paper's code has as a mean of squares), so that no example sees another of its batch. The same at
    evaluation. The reference passes through the network with the current weights, see
    :func:`reference_pass`; outside of it the statistics of the last pass are used, and as long as there was
    none, the first training batch is the reference, frozen as :class:`ReferenceBatchNorm` has it.

    Shape: (N, C, *spatial) and the same out.

    Args:
        num_features, eps, affine, device, dtype: see :class:`Norm`.

    Raises:
        ValueError: wrong rank, channel count or dtype.

    >>> layer = VirtualBatchNorm(3)
    >>> reference, x = torch.randn(16, 3, 5, 5), torch.randn(4, 3, 5, 5)
    >>> with reference_pass(layer, reference):
    ...     y = layer(x)
    >>> torch.allclose(y[:1], layer(x[:1]), atol=1e-6)  # the other examples do not matter
    True
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        affine: bool = True,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **options: Any,
    ) -> None:
        super().__init__(num_features, eps, affine, device=device, dtype=dtype, **options)
        self._register_reference(num_features, device, dtype)
        self._passing = False
        self._live: tuple[Tensor, Tensor, Tensor] | None = None  # with the graph of the reference pass

    def forward(self, x: Tensor) -> Tensor:
        """Normalize x."""
        self._check_input(x)
        if self._passing:
            return self._take_reference(x)
        y, *reference = fused_norm(x, self._mix, self.weight, self.bias, *(self._live or self._reference()))
        if self.training and self._live is None and x.numel():
            self._keep_reference(*reference)
        return y

    def _take_reference(self, x: Tensor) -> Tensor:
        mean, var = pool(*moments(x), 0)
        self._keep_reference(mean, var, x.shape[0])
        self._live = (mean, var, self.reference_size.clone())
        return affine(x, mean, *self._affine_tables(var, self.weight, self.bias))

    def _mix(
        self, mean: Tensor, var: Tensor, weight: Tensor | None, bias: Tensor | None, *reference: Tensor
    ) -> tuple[Tensor, ...]:
        own_mean, own_var = (t.detach() for t in pool(mean, var, 0))
        reference = _present(reference, own_mean, own_var, mean.shape[0])
        share = 1 / (reference[2].to(mean.dtype) + 1)
        away = reference[0] - mean
        center = torch.addcmul(reference[0], away, -share)
        variance = torch.lerp(reference[1], var, share) + share * (1 - share) * away.square()
        return center, *self._affine_tables(variance, weight, bias), *reference


@contextmanager
def reference_pass(model: nn.Module, reference: Tensor) -> Iterator[Tensor]:
    """Within the block, every :class:`VirtualBatchNorm` of the model normalizes against ``reference``.

    On entry the reference batch passes through the model with its current weights, normalized by its own
    statistics; what the block computes has gradients through that pass too.

    Args:
        model: a network with VirtualBatchNorm layers.
        reference: a batch of its input, the same throughout training.

    Yields:
        the model's output for the reference batch.

    Raises:
        ValueError: the model has no such layer.

    >>> model = nn.Sequential(nn.Conv2d(1, 4, 3), VirtualBatchNorm(4))
    >>> with reference_pass(model, torch.randn(8, 1, 6, 6)):
    ...     model(torch.randn(2, 1, 6, 6)).square().mean().backward()
    """
    layers = [layer for layer in model.modules() if isinstance(layer, VirtualBatchNorm)]
    if not layers:
        raise ValueError(f"{type(model).__name__} has no VirtualBatchNorm layer: a reference batch changes nothing")
    try:
        for layer in layers:
            layer._passing = True
        output = model(reference)
        for layer in layers:
            layer._passing = False
        yield output
    finally:
        for layer in layers:
            layer._passing, layer._live = False, None
