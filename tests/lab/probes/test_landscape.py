"""Covariate shift and smoothness, on networks small enough to be computed by hand."""

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats
from scipy.special import log_softmax, softmax
from torch import Tensor, nn

from normcore import BatchNorm, BatchRenorm, ClipSchedule, VirtualBatchNorm, make_norm, reference_pass
from normcore.lab.probes.landscape import LENGTHS, Forward, covariate_shift, gradient, layers, smoothness
from normcore.lab.tasks.networks import UnsteadyNoise, fourconv, lenet5

Matrix = NDArray[np.float64]


def plain(model: nn.Module, x: Tensor) -> Tensor:
    found: Tensor = model(x)
    return found


def batch(items: int, *shape: int, classes: int = 3, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(items, *shape, generator=generator, dtype=torch.float64)
    return x, torch.randint(classes, (items,), generator=generator)


def made(make: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    """The network, its weights drawn from a seed, in float64."""
    torch.manual_seed(seed)
    return make().double()


def moved(model: nn.Module, by: float = 0.1, seed: int = 1) -> nn.Module:
    """A copy whose parameters are a little elsewhere."""
    generator, other = torch.Generator().manual_seed(seed), copy.deepcopy(model)
    with torch.no_grad():
        for p in other.parameters():
            p.add_(by * torch.randn(p.shape, generator=generator, dtype=p.dtype))
    return other


def state(model: nn.Module) -> dict[str, Any]:
    """All that a probe must leave alone."""
    return {
        **{name: value.clone() for name, value in model.state_dict().items()},
        "training": [m.training for m in model.modules()],
        "gradients": [p.grad for p in model.parameters()],
        "hooks": [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()],
        "random numbers": torch.get_rng_state(),
    }


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return a.keys() == b.keys() and all(
        torch.equal(v, b[k]) if isinstance(v, Tensor) else v == b[k] for k, v in a.items()
    )


class Softmax:
    """Softmax regression in numpy: scores x W' + b."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x: Matrix = np.hstack([x.numpy(), np.ones((len(x), 1))])
        self.y = y.numpy()

    def loss(self, w: Matrix) -> float:
        return float(-np.mean(log_softmax(self.x @ w.T, axis=1)[np.arange(len(self.y)), self.y]))

    def slope(self, w: Matrix) -> Matrix:
        p = softmax(self.x @ w.T, axis=1)
        found: Matrix = (p - np.eye(len(w))[self.y]).T @ self.x / len(self.y)
        return found

    def hessian(self, w: Matrix) -> Matrix:
        p = softmax(self.x @ w.T, axis=1)
        curved = np.einsum("nk,kl->nkl", p, np.eye(len(w))) - np.einsum("nk,nl->nkl", p, p)
        found = np.einsum("nkl,ni,nj->kilj", curved, self.x, self.x) / len(self.y)
        return found.reshape(w.size, w.size)


def weights(model: nn.Module, layer: str = "") -> Matrix:
    """Those of a linear layer; the last column is the bias."""
    linear = model.get_submodule(layer)
    w, b = (linear.get_parameter(name).detach().numpy() for name in ("weight", "bias"))
    return np.hstack([w, b[:, None]])


def linear(seed: int = 0) -> tuple[nn.Linear, Tensor, Tensor, Softmax]:
    model, (x, y) = made(lambda: nn.Linear(4, 3), seed), batch(20, 4, seed=seed)
    assert isinstance(model, nn.Linear)
    return model, x, y, Softmax(x, y)


# --- the gradient ----------------------------------------------------------------------------------------


@settings(max_examples=20)
@given(st.integers(0, 1000))
def test_the_gradient_of_softmax_regression_is_the_formula_s(seed: int) -> None:
    model, x, y, by_hand = linear(seed)
    loss, found = gradient(plain, model, x, y)
    slope = by_hand.slope(weights(model))
    assert loss == pytest.approx(by_hand.loss(weights(model)))
    assert found.tolist() == pytest.approx([*slope[:, :-1].ravel(), *slope[:, -1]])
    assert gradient(plain, model, x, y, [model.bias])[1].tolist() == pytest.approx(slope[:, -1])


def test_a_parameter_that_is_not_used_has_a_gradient_of_zero() -> None:
    model, x, y, _ = linear()
    unused = nn.Parameter(torch.ones(2, 2, dtype=torch.float64))
    found = gradient(plain, model, x, y, [unused, *model.parameters()])[1]
    assert found[:4].tolist() == [0] * 4
    assert torch.equal(found[4:], gradient(plain, model, x, y)[1])


def test_the_gradient_is_that_of_backward() -> None:
    model, (x, y) = made(lambda: lenet5(lambda c: make_norm("gn", c), 1, 3, 14)), batch(6, 1, 14, 14)
    before = state(model)
    found = gradient(plain, model, x, y)[1]
    assert same(before, state(model))
    nn.functional.cross_entropy(model(x), y).backward()
    expected = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    torch.testing.assert_close(found, expected)


# --- smoothness ------------------------------------------------------------------------------------------


@settings(max_examples=20)
@given(st.integers(0, 1000), st.sampled_from([0.01, 0.3, 5.0]))
def test_smoothness_is_what_losses_and_gradients_at_each_length_say(seed: int, lr: float) -> None:
    model, x, y, by_hand = linear(seed)
    w = weights(model)
    g = by_hand.slope(w)
    there = [w - lr * length * g for length in LENGTHS]
    losses = [by_hand.loss(v) for v in there]
    changes = [np.linalg.norm(by_hand.slope(v) - g) for v in there]
    slopes = [c / (lr * length * np.linalg.norm(g)) for c, length in zip(changes, LENGTHS, strict=True)]
    assert smoothness(plain, model, x, y, lr) == pytest.approx({
        "loss": by_hand.loss(w), "loss_range": max(losses) - min(losses), "gradient_norm": np.linalg.norm(g),
        "gradient_change": max(changes), "beta": max(slopes),
    }, rel=1e-6)  # fmt: skip


@settings(max_examples=20)
@given(st.integers(0, 1000))
def test_for_a_short_step_the_effective_smoothness_is_the_curvature_along_the_gradient(seed: int) -> None:
    model, x, y, by_hand = linear(seed)
    g, hessian = by_hand.slope(weights(model)).ravel(), by_hand.hessian(weights(model))
    found = smoothness(plain, model, x, y, 1e-5)["beta"]
    assert found == pytest.approx(np.linalg.norm(hessian @ g) / np.linalg.norm(g), rel=1e-3)
    assert found <= np.linalg.eigvalsh(hessian).max() * 1.001


def test_along_an_eigenvector_the_effective_smoothness_is_its_eigenvalue() -> None:
    """Two classes, one input and no bias: but for the direction of both scores at once there is only one."""
    model, (x, y) = made(lambda: nn.Linear(1, 2, bias=False)), batch(30, 1, classes=2)
    w, t = model.get_parameter("weight").detach().numpy(), x.numpy()[:, 0]
    p = softmax(t[:, None] @ w.T, axis=1)
    largest = 2 * np.mean(p[:, 0] * p[:, 1] * t**2)
    assert smoothness(plain, model, x, y, 1e-5)["beta"] == pytest.approx(largest, rel=1e-3)


@settings(max_examples=20)
@given(st.integers(0, 1000), st.floats(1e-3, 100))
def test_the_effective_smoothness_is_at_most_the_bound_of_softmax_regression(seed: int, lr: float) -> None:
    """Half of the largest eigenvalue of x'x / n bounds its Hessian everywhere (Boehning 1992)."""
    model, x, y, by_hand = linear(seed)
    bound = np.linalg.eigvalsh(by_hand.x.T @ by_hand.x / len(y)).max() / 2
    assert smoothness(plain, model, x, y, lr)["beta"] <= bound * (1 + 1e-6)


def test_the_lengths_are_in_learning_rates_and_can_be_others() -> None:
    model, x, y, _ = linear()
    assert LENGTHS == (0.5, 1.0, 2.0, 4.0)
    assert smoothness(plain, model, x, y, 0.1) == smoothness(plain, model, x, y, 0.05, [1, 2, 4, 8])
    single = [smoothness(plain, model, x, y, 0.1, [length]) for length in LENGTHS]
    assert [found["loss_range"] for found in single] == [0] * 4
    assert smoothness(plain, model, x, y, 0.1)["beta"] == max(found["beta"] for found in single)


def test_a_flat_place_has_no_effective_smoothness() -> None:
    """Where all scores and all inputs are zero the gradient is, and nothing is divided by it."""
    model = made(lambda: nn.Linear(2, 2, bias=False))
    nn.init.zeros_(model.get_parameter("weight"))
    x, y = torch.zeros(4, 2, dtype=torch.float64), torch.tensor([0, 1, 0, 1])
    found = smoothness(plain, model, x, y, 0.1)
    assert found.pop("loss") == pytest.approx(math.log(2))
    assert set(found.values()) == {0}


@pytest.mark.parametrize("lengths", [(1.0, 1e40), (1e40, 1.0), (1.0, 1e40, 2.0)])
def test_a_step_to_where_nothing_is_finite_is_not_passed_over(lengths: tuple[float, ...]) -> None:
    """Whichever of the steps it is: the largest of numbers that are not all finite is not finite."""
    model, (x, y) = made(lambda: nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))).float(), batch(20, 4)
    found = smoothness(plain, model, x.float(), y, 1.0, lengths)
    assert math.isfinite(found["gradient_norm"])
    assert [name for name in ("loss_range", "gradient_change", "beta") if math.isfinite(found[name])] == []


RANDOM: dict[str, Callable[[], nn.Module]] = {
    "dropout": lambda: nn.Sequential(nn.Linear(4, 50), nn.ReLU(), nn.Dropout(0.5), nn.Linear(50, 3)),
    "noise": lambda: nn.Sequential(nn.Linear(4, 50), UnsteadyNoise(), nn.ReLU(), nn.Linear(50, 3)),
}


@pytest.mark.parametrize("name", RANDOM)
def test_the_network_draws_the_same_random_numbers_at_every_point(name: str) -> None:
    """A step of no length changes nothing, though two batches are never alike."""
    model, (x, y) = made(RANDOM[name]), batch(20, 4)
    assert not torch.equal(gradient(plain, model, x, y)[1], gradient(plain, model, x, y)[1])
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        found.append(smoothness(plain, model, x, y, 0.1, [0.0]))
    assert found[0]["gradient_norm"] > 0
    assert found[0]["gradient_change"] == 0
    assert found[0] == found[1]


def in_training(norm: Callable[[int], nn.Module]) -> nn.Module:
    """A network that has seen a batch, so that its running statistics are on their way."""
    model = made(lambda: nn.Sequential(nn.Conv2d(1, 4, 3), norm(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)))
    with torch.no_grad():
        model(2 * batch(8, 1, 8, 8, seed=5)[0] + 1)
    return model


SCHEDULE = ClipSchedule(start=0, r_end=1, d_end=1)
NORMS: dict[str, Callable[[int], nn.Module]] = {
    **{name: lambda c, name=name: make_norm(name, c) for name in ("bn", "gn", "sn", "rbn", "fnbb")},  # type: ignore[misc]
    "brn": lambda c: BatchRenorm(c, schedule=SCHEDULE),
}


@pytest.mark.parametrize("name", NORMS)
def test_the_surface_is_the_same_at_every_point(name: str) -> None:
    """Whatever a normalizer keeps of the batches it has seen: looking at the surface does not move it."""
    model, (x, y) = in_training(NORMS[name]), batch(8, 1, 8, 8)
    assert smoothness(plain, model, x, y, 0.1, [0.0])["gradient_change"] == 0
    first, rest = smoothness(plain, model, x, y, 0.1, [0.5]), smoothness(plain, model, x, y, 0.1, [1.0, 2.0, 0.5])
    assert rest["beta"] >= first["beta"]


@pytest.mark.parametrize("name", [*RANDOM, *NORMS])
def test_smoothness_leaves_the_network_and_the_random_numbers_as_they_are(name: str) -> None:
    if name in RANDOM:
        model, (x, y) = made(RANDOM[name]), batch(20, 4)
    else:
        model, (x, y) = in_training(NORMS[name]), batch(8, 1, 8, 8)
    before = state(model)
    smoothness(plain, model, x, y, 0.1)
    assert same(before, state(model))


# --- layers ----------------------------------------------------------------------------------------------


def names(model: nn.Module) -> list[tuple[str, list[str]]]:
    known = {id(p): name for name, p in model.named_parameters()}
    modules = {id(m): name for name, m in model.named_modules()}
    return [(modules[id(module)], [known[id(p)] for p in own]) for module, own in layers(model)]


def test_a_normalizer_belongs_to_the_convolution_in_front_of_it() -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3), BatchNorm(2), nn.ReLU(),
        nn.Conv2d(2, 2, 3, bias=False), nn.ReLU(), make_norm("sn", 2),
        nn.Flatten(), nn.Linear(8, 4), nn.Identity(), nn.Linear(4, 3),
    )  # fmt: skip
    assert names(model) == [
        ("0", ["0.weight", "0.bias", "1.weight", "1.bias"]),
        ("3", ["3.weight", "5.weight", "5.bias", "5.mean_weight", "5.var_weight"]),
        ("7", ["7.weight", "7.bias"]),
        ("9", ["9.weight", "9.bias"]),
    ]


def test_layers_are_found_in_parts_of_parts() -> None:
    model = fourconv(lambda c: make_norm("gn", c), 1, 10, 12)
    found = names(model)
    assert [name for name, _ in found] == [*(f"features.{i}.conv" for i in range(4)), "head.1", "head.3"]
    assert found[2][1] == [f"features.2.{name}" for name in ("conv.weight", "conv.bias", "norm.weight", "norm.bias")]
    assert [name for _, own in found for name in own] == [name for name, _ in model.named_parameters()]


def test_what_stands_before_the_first_layer_is_no_layer_s() -> None:
    assert names(nn.Sequential(BatchNorm(2), nn.ReLU(), nn.Conv2d(2, 2, 1, bias=False))) == [("2", ["2.weight"])]
    assert layers(nn.Sequential(BatchNorm(2))) == []


# --- covariate shift -------------------------------------------------------------------------------------


def test_the_shift_of_two_layers_is_the_one_computed_by_hand() -> None:
    """Of 32 images and 8 units, so that the layer's inputs are as many as there are quantiles."""
    before = made(lambda: nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3)))
    after, (x, y) = moved(before), batch(32, 5)
    inputs, slopes = [], []
    for model in (before, after):
        w = weights(model, "0")
        inputs.append(np.maximum(x.numpy() @ w[:, :-1].T + w[:, -1], 0))
        by_hand = Softmax(torch.from_numpy(inputs[-1]), y)
        slopes.append(by_hand.slope(weights(before, "2")))
    old, new = slopes
    size = np.linalg.norm
    (row,) = covariate_shift(plain, before, after, x, y)
    assert row.pop("layer") == 2
    assert row == pytest.approx({
        "gradient": size(new - old) / size(old), "distance": size(new - old),
        "cosine": (new * old).sum() / size(new) / size(old),
        "input": stats.wasserstein_distance(inputs[0].ravel(), inputs[1].ravel()) / inputs[0].std(),
    }, rel=1e-5)  # fmt: skip


DEEP: dict[str, Callable[[], nn.Module]] = {
    "fourconv, bn": lambda: fourconv(lambda c: make_norm("bn", c), 1, 3, 12),
    "lenet5, gn": lambda: lenet5(lambda c: make_norm("gn", c), 1, 3, 12),
    "lenet5, rbn": lambda: lenet5(lambda c: make_norm("rbn", c), 1, 3, 12),
    "lenet5, brn": lambda: lenet5(lambda c: BatchRenorm(c, schedule=SCHEDULE), 1, 3, 12),
}


@pytest.mark.parametrize("name", DEEP)
def test_without_a_step_nothing_shifts(name: str) -> None:
    model, (x, y) = made(DEEP[name]), batch(8, 1, 12, 12)
    with torch.no_grad():
        model(2 * x + 1)
    for row in covariate_shift(plain, model, copy.deepcopy(model), x, y):
        assert (row["gradient"], row["distance"], row["input"]) == (0, 0, 0)
        assert row["cosine"] == pytest.approx(1)


@pytest.mark.parametrize("name", DEEP)
def test_only_the_layers_before_have_moved(name: str) -> None:
    """Each layer's gradient with the parameters up to it taken from the network after the step, its own and those
    behind it from before."""
    before, (x, y) = made(DEEP[name]), batch(8, 1, 12, 12)
    after = moved(before, 0.05)
    rows = covariate_shift(plain, before, after, x, y)
    own = dict(after.named_parameters())
    order = names(before)
    assert [row["layer"] for row in rows] == list(range(2, len(order) + 1))
    for row in rows:
        place = int(row["layer"]) - 1
        slopes = []
        for taken in ([], order[:place]):
            model = copy.deepcopy(before)
            mine = dict(model.named_parameters())
            for parameter in (p for _, several in taken for p in several):
                mine[parameter].data = own[parameter].data
            nn.functional.cross_entropy(model(x), y).backward()
            slopes.append(torch.cat([mine[p].grad.flatten() for p in order[place][1]]))  # type: ignore[union-attr]
        old, new = slopes
        assert row["gradient"] == pytest.approx(((new - old).norm() / old.norm()).item(), rel=1e-6)
        assert row["distance"] == pytest.approx((new - old).norm().item(), rel=1e-6)
        cosine = nn.functional.cosine_similarity(old, new, dim=0).item()
        assert row["cosine"] == pytest.approx(cosine, rel=1e-6)
        assert row["gradient"] > 0
        assert row["input"] > 0


def test_a_layer_does_not_shift_by_its_own_step_or_by_that_of_a_later_one() -> None:
    before, (x, y) = made(DEEP["lenet5, gn"]), batch(8, 1, 12, 12)
    after = copy.deepcopy(before)
    with torch.no_grad():
        for parameter in layers(after)[2][1]:
            parameter.add_(0.1)
    shifted = {row["layer"]: row["distance"] > 0 for row in covariate_shift(plain, before, after, x, y)}
    assert shifted == {2: False, 3: False, 4: True, 5: True}


@pytest.mark.parametrize("name", DEEP)
def test_covariate_shift_leaves_both_networks_as_they_are(name: str) -> None:
    model, (x, y) = made(DEEP[name]), batch(8, 1, 12, 12)
    after = moved(model)
    before = state(model), state(after)
    assert covariate_shift(plain, model, after, x, y)
    assert all(same(a, state(b)) for a, b in zip(before, (model, after), strict=True))


def test_the_layer_s_inputs_are_those_of_the_batch_and_not_of_a_reference() -> None:
    """Virtual batch normalization passes another batch through the network first."""
    before = made(lambda: nn.Sequential(nn.Conv2d(1, 2, 3), VirtualBatchNorm(2), nn.Flatten(), nn.Linear(8, 3)))
    after, (x, y) = moved(before), batch(32, 1, 4, 4)
    reference = 3 + batch(32, 1, 4, 4, seed=7)[0]

    def forward(model: nn.Module, x: Tensor) -> Tensor:
        with reference_pass(model, reference):
            return plain(model, x)

    inputs = []
    for model in (before, after):
        with torch.no_grad(), reference_pass(model, reference):
            inputs.append(model.get_submodule("1")(model.get_submodule("0")(x)).flatten().numpy())
    expected = stats.wasserstein_distance(*inputs) / inputs[0].std()
    (row,) = covariate_shift(forward, before, after, x, y)
    assert row["input"] == pytest.approx(expected, rel=1e-4)


def test_a_network_of_one_layer_has_no_row() -> None:
    model, x, y, _ = linear()
    forward: Forward = plain
    assert covariate_shift(forward, model, moved(model), x, y) == []
