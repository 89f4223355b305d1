"""Text: what a window is, what the networks see of it, and that they learn."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from normcore import make_norm
from normcore.lab.config import RunConfig
from normcore.lab.errors import DataError, UsageError
from normcore.lab.runs.training import build, check, train
from normcore.lab.tasks import datasets, text
from normcore.lab.tasks.text import LSTM, MODELS, NextCharacter, Tokenwise, Transformer

pytestmark = pytest.mark.usefixtures("store")
CPU = torch.device("cpu")
NAMES = ["none", "bn", "ln", "cln", "gn", "rms", "sn", "brn", "rbn", "fnbb", "fnbl"]


def config(**changes: Any) -> RunConfig:
    """The transformer on the embedded text for a few steps, with these changes."""
    fields: dict[str, Any] = {
        "task": "text", "dataset": "descriptions", "model": "transformer", "norm": "ln", "lr": 3e-3, "batch_size": 8,
        "steps": 4, "seed": 0, "eval_every": 2, "log_every": 2, "task_options": {"length": 16},
        "model_options": {"width": 16},
    }  # fmt: skip
    return RunConfig(**{**fields, **changes})


def test_a_window_is_followed_by_its_characters_and_none_is_in_both_parts() -> None:
    task, whole = NextCharacter(config(), CPU), text.load("descriptions")
    characters = "".join(whole.alphabet[code] for code in whole.codes)
    for items in (task.items, task.held_items):
        x, y = task.batch(items[[0, 3, -1]])
        assert x.shape == y.shape == (3, 16)
        assert torch.equal(x[:, 1:], y[:, :-1])
        for start, window, following in zip(items[[0, 3, -1]].tolist(), x, y, strict=True):
            assert "".join(whole.alphabet[code] for code in window) == characters[start : start + 16]
            assert whole.alphabet[following[-1]] == characters[start + 16]
    assert int(task.items.max()) + 16 < whole.train <= int(task.held_items.min())
    assert int(task.held_items.max()) + 16 < len(whole.codes)
    assert whole.train == len(characters) * 9 // 10


def test_the_probe_of_steps_looks_at_windows_of_twice_the_length_where_there_are_later_positions() -> None:
    for model, length in (("lstm", 32), ("transformer", 16)):
        task = NextCharacter(config(model=model), CPU)
        parts = list(task.long())
        x, y = (torch.cat(whole) for whole in zip(*parts, strict=True))
        assert x.shape == (len(task.held_items) * 16 // length, length)
        start = int(task.held_items[0])
        assert torch.equal(x.flatten(), task.codes[start : start + x.numel()])
        assert torch.equal(y.flatten(), task.codes[start + 1 : start + 1 + x.numel()])


def test_what_is_held_out_for_validation_is_the_end_of_what_is_trained_on() -> None:
    whole, part = NextCharacter(config(), CPU), NextCharacter(config(validation=10), CPU)
    assert torch.equal(torch.cat([part.items, part.held_items]), whole.items)
    assert len(part.held_items) == 10


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("norm", ["none", "cln", "rms", "ln", "gn"])
def test_no_character_sees_a_later_one(model: str, norm: str) -> None:
    """With what normalizes each token by itself."""
    net = MODELS[model](lambda channels: make_norm(norm, channels), 20, 12, width=16).double()
    x = torch.randint(20, (3, 12))
    changed = torch.cat([x[:, :7], (x[:, 7:] + 1) % 20], 1)
    with torch.no_grad():
        before, after = net(x), net(changed)
    torch.testing.assert_close(after[..., :7], before[..., :7])
    assert not torch.allclose(after[..., 7:], before[..., 7:])
    alone = net(x[:1])
    torch.testing.assert_close(alone, before[:1])


@pytest.mark.parametrize("model", MODELS)
def test_batch_statistics_see_the_other_samples_in_training_and_not_at_evaluation(model: str) -> None:
    net = MODELS[model](lambda channels: make_norm("bn", channels), 20, 12, width=16).double()
    x = torch.randint(20, (3, 12))
    with torch.no_grad():
        assert not torch.allclose(net(x[:2])[:1], net(x)[:1])
        net.eval()
        torch.testing.assert_close(net(x[:2])[:1], net(x)[:1])


def test_the_lstm_is_the_one_by_hand() -> None:
    """Without a normalizer it is torch's, the two sets of whose biases are one here."""
    torch.manual_seed(0)
    net = LSTM(lambda channels: nn.Identity(), 11, 9, width=6).double()
    twin = nn.LSTM(6, 6, batch_first=True).double()
    order = torch.cat([torch.arange(6, 12), torch.arange(6), torch.arange(18, 24), torch.arange(12, 18)])  # i f g o
    with torch.no_grad():
        twin.weight_ih_l0.copy_(net.input.weight[order])
        twin.weight_hh_l0.copy_(net.hidden.weight[order])
        twin.bias_ih_l0.copy_(net.input.bias[order])
        twin.bias_hh_l0.zero_()
        x = torch.randint(11, (4, 9))
        expected = net.head(twin(net.embedding(x))[0]).movedim(-1, 1)
        torch.testing.assert_close(net(x), expected)


def test_layer_norm_of_a_token_is_the_transformer_s() -> None:
    """torch's encoder layer, pre-norm and causal, with the weights of a block."""
    torch.manual_seed(0)
    block = text.Block(lambda channels: make_norm("ln", channels), 8, 2).double()
    twin = nn.TransformerEncoderLayer(8, 2, 32, 0.0, nn.functional.gelu, norm_first=True, batch_first=True).double()
    with torch.no_grad():
        twin.self_attn.in_proj_weight.copy_(block.qkv.weight)
        twin.self_attn.in_proj_bias.copy_(block.qkv.bias)
        for mine, theirs in (
            (block.out, twin.self_attn.out_proj),
            (block.mlp[0], twin.linear1),
            (block.mlp[2], twin.linear2),
        ):
            theirs.load_state_dict(mine.state_dict())  # type: ignore[union-attr]
        x = torch.randn(3, 5, 8, dtype=torch.float64)
        expected = twin(x, nn.Transformer.generate_square_subsequent_mask(5, dtype=torch.float64), is_causal=True)
        torch.testing.assert_close(block(x), expected)


def test_a_scale_behind_the_embeddings_begins_with_the_root_of_the_width_and_is_learned() -> None:
    seen = []

    def norm(channels: int) -> nn.Module:
        layer = nn.Identity()
        layer.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
        return layer

    nets = []
    for options in ({}, {"embedding_scale": True}):
        torch.manual_seed(0)
        nets.append(text.Transformer(norm, 11, 9, width=16, heads=2, blocks=1, **options))
    _, scaled = (net(torch.arange(9)[None]) for net in nets)
    torch.testing.assert_close(seen[3], 4 * seen[0])  # what the first layer is given
    scaled.sum().backward()
    assert nets[1].scale.grad
    assert len(list(nets[1].parameters())) == len(list(nets[0].parameters())) + 1


def test_a_tokenwise_normalizer_is_given_tokens() -> None:
    x = torch.randn(2, 5, 8)
    layer = Tokenwise(make_norm("bn", 8))
    expected = make_norm("bn", 8)(x.movedim(-1, 1)).movedim(1, -1)  # over samples and positions
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("norm", NAMES)
def test_every_normalizer_that_can_stand_there_trains(norm: str, model: str) -> None:
    options = {"semantics": "code"} if norm == "fnbl" else {}
    wanted = config(norm=norm, norm_options=options, model=model)
    check(wanted)
    run = train(wanted, CPU)
    assert run.status == "finished"
    assert run.curves["test"]["step"] == [2, 4]
    assert {*run.curves["train"]} == {"step", "loss", "accuracy"}
    assert run.provenance["data"]["train_items"] == len(NextCharacter(wanted, CPU).items)


@pytest.mark.parametrize("model", MODELS)
def test_it_learns(model: str) -> None:
    """More than how often each character comes."""
    whole = text.load("descriptions")
    shares = np.bincount(whole.codes[: whole.train]) / whole.train
    alone = -float((shares[shares > 0] * np.log(shares[shares > 0])).sum())
    wanted = config(
        model=model, steps=150, eval_every=150, log_every=10, lr=1e-2, batch_size=32, task_options={"length": 16}
    )
    run = train(wanted, CPU)
    assert run.curves["train"]["loss"][-1] < alone - 0.3
    assert run.final["test_accuracy"] > 1.2 * shares.max()


def test_the_loss_is_in_nats_a_character_and_the_accuracy_a_share_of_characters() -> None:
    wanted = config(steps=2, eval_every=2, log_every=2, lr=1e-9)
    task = NextCharacter(wanted, CPU)
    net = build(wanted, task)
    with torch.no_grad():
        x, y = task.batch(task.held_items)
        scores = net(x)
    run = train(wanted, CPU)
    assert run.final["test_loss"] == pytest.approx(nn.functional.cross_entropy(scores, y).item(), abs=1e-5)
    assert run.final["test_accuracy"] == pytest.approx((scores.argmax(1) == y).double().mean().item(), abs=1e-5)
    assert 0 <= run.final["train_accuracy"] <= 1


def test_probes_that_need_no_image_look_into_it() -> None:
    run = train(config(probes={"smoothness": 4, "shift": 4, "training_set": 4}), CPU)
    assert set(run.probes) == {"smoothness", "shift", "training_set"}
    assert run.probes["training_set"]["step"] == [0, 4]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataset": "digits"}, "unknown text 'digits'"),
        ({"model": "lenet5"}, "unknown model 'lenet5'"),
        ({"norm": "in"}, "in needs positions beside channels, and cannot stand in transformer"),
        ({"norm": "vbn"}, "vbn keeps one reference batch for every call"),
        ({"task_options": {"lenght": 3}}, "unknown option of the task text 'lenght': did you mean length"),
        ({"task_options": {"length": 0}}, "length must be a number of characters, at least 1, got 0"),
        ({"outliers": 0.5}, "outliers is of images"),
        ({"image_size": 28}, "image_size is of images"),
        ({"probes": {"outliers": 1}}, "unknown probe of the task text 'outliers'"),
    ],
)
def test_what_is_no_run_on_text_is_refused_before_it(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        check(config(**changes))


def test_a_text_with_too_few_windows_is_refused() -> None:
    with pytest.raises(UsageError, match=r"descriptions has \d+ windows of 8000 characters to train on: too few"):
        NextCharacter(config(task_options={"length": 8000}), CPU)


def test_a_width_that_heads_cannot_share_is_refused() -> None:
    with pytest.raises(UsageError, match="width must be a multiple of heads, got width=10 and heads=4"):
        Transformer(lambda channels: nn.Identity(), 5, 5, width=10)


def test_a_folder_with_a_text_is_a_text_and_one_that_is_none_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NORMCORE_DATA", str(tmp_path))
    for name, content in {"mine": "naïve " * 300, "broken": b"\xff\xfe\xfd"}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "input.txt").write_bytes(content.encode() if isinstance(content, str) else content)
    check(config(dataset="mine"))
    mine = text.load("mine")
    assert (mine.alphabet, mine.origin) == (" aenvï", "NORMCORE_DATA")
    assert datasets.where(datasets.find("mine")) == ("NORMCORE_DATA", "found")
    with pytest.raises(DataError, match=r"broken/input\.txt is not a text in UTF-8"):
        text.load("broken")
    with pytest.raises(UsageError, match="mine is a text, and images are wanted"):
        datasets.load("mine", 28)


def test_a_text_that_is_nowhere_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(entry: datasets.Entry) -> Any:
        raise DataError(datasets.how_to_get(entry))

    monkeypatch.setenv("NORMCORE_DATA", str(tmp_path))
    monkeypatch.setattr(datasets, "from_hub", offline)
    text.load.cache_clear()
    with pytest.raises(DataError, match=r"put it there as tinyshakespeare/input\.txt, or go online once"):
        text.load("tinyshakespeare")


@pytest.mark.data
def test_tiny_shakespeare_is_what_the_registry_says(real_data: Path) -> None:
    text.load.cache_clear()
    whole = text.load("tinyshakespeare")
    assert len(whole.alphabet) == 65
    entry = datasets.find("tinyshakespeare")
    assert entry.items == {"train": whole.train, "test": len(whole.codes) - whole.train}
