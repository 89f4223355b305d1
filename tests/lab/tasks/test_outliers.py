"""Outlying images: which they are, what they are, and what one of them does to its batch."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.special import softmax
from torch import Tensor, nn

from normcore import BatchRenorm, ClipSchedule, make_norm, reference_pass
from normcore.lab.probes.influence import influence
from normcore.lab.tasks.networks import lenet5
from normcore.lab.tasks.outliers import KINDS, NOISE, SCALE, Outliers, outlying

Matrix = NDArray[np.float64]


def plain(model: nn.Module, x: Tensor) -> Tensor:
    found: Tensor = model(x)
    return found


def images(items: int, size: int = 12, seed: int = 0) -> Tensor:
    return torch.randn(items, 1, size, size, generator=torch.Generator().manual_seed(seed))


NONE = torch.empty(0)


# --- the kinds -------------------------------------------------------------------------------------------


def test_the_kinds_are_more_contrast_noise_and_another_set() -> None:
    assert KINDS == ("scaled", "noise", "foreign")
    x, foreign = images(40), images(40, seed=1)
    assert torch.equal(outlying(x, "scaled", NONE), 10 * x)
    assert torch.equal(outlying(x, "foreign", foreign), foreign)
    added = outlying(x, "noise", NONE) - x
    assert added.mean().item() == pytest.approx(0, abs=0.3)  # of 5,760 values
    assert added.std().item() == pytest.approx(5, rel=0.05)
    assert (SCALE, NOISE) == (10, 5)


def test_noise_is_drawn_anew_each_time() -> None:
    x = images(2)
    assert not torch.equal(outlying(x, "noise", NONE), outlying(x, "noise", NONE))


# --- which images ----------------------------------------------------------------------------------------


@given(st.floats(0, 1), st.floats(0, 1))
def test_a_share_is_that_of_all_images_and_a_larger_one_contains_it(one: float, other: float) -> None:
    few, many = (Outliers.draw(10_000, share, "scaled", NONE).chosen for share in sorted((one, other)))
    assert not (few & ~many).any()
    for share, chosen in zip(sorted((one, other)), (few, many), strict=True):
        assert chosen.shape == (10_000,)
        assert chosen.double().mean().item() == pytest.approx(share, abs=0.025)  # five deviations


def test_none_and_all_are_exactly_that() -> None:
    assert not Outliers.draw(5000, 0.0, "scaled", NONE).chosen.any()
    assert Outliers.draw(5000, 1.0, "scaled", NONE).chosen.all()


def test_they_are_the_same_images_whatever_else_is_random() -> None:
    drawn = []
    for seed, kind in enumerate(KINDS):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        drawn.append(Outliers.draw(1000, 0.3, kind, images(3)).chosen)
        assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(drawn[0], drawn[1])
    assert torch.equal(drawn[0], drawn[2])


@settings(max_examples=50)
@given(st.sampled_from(KINDS), st.lists(st.integers(0, 29), min_size=1, max_size=12))
def test_exactly_the_chosen_images_of_a_batch_are_made_outliers(kind: str, index: list[int]) -> None:
    """Wherever in the batch they are; an image of another set takes the place that its number gives it."""
    everything, foreign = images(30), images(7, seed=1)
    found = Outliers.draw(30, 0.4, kind, foreign)
    assert 0 < found.chosen.sum() < 30
    at = torch.tensor(index)
    x = everything[at]
    given_ = x.clone()
    made = found(x, at)
    assert torch.equal(x, given_)
    for place, number in enumerate(index):
        if not found.chosen[number]:
            assert torch.equal(made[place], x[place])
        elif kind == "noise":
            assert (made[place] != x[place]).all()
        else:
            expected = 10 * everything[number] if kind == "scaled" else foreign[number % 7]
            assert torch.equal(made[place], expected)


# --- influence -------------------------------------------------------------------------------------------


SCHEDULE = ClipSchedule(start=0, r_end=1, d_end=1)
ALONE = ("none", "ln", "cln", "rms", "in", "gn", "lrn", "fnbl")  # no image sees another
TOGETHER = ("bn", "brn", "rbn", "sn", "fnbb")


def network(norm: str, seed: int = 0, **options: Any) -> nn.Module:
    """LeNet-5 that has seen a batch in training."""
    torch.manual_seed(seed)

    def make(channels: int) -> nn.Module:
        return BatchRenorm(channels, schedule=SCHEDULE) if norm == "brn" else make_norm(norm, channels)

    model = lenet5(make, 1, 10, 12, linear_norm=norm not in ("in", "lrn"), **options)
    with torch.no_grad():
        model(2 * images(16, seed=3) + 1)
    return model


LABELS = torch.arange(16) % 10


def by_mode(model: nn.Module, kind: str, foreign: Tensor, **given_: Any) -> dict[Any, dict[str, Any]]:
    rows = influence(given_.get("forward", plain), model, images(16), LABELS, kind, foreign)
    assert [row["mode"] for row in rows] == ["train", "eval"]
    assert all(set(row) == {"mode", "output", "gradient", "update"} for row in rows)
    return {row["mode"]: row for row in rows}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("norm", ALONE)
def test_where_no_image_sees_another_an_outlier_does_nothing_to_them(norm: str, kind: str) -> None:
    for row in by_mode(network(norm), kind, images(16, seed=1)).values():
        assert (row["output"], row["gradient"]) == (0, 0)
        if norm == "in" and kind == "scaled":  # which takes the contrast away wholly
            assert row["update"] == pytest.approx(0, abs=1e-4)
        else:
            assert row["update"] > 1e-3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("norm", TOGETHER)
def test_where_they_share_statistics_it_does_in_training_and_not_at_evaluation(norm: str, kind: str) -> None:
    rows = by_mode(network(norm), kind, images(16, seed=1))
    assert rows["train"]["output"] > 1e-3
    assert rows["train"]["gradient"] > 1e-3
    assert rows["train"]["update"] > 1e-3
    assert (rows["eval"]["output"], rows["eval"]["gradient"]) == (0, 0)
    assert rows["eval"]["update"] > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_against_a_reference_batch_no_image_sees_another(kind: str) -> None:
    reference = images(16, seed=9)

    def forward(model: nn.Module, x: Tensor) -> Tensor:
        with reference_pass(model, reference):
            return plain(model, x)

    for row in by_mode(network("vbn"), kind, images(16, seed=1), forward=forward).values():
        assert (row["output"], row["gradient"]) == (0, 0)
        assert row["update"] > 1e-3


def with_dropout() -> nn.Module:
    """Before every linear layer."""
    parts: list[nn.Module] = []
    for part in network("gn").children():
        parts += [nn.Dropout(), part] if isinstance(part, nn.Linear) else [part]
    return nn.Sequential(*parts)


UNCHANGED: dict[str, Callable[[], nn.Module]] = {
    **{name: lambda name=name: network(name) for name in (*ALONE, *TOGETHER)},  # type: ignore[misc]
    "dropout": with_dropout,
}


@pytest.mark.parametrize("name", UNCHANGED)
def test_an_outlier_that_is_the_image_itself_changes_nothing(name: str) -> None:
    """Neither do statistics that move with each batch, nor random numbers: with and without are two looks at one
    network."""
    for row in by_mode(UNCHANGED[name](), "foreign", images(16)).values():
        assert (row["output"], row["gradient"], row["update"]) == (0, 0, 0)


def test_at_the_start_reference_batch_norm_is_batch_norm() -> None:
    """It has no reference yet: the first batch is, and an outlier in it belongs to it."""
    found = []
    for norm in ("bn", "rbn"):
        torch.manual_seed(0)
        model = lenet5(lambda channels, norm=norm: make_norm(norm, channels), 1, 10, 12)  # type: ignore[misc]
        row = by_mode(model, "scaled", NONE)["train"]
        found.append([row[name] for name in ("output", "gradient", "update")])
    assert found[1] == pytest.approx(found[0], rel=1e-3)


class _ByHand:
    """Each value standardized over the batch, or by running statistics, then softmax regression; in numpy."""

    def __init__(self, w: Matrix, y: Tensor, mean: Matrix | None = None, var: Matrix | None = None) -> None:
        self.w, self.y, self.mean, self.var = w, y.numpy(), mean, var

    def features(self, x: Tensor) -> Matrix:
        v: Matrix = x.flatten(1).numpy()
        mean, var = (v.mean(0), v.var(0)) if self.mean is None or self.var is None else (self.mean, self.var)
        found: Matrix = (v - mean) / np.sqrt(var + 1e-5)
        return found

    def scores(self, x: Tensor) -> Matrix:
        found: Matrix = self.features(x) @ self.w.T
        return found

    def slope(self, x: Tensor, first: int) -> Matrix:
        """By the weights of the loss of the images from this one on."""
        p = softmax(self.scores(x)[first:], axis=1)
        found: Matrix = (p - np.eye(len(self.w))[self.y[first:]]).T @ self.features(x)[first:] / len(p)
        return found


def change(before: Matrix, after: Matrix) -> float:
    return float(np.linalg.norm(after - before) / np.linalg.norm(before))


@pytest.mark.parametrize("kind", ["scaled", "foreign"])
@pytest.mark.parametrize("seed", range(3))
def test_the_influence_is_the_one_computed_by_hand(kind: str, seed: int) -> None:
    x, foreign = images(9, 3, seed=seed).double(), images(9, 3, seed=seed + 100).double()
    y = torch.randint(4, (9,), generator=torch.Generator().manual_seed(seed))
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(9, affine=False), nn.Linear(9, 4, bias=False)).double()
    model(2 * x + 1)
    w: Matrix = model.get_parameter("2.weight").detach().numpy()
    running = {name: model.get_buffer(f"1.running_{name}").numpy().copy() for name in ("mean", "var")}
    spoiled = x.clone()
    spoiled[0] = 10 * x[0] if kind == "scaled" else foreign[0]
    rows = influence(plain, model, x, y, kind, foreign)
    for row, by_hand in zip(rows, (_ByHand(w, y), _ByHand(w, y, **running)), strict=True):
        assert row["output"] == pytest.approx(change(by_hand.scores(x)[1:], by_hand.scores(spoiled)[1:]), rel=1e-6)
        assert row["gradient"] == pytest.approx(change(by_hand.slope(x, 1), by_hand.slope(spoiled, 1)), rel=1e-6)
        assert row["update"] == pytest.approx(change(by_hand.slope(x, 0), by_hand.slope(spoiled, 0)), rel=1e-6)


def test_the_change_of_the_update_without_a_normalizer_is_that_of_softmax_regression() -> None:
    x, y = images(6, 2).double(), torch.tensor([0, 1, 2, 0, 1, 2])
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3, bias=False)).double()
    w: Matrix = model.get_parameter("1.weight").detach().numpy()
    slopes = []
    for factor in (1, 10):
        v = x.flatten(1).numpy() * np.array([factor, 1, 1, 1, 1, 1])[:, None]
        slopes.append((softmax(v @ w.T, axis=1) - np.eye(3)[y.numpy()]).T @ v / 6)
    for row in influence(plain, model, x, y, "scaled", NONE):
        assert row["update"] == pytest.approx(change(*slopes), rel=1e-6)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("norm", ["bn", "brn", "rbn", "gn"])
def test_influence_leaves_the_network_and_the_batch_as_they_are(norm: str, training: bool) -> None:
    model, x = network(norm).train(training), images(16)
    before, given_ = copy.deepcopy(model.state_dict()), x.clone()
    influence(plain, model, x, LABELS, "noise", NONE)
    assert torch.equal(x, given_)
    assert model.training is training
    assert all(m.training is training for m in model.modules())
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
