"""Statistics of a reference batch: ReferenceBatchNorm and VirtualBatchNorm."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..functional import fused_norm, moments, pool, pool_backward, recomputing, traced
from .base import Norm, Repeatable, RunningNorm

__all__ = ["ReferenceBatchNorm", "VirtualBatchNorm", "reference_pass"]


class _Reference(Norm):
    """The buffers of a reference batch. Its size is 0 as long as there is none."""

    reference_mean: Tensor
    reference_var: Tensor
    reference_size: Tensor
    _has_reference = False  # for certain: asked once, since the answer is a tensor's and may wait for a GPU

    def _register_state(self, device: torch.device | str | None, dtype: torch.dtype | None) -> None:
        super()._register_state(device, dtype)
        for name in ("reference_mean", "reference_var"):
            self.register_buffer(name, torch.empty(self.num_features, device=device, dtype=dtype))
        self.register_buffer("reference_size", torch.empty((), dtype=torch.long, device=device))

    def reset_parameters(self) -> None:
        """All state as it is at first: weight one, bias zero, no batch seen, no reference."""
        super().reset_parameters()
        self.reference_mean.zero_()
        self.reference_var.fill_(1)
        self.reference_size.zero_()
        self._has_reference = False

    def _load_from_state_dict(self, *arguments: Any) -> None:
        super()._load_from_state_dict(*arguments)
        self._has_reference = False

    @torch.no_grad()
    def set_reference(self, x: Tensor, mask: Tensor | None = None) -> None:
        """Take x, an input of this layer, for the reference batch.

        Args:
            x: (N, C, *spatial) with more than one value a channel.
            mask: (N, *spatial), False where a position does not count.

        Raises:
            ValueError: a reference batch of another shape than the layer takes, of one value a channel, or of values
                of which the variance is not finite.
        """
        mask = self._check_input(x, mask)
        count = self._counts(x, mask)
        self._refuse_reference_of_one(x, count)
        means, variances = moments(x, mask)
        mean, var = pool(means, variances, 0, count)
        self._refuse_not_finite(mean, var)
        self._keep_reference(mean, var, _size(means, count))

    def _refuse_reference_of_one(self, x: Tensor, count: Tensor | None) -> None:
        """``count``: the values that count in each channel, of each sample or of all, if not all of x does."""
        values = x.numel() // x.shape[1] if count is None else count.sum()
        if values <= 1:
            counting = "" if count is None else f", of which {int(values)} a channel counts"
            raise ValueError(
                f"a reference batch has more than 1 value per channel, got {tuple(x.shape)}{counting}: "
                "its variance says nothing"
            )

    def _refuse_not_finite(self, mean: Tensor, var: Tensor) -> None:
        finite = (mean + var).isfinite().flatten()
        if not finite.all():
            channel = int(finite.logical_not().nonzero()[0])
            raise ValueError(
                f"a reference batch, by default the first of training, must have a finite mean and variance, got "
                f"{mean.flatten()[channel].item():g} and {var.flatten()[channel].item():g} in channel {channel} of "
                f"{type(self).__name__}: every later batch would be normalized by them"
            )

    def _needs_reference(self) -> bool:
        """Whether this training batch becomes the reference, as far as one can ask: a compiled graph cannot."""
        if traced() or self._has_reference or self.reference_size.is_meta:
            return False
        self._has_reference = bool(self.reference_size > 0)
        return not self._has_reference

    @torch.no_grad()
    def _keep_reference(self, mean: Tensor, var: Tensor, size: int | Tensor) -> None:
        self.reference_mean.copy_(mean.view(-1))
        self.reference_var.copy_(var.view(-1))
        self.reference_size.fill_(size)

    def _reference(self) -> tuple[Tensor, Tensor, Tensor]:
        """Copies, so that a later batch that moves the buffers leaves this one's backward pass alone."""
        return self.reference_mean.clone(), self.reference_var.clone(), self.reference_size.clone()


def _size(means: Tensor, count: Tensor | None) -> Tensor:
    """How many samples there are in a table (N, C), without those that are all padding."""
    return means.new_full((), means.shape[0]) if count is None else (count > 0).sum().to(means.dtype)


def _present(reference: tuple[Tensor, ...], *own: Tensor) -> tuple[Tensor, ...]:
    """The reference or, as long as there is none, the batch's own statistics. Without a branch on a tensor's
    value, so that nothing waits for a GPU and nothing breaks a compiled or a captured graph."""
    there = reference[2] > 0
    return tuple(torch.where(there, a.to(b.dtype), b) for a, b in zip(reference, own, strict=True))


class ReferenceBatchNorm(Repeatable, _Reference, RunningNorm):
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

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Normalize x; positions where the mask (N, *spatial) is False count for nothing and come out 0."""
        mask = self._check_input(x, mask)
        if self._evaluates:
            return self._evaluate(x, mask)
        empty = self._pass_empty(x)
        if empty is not None:
            return empty
        self._refuse_single_value(x)
        before, count = self._before(self._reference), self._counts(x, mask)
        y, batch_mean, batch_var, mean, var, size, *reference = fused_norm(
            x,
            self._repeated(self._mix),
            *(self.weight, self.bias, count, *before),
            mask=mask,
            mix_backward=self._mix_backward,
        )
        self._keep_before(before, batch_mean, batch_var)
        if self.training and not self.frozen and not recomputing():
            first = self._needs_reference()
            if first:
                self._refuse_reference_of_one(x, reference[3] if len(reference) > 3 else None)
                self._refuse_not_finite(batch_mean, batch_var)
            if first or traced():
                self._keep_reference(*reference[:3])
        self._update(mean, var, x.shape[0] if count is None and not traced() else size)
        return y

    def _mix(
        self,
        mean: Tensor,
        var: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        count: Tensor | None,
        *reference: Tensor,
    ) -> tuple[Tensor, ...]:
        size = self._sum_over_processes(_size(mean, count))
        mean, var, total = self._pool_batch(mean, var, count)
        kept = _present(reference, mean, var, size)
        share = 1 / (size + 1)
        center = torch.lerp(mean, kept[0], share)
        variance = torch.lerp(var, kept[1], share)
        tables = (center, *self._affine_tables(variance, weight, bias), mean, var, center, variance, size, *kept)
        return tables if total is None else (*tables, total)

    def _mix_backward(
        self, inputs: Sequence[Any], outputs: Sequence[Any], gradients: Sequence[Tensor]
    ) -> tuple[Tensor | None, ...]:
        (mean, _, weight, bias, count, *reference), (_, _, _, batch_mean, _, _, variance, size, *rest) = inputs, outputs
        dcenter, dscale, dshift = gradients
        dvar, dweight, dbias = self._affine_backward(variance, weight, bias, dscale, dshift)
        own = 1 - (reference[2] > 0) / (size + 1)  # the batch's share; all of it as long as it is its own reference
        total = rest[3] if len(rest) > 3 else None
        moments = self._pool_batch_backward(mean, batch_mean, own * dcenter, own * dvar, count, total)
        return *moments, dweight, dbias, *(None,) * 4


class VirtualBatchNorm(_Reference):
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

    _passing = False
    _live: tuple[Tensor, Tensor, Tensor] | None = None  # with the graph of the reference pass

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Normalize x; positions where the mask (N, *spatial) is False count for nothing and come out 0."""
        mask = self._check_input(x, mask)
        count = self._counts(x, mask)
        if self._passing:
            return self._take_reference(x, mask, count)
        first = self.training and self._live is None and x.numel() > 0 and self._needs_reference()
        if first:
            self._refuse_reference_of_one(x, count)
        y, *reference = fused_norm(
            x,
            self._mix,
            *(self.weight, self.bias, count, *(self._live or self._reference())),
            mask=mask,
            mix_backward=self._mix_backward,
        )
        if first:
            self._refuse_not_finite(*reference[2:4])
        if first or (traced() and self.training and self._live is None and x.numel() > 0):
            self._keep_reference(*reference[2:])
        return y

    def _take_reference(self, x: Tensor, mask: Tensor | None, count: Tensor | None) -> Tensor:
        means, variances = moments(x, mask)
        mean, var = pool(means, variances, 0, count)
        self._keep_reference(mean, var, _size(means, count))
        self._live = (mean, var, self.reference_size.clone())
        return self._normalize(x, mean, var, mask)

    def _mix(
        self,
        mean: Tensor,
        var: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        count: Tensor | None,
        *reference: Tensor,
    ) -> tuple[Tensor, ...]:
        own_mean, own_var = (t.detach() for t in pool(mean, var, 0, count))
        reference = _present(reference, own_mean, own_var, _size(mean, count))
        share = 1 / (reference[2].to(mean.dtype) + 1)
        away = reference[0] - mean
        center = torch.addcmul(reference[0], away, -share)
        variance = torch.lerp(reference[1], var, share) + share * (1 - share) * away.square()
        return center, *self._affine_tables(variance, weight, bias), variance, share, *reference

    def _mix_backward(
        self, inputs: Sequence[Any], outputs: Sequence[Any], gradients: Sequence[Tensor]
    ) -> tuple[Tensor | None, ...]:
        (mean, _, weight, bias, _, *given), (center, _, _, variance, share, *reference) = inputs, outputs
        dcenter, dscale, dshift = gradients
        dvar, dweight, dbias = self._affine_backward(variance, weight, bias, dscale, dshift)
        moments = pool_backward(mean, center, dcenter, dvar, share)
        live: tuple[Tensor | None, ...] = (None, None)
        if given[0].requires_grad:
            pair = pool_backward(reference[0], center, dcenter, dvar, 1 - share)
            live = tuple(t.sum_to_size(1, t.shape[1]).view(given[0].shape) for t in pair)
        return *moments, dweight, dbias, None, *live, None


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
