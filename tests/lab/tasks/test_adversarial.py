"""Adversarial networks: each side's gradient is of its own loss, and what images are compared by."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from normcore.lab.config import RunConfig
from normcore.lab.errors import UsageError
from normcore.lab.runs.store import Store
from normcore.lab.runs.sweep import sweep
from normcore.lab.runs.training import build, check, referred, train
from normcore.lab.tasks import generators
from normcore.lab.tasks.adversarial import Adversarial, coverage, frechet

from ..helpers import config

CPU = torch.device("cpu")


def generating(**changes: Any) -> RunConfig:
    """Narrow networks on the digits for two steps."""
    fields: dict[str, Any] = {
        "task": "adversarial", "dataset": "digits", "image_size": 16, "model": "dcgan", "batch_size": 8, "steps": 2,
        "model_options": {"width": 0.125, "latent": 6}, "eval_every": 2, "log_every": 1,
    }  # fmt: skip
    return config(**{**fields, **changes})


@pytest.mark.parametrize("norm", ["none", "bn", "in", "vbn"])
def test_each_side_s_gradient_is_of_its_own_loss(norm: str) -> None:
    wanted = generating(norm=norm)
    task = Adversarial(wanted, CPU)
    network: Any = build(wanted, task)
    batch = task.batch(task.items[:8])
    reference = batch[0] if norm == "vbn" else None

    def gradients(loss: torch.Tensor) -> dict[str, torch.Tensor]:
        found = torch.autograd.grad(loss, list(network.parameters()), allow_unused=True)
        return {name: g for (name, _), g in zip(network.named_parameters(), found, strict=True) if g is not None}

    def losses() -> tuple[torch.Tensor, torch.Tensor]:
        torch.manual_seed(1)
        pictures = task.made(network, torch.randn(8, network.latent))
        real, taken = network.discriminator(batch[0]), network.discriminator(pictures)
        return -F.logsigmoid(real).mean() - F.logsigmoid(-taken).mean(), -F.logsigmoid(taken).mean()

    with referred(network, reference):
        torch.manual_seed(1)
        (total,) = task.measure(network, batch)
        found = gradients(total)
    with referred(network, reference):
        of_discriminator, of_generator = losses()
        expected = {name: g for name, g in gradients(of_discriminator).items() if name.startswith("discriminator")}
    with referred(network, reference):
        expected |= {name: g for name, g in gradients(losses()[1]).items() if name.startswith("generator")}
    torch.testing.assert_close(total, of_discriminator + of_generator)
    assert found.keys() == expected.keys() == dict(network.named_parameters()).keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-5, rtol=1e-3, msg=name)


def test_normalizers_stand_behind_all_but_the_picture_s_own_layers() -> None:
    channels: list[int] = []

    def norm(number: int) -> nn.Module:
        channels.append(number)
        return nn.Identity()

    network = generators.DCGAN(norm, 3, 32, latent=5)
    assert channels == [256, 128, 64, 128, 256]
    assert network.made(torch.randn(2, 5)).shape == (2, 3, 32, 32)
    assert network(torch.rand(2, 3, 32, 32)).shape == (2,)


def test_the_frechet_distance_is_that_of_normal_distributions() -> None:
    rng = np.random.default_rng(0)
    a = rng.normal(0, [1.0, 2.0, 0.5], (20_000, 3))
    b = rng.normal([1.0, 0.0, 0.0], [2.0, 2.0, 0.5], (20_000, 3))
    assert frechet(a, a) == pytest.approx(0, abs=1e-9)
    # independent features: the distance of the means, and of the deviations
    assert frechet(a, b) == pytest.approx((1 + 1) / (1 + 4 + 0.25), rel=0.03)
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    assert frechet(a @ turn, b @ turn) == pytest.approx(frechet(a, b))


@pytest.mark.parametrize(("answers", "expected"), [([0, 1, 2, 3], 1.0), ([2] * 8, 0.25), ([0, 0, 1, 1], 0.5)])
def test_coverage_is_of_the_classes_that_are_made(answers: list[int], expected: float) -> None:
    assert coverage(np.array(answers), 4) == pytest.approx(expected)


def test_a_run_is_judged_by_a_classifier_beside_it(store: Path) -> None:
    features = config(image_size=16, norm="none")
    wanted = [generating(norm=norm, beside={"features": features.key}) for norm in ("none", "vbn")]
    first, *runs = sweep([features, *wanted], Store("trial"), device="cpu")
    for run in runs:
        assert run.provenance["beside"] == {"features": first.provenance["weights"]}
        assert run.final["test_frechet"] > 0
        assert 0.1 <= run.final["test_coverage"] <= 1
    with pytest.raises(UsageError, match="need a classifier"):
        train(generating(), CPU)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model": "lenet5"}, "unknown model 'lenet5'"),
        ({"task_options": {"paintings": "no"}}, "unknown option of the task adversarial 'paintings'"),
        ({"norm": "vbn", "batch_size": 2000}, "vbn needs batch_size of at most 1024"),
        ({"outliers": 0.5}, "outliers is of the task images"),
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        check(generating(**changes))


def test_sides_that_do_not_double_are_refused() -> None:
    with pytest.raises(UsageError, match="dcgan needs images of 8, 16, 32"):
        generators.DCGAN(nn.Identity, 1, 28)
