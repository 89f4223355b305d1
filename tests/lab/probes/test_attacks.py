"""Attacks, on linear networks whose worst case is known, and what a probe makes of them."""

import dataclasses
import math

import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from normcore.lab.config import OWN
from normcore.lab.errors import LabError, UsageError
from normcore.lab.probes.attacks import ATTACKS, BUDGETS, margin, outcome, perturbed
from normcore.lab.runs import training, weights
from normcore.lab.runs.store import Store
from normcore.lab.runs.sweep import sweep

from ..helpers import config
from .test_landscape import state

CPU = torch.device("cpu")


def forward(model: nn.Module, x: Tensor) -> Tensor:
    scores: Tensor = model(x)
    return scores


def linear(classes: int = 3, scale: float = 1.0, seed: int = 0) -> tuple[nn.Module, Tensor]:
    """A linear network of images of 2 x 3 x 3 values, and its weights."""
    weight = scale * torch.randn(classes, 18, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    layer = nn.Linear(18, classes, bias=False).double()
    layer.weight.data.copy_(weight)
    return nn.Sequential(nn.Flatten(), layer), weight


def images(number: int = 8, seed: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(number, 2, 3, 3, generator=generator, dtype=torch.float64) * 0.8 + 0.1
    return x, torch.randint(3, (number,), generator=generator)


def bounds(*spans: tuple[float, float]) -> tuple[Tensor, Tensor]:
    low, high = torch.tensor(spans, dtype=torch.float64).T
    return low.view(-1, 1, 1), high.view(-1, 1, 1)


UNIT = bounds((0, 1), (0, 1))


def test_the_margin_is_the_lead_of_the_best_wrong_class() -> None:
    scores = torch.tensor([[1.0, 4.0, 2.0], [5.0, 4.0, -1.0]])
    assert margin(scores, torch.tensor([0, 0])).tolist() == [3, -1]


@given(
    attack=st.sampled_from(sorted(ATTACKS)),
    budget=st.sampled_from([1, *BUDGETS, 100, 255]),
    seed=st.integers(0, 99),
    low=st.floats(-3, 0),
    span=st.floats(0.1, 5),
)
def test_a_changed_image_is_within_the_budget_and_the_range_of_pixels(
    attack: str, budget: int, seed: int, low: float, span: float
) -> None:
    """Of standardized images, whose channels have ranges of their own."""
    torch.manual_seed(seed)
    (model, _), (x, y) = linear(seed=seed), images(seed=seed)
    black, white = bounds((low, low + span), (2 * low, 2 * low + 3 * span))
    x = black + x * (white - black)
    changed = perturbed(attack, forward, model, x, y, budget, (black, white))
    assert ((changed - x).abs() <= (white - black) * budget / 255 * (1 + 1e-12) + 1e-12).all()
    assert ((changed >= black) & (changed <= white)).all()
    assert not changed.requires_grad


@pytest.mark.parametrize("attack", ["fgsm", "pgd"])
@pytest.mark.parametrize("budget", BUDGETS)
def test_of_two_classes_a_linear_network_is_taken_as_far_as_can_be(attack: str, budget: int) -> None:
    """Where no pixel reaches the end of its range the margin grows by the budget times the sum of |w_k - w_y|."""
    (model, weight), (x, _) = linear(classes=2), images()
    y = torch.zeros(len(x), dtype=torch.long)
    changed = perturbed(attack, forward, model, x, y, budget, UNIT)
    grown = margin(forward(model, changed), y) - margin(forward(model, x), y)
    expected = budget / 255 * (weight[1] - weight[0]).abs().sum()
    torch.testing.assert_close(grown, expected.expand(len(x)), rtol=1e-12, atol=1e-12)


def test_noise_has_no_aim() -> None:
    """Its mean effect on the margin is none, with the standard error that coins give."""
    (model, weight), (x, _) = linear(classes=2), images(1)
    x, y = x.expand(4000, -1, -1, -1), torch.zeros(4000, dtype=torch.long)
    torch.manual_seed(0)
    changed = perturbed("noise", forward, model, x, y, 8, UNIT)
    grown = margin(forward(model, changed), y) - margin(forward(model, x), y)
    error = 8 / 255 * (weight[1] - weight[0]).norm().item() / math.sqrt(4000)
    assert abs(grown.mean().item()) < 4 * error
    assert grown.std().item() == pytest.approx(error * math.sqrt(4000), rel=0.05)


def test_a_network_that_is_sure_of_itself_is_fooled_as_often() -> None:
    """Scores times 1e4 have no cross-entropy gradient left in float32, and the same answers."""
    (plain, _), (sure, _) = linear(), linear(scale=1e4)
    x, y = images(200)
    found = []
    for model in plain.float(), sure.float():
        torch.manual_seed(0)
        found.append(perturbed("pgd", forward, model, x.float(), y, 8, tuple(b.float() for b in UNIT)))
    torch.testing.assert_close(*found, rtol=0, atol=0)


def test_the_network_is_left_as_it_is() -> None:
    (model, _), (x, y) = linear(), images()
    model.eval()
    before = state(model)
    for attack in "fgsm", "pgd":
        with torch.random.fork_rng():
            perturbed(attack, forward, model, x, y, 4, UNIT)
    after = state(model)
    assert str(after) == str(before)
    assert x.grad is None


def test_what_became_of_the_answers() -> None:
    """Of five images the network has the first four right, and of these the first three count."""
    y = torch.tensor([0, 0, 1, 1, 0])
    right, wrong = torch.eye(2)[y], torch.eye(2)[1 - y]
    before = torch.cat([right[:4], wrong[4:]])
    after = torch.stack([right[0], wrong[1], wrong[2], wrong[3], right[4]])
    counted = torch.tensor([True, True, True, False, True])
    assert outcome(before, after, y, counted) == {"accuracy": 2 / 5, "fooled": pytest.approx(2 / 3)}
    assert math.isnan(outcome(wrong, right, y, counted)["fooled"])


@pytest.mark.usefixtures("store")
def test_a_network_is_attacked_by_itself_and_by_those_beside_it() -> None:
    """By a twin as by itself; by a network of other weights less."""
    first = config(norm="none", steps=120, eval_every=120, lr=0.01)
    other = dataclasses.replace(first, seed=1)
    looked = dataclasses.replace(
        first, start=first.key, steps=0, probes={"adversarial": 1}, beside={"twin": first.key, "other": other.key}
    )
    runs = sweep([first, other, looked], Store("trial"))
    rows = pd.DataFrame(runs[2].probes["adversarial"])
    fooled = rows.set_index(["source", "attack", "budget"])["fooled"]
    assert len(fooled) == len(ATTACKS) * len(BUDGETS) + 2 * (len(BUDGETS) - 1)
    assert runs[2].provenance["beside"] == {
        "twin": runs[0].provenance["weights"],
        "other": runs[1].provenance["weights"],
    }
    for budget in BUDGETS[1:]:
        own, twin, others = (fooled[name, "pgd", budget] for name in (OWN, "twin", "other"))
        assert twin == pytest.approx(own, abs=0.01)  # from another random start
        assert 0 < others < own
    for weaker, stronger in (("noise", "fgsm"), ("noise", "pgd")):
        assert fooled[OWN, weaker, 8] < fooled[OWN, stronger, 8]
    assert fooled[OWN, "pgd", 8] >= fooled[OWN, "fgsm", 8]
    assert runs[2].curves["test"]["accuracy"] == runs[0].curves["test"]["accuracy"][-1:]


@pytest.mark.usefixtures("store")
def test_a_run_with_networks_beside_it_draws_what_it_draws_without() -> None:
    first = config(model="alexnet", image_size=16, model_options={"width": 0.05, "dropout": 0.5}, norm="none")
    sweep([dataclasses.replace(first, start=first.key, seed=1), first], Store("trial"))  # keeps it
    beside = dataclasses.replace(first, seed=2, beside={"first": first.key})
    alone = dataclasses.replace(beside, beside={})
    assert training.train(beside, CPU).curves == training.train(alone, CPU).curves


@pytest.mark.usefixtures("store")
def test_what_cannot_be_looked_at_beside_is_refused_in_words() -> None:
    with pytest.raises(UsageError, match="beside must give the key of a run to names other than 'own', got own"):
        config(beside={"own": "0123456789abcdef"})
    with pytest.raises(UsageError, match="there is no run '0123456789abcdef'"):
        sweep([config(beside={"other": "0123456789abcdef"})], Store("trial"))
    with pytest.raises(LabError, match="the network of run 0123456789abcdef is not kept"):
        training.train(config(beside={"other": "0123456789abcdef"}), CPU)
    virtual = config(norm="vbn")
    weights.keep(training.build(virtual, training.task_class("images")(virtual, CPU)), virtual)
    with pytest.raises(UsageError, match="needs its own reference batch"):
        training.train(config(beside={"other": virtual.key}), CPU)
