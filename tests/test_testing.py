"""The checks for anybody's layer: every layer of ours stands them, and each catches the mistake that it is for."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from normcore import NORMS, make_norm
from normcore.testing import CHECKS, FAILED, PASSED, SKIPPED, check_norm, dependences, examine


@pytest.mark.parametrize("name", NORMS)
def test_every_layer_stands_the_checks(name: str) -> None:
    check_norm(partial(make_norm, name))


class Own(nn.Module):
    """Batch normalization over all positions, as somebody writes it who makes one mistake or none."""

    def __init__(self, channels: int, mistake: str = "") -> None:
        super().__init__()
        self.weight, self.mistake = nn.Parameter(torch.ones(channels)), mistake
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("var", torch.ones(channels))
        self.mean: Tensor
        self.var: Tensor

    def forward(self, x: Tensor) -> Tensor:
        axes, shape = [0, *range(2, x.dim())], (1, -1, *[1] * (x.dim() - 2))
        if self.training and x.numel() <= x.shape[1]:
            raise ValueError("expected more than one value a channel")
        mean = x.mean(axes)
        var = (x * x).mean(axes) - mean**2 if self.mistake == "cancellation" else x.var(axes, correction=0)
        if self.training or self.mistake == "evaluation":
            with torch.no_grad():
                self.mean.lerp_(mean.to(self.mean), 0.1)
                self.var.lerp_(var.to(self.var), 0.1)
        if not self.training:
            mean, var = self.mean, self.var
        scale = (var if self.mistake == "no eps" else var + 1e-5).rsqrt() * self.weight
        if self.mistake == "detached":
            scale = scale.detach()
        y = (x - mean.view(shape)) * scale.view(shape)
        return self.spoiled(y, x)

    def spoiled(self, y: Tensor, x: Tensor) -> Tensor:
        if self.mistake == "view":
            return y + y.contiguous().as_strided(y.shape, y.stride()) if y.is_contiguous() else -y
        if self.mistake == "type":
            return y.double() if y.dtype == torch.float32 else y
        if self.mistake == "graph break":
            return y * (1.0 if float(y.detach().sum()) > -1e30 else 2.0)
        return y


class InstanceNormEverywhere(nn.Module):
    """Of one value a sample and channel it leaves nothing."""

    def __init__(self, channels: int) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        values = x.flatten(2) if x.dim() > 2 else x[..., None]
        var = values.var(2, correction=0, keepdim=True)
        return ((values - values.mean(2, keepdim=True)) * (var + 1e-5).rsqrt()).view(x.shape)


MISTAKES = {
    "cancellation": "so it is far from zero",
    "evaluation": "evaluation changes no state",
    "no eps": "constant channels give finite outputs and gradients",
    "detached": "first and second derivatives, in double precision",
    "view": "every memory format gives the same",
    "type": "the output has the input's shape and type",
    "graph break": "torch.compile takes it in one graph",
}


def failures(make: Callable[[int], Any]) -> dict[str, str]:
    return {check.name: check.says for check in examine(make) if check.outcome == FAILED}


def test_a_layer_without_a_mistake_passes() -> None:
    assert failures(Own) == {}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_caught_by_the_check_that_is_for_it(mistake: str) -> None:
    found = failures(partial(Own, mistake=mistake))
    assert MISTAKES[mistake] in found
    assert found[MISTAKES[mistake]]
    with pytest.raises(AssertionError, match=MISTAKES[mistake]):
        check_norm(partial(Own, mistake=mistake))


def test_a_layer_that_gives_out_a_constant_behind_a_linear_layer_is_told_so() -> None:
    ((name, says),) = failures(InstanceNormEverywhere).items()
    assert name == "behind a linear layer its output depends on its input"
    assert "it should refuse (N, C) with a ValueError" in says


def test_what_a_layer_does_not_take_is_skipped() -> None:
    outcomes = {check.name: check.outcome for check in examine(partial(make_norm, "in"))}
    assert set(outcomes) == set(CHECKS)
    assert [name for name, outcome in outcomes.items() if outcome == SKIPPED] == [list(CHECKS)[-1]]
    assert set(outcomes.values()) == {PASSED, SKIPPED}


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: nn.Identity(), "TypeError"),
        (lambda _: 3, "it is a int, not a torch.nn.Module"),
        (lambda _: nn.Linear(3, 4), "it refuses each of them"),
    ],
)
def test_what_is_no_layer_is_one_failed_check(make: Callable[[int], Any], says: str) -> None:
    (check,) = examine(make)
    assert check.outcome == FAILED
    assert says in check.says


def test_what_the_output_depends_on_is_by_the_definition_of_the_layer() -> None:
    bn, ln, rms, none = (dependences(partial(make_norm, name)) for name in ("bn", "ln", "rms", "none"))
    assert bn["other samples"] > 0.1 < bn["training"]
    assert bn["scale"] < 1e-4 > bn["shift"]
    assert ln["other samples"] == ln["training"] == 0
    assert ln["scale of a sample"] < 1e-4 < bn["scale of a sample"]
    assert rms["shift"] > 0.1 > 1e-4 > rms["scale"]
    assert none["scale"] == pytest.approx(1)
