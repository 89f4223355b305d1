"""mask=: padded positions, whatever stands there, count for nothing."""

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from normcore import make_norm, reference_pass

LENGTHS = (7, 3, 5, 1)
NAMES = ["bn", "ln", "cln", "in", "gn", "rms", "sn", "brn", "rbn", "vbn", "fnbb", "fnbl", "fnbl text"]
AVERAGING = ["bn", "sn", "brn", "rbn", "fnbb", "in tracked"]


def padded(fill: float) -> tuple[Tensor, Tensor]:
    """Four sequences of 6 channels, padded to 7 steps, and their mask (N, L)."""
    torch.manual_seed(0)
    x = torch.randn(len(LENGTHS), 6, max(LENGTHS), dtype=torch.float64) * 2 + 3
    mask = torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]
    return x.masked_fill(~mask[:, None], fill), mask


def layer_with_parameters(name: str, **options: Any) -> nn.Module:
    kind, _, variant = name.partition(" ")
    if variant:
        options |= {"semantics": "text"} if variant == "text" else {"track_running_stats": True}
    if name == "brn":
        options |= {"schedule": None}
    layer = make_norm(kind, 6, **options).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.uniform_(0.5, 1.5)
    return layer


def over_what_counts(name: str, layer: Any, parts: list[Tensor], part: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance, of each channel or of each position, that normalize one of the sequences ``parts``.

    There is no reference yet: the batch itself is it. The averages are 0 and 1.
    """
    batch = torch.cat(parts, 1)

    def moments(rows: Tensor) -> tuple[Tensor, Tensor]:
        mean, var = rows.mean(1, keepdim=True), rows.var(1, correction=0, keepdim=True)
        return (mean, var) if len(rows) != 3 else (mean.repeat_interleave(2, 0), var.repeat_interleave(2, 0))

    if name == "vbn":  # all the batch's samples, as constants, and this one once more
        (mean, var), (own_mean, own_var), m = moments(batch.detach()), moments(part), len(parts)
        center = (m * mean + own_mean) / (m + 1)
        return center, (m * (var + mean**2) + own_var + own_mean**2) / (m + 1) - center**2
    if name == "rms":
        return torch.zeros(1, 1, dtype=part.dtype), part.square().mean().view(1, 1)
    if name == "sn":
        three = [moments(part), moments(part.reshape(1, -1)), moments(batch)]
        shares = (layer.mean_weight.softmax(0), layer.var_weight.softmax(0))
        return tuple(sum(s * t[k] for s, t in zip(shares[k], three, strict=True)) for k in (0, 1))
    if name in ("cln", "fnbl"):
        return part.mean(0), part.var(0, correction=0)
    rows = {
        **dict.fromkeys(("bn", "brn", "rbn"), batch),
        **dict.fromkeys(("fnbb", "fnbl text"), batch.reshape(1, -1)),
        **{"in": part, "ln": part.reshape(1, -1), "gn": part.reshape(3, -1)},  # six channels make three groups
    }
    return moments(rows[name])


def unpadded(name: str, layer: Any, x: Tensor, lengths: Sequence[int] = LENGTHS) -> Tensor:
    """The formula on the sequences as they are, one after the other; batch statistics over all that count."""
    parts = [x[n, :, :length] for n, length in enumerate(lengths) if length]
    outputs = []
    for part in parts:
        mean, var = over_what_counts(name, layer, parts, part)
        y = (part - mean) / (var + layer.eps).sqrt()
        if name == "brn":
            deviation, r_max, d_max = (var.detach() + layer.eps).sqrt(), layer.r_max, layer.d_max
            running = math.sqrt(1 + layer.eps)
            r, d = (deviation / running).clamp(1 / r_max, r_max), (mean.detach() / running).clamp(-d_max, d_max)
            y = y * r + d
        y = y * layer.weight[:, None]
        y = y if layer.bias is None else y + layer.bias[:, None]
        outputs.append(nn.functional.pad(y, (0, x.shape[2] - y.shape[1])))
    return torch.stack(outputs)


@pytest.mark.parametrize("fill", [0.0, 1e6, math.nan, math.inf])
@pytest.mark.parametrize("name", NAMES)
def test_it_is_as_if_the_padding_were_not_there(name: str, fill: float) -> None:
    layer = layer_with_parameters(name)
    x, mask = padded(fill)
    x.requires_grad_()
    clean = padded(0.0)[0].requires_grad_()
    y = layer(x, mask)
    expected = unpadded(name, layer, clean)
    torch.testing.assert_close(y, expected)
    dy = torch.linspace(-1, 2, y.numel(), dtype=y.dtype).view_as(y)
    inputs = [x, *layer.parameters()]
    found = torch.autograd.grad(y, inputs, dy)
    torch.testing.assert_close(found, torch.autograd.grad(expected, [clean, *layer.parameters()], dy))
    assert not found[0].masked_select(~mask[:, None]).any()


@pytest.mark.parametrize("name", AVERAGING)
@pytest.mark.parametrize("lengths", [LENGTHS, (7, 0, 5, 1)])
def test_running_averages_are_of_what_counts(name: str, lengths: tuple[int, ...]) -> None:
    """The variance unbiased by as many as count; a sample that is all padding is none."""
    layer: Any = layer_with_parameters(name, momentum=1.0)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    x = padded(0.0)[0].masked_fill(~mask[:, None], math.nan)
    layer(x, mask)
    parts = [x[n, :, :length] for n, length in enumerate(lengths) if length]
    batch = torch.cat(parts, 1)
    if name == "in tracked":
        var = torch.stack([part.var(1) if part.shape[1] > 1 else torch.zeros(6).to(x) for part in parts]).mean(0)
        mean = torch.stack([part.mean(1) for part in parts]).mean(0)
    elif name == "fnbb":
        mean, var = batch.mean().view(1), batch.var().view(1)
    elif name == "rbn":  # by the number of samples, as its Algorithm 3 has it
        mean, var = batch.mean(1), batch.var(1, correction=0) * len(parts) / (len(parts) - 1)
    else:
        mean, var = batch.mean(1), batch.var(1)
    torch.testing.assert_close(layer.running_mean, mean)
    torch.testing.assert_close(layer.running_var, var)
    assert layer.num_batches_tracked == 1


@pytest.mark.parametrize("name", AVERAGING)
def test_a_batch_that_is_all_padding_leaves_the_averages(name: str) -> None:
    layer: Any = layer_with_parameters(name)
    x, mask = padded(1.0)
    layer(x, mask)
    before = layer.running_mean.clone(), layer.running_var.clone()
    assert not layer(torch.full_like(x, math.nan), torch.zeros_like(mask)).any()
    assert torch.equal(layer.running_mean, before[0])
    assert torch.equal(layer.running_var, before[1])


@pytest.mark.parametrize("name", [name for name in AVERAGING if name != "sn"])
def test_at_evaluation_padding_comes_out_zero(name: str) -> None:
    layer: Any = layer_with_parameters(name)
    x, mask = padded(math.nan)
    layer(x, mask)
    layer.eval()
    y = layer(x, mask)
    expected = (x - layer.running_mean[:, None]) / (layer.running_var[:, None] + layer.eps).sqrt()
    expected = expected * layer.weight[:, None] + layer.bias[:, None]
    torch.testing.assert_close(y, expected.masked_fill(~mask[:, None], 0))


@pytest.mark.parametrize("name", [*NAMES, "in tracked"])
def test_a_sample_that_is_all_padding_is_zero_and_harmless(name: str) -> None:
    layer = layer_with_parameters(name)
    state = {key: value.clone() for key, value in layer.state_dict().items()}
    x, mask = padded(math.nan)
    mask[1] = False
    x = x.masked_fill(~mask[:, None], math.nan).requires_grad_()
    y = layer(x, mask)
    y.square().sum().backward()
    assert not y[1].any()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    layer.load_state_dict(state)  # no averages moved, no reference
    keep = [0, 2, 3]
    torch.testing.assert_close(y[keep], layer(x[keep], mask[keep]))


@pytest.mark.parametrize("name", ["rbn", "vbn"])
def test_a_reference_is_of_what_counts(name: str) -> None:
    x, mask = padded(math.nan)
    mask[1] = False
    flat = torch.cat([x[n, :, : LENGTHS[n]] for n in (0, 2, 3)], 1)
    for set_reference in (False, True):
        layer: Any = layer_with_parameters(name)
        (layer.set_reference if set_reference else layer)(x, mask)
        torch.testing.assert_close(layer.reference_mean, flat.mean(1))
        torch.testing.assert_close(layer.reference_var, flat.var(1, correction=0))
        assert layer.reference_size == 3
    mask[:] = False
    mask[2, 0] = True
    with pytest.raises(
        ValueError, match=r"more than 1 value per channel, got \(4, 6, 7\), of which 1 a channel counts"
    ):
        layer_with_parameters(name)(x, mask)


def test_a_reference_passes_with_a_mask() -> None:
    """As it would without its padding."""

    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = layer_with_parameters("vbn")

        def forward(self, batch: tuple[Tensor, Tensor]) -> Tensor:
            y: Tensor = self.norm(*batch)
            return y

    (x, mask), model = padded(math.nan), Masked()
    with reference_pass(model, (x, mask)) as y:  # type: ignore[arg-type]
        flat = torch.cat([x[n, :, :length] for n, length in enumerate(LENGTHS)], 1)
        mean, var = flat.mean(1, keepdim=True), flat.var(1, correction=0, keepdim=True)
        expected = (x - mean) / (var + model.norm.eps).sqrt() * model.norm.weight[:, None] + model.norm.bias[:, None]
        torch.testing.assert_close(y, expected.masked_fill(~mask[:, None], 0))
        second = model((x, mask))
    torch.testing.assert_close(second, unpadded("vbn", model.norm, padded(0.0)[0]))


@pytest.mark.parametrize("name", NAMES)
def test_a_mask_that_leaves_nothing_out_changes_nothing(name: str) -> None:
    x = padded(0.0)[0]
    once, again = layer_with_parameters(name), layer_with_parameters(name)
    again.load_state_dict(once.state_dict())
    torch.testing.assert_close(once(x, torch.ones(4, 7, dtype=torch.bool)), again(x))
    assert all(map(torch.allclose, once.buffers(), again.buffers()))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "mask", [torch.ones(4, 6, dtype=torch.bool), torch.ones(4, 7), torch.ones(7, dtype=torch.bool)]
)
def test_another_mask_is_refused(name: str, mask: Tensor) -> None:
    with pytest.raises(ValueError, match=r"the mask must be boolean .* of shape \(4, 7\).*got"):
        layer_with_parameters(name)(padded(0.0)[0], mask)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("training", [True, False])
def test_channels_last_stays(name: str, training: bool) -> None:
    x = torch.randn(4, 6, 5, 7).to(memory_format=torch.channels_last).requires_grad_()
    y = layer_with_parameters(name).float().train(training)(x, torch.rand(4, 5, 7) > 0.3)
    assert y.is_contiguous(memory_format=torch.channels_last)
