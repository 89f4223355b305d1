"""The benches: what they measure and how limits are judged. No test asserts a time."""

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from normcore import functional
from normcore.lab import bench_layers, bench_training, markdown, speed
from normcore.lab.bench_layers import MET, MISSED, NOISE, NOT_MEASURED, ON_ENGINE
from normcore.lab.errors import UsageError

from .test_cli import call

TINY = {"shapes": ((2, 4, 6, 6),), "small": (2, 4, 3, 3)}


def made_up(device: str = "cpu", changes: dict[tuple[str, str], dict[str, Any]] | None = None) -> dict[str, Any]:
    """A measurement within all limits but for these changes, by (shape, layer and engine)."""
    names = [f"{layer} {engine}" for layer in ON_ENGINE for engine in ("eager", "compiled")]
    names = [name for name in names if name not in ("ln compiled", "in compiled", "gn compiled")]  # native kernels
    row = {"ms": 1.0, "to_batch_norm": [0.9, 0.8, 0.95], "to_floor": [1.2, 1.1, 1.3], "saved": 1.01, "saved_large": 1}
    shape = {name: copy.deepcopy(row) for name in [*names, "bn torch", "floor"]}
    for name in ("bn eager", "ln eager", "in eager", "gn eager"):
        shape[name]["to_twin"] = [0.99, 0.98, 1.0]
    measured = {name: copy.deepcopy(shape) for name in ("a", "b", "small")}
    for (where, name), change in (changes or {}).items():
        measured[where].setdefault(name, {}).update(change)
    versions = {"torch": "2", "python": "3", "numpy": "2", "normcore": "0"}
    where_and_how = {"device": device, "device_name": "a machine", "threads": 2, "versions": versions, "commit": "c0"}
    setting = {"rounds": 3, "dtype": "float32", "shapes": ["a", "b"], "small": "small"}
    return {"setting": setting, "measured": measured, "provenance": where_and_how, "limits": []}


def verdicts(found: dict[str, Any]) -> dict[str, str]:
    return {limit["name"]: limit["verdict"] for limit in bench_layers.judge(found)}


# --- the training bench ----------------------------------------------------------------------------------


def test_the_training_bench_measures_all_three_loops(store: Path) -> None:
    found = bench_training.training("cpu", batch_size=16, rounds=1)
    assert set(found["loops"]) == {"ours", "plain", "floor"}
    assert all(row["images_per_second"] > 0 for row in found["loops"].values())
    medians = {name: row["images_per_second"] for name, row in found["loops"].items()}
    assert found["ours_over_floor"] == pytest.approx(medians["ours"] / medians["floor"], abs=1e-3)
    with pytest.raises(UsageError, match="unknown device"):
        bench_training.training("tpu")


# --- the layers' bench -----------------------------------------------------------------------------------


def test_every_layer_is_measured_eagerly() -> None:
    before = torch.get_num_threads()
    found = bench_layers.layers("cpu", rounds=2, engines=("eager",), **TINY)
    assert torch.get_num_threads() == before
    assert functional._engine == "auto"
    assert found["provenance"]["threads"] == 2
    assert found["setting"] == {"rounds": 2, "dtype": "float32", "shapes": ["2 x 4 x 6 x 6"], "small": "2 x 4 x 3 x 3"}
    twins = {f"{name} torch" for name in bench_layers.TWINS}
    expected = {f"{name} eager" for name in bench_layers.NAMES} | twins | {"floor"}
    for rows in found["measured"].values():
        assert set(rows) == expected
        assert rows["floor"]["to_floor"] == rows["bn torch"]["to_batch_norm"] == [1, 1, 1]
        for name, row in rows.items():
            median, low, high = row["to_batch_norm"]
            assert 0 < low <= median <= high
            assert row["ms"] > 0
            assert ("to_twin" in row) == (name.partition(" ")[0] in bench_layers.TWINS)
            if name.partition(" ")[0] in ON_ENGINE:
                assert row["saved_large"] == 1, f"{name} keeps more than x"
                assert row["saved"] >= 1
    assert [limit["name"] for limit in found["limits"]] == ["eager", "compiled", "twins", "small", "memory",
                                                            "memory, compiled"]  # fmt: skip
    assert found["limits"][1]["verdict"] == NOT_MEASURED
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_only_layers_that_heed_the_compiled_engine_are_measured_compiled() -> None:
    found = bench_layers.layers("cpu", rounds=1, names=("bn", "ln", "rms"), **TINY)
    for rows in found["measured"].values():
        assert [name for name in rows if name.endswith("compiled")] == ["rms compiled"]
        assert rows["rms compiled"]["saved_large"] == 1
    assert found["limits"][1]["verdict"] != NOT_MEASURED


def test_torch_s_layers_of_the_same_kind_compute_the_same() -> None:
    x = torch.randn(4, 6, 5, 5)
    for name, twin in bench_layers.TWINS.items():
        torch.testing.assert_close(bench_layers._layer(name, 6)(x), twin(6)(x), rtol=1e-4, atol=1e-5)


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
    assert rows["zz eager"] == {"layer": "zz eager", "a": 7.0, "b": None, "small": None}
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
    assert json.loads(file.read_text(encoding="utf-8")) == found
    assert "eager, at most 1.2 times nn.BatchNorm2d: missed (at worst 1.31: sn, a)" in out


def test_a_bench_that_is_stopped_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(bench_layers, "layers", stopped)
    code, _, _ = call(monkeypatch, capsys, "bench", "layers", "--json", str(tmp_path / "layers.json"))
    assert (code, list(tmp_path.iterdir())) == (130, [])


@pytest.mark.parametrize(
    ("words", "message"), [(("--device", "gpu"), "unknown device 'gpu'"), (("--rounds", "0"), "'--rounds'")]
)
def test_a_bench_refuses_bad_input(
    words: tuple[str, str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, out, err = call(monkeypatch, capsys, "bench", "layers", *words, "--json", str(tmp_path / "layers.json"))
    assert (code, out, list(tmp_path.iterdir())) == (2, "", [])
    assert message in err


# --- the page --------------------------------------------------------------------------------------------


def test_the_page_computes_its_verdicts_from_the_numbers() -> None:
    found = made_up(changes={("b", "fnbl-text eager"): {"to_batch_norm": [1.31, 1.25, 1.4]}})
    text = speed._section(found, "cpu")
    missed = "| eager, at most 1.2 times nn.BatchNorm2d | {bdg-danger}`missed` | 1.31 (FNBL (text), b) | FNBL (text) |"
    assert missed in text
    assert text.count("{bdg-success}`met`") == len(bench_layers.judge(found)) - 1
    assert "Measured on a machine, 2 threads, torch 2, float32, in 3 rounds, at commit `c0`." in text
    assert text.count("<svg") == len(found["measured"])
    assert "| SN | compiled | 0.9 | 0.9 | 0.9 |" in text


def test_a_page_without_numbers_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed.paths, "root", lambda: tmp_path)
    assert speed.speed() == "Nothing has been measured yet."


def test_the_published_numbers_are_of_the_layers_there_are() -> None:
    for file in (speed.paths.root() / "data" / "benchmarks").glob("layers-*.json"):
        found = speed._read(file)
        assert {limit["name"]: limit["verdict"] for limit in found["limits"]} == verdicts(found)
        for rows in found["measured"].values():
            assert {f"{name} eager" for name in bench_layers.NAMES} <= set(rows)


def test_a_table_s_cells_keep_their_bars() -> None:
    assert markdown.table(["a", "b"], [["x|y", 1]], "lr") == "| a | b |\n| --- | ---: |\n| x\\|y | 1 |"
