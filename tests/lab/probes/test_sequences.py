"""What is looked at along a sequence, by hand."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence

from normcore import make_norm
from normcore.lab.probes import sequences
from normcore.lab.tasks.text import LSTM, PerStep


def forward(model: nn.Module, x: Any) -> Tensor:
    scores: Tensor = model(x)
    return scores


class Certain(nn.Module):
    """Gives the first of two classes odds of 3 to 1 at each position."""

    def forward(self, x: Tensor | PackedSequence) -> Tensor:
        scores = torch.tensor([3.0, 1.0]).log()
        return scores.expand(len(x.data), 2) if isinstance(x, PackedSequence) else scores[:, None].expand(len(x), 2, 10)


def test_the_loss_is_the_mean_at_each_step_and_rises_above_the_first() -> None:
    right, wrong = -torch.tensor([0.75, 0.25]).log()
    y = torch.zeros(4, 10, dtype=torch.long)
    y[:2, 0] = 1  # of the beginning half
    y[:1, 9] = 1  # of the end a quarter
    rows = sequences.losses(forward, Certain(), [(y, y)], steps=10)
    assert [row["time"] for row in rows] == list(range(1, 11))
    assert [row["stretch"] for row in rows] == ["first", *["between"] * 8, "last"]
    assert {row["sequences"] for row in rows} == {4}
    assert rows[0]["loss"] == pytest.approx(((right + wrong) / 2).item())
    assert rows[9]["loss"] == pytest.approx((0.75 * right + 0.25 * wrong).item())
    assert rows[9]["rise"] == pytest.approx(0.25 * (right - wrong).item())


def test_packed_sequences_count_at_the_steps_that_they_have() -> None:
    packed = pack_sequence([torch.zeros(n, dtype=torch.long) for n in (12, 10, 1)])
    rows = sequences.losses(forward, Certain(), [(packed, packed.data)] * 2, steps=10)
    assert [row["sequences"] for row in rows] == [6, *[4] * 9, 2, 2]
    assert [row["stretch"] for row in rows[-3:]] == ["last", "beyond", "beyond"]
    assert all(row["rise"] == pytest.approx(0) for row in rows)


def test_averages_are_as_far_as_they_were_moved() -> None:
    """By 1/2 of a deviation, and by a factor of 2 in the variance; a channel that does not vary is left out."""
    torch.manual_seed(0)
    part = PerStep(lambda channels: make_norm("bn", channels), 3, 2)
    x = torch.randn(50, 2, 3)
    x[..., 2] = 7

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.part = part

        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([self.part.at(step)(own) for step, own in enumerate(x.unbind(1))], 1)

    for step, layer in enumerate(part):
        layer.running_mean.copy_(x[:, step].mean(0) + 0.5 * step * x[:, step].std(0, correction=0))  # type: ignore[operator, union-attr]
        layer.running_var.copy_(x[:, step].var(0, correction=0) * 2.0**step)  # type: ignore[operator, union-attr]
        layer.num_batches_tracked.fill_(5 + step)  # type: ignore[operator, union-attr]
    first, second = sequences.errors(forward, Network().eval(), [(x[:20], x), (x[20:], x)], steps=2)
    assert first == {"time": 1, "stretch": "between", "sequences": 50, "batches": 5, "mean": pytest.approx(0, abs=1e-5),
                     "var": pytest.approx(0, abs=1e-5)}  # fmt: skip
    assert (second["batches"], second["stretch"]) == (6, "last")
    assert second["mean"] == pytest.approx(0.5, rel=1e-5)
    assert second["var"] == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize(("norm", "per_step"), [("bn", False), ("ln", True), ("none", True)])
def test_a_network_without_averages_of_each_step_has_no_rows(norm: str, per_step: bool) -> None:
    model = LSTM(lambda channels: make_norm(norm, channels), 5, 3, 4, per_step)
    assert sequences.errors(forward, model, [(torch.zeros(2, 3, dtype=torch.long), torch.zeros(2))], 3) == []
