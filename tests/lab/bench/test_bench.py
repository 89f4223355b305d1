"""The benches: what they measure and how limits are judged. No test asserts a time."""

import copy
import json
import mmap
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from normcore import FullNormBB, FullNormBL, functional, lab
from normcore.lab.bench import layers as bench_layers
from normcore.lab.bench import loop as bench_training
from normcore.lab.bench import passes as bench_passes
from normcore.lab.bench import steps as bench_steps
from normcore.lab.bench.layers import MET, MISSED, NOISE, NOT_MEASURED, ON_ENGINE
from normcore.lab.bench.loop import Setting
from normcore.lab.bench.steps import PublishedFullNormBB, PublishedFullNormBL
from normcore.lab.book import markdown, speed
from normcore.lab.errors import LabError, UsageError
from normcore.lab.files import read_sealed, write_sealed
from normcore.lab.tasks import datasets
from normcore.lab.tasks.images import ImageClassification

from ..test_cli import call

TINY = {"shapes": ((2, 4, 6, 6),), "small": (2, 4, 3, 3)}


def made_up(device: str = "cpu", changes: dict[tuple[str, str], dict[str, Any]] | None = None) -> dict[str, Any]:
    """A measurement within all limits but for these changes, by (shape, layer and engine)."""
    names = [f"{layer} {engine}" for layer in ON_ENGINE for engine in ("eager", "compiled")]
    names = [name for name in names if name not in ("ln compiled", "in compiled", "gn compiled")]  # native kernels
    row = {"ms": 1.0, "to_batch_norm": [0.9, 0.8, 0.95], "to_floor": [1.2, 1.1, 1.3], "saved": 1.01, "saved_large": 1}
    shape = {name: copy.deepcopy(row) for name in [*names, "bn torch", "floor"]}
    for name in ("bn eager", "ln eager", "in eager", "gn eager"):
        shape[name]["to_twin"] = [0.99, 0.98, 1.0]
    shape["cln eager"] = copy.deepcopy(row)
    measured = {name: copy.deepcopy(shape) for name in ("a", "b", "small", "b channels_last", "b bfloat16")}
    for (where, name), change in (changes or {}).items():
        measured[where].setdefault(name, {}).update(change)
    versions = {"torch": "2", "python": "3", "numpy": "2", "normcore": "0"}
    where_and_how = {"device": device, "device_name": "a machine", "threads": 2, "versions": versions, "commit": "c0"}
    setting = {"rounds": 3, "dtype": "float32", "shapes": ["a", "b"], "small": "small"}
    setting |= {form: f"b {form}" for form in bench_layers.FORMS}
    return {"setting": setting, "measured": measured, "provenance": where_and_how, "limits": []}


def made_up_training(device: str = "cpu") -> dict[str, Any]:
    """A measurement of the training loop in two settings, the second without memory."""
    rates = {"ours": 250.5, "plain": 100.0, "floor": 300.0}
    row = {
        "dataset": "cats_vs_dogs", "image_size": 64, "model": "catdog", "norm": "bn", "batch_size": 16,
        "loops": {loop: {"images_per_second": rate, "rounds": [rate]} for loop, rate in rates.items()},
        "ours_over_floor": 0.8, "ours_over_plain": 2.5, "memory": {"private_mb": 0.4, "mapped_mb": 307.0},
    }  # fmt: skip
    other = {**row, "dataset": "digits", "image_size": 28, "model": "lenet5", "batch_size": 64, "memory": None}
    setting = {"rounds": 3, "steps_per_round": 40, "dtype": "float32"}
    return {"setting": setting, "measured": [row, other], "provenance": made_up(device)["provenance"]}


def verdicts(found: dict[str, Any]) -> dict[str, str]:
    return {limit["name"]: limit["verdict"] for limit in bench_layers.judge(found)}


# --- the training bench ----------------------------------------------------------------------------------


def test_the_training_bench_measures_all_three_loops(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data" / "cats_vs_dogs").mkdir(parents=True)  # the folder without its files
    monkeypatch.setenv("NORMCORE_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(bench_training, "STEPS", 4)
    settings = (Setting("lenet5", "digits", "shapes", 64, 16), Setting("catdog", "cats_vs_dogs", "digits", 16, 8))
    found = bench_training.training("cpu", rounds=2, settings=settings)
    assert [(row["model"], row["dataset"], row["image_size"], row["batch_size"]) for row in found["measured"]] == [
        ("lenet5", "digits", 64, 16),
        ("catdog", "digits", 16, 8),  # cats and dogs are not there
    ]
    assert found["setting"] == {"rounds": 2, "steps_per_round": 4, "dtype": "float32"}
    assert found["provenance"]["threads"] == 1
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    for row in found["measured"]:
        assert list(row["loops"]) == ["ours", "plain", "floor"]
        assert all(len(loop["rounds"]) == 2 and loop["images_per_second"] > 0 for loop in row["loops"].values())
        ours, floor = (row["loops"][name]["rounds"] for name in ("ours", "floor"))
        ratio = sum(a / b for a, b in zip(ours, floor, strict=True)) / 2  # of two the median is the mean
        assert row["ours_over_floor"] == pytest.approx(ratio, abs=1e-3)
    used = found["measured"][0]["memory"]
    assert used["mapped_mb"] == pytest.approx(1797 * 64 * 64 / 1e6, abs=0.1)
    assert used["private_mb"] is None or used["private_mb"] < used["mapped_mb"] / 3, "the images were copied"
    lines = bench_training.side_by_side(found)
    assert [line["images"] for line in lines] == ["digits, 64 px", "digits, 16 px"]
    assert lines[0]["mapped MB"] == used["mapped_mb"]


def test_the_training_bench_refuses_an_unknown_device() -> None:
    with pytest.raises(UsageError, match="unknown device"):
        bench_training.training("tpu")


def test_all_settings_of_the_training_bench_take_another_batch_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_training, "_measure", lambda setting, *_: setting)
    found = bench_training.training("cpu", batch_size=5, rounds=1)
    assert [setting.batch_size for setting in found["measured"]] == [5] * len(bench_training.SETTINGS)


def test_the_plain_loop_encodes_no_more_than_it_has_to(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_training, "ENCODED", 3)
    dataset = datasets.load("digits", 14)
    pictures = bench_training._Pictures(dataset.train, dataset.mean, dataset.std)
    assert (len(pictures), len(pictures.files)) == (1437, 3)
    images, labels = bench_training.Images(dataset.train, dataset, torch.device("cpu")).batch(slice(3))
    for index in (0, 2, 5):
        x, label = pictures[index]
        torch.testing.assert_close(x, images[index % 3])
        assert label == labels[index % 3]


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").is_file(), reason="this system does not tell")
@pytest.mark.parametrize("with_psutil", [True, False])
def test_private_memory_is_what_no_other_process_has(with_psutil: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not with_psutil:
        monkeypatch.setitem(sys.modules, "psutil", None)
    size = 1 << 28  # of other memory a process takes and gives back some megabytes at any time
    before = bench_training._private()
    with mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as block:
        for page in range(0, size, mmap.PAGESIZE):
            block[page] = 1
        after = bench_training._private()
    assert before is not None
    assert after is not None
    assert after - before >= size // 2


# --- the bench of a step ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def measured_steps() -> dict[str, Any]:
    return bench_steps.steps("cpu", rounds=2, image_size=8, batch_size=4)


def gradients(layer: nn.Module, x: Tensor) -> list[Tensor]:
    """The output, and the gradients of the input and of the parameters."""
    x = x.detach().requires_grad_()
    y = layer(x)
    leaves = [x, *layer.parameters()]
    return [y, *torch.autograd.grad((y * torch.linspace(-1, 2, y.numel(), dtype=y.dtype).view_as(y)).sum(), leaves)]


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    ("published", "ours"),
    [
        (PublishedFullNormBB(6, eps=1e-5), FullNormBB(6, momentum=0.01)),
        (PublishedFullNormBL(6, eps=1e-5), FullNormBL(6, "code")),
    ],
)
def test_the_published_constructions_are_the_layers(
    published: nn.Module, ours: nn.Module, memory_format: torch.memory_format
) -> None:
    published, ours = copy.deepcopy(published).double(), copy.deepcopy(ours).double()
    generator = torch.Generator().manual_seed(0)
    for a, b in zip(published.parameters(), ours.parameters(), strict=True):  # of the same shapes
        nn.init.normal_(a, generator=generator)
        b.data.copy_(a.data)
    x = torch.randn(4, 6, 5, 7, generator=generator, dtype=torch.float64) * 3 + 2
    x = x.contiguous(memory_format=memory_format)
    for training in (True, False):
        published.train(training)
        ours.train(training)
        for a, b in zip(gradients(published, x), gradients(ours, x), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)


def test_the_published_constructions_have_keras_defaults() -> None:
    bb, bl = PublishedFullNormBB(6), PublishedFullNormBL(6)
    assert (bb.eps, bb.momentum, bb.weight.shape) == (1e-3, 0.01, (1,))
    assert (bl.eps, bl.weight.shape) == (1e-3, (6,))


def test_every_variant_of_a_step_is_measured(measured_steps: dict[str, Any]) -> None:
    found = measured_steps
    assert tuple(found["measured"]) == bench_steps.VARIANTS
    assert bench_steps.VARIANTS == (
        "none", "bn", "ln", "cln", "in", "gn", "rms", "lrn", "sn", "brn", "rbn", "vbn", "fnbb", "fnbl-code",
        "fnbl-text", "fnbb as published", "fnbl as published",
    )  # fmt: skip
    assert found["setting"] == {
        "model": "catdog", "image_size": 8, "batch_size": 4, "dtype": "float32", "rounds": 2, "steps_per_round": 10
    }  # fmt: skip
    assert found["provenance"]["threads"] == 1
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    rows = found["measured"]
    assert rows["none"]["of_none"] == rows["bn"]["of_bn"] == [1, 1, 1]
    for name, row in rows.items():
        assert len(row["rounds"]) == 2
        assert all(ms > 0 for ms in row["rounds"])
        for value in (row["ms"], row["of_none"], row["of_bn"]):
            assert value[1] <= value[0] <= value[2]
        assert row["of_bn"] == pytest.approx(bench_steps.ratio(found, name, "bn"), rel=1e-2, abs=2e-3)
        assert "peak_mb" not in row


def test_the_networks_of_a_step_are_those_of_the_experiments() -> None:
    dataset = bench_steps._noise(8, 4)
    cpu = torch.device("cpu")

    def network(name: str) -> nn.Module:
        config = bench_steps._config(name, 8, 4)
        return bench_steps._network(name, config, ImageClassification(config, cpu, dataset))

    def layer(name: str) -> nn.Module:
        return network(name).features[1]

    assert [type(layer(name)) for name in ("fnbl-code", "fnbl-text", *bench_steps.PUBLISHED)] == [
        FullNormBL, FullNormBL, PublishedFullNormBB, PublishedFullNormBL
    ]  # fmt: skip
    assert (layer("fnbl-code").semantics, layer("fnbl-text").semantics) == ("code", "text")
    assert layer("gn").num_groups == 8
    weights = [network(name).features[0].weight for name in ("bn", *bench_steps.PUBLISHED)]
    assert all(torch.equal(weight, weights[0]) for weight in weights)


def test_the_memory_of_a_step_is_counted_as_by_hand() -> None:
    net = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))
    x, y = torch.randn(4, 3), torch.tensor([0, 1, 1, 0])
    x_and_hidden = 4 * (4 * 3 + 4 * 5)  # what comes out of the ReLU goes into the next layer: one storage
    assert bench_steps.saved_bytes(lambda: net(x), net.parameters()) == x_and_hidden
    log_probabilities, targets, number_of_targets = 4 * (4 * 2), 8 * 4, 4
    loss = log_probabilities + targets + number_of_targets
    assert bench_steps.saved_bytes(lambda: F.cross_entropy(net(x), y), net.parameters()) == x_and_hidden + loss
    weights = 4 * (5 * 2)  # the first layer's is not needed: its input takes no gradient
    assert bench_steps.saved_bytes(lambda: net(x), []) == x_and_hidden + weights


def test_a_table_of_steps_is_read_from_the_benchmarks(
    measured_steps: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench_steps.paths, "root", lambda: tmp_path)
    with pytest.raises(LabError, match=r"no steps-cpu\.json yet: normcore bench steps --device cpu --json"):
        lab.step_costs()
    file = tmp_path / "data" / "benchmarks" / "steps-cpu.json"
    file.parent.mkdir(parents=True)
    write_sealed(file, measured_steps)
    table = lab.step_costs()
    assert list(table) == [
        "variant", "norm", "ms", "ms_low", "ms_high", "of_none", "of_bn", "saved_mb", "images_per_second"
    ]  # fmt: skip
    assert list(table["variant"]) == list(bench_steps.VARIANTS)
    by_variant = table.set_index("variant")
    assert list(by_variant["norm"][["cln", "fnbl-text", "fnbb as published", "fnbl as published"]]) == [
        "cln", "fnbl", "fnbb", "fnbl"
    ]  # fmt: skip
    assert by_variant.loc["bn", "images_per_second"] == pytest.approx(4000 / by_variant.loc["bn", "ms"], abs=0.1)


# --- the layers' bench -----------------------------------------------------------------------------------


def test_every_layer_is_measured_eagerly() -> None:
    before = torch.get_num_threads()
    found = bench_layers.layers("cpu", rounds=2, engines=("eager",), **TINY)
    assert torch.get_num_threads() == before
    assert functional._engine == "auto"
    assert found["provenance"]["threads"] == 2
    assert found["setting"] == {
        "rounds": 2, "dtype": "float32", "shapes": ["2 x 4 x 6 x 6"], "small": "2 x 4 x 3 x 3",
        "channels_last": "2 x 4 x 6 x 6 channels_last", "bfloat16": "2 x 4 x 6 x 6 bfloat16",
    }  # fmt: skip
    assert len(found["measured"]) == 4
    twins = {f"{name} torch" for name in bench_layers.TWINS}
    expected = {f"{name} eager" for name in bench_layers.NAMES} | {"bn torch", "floor"}
    for given, rows in found["measured"].items():
        usual = not given.endswith(bench_layers.FORMS)
        assert set(rows) == expected | (twins if usual else set())
        assert rows["floor"]["to_floor"] == rows["bn torch"]["to_batch_norm"] == [1, 1, 1]
        for name, row in rows.items():
            median, low, high = row["to_batch_norm"]
            assert 0 <= low <= median <= high  # 0 where a busy machine halts one of a round, and 3 digits are kept
            assert row["ms"] > 0
            assert ("to_twin" in row) == (name.partition(" ")[0] in (bench_layers.TWINS if usual else ["bn"]))
            if name.partition(" ")[0] in ON_ENGINE:
                assert row["saved_large"] == 1, f"{name} keeps more than x"
                assert row["saved"] >= 1
    assert [limit["name"] for limit in found["limits"]] == [
        "eager", "compiled", "twins", "small", "batch", "channel", "channels_last", "bfloat16", "memory",
        "memory, compiled",
    ]  # fmt: skip
    assert found["limits"][1]["verdict"] == NOT_MEASURED
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_only_layers_that_heed_the_compiled_engine_are_measured_compiled() -> None:
    found = bench_layers.layers("cpu", rounds=1, names=("bn", "ln", "rms"), **TINY)
    for rows in (rows for given, rows in found["measured"].items() if not given.endswith(bench_layers.FORMS)):
        assert [name for name in rows if name.endswith("compiled")] == ["rms compiled"]
        assert rows["rms compiled"]["saved_large"] == 1
    assert found["limits"][1]["verdict"] != NOT_MEASURED


def test_torch_s_layers_of_the_same_kind_compute_the_same() -> None:
    x = torch.randn(4, 6, 5, 5)
    for name, twin in bench_layers.TWINS.items():
        torch.testing.assert_close(bench_layers.layer_named(name, 6, {})(x), twin(6)(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("values", "expected"),
    [([2.0], [2, 2, 2]), ([3.0, 1.0], [2, 1, 3]), (range(1, 22), [11, 7, 15]), (range(1, 102), [51, 41, 61])],
)
def test_the_interval_of_a_median_is_of_order_statistics(values: Sequence[float], expected: list[float]) -> None:
    assert bench_layers.median_interval(values) == expected


def test_all_limits_are_met_where_nothing_is_over() -> None:
    assert set(verdicts(made_up()).values()) == {MET}
    assert set(verdicts(made_up("cuda")).values()) == {MET}
    assert list(verdicts(made_up("cuda"))) == ["floor", "cuda", "memory"]


@pytest.mark.parametrize(
    ("where", "name", "change", "limit", "verdict"),
    [
        ("b", "sn eager", {"to_batch_norm": [1.3, 1.25, 1.4]}, "eager", MISSED),
        ("b", "sn eager", {"to_batch_norm": [1.3, 1.1, 1.4]}, "eager", NOISE),
        ("b", "sn eager", {"to_batch_norm": [1.1, 1.0, 1.4]}, "eager", MET),
        ("b", "sn eager", {"to_batch_norm": [1.3, 1.25, 1.4]}, "compiled", MET),
        ("a", "sn compiled", {"to_batch_norm": [1.1, 1.05, 1.2]}, "compiled", MISSED),
        ("a", "ln eager", {"to_batch_norm": [1.1, 1.05, 1.2]}, "compiled", MISSED),  # the same under both engines
        ("a", "gn eager", {"to_twin": [1.02, 0.98, 1.1]}, "twins", NOISE),
        ("small", "gn eager", {"to_twin": [2.0, 1.9, 2.1]}, "twins", MET),  # the large shapes alone
        ("small", "rbn eager", {"to_batch_norm": [3.5, 3.1, 4.0]}, "small", MISSED),
        ("small", "rbn eager", {"to_batch_norm": [3.5, 3.1, 4.0]}, "eager", MET),
        ("a", "brn eager", {"to_batch_norm": [1.15, 1.12, 1.2]}, "batch", MISSED),
        ("b", "cln eager", {"to_batch_norm": [2.0, 1.9, 2.1]}, "channel", MISSED),
        ("b channels_last", "gn eager", {"to_batch_norm": [2.0, 1.9, 2.1]}, "channels_last", MISSED),
        ("b channels_last", "gn eager", {"to_batch_norm": [2.0, 1.9, 2.1]}, "eager", MET),
        ("b bfloat16", "gn eager", {"to_batch_norm": [2.0, 1.9, 2.1]}, "bfloat16", MISSED),
        ("a", "vbn eager", {"saved_large": 2}, "memory", MISSED),
        ("a", "vbn compiled", {"saved_large": 2}, "memory, compiled", MISSED),
        ("a", "lrn eager", {"to_batch_norm": [9.0, 9.0, 9.0]}, "eager", MET),  # not one of the engine's
    ],
)
def test_a_limit_is_judged_by_its_worst_value(
    where: str, name: str, change: dict[str, Any], limit: str, verdict: str
) -> None:
    found = made_up(changes={(where, name): change})
    judged = {row["name"]: row for row in bench_layers.judge(found)}[limit]
    assert judged["verdict"] == verdict
    if verdict in (MISSED, NOISE):
        layer = name.partition(" ")[0]
        assert judged["where"] == f"{layer}, {where}"
        assert judged["over"] == [f"{layer}, {where}"]
        assert judged["worst"][0] == next(v[0] if isinstance(v, list) else v for v in change.values())


def test_a_gpu_is_judged_by_the_best_engine() -> None:
    slow = {("a", "sn eager"): {"to_floor": [2.0, 2.0, 2.0]}}
    assert verdicts(made_up("cuda", slow))["floor"] == MET
    slow[("a", "ln eager")] = {"to_floor": [2.0, 2.0, 2.0]}
    assert verdicts(made_up("cuda", slow))["floor"] == MISSED


def test_rows_are_put_side_by_side() -> None:
    found = made_up(changes={("a", "zz eager"): {"saved": 7.0}})
    rows = {row["layer"]: row for row in bench_layers.side_by_side(found, "saved")}
    others = dict.fromkeys(("b", "small", "b channels_last", "b bfloat16"))
    assert rows["zz eager"] == {"layer": "zz eager", "a": 7.0, **others}
    assert list(rows)[:3] == ["bn eager", "bn compiled", "bn torch"]


# --- the command -----------------------------------------------------------------------------------------


def test_the_command_writes_its_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = made_up(changes={("a", "sn eager"): {"to_batch_norm": [1.31, 1.25, 1.4]}})
    found["limits"] = bench_layers.judge(found)
    asked = []
    monkeypatch.setattr(bench_layers, "layers", lambda *words: asked.append(words) or found)
    file = tmp_path / "new" / "layers.json"
    code, out, _ = call(monkeypatch, capsys, "bench", "layers", "--json", str(file), "--rounds", "3")
    assert (code, asked) == (0, [("auto", 3)])
    assert read_sealed(file) == found
    assert "eager, at most 1.2 times nn.BatchNorm2d: missed (at worst 1.31: sn, a)" in out


def test_the_command_measures_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "new" / "steps.json"
    words = ("--device", "cpu", "--rounds", "1", "--image-size", "8", "--batch-size", "2")
    code, out, _ = call(monkeypatch, capsys, "bench", "steps", *words, "--json", str(file))
    assert code == 0
    found = read_sealed(file)
    assert tuple(found["measured"]) == bench_steps.VARIANTS
    assert found["setting"]["batch_size"] == 2
    for variant in bench_steps.VARIANTS:
        assert f"\n{variant} " in out


def test_the_command_prints_each_setting_of_the_training_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = []
    monkeypatch.setattr(bench_training, "training", lambda *words: asked.append(words) or made_up_training())
    file = tmp_path / "training.json"
    code, out, _ = call(monkeypatch, capsys, "bench", "training", "--json", str(file), "--rounds", "3")
    assert (code, asked) == (0, [("auto", None, 3)])
    assert read_sealed(file) == made_up_training()
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert "catdog cats_vs_dogs, 64 px 16 250.5 100 300 2.5 0.8 0.4 307" in lines
    assert "lenet5 digits, 28 px 64 250.5 100 300 2.5 0.8" in lines


def test_a_bench_that_is_stopped_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(bench_layers, "layers", stopped)
    code, _, said = call(monkeypatch, capsys, "bench", "layers", "--json", str(tmp_path / "layers.json"))
    assert (code, list(tmp_path.iterdir())) == (130, [])
    assert said.strip() == "stopped; what was measured is kept, and the next call goes on"


@pytest.mark.parametrize("command", ["layers", "steps", "training"])
@pytest.mark.parametrize(
    ("words", "message"), [(("--device", "gpu"), "unknown device 'gpu'"), (("--rounds", "0"), "'--rounds'")]
)
def test_a_bench_refuses_bad_input(
    command: str,
    words: tuple[str, str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, out, err = call(monkeypatch, capsys, "bench", command, *words, "--json", str(tmp_path / "found.json"))
    assert (code, out, list(tmp_path.iterdir())) == (2, "", [])
    assert message in err


# --- the page --------------------------------------------------------------------------------------------


def test_the_page_computes_its_verdicts_from_the_numbers() -> None:
    found = made_up(changes={("b", "fnbl-text eager"): {"to_batch_norm": [1.31, 1.25, 1.4]}})
    text = speed._section(found)
    missed = "| eager, at most 1.2 times nn.BatchNorm2d | {bdg-danger}`missed` | 1.31 (FNBL (text), b) | FNBL (text) |"
    assert missed in text
    assert text.count("{bdg-success}`met`") == len(bench_layers.judge(found)) - 1
    assert "Measured on a machine, 2 threads, torch 2, float32, in 3 rounds, at commit `c0`." in text
    assert text.count("<svg") == len(found["measured"])
    assert "| SN | compiled | 0.9 | 0.9 | 0.9 |" in text


def test_the_page_shows_steps_and_the_training_loop(
    measured_steps: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speed.paths, "root", lambda: tmp_path)
    folder = tmp_path / "data" / "benchmarks"
    folder.mkdir(parents=True)
    steps = copy.deepcopy(measured_steps)
    steps["measured"]["fnbb as published"]["rounds"] = [4.0, 6.0]
    steps["measured"]["fnbl as published"]["rounds"] = [2.0, 3.0]
    steps["measured"]["fnbl-text"].update(ms=[5, 4, 6.123], of_none=[2, 1.5, 2.5], of_bn=[1, 0.5, 1.2], saved_mb=1.25)
    write_sealed(folder / "steps-cpu.json", steps)
    write_sealed(folder / "training-cuda.json", made_up_training("cuda"))
    cpu, _, cuda = speed.speed().partition("## On a GPU")
    assert cpu.startswith(
        "## On a CPU\n\n### A step of a network\n\n`catdog`, images of 8 pixels, batches of 4. Measured"
    )
    assert ", 1 thread, torch" in cpu
    assert "\n| FNBL (text) | 5 [4, 6.12] | 2 [1.5, 2.5] | 1 [0.5, 1.2] | 800 | 1.25 |" in cpu
    assert "\n| FNBB (as published) | " in cpu
    for text in (cpu, cuda):
        tables = [line for line in text.splitlines() if line.startswith("|")]
        assert len({line.count("|") for line in tables}) == 1, "a ruler as long as the head"
    assert "A step with FNBL takes 0.5 [0.5, 0.5] times as long as one with FNBB where both are as published" in cpu
    assert "### The training loop\n\nImages a second. Measured on a machine, torch 2, float32, in 3 rounds" in cuda
    assert "| catdog | cats_vs_dogs, 64 px | 16 | 250 | 100 | 300 | 2.5 | 0.8 | 0.4 | 307 |" in cuda
    assert "| lenet5 | digits, 28 px | 64 | 250 | 100 | 300 | 2.5 | 0.8 |  |  |" in cuda


def test_a_page_without_numbers_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed.paths, "root", lambda: tmp_path)
    assert speed.speed() == "Nothing has been measured yet."


def test_the_published_numbers_are_of_the_layers_there_are() -> None:
    for file in (speed.paths.root() / "data" / "benchmarks").glob("layers-*.json"):
        found = read_sealed(file)
        assert {limit["name"]: limit["verdict"] for limit in found["limits"]} == verdicts(found)
        for rows in found["measured"].values():
            assert {f"{name} eager" for name in bench_layers.NAMES} <= set(rows)


def test_the_published_steps_are_of_the_variants_there_are() -> None:
    for file in (speed.paths.root() / "data" / "benchmarks").glob("steps-*.json"):
        assert tuple(read_sealed(file)["measured"]) == bench_steps.VARIANTS


def test_a_table_s_cells_keep_their_bars() -> None:
    assert markdown.table(["a", "b"], [["x|y", 1]], "lr") == "| a | b |\n| --- | ---: |\n| x\\|y | 1 |"


# --- the passes of compiled layers -----------------------------------------------------------------------


@pytest.mark.ci
@pytest.mark.parametrize(
    "device",
    ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not find_spec("triton"), reason="needs the package triton"))],
)
def test_the_passes_of_a_compiled_layer_are_counted(device: str) -> None:
    """Forward at least x is read and y written, backward x and dy read and dx written; and that the count sees."""
    found = bench_passes.passes(device, names=("rms",), shape=(4, 8, 16, 16))
    counts = found["measured"]["rms"]
    assert counts["forward"]["kernels"] >= 1
    assert counts["backward"]["kernels"] >= 1
    assert 2 <= counts["forward"]["passes"] <= 4
    assert 3 <= counts["backward"]["passes"] <= 8
    assert [row["layer"] for row in bench_passes.rows(found)] == ["rms"]


@pytest.mark.ci
def test_what_a_kernel_waits_for_and_does_not_read_is_not_counted() -> None:
    """BatchRenorm overwrites its averages behind what reads them; forward x is read twice and y written."""
    counts = bench_passes.passes("cpu", names=("brn",), shape=(4, 8, 64, 64))["measured"]["brn"]
    assert 2 <= counts["forward"]["passes"] <= 4


@pytest.mark.skipif(find_spec("triton") is not None, reason="the package triton is there")
def test_triton_code_is_not_written_without_triton() -> None:
    with pytest.raises(UsageError, match="pip install triton"):
        bench_passes.passes("cuda", names=("rms",), shape=(2, 2, 4, 4))
