"""What the papers define beyond a formula, and mistakes that public implementations make."""

import copy
import gc

import pytest
import torch
from torch import Tensor, nn

from normcore import (
    BatchNorm,
    BatchRenorm,
    ClipSchedule,
    FullNormBB,
    FullNormBL,
    InstanceNorm,
    LayerNorm,
    ReferenceBatchNorm,
    SwitchableNorm,
    VirtualBatchNorm,
    reference_pass,
)


def batch(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=torch.float64, generator=generator) * 2 + 1


def moments(x: Tensor, dims: tuple[int, ...] = (0, 2, 3)) -> tuple[Tensor, Tensor]:
    return x.mean(dims), x.var(dims, correction=0)


def table(values: Tensor) -> Tensor:
    return values.view(1, -1, 1, 1)


# --- Batch Renormalization (Ioffe 2017) --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("step", "r_max", "d_max"),
    [(0, 1, 0), (5000, 1, 0), (15000, 1 + 2 * 10 / 35, 2.5), (25000, 1 + 2 * 20 / 35, 5), (40000, 3, 5), (10**6, 3, 5)],
)
def test_the_papers_schedule(step: int, r_max: float, d_max: float) -> None:
    found = ClipSchedule()(torch.tensor(step, dtype=torch.float64), 3.0, 5.0)
    torch.testing.assert_close(torch.stack(found), torch.tensor([r_max, d_max], dtype=torch.float64))


def test_the_schedule_is_applied_by_training_batches() -> None:
    """BatchRenorm's clips follow the batches that it has trained on, whatever their size."""
    layer = BatchRenorm(3, schedule=ClipSchedule(start=2, r_end=4, d_end=3)).double()
    found = []
    for size in (8, 2, 8, 2, 8):
        found.append([float(clip) for clip in layer._clips()])
        layer(batch(size, 3, 4, 4))
        layer.eval()
        layer(batch(size, 3, 4, 4))  # evaluation does not count
        layer.train()
    assert found == [[1, 0], [1, 0], [1, 0], [2, 5], [3, 5]]


def test_open_clips_train_as_they_evaluate_and_by_the_averages_before_the_batch() -> None:
    layer = BatchRenorm(3, r_max=1e9, d_max=1e9, schedule=None).double()
    layer(batch(8, 3, 4, 4))
    x = batch(5, 3, 4, 4, seed=1)
    expected = copy.deepcopy(layer).eval()(x)
    torch.testing.assert_close(layer(x), expected)


def test_no_gradient_flows_through_the_correction() -> None:
    """With no clip at work the gradient is BN's times r, as if r and d were constants."""
    layer = BatchRenorm(3, r_max=1e9, d_max=1e9, schedule=None, affine=False).double()
    layer(batch(8, 3, 4, 4))
    x = batch(6, 3, 4, 4, seed=1).requires_grad_()
    r = (x.var((0, 2, 3), correction=0) + layer.eps).sqrt() / (layer.running_var + layer.eps).sqrt()
    dy = batch(6, 3, 4, 4, seed=2)
    (found,) = torch.autograd.grad(layer(x), x, dy)
    (plain,) = torch.autograd.grad(nn.functional.batch_norm(x, None, None, training=True), x, dy)
    torch.testing.assert_close(found, table(r.detach()) * plain)


def test_batch_renorm_needs_running_averages_and_open_clips() -> None:
    with pytest.raises(ValueError, match="track_running_stats must be True"):
        BatchRenorm(3, track_running_stats=False)
    with pytest.raises(ValueError, match=r"r_max must be a number, at least 1, got 0\.5"):
        BatchRenorm(3, r_max=0.5)


# --- the reference batch (S1, Algorithms 2 and 3) and the virtual one (Salimans 2016) ----------------------


def test_algorithms_2_and_3() -> None:
    layer = ReferenceBatchNorm(3, momentum=None).double()
    reference, m = batch(6, 3, 4, 4), 6
    mixed_means, mixed_vars = [], []
    for seed in range(3):
        x = reference if seed == 0 else batch(m, 3, 4, 4, seed=seed)
        mean, var = (
            (1 - 1 / (m + 1)) * b + 1 / (m + 1) * f for b, f in zip(moments(x), moments(reference), strict=True)
        )
        torch.testing.assert_close(layer(x), (x - table(mean)) / table(var + layer.eps).sqrt())
        mixed_means.append(mean)
        mixed_vars.append(var)
    layer.eval()
    expected, variance = torch.stack(mixed_means).mean(0), torch.stack(mixed_vars).mean(0) * m / (m - 1)
    torch.testing.assert_close(layer.running_mean, expected)
    torch.testing.assert_close(layer.running_var, variance)
    x = batch(4, 3, 4, 4, seed=9)
    folded = x * table(1 / (variance + layer.eps).sqrt()) - table(expected / (variance + layer.eps).sqrt())
    torch.testing.assert_close(layer(x), folded)


@pytest.mark.parametrize("kind", [ReferenceBatchNorm, VirtualBatchNorm])
def test_a_reference_is_kept_in_the_state_and_set_by_hand(kind: type[nn.Module]) -> None:
    layer, reference = kind(3).double(), batch(6, 3, 4, 4)
    layer.set_reference(reference)
    other = kind(3).double()
    other.load_state_dict(layer.state_dict())
    x = batch(5, 3, 4, 4, seed=1)
    torch.testing.assert_close(other(x), layer(x))
    assert int(other.reference_size) == 6
    torch.testing.assert_close(other.reference_mean, reference.mean((0, 2, 3)))


@pytest.mark.parametrize("kind", [ReferenceBatchNorm, VirtualBatchNorm])
@pytest.mark.parametrize("shape", [(6, 4, 4, 4), (6,), (1, 3, 1, 1)])
def test_a_reference_of_another_shape_is_refused(kind: type[nn.Module], shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="got"):
        kind(3).set_reference(torch.randn(shape))


def test_virtual_batch_norm_is_batch_norm_over_the_reference_and_the_example() -> None:
    layer, reference, x = VirtualBatchNorm(3).double(), batch(6, 3, 4, 4), batch(5, 3, 4, 4, seed=1)
    with reference_pass(layer, reference):
        y = layer(x)
    for n in range(5):
        both = torch.cat((reference, x[n : n + 1]))
        torch.testing.assert_close(y[n], nn.functional.batch_norm(both, None, None, training=True)[-1])


def test_gradients_flow_through_the_reference_pass() -> None:
    conv = nn.Conv2d(2, 3, 1).double()
    model = nn.Sequential(conv, VirtualBatchNorm(3).double())
    reference, x = batch(6, 2, 4, 4), batch(2, 2, 4, 4, seed=1)
    dy = batch(2, 3, 4, 4, seed=2)
    with reference_pass(model, reference):
        found = torch.autograd.grad(model(x), conv.weight, dy)
    expected = [
        nn.functional.batch_norm(torch.cat((conv(reference), conv(x[n : n + 1]))), None, None, training=True)[-1]
        for n in range(2)
    ]
    torch.testing.assert_close(found, torch.autograd.grad(torch.stack(expected), conv.weight, dy))
    assert model[1]._live is None  # nothing of the graph is left behind
    copy.deepcopy(model)


def test_a_model_without_virtual_batch_norm_takes_no_reference() -> None:
    with pytest.raises(ValueError, match="no VirtualBatchNorm"), reference_pass(nn.Conv2d(1, 1, 1), torch.zeros(1)):
        pass


# --- mistakes of public implementations --------------------------------------------------------------------


def test_switchable_norm_of_single_positions_is_finite() -> None:
    """An unbiased instance variance would make 1 x 1 maps NaN."""
    assert SwitchableNorm(4)(torch.randn(3, 4, 1, 1)).isfinite().all()


def test_switchable_norm_far_from_zero() -> None:
    """A difference of mean squares is NaN at 1e4 in float32."""
    x = batch(4, 6, 8, 8) + 1e4
    layer, exact = SwitchableNorm(6), SwitchableNorm(6).double()
    torch.testing.assert_close(layer(x.float()).double(), exact(x), atol=5e-3, rtol=0)


def test_one_hot_shares_are_the_three_normalizers() -> None:
    x = batch(4, 6, 5, 5)
    for k, twin in enumerate((InstanceNorm(6), LayerNorm(6), BatchNorm(6))):
        layer = SwitchableNorm(6).double()
        with torch.no_grad():
            for weight in (layer.mean_weight, layer.var_weight):
                weight.fill_(-1e5)[k] = 0
        torch.testing.assert_close(layer(x), twin.double()(x))


@pytest.mark.parametrize("kind", [BatchNorm, BatchRenorm, SwitchableNorm])
def test_the_unbiasing_factor_counts_positions_too(kind: type[nn.Module]) -> None:
    layer, x = kind(3, momentum=1.0).double(), batch(2, 3, 4, 4)
    layer(x)
    torch.testing.assert_close(layer.running_var, x.var((0, 2, 3)))


@pytest.mark.parametrize("kind", [BatchNorm, BatchRenorm, SwitchableNorm, ReferenceBatchNorm, FullNormBB])
def test_training_does_not_gather_graphs(kind: type[nn.Module]) -> None:
    layer = kind(3)
    layer(torch.randn(4, 3, 2, 2))
    gc.collect()
    before = sum(isinstance(thing, Tensor) for thing in gc.get_objects())
    for _ in range(5):
        layer(torch.randn(4, 3, 2, 2))
    gc.collect()
    assert sum(isinstance(thing, Tensor) for thing in gc.get_objects()) <= before


def test_full_normalization_stacks_channels_and_not_rows() -> None:
    """(N C, H, W, 1) read channels-first would make H the channel axis."""
    x = batch(2, 3, 4, 5)
    y = FullNormBB(3).double()(x)
    stacked = nn.functional.batch_norm(x.reshape(6, 1, 4, 5), None, None, training=True).view_as(x)
    rows = nn.functional.batch_norm(x.reshape(6, 4, 5, 1), None, None, training=True).view_as(x)
    torch.testing.assert_close(y, stacked)
    assert (y - rows).abs().max() > 0.1


def test_full_norm_bl_has_two_semantics() -> None:
    x = batch(2, 3, 4, 5)
    text = (x - x.mean()) / (x.var(correction=0) + 1e-5).sqrt()
    torch.testing.assert_close(FullNormBL(3, semantics="text").double()(x), text)
    assert (FullNormBL(3).double()(x) - text).abs().max() > 0.1
    with pytest.raises(ValueError, match="semantics must be 'code' or 'text', got 'both'"):
        FullNormBL(3, semantics="both")  # type: ignore[arg-type]
