"""Lines: sequences of different lengths, of which a time step has those that are not at their end."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from normcore import BatchNorm, make_norm
from normcore.lab.config import RunConfig
from normcore.lab.errors import UsageError
from normcore.lab.runs.training import build, check, evaluate, train
from normcore.lab.tasks.lines import NextCharacterOfLine
from normcore.lab.tasks.text import LSTM, PerStep

from ..helpers import resumed
from .test_text import config as on_text

pytestmark = pytest.mark.usefixtures("store")
CPU = torch.device("cpu")


def config(**changes: Any) -> RunConfig:
    """A narrow LSTM on the lines of the embedded text for two steps, with these changes."""
    fields: dict[str, Any] = {
        "task": "lines", "model": "lstm", "norm": "bn", "steps": 2, "eval_every": 1, "log_every": 1,
        "task_options": {"longest": 40}, "model_options": {"width": 8},
    }  # fmt: skip
    return on_text(**{**fields, **changes})


def lines_of(task: NextCharacterOfLine, x: PackedSequence, y: Tensor) -> list[str]:
    """The lines of a batch, each with the character behind it."""
    whole = x._replace(data=torch.stack([x.data, y], 1))
    padded, lengths = nn.utils.rnn.pad_packed_sequence(whole, batch_first=True)
    pairs = [one[:length] for one, length in zip(padded, lengths.tolist(), strict=True)]
    assert all(torch.equal(one[1:, 0], one[:-1, 1]) for one in pairs)
    return ["".join(task.text.alphabet[code] for code in [*one[:, 0], one[-1, 1]]) for one in pairs]


def test_a_batch_is_the_lines_and_each_is_in_one_part() -> None:
    task = NextCharacterOfLine(config(), CPU)
    characters = "".join(task.text.alphabet[code] for code in task.codes)
    parts = characters[: task.text.train], characters[task.text.train :]
    wanted = [[line for line in part.split("\n")[1:-1] if line] for part in parts]
    short = [line for line in wanted[0] if len(line) <= 40]
    for items, own in ((task.items, short), (task.held_items, wanted[1])):
        assert lines_of(task, *task.batch(items)) == [f"{line}\n" for line in own]
    assert max(map(len, wanted[1])) > 40
    x, _ = task.batch(task.items)
    assert x.batch_sizes.tolist() == [sum(len(line) > step for line in short) for step in range(40)]


def test_what_is_held_out_for_validation_is_the_end_of_what_is_trained_on() -> None:
    whole, part = (NextCharacterOfLine(config(validation=n), CPU) for n in (0, 9))
    assert torch.equal(torch.cat([part.items, part.held_items]), whole.items)
    assert len(part.held_items) == 9


@pytest.mark.parametrize("per_step", [False, True])
@pytest.mark.parametrize(("norm", "training"), [("none", True), ("ln", True), ("bn", False)])
def test_what_is_not_normalized_with_others_is_read_as_if_alone(norm: str, training: bool, per_step: bool) -> None:
    task = NextCharacterOfLine(config(), CPU)
    model = LSTM(lambda channels: make_norm(norm, channels), len(task.text.alphabet), 40, 8, per_step).train(training)
    lines = task.items[[3, 0, 8]]
    x, _ = task.batch(lines)
    scores, _ = nn.utils.rnn.pad_packed_sequence(x._replace(data=model(x)), batch_first=True)
    for line, own in zip(lines, scores, strict=True):
        alone = task.codes[task.starts[line] :][: task.lengths[line]]
        torch.testing.assert_close(own[: len(alone)].T, model(alone[None])[0])


def test_the_statistics_of_a_step_are_of_the_lines_that_are_not_at_their_end() -> None:
    """And where one is left it has the running averages, which stay as they are."""
    task = NextCharacterOfLine(config(), CPU)
    model = LSTM(lambda channels: make_norm("bn", channels), len(task.text.alphabet), 40, 8, per_step=True)
    lines = task.items[task.lengths[task.items].argsort(stable=True)[[0, 40, -1]]]
    short, middle, _ = task.lengths[lines].tolist()
    assert 0 < short < middle < 40
    seen: dict[nn.Module, Tensor] = {}
    for layer in model.norm_cell:  # type: ignore[union-attr]
        layer.register_forward_pre_hook(lambda layer, inputs: seen.__setitem__(layer, inputs[0]))
    model(task.batch(lines)[0])
    for step, layer in enumerate(model.norm_cell):  # type: ignore[union-attr, arg-type]
        assert isinstance(layer, BatchNorm)
        assert layer.training
        number = 3 if step < short else 2 if step < middle else 1
        assert seen[layer].shape == (number, 8)
        expected = 0.1 * seen[layer].mean(0) if number > 1 else torch.zeros(8)
        torch.testing.assert_close(layer.running_mean, expected)


def test_scores_are_means_over_characters() -> None:
    run = config(norm="ln")
    task = NextCharacterOfLine(run, CPU)
    model = build(run, task)
    scores = evaluate(model, task)
    x, y = task.batch(task.held_items)
    with torch.no_grad():
        answers = model(x)
    assert scores == {
        "loss": pytest.approx(F.cross_entropy(answers, y).item()),
        "accuracy": pytest.approx((answers.argmax(1) == y).float().mean().item()),
    }


def test_a_run_that_is_stopped_is_to_the_bit_the_run_that_is_not(tmp_path: Path) -> None:
    run = config(model_options={"width": 8, "per_step": True, "scale": 0.1}, probes={"steps": 2, "statistics": 2})
    whole = train(run, CPU)
    assert set(whole.final) == {"train_loss", "batch_loss", "test_loss", "test_accuracy"}
    again, stops = resumed(run, tmp_path / "run.pt")
    assert stops == 1
    assert (again.curves, again.probes) == (whole.curves, whole.probes)
    assert again.provenance["weights"] == whole.provenance["weights"]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"model": "transformer"}, "unknown model 'transformer'"),
        ({"task_options": {"length": 40}}, "unknown option of the task lines 'length': did you mean longest"),
        ({"task_options": {"longest": 0}}, "longest must be a number of characters, at least 1, got 0"),
        ({"probes": {"shift": 1}}, "unknown probe of the task lines 'shift'"),
    ],
)
def test_what_it_does_not_take_is_refused(changes: dict[str, Any], why: str) -> None:
    with pytest.raises(UsageError, match=why):
        check(config(**changes))


# --- a normalizer for each time step ----------------------------------------------------------------------


def test_steps_share_scale_and_shift_and_have_averages_of_their_own() -> None:
    part = PerStep(lambda channels: make_norm("bn", channels), 4, 3)
    assert len(list(part.parameters())) == 2
    x = torch.randn(3, 16, 4)
    for step, at_step in enumerate(x):
        part.at(step)(at_step)
    for step in range(3):
        torch.testing.assert_close(part.at(step).running_mean, 0.1 * x[step].mean(0))
    assert part.at(7) is part.at(2)
    part.load_state_dict(PerStep(lambda channels: make_norm("bn", channels), 4, 3).state_dict())
    assert part.at(1).weight is part.at(0).weight


@pytest.mark.parametrize("per_step", [False, True])
def test_scales_start_as_they_are_told(per_step: bool) -> None:
    model = LSTM(lambda channels: make_norm("bn", channels), 9, 5, 4, per_step, scale=0.1)
    scales = {name: p for name, p in model.named_parameters() if "norm_" in name and name.endswith("weight")}
    assert len(scales) == 3
    assert all((p == 0.1).all() for p in scales.values())
