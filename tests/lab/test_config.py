"""Run configurations, their keys, and the store."""

import contextlib
import dataclasses
import functools
import json
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from normcore.lab import paths
from normcore.lab.config import RunConfig, grid, setting
from normcore.lab.errors import UsageError
from normcore.lab.files import replacing, write_json
from normcore.lab.runs import record
from normcore.lab.runs.store import Run, Store, measured_on
from normcore.lab.runs.sweep import sweep
from normcore.lab.runs.training import check
from normcore.lab.tasks import datasets
from normcore.lab.tasks.images import epochs
from normcore.lab.verdicts.predicates import Lacking, select

from .helpers import config, made_up, with_probes, write_pictures


def test_the_key_is_stable_across_releases() -> None:
    """Published results are found by their key: a change here orphans every one of them."""
    assert config().key == "42674741a18a35e6"
    assert config(norm_options={"momentum": 0.2}).key == "8fd5dff0463628a4"


def test_the_committed_results_keep_their_keys() -> None:
    """They were written before images had colours, and say nothing of them."""
    found = sorted((paths.root() / "data" / "results" / "fashion-lenet").glob("*.json"))
    assert "04508823ba409234.json" in [path.name for path in found]
    for path in found:
        fields = json.loads(path.read_text(encoding="utf-8"))["config"]
        assert RunConfig(**fields).key == path.stem
    assert RunConfig(
        dataset="fashion_mnist", image_size=28, model="lenet5", norm="none", lr=0.0003, batch_size=64, steps=3905,
        seed=1, eval_every=781, log_every=79, validation=10000, colours="rgb",
    ).key == "04508823ba409234"  # fmt: skip


@given(st.sampled_from(["lr", "batch_size", "steps", "seed", "eval_every", "log_every"]), st.integers(1, 50))
def test_the_key_changes_with_every_field(name: str, more: int) -> None:
    first = config()
    assert config(**{name: getattr(first, name) + more}).key != first.key


def test_a_field_at_its_default_does_not_enter_the_key() -> None:
    fields = {f.name: getattr(config(), f.name) for f in dataclasses.fields(RunConfig)}
    assert RunConfig(**{**fields, "model_options": {}, "validation": 0, "optimizer": "adam"}).key == config().key
    assert config(lr=1).key == config(lr=1.0).key
    keys = {config(colours=colours).key for colours in datasets.COLOURS}
    assert len(keys) == 3
    assert config().key in keys


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lr": 0.0}, "lr must be a positive number"),
        ({"lr": float("nan")}, "lr must be a positive number"),
        ({"lr": "fast"}, "lr must be of type float, got 'fast'"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"steps": 1.5}, "steps must be of type int, got 1.5"),
        ({"seed": True}, "seed must be of type int, got True"),
        ({"seed": -1}, "seed must not be negative"),
        ({"norm_options": [1]}, "norm_options must be of type dict"),
        ({"colours": 3}, "colours must be of type str, got 3"),
        ({"outliers": -0.1}, "outliers must be a share from 0 to 1, got -0.1"),
        ({"outliers": 1.5}, "outliers must be a share from 0 to 1, got 1.5"),
        ({"outliers": float("nan")}, "outliers must be a share from 0 to 1, got nan"),
        ({"outliers": True}, "outliers must be of type float, got True"),
        ({"foreign": None}, "foreign must be of type str, got None"),
        ({"probes": ["shift"]}, "probes must be of type dict"),
        ({"probes": {"shift": 0}}, "probes must say every how many steps, at least 1, got shift: 0"),
    ],
)
def test_bad_values_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        config(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"norm": "bm"}, "unknown norm 'bm': did you mean bn"),
        ({"dataset": "digit"}, "unknown data set 'digit': did you mean digits"),
        ({"model": "lenet"}, "unknown model 'lenet': did you mean lenet5"),
        ({"optimizer": "adan"}, "unknown optimizer 'adan': did you mean adam"),
        ({"colours": "gray"}, "unknown colours 'gray': did you mean grey"),
        ({"outlier_kind": "noisy"}, "unknown outlier_kind 'noisy': did you mean noise"),
        ({"foreign": "shape"}, "unknown data set 'shape': did you mean shapes"),
        ({"probes": {"shft": 1}}, "unknown probe 'shft': did you mean shift"),
        ({"task": "image"}, "unknown task 'image': did you mean images"),
        ({"task_options": {"length": 3}}, "unknown option of the task images 'length': known are augment, one_class"),
        ({"task_options": {"one_class": 2}}, "one_class must be a share from 0 to 1, got 2"),
        ({"image_size": 0}, "image_size must be from 1 to 4096 pixels, got 0"),
        ({"image_size": 5000}, "image_size must be from 1 to 4096 pixels, got 5000"),
        ({"image_size": 1}, "lenet5 needs images of at least 12 pixels, got image_size=1"),
        ({"model_options": {"depth": 3}}, "model_options: .* unexpected keyword argument 'depth'"),
        ({"outliers": 0.1, "outlier_kind": "foreign"}, "outlier_kind='foreign' needs the name of another data set"),
        ({"dataset": "tinyshakespeare"}, "unknown data set 'tinyshakespeare'"),
    ],
)
def test_unknown_names_are_refused_before_a_run_and_yet_readable(
    store: Path, changes: dict[str, Any], message: str
) -> None:
    wrong = config(**changes)
    with pytest.raises(UsageError, match=message):
        sweep([config(), wrong, config(seed=1)], Store("trial"))
    assert not Store("trial").folder.exists()
    run = dataclasses.replace(made_up("bn", 0, [1.0], [0.5]), config=wrong)
    Store("trial").put(run)
    assert Store("trial").get(run.key) == run


def test_a_grid_is_every_combination_in_order() -> None:
    fixed = {f: getattr(config(), f) for f in ("dataset", "image_size", "model", "batch_size", "steps")}
    found = [(c.norm, c.lr, c.seed) for c in grid(**fixed, norm=["none", "bn"], lr=[0.1, 0.2], seed=range(2))]
    assert found == [(n, lr, s) for n in ("none", "bn") for lr in (0.1, 0.2) for s in (0, 1)]
    with pytest.raises(UsageError, match="lr is an empty list"):
        list(grid(**fixed, norm="bn", lr=[], seed=0))


def test_epochs_count_full_batches() -> None:
    assert epochs(3, "digits", 28, 100) == {
        "batch_size": 100, "steps": 42, "eval_every": 14, "log_every": 2, "validation": 0,
    }  # fmt: skip
    assert epochs(1, "fashion_mnist", 28, 64, validation=10000)["steps"] == 781
    with pytest.raises(UsageError, match="leave no batch"):
        epochs(1, "digits", 28, 2000)


def test_a_result_survives_the_store(store: Path) -> None:
    run = made_up("bn", 0, [1.0, 0.5], [0.5, 0.8])
    results = Store("trial")
    results.put(run)
    assert results.get(run.key) == run
    assert [p.name for p in results.folder.iterdir()] == [f"{run.key}.json"]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"key": "00"}', "null", '{"config": {}}', "[" * 100_000])
def test_what_is_no_result_is_named_left_and_set_aside_by_what_is_written(store: Path, content: str) -> None:
    run = made_up("bn", 0, [1.0], [0.5])
    results = Store("trial")
    results.put(run)
    path = results.path(run.key)
    path.write_text(content)
    with pytest.warns(UserWarning, match=rf"{run.key}\.json is not a result"):
        assert results.get(run.key) is None
    assert path.read_text() == content
    for number in (1, 2):
        with pytest.warns(UserWarning, match=rf"kept as {run.key}\.json\.unread{number}"):
            results.put(run)
        assert path.with_suffix(f".json.unread{number}").read_text() == content
        assert results.get(run.key) == run
        path.write_text(content)


def changed(record: Any, change: Callable[[Any], object]) -> Any:
    change(record)
    return record


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda r: r["final"].update(test_accuracy="0.5"), "final, test_accuracy: Input should be a valid number"),
        (lambda r: r["final"].update(test_accuracy=7.0), "final, test_accuracy: a share lies between 0 and 1"),
        (lambda r: r["final"].update(test_loss=float("nan")), "final, test_loss: Input should be a finite number"),
        (lambda r: r["curves"]["test"]["accuracy"].append(0.5), "test: its columns are of different lengths"),
        (lambda r: r["curves"]["test"]["step"].__setitem__(0, -1), "test: its steps do not rise"),
        (lambda r: r.update(final=None), "final: Input should be a valid dictionary"),
        (lambda r: r.pop("provenance"), "provenance: Field required"),
        (lambda r: r["provenance"].pop("device_name"), "provenance, device_name: Field required"),
        (lambda r: r.update(status="fine"), "status: Input should be 'finished' or 'diverged'"),
        (lambda r: r["config"].update(lr="fast"), "config: lr must be of type float, got 'fast'"),
        (lambda r: r["config"].pop("norm"), "config: .* missing 1 required positional argument: 'norm'"),
    ],
)
def test_a_result_that_cannot_be_is_refused_in_a_sentence(
    store: Path, change: Callable[[Any], object], says: str
) -> None:
    run = made_up("bn", 0, [1.0], [0.5])
    results = Store("trial")
    path = results.path(run.key)
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(changed(run.to_json(), change)))
    with pytest.warns(UserWarning, match=rf"{run.key}\.json is not a result \({says}"):
        assert results.get(run.key) is None


@pytest.mark.parametrize("place", [(), ("config",)])
def test_what_another_version_wrote_is_said_to_be_so_and_kept(store: Path, place: tuple[str, ...]) -> None:
    run = made_up("bn", 0, [1.0], [0.5])
    results = Store("trial")
    later = run.to_json()
    functools.reduce(lambda part, name: part[name], place, later)["momentum"] = 0.9
    write_json(results.path(run.key), later)
    with pytest.warns(UserWarning, match="is a result of another version of normcore, with the field momentum"):
        assert results.get(run.key) is None
    with pytest.warns(UserWarning, match=r"it is kept as"):
        results.put(run)
    assert json.loads(results.path(run.key).with_suffix(".json.unread1").read_text()) == later


@given(st.integers(0, 10**6), st.integers(0, 7))
def test_a_flipped_bit_of_a_result_is_seen_or_has_no_effect(place: int, bit: int) -> None:
    run = made_up("bn", 0, [1.0, 0.25], [0.5, 0.75])
    with TemporaryDirectory() as folder:
        path = Path(folder, "result.json")
        record.write(path, run)
        content = bytearray(path.read_bytes())
        content[place % len(content)] ^= 1 << bit
        path.write_bytes(content)
        with contextlib.suppress(record.Unreadable):
            assert record.read(path) == run


def test_a_result_under_a_wrong_key_is_set_aside(store: Path) -> None:
    run = made_up("bn", 0, [1.0], [0.5])
    results = Store("trial")
    record = {**run.to_json(), "config": {**dataclasses.asdict(run.config), "lr": 5.0}}
    write_json(results.path(run.key), record)
    with pytest.warns(UserWarning, match="does not belong to its configuration"):
        assert results.get(run.key) is None


def test_a_result_of_another_experiment_is_copied(store: Path) -> None:
    run = made_up("bn", 0, [1.0], [0.5])
    first, second = Store("first"), Store("second")
    assert not second.adopt(run.key)
    assert not second.folder.exists()
    first.put(run)
    assert second.adopt(run.key)
    assert second.get(run.key) == run
    assert second.path(run.key).read_bytes() == first.path(run.key).read_bytes()
    first.path(run.key).unlink()
    assert second.adopt(run.key)  # its own now
    assert not second.adopt(made_up("bn", 1, [1.0], [0.5]).key)


def test_a_result_that_is_there_is_not_replaced_by_another_experiment_s(store: Path) -> None:
    own = made_up("bn", 0, [1.0], [0.5])
    other = made_up("bn", 0, [2.0], [0.25])
    assert own.key == other.key
    Store("first").put(other)
    Store("second").put(own)
    assert Store("second").adopt(own.key)
    assert Store("second").get(own.key) == own


def test_a_corrupt_result_is_not_adopted(store: Path) -> None:
    """The next experiment's is; and where there is none, the answer is no."""
    run = made_up("bn", 0, [1.0], [0.5])
    for name in "first", "third":
        Store(name).put(run)
    Store("first").path(run.key).write_text("{")
    with pytest.warns(UserWarning, match=r"first.*is not a result"):
        assert Store("second").adopt(run.key)
    assert Store("second").get(run.key) == run
    for name in "second", "third":
        Store(name).path(run.key).write_text("{")
    with pytest.warns(UserWarning, match="is not a result"):
        assert not Store("fourth").adopt(run.key)
    assert not Store("fourth").folder.exists()


def test_profiles_know_their_runs(store: Path) -> None:
    results = Store("trial")
    runs = [made_up("bn", seed, [1.0], [0.5]) for seed in range(2)]
    results.index("quick", "main", [r.key for r in runs])
    results.put(runs[0])
    assert not results.has("quick")
    assert not results.has("full")
    results.put(runs[1])
    assert results.has("quick")
    assert results.runs("quick") == runs
    results.index("quick", "search", [])
    assert set(results.profiles()["quick"]) == {"main", "search"}


# --- one's own runs over the published ones --------------------------------------------------------------


def published(experiment: str, *runs: Run, **profiles: dict[str, list[str]]) -> Path:
    """The folder of these published results."""
    folder = paths.published() / experiment
    for run in runs:
        write_json(folder / f"{run.key}.json", run.to_json())
    for profile, stages in profiles.items():
        write_json(folder / "profiles" / f"{profile}.json", stages)
    return folder


def test_own_runs_lie_over_the_published_ones_and_only_they_are_written(store: Path) -> None:
    theirs = [made_up("bn", seed, [1.0], [0.5]) for seed in range(2)]
    keys = [run.key for run in theirs]
    folder = published("trial", *theirs, quick={"search": keys[:1], "main": keys})
    before = tree(folder)
    results = Store("trial")
    assert results.runs("quick") == theirs
    assert results.adopt(keys[0])
    assert not results.folder.exists()
    mine = made_up("bn", 0, [2.0], [0.25])
    results.put(mine)
    results.index("quick", "main", keys[::-1])
    assert results.runs("quick") == [theirs[1], mine]
    assert results.runs("quick", "search") == [mine]
    assert results.profiles() == {"quick": {"search": keys[:1], "main": keys[::-1]}}
    assert Store("trial", paths.published()).runs("quick") == theirs
    assert tree(folder) == before


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.json*")}


def test_a_run_that_is_published_elsewhere_is_copied_to_one_s_own(store: Path) -> None:
    run = made_up("bn", 0, [1.0], [0.5])
    folder = published("other", run)
    results = Store("trial")
    assert results.get(run.key) is None
    assert results.find(run.key) == run
    assert not results.folder.exists()
    assert results.adopt(run.key)
    assert results.own(run.key) == run
    assert [path.name for path in folder.parent.iterdir()] == ["other"]


def test_what_is_published_is_not_written_however_it_is_named(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = made_up("bn", 0, [1.0], [0.5])
    folder = published("trial", run)
    for name in (folder.parent, folder.parent / "deeper"):
        monkeypatch.setenv("NORMCORE_RESULTS", str(name))
        with pytest.raises(UsageError, match=r"holds the published results: .* normcore publish"):
            Store("trial").put(run)
        with pytest.raises(UsageError, match="holds the published results"):
            Store("trial").index("quick", "main", [])
    monkeypatch.setenv("NORMCORE_RESULTS", str(folder.parent))
    (folder / f"{run.key}.json").write_text("{")
    with pytest.warns(UserWarning, match="is not a result .*; it is left as it is"):
        assert Store("trial").get(run.key) is None
    assert [path.name for path in folder.iterdir()] == [f"{run.key}.json"]


def test_a_store_that_another_process_writes_to_can_be_read(store: Path) -> None:
    """A temporary file is no index, however much of it is written."""
    results = Store("trial")
    results.index("quick", "main", ["0" * 16])
    with replacing(results.folder / "profiles" / "full.json") as temporary:
        temporary.write_text('{"main": ["00')
        assert results.profiles() == {"quick": {"main": ["0" * 16]}}
    assert temporary.parent.name == "profiles"


@pytest.mark.parametrize("content", ["{", "[1]", '{"main": ["../../x"]}', '{"main": 3}'])
def test_what_is_no_index_is_named_left_and_set_aside_by_what_is_written(store: Path, content: str) -> None:
    results = Store("trial")
    path = results.folder / "profiles" / "quick.json"
    write_json(path, {})
    path.write_text(content)
    with pytest.warns(UserWarning, match=r"quick\.json is not an index"):
        assert results.profiles() == {}
    assert path.read_text() == content
    with pytest.warns(UserWarning, match=r"it is kept as quick\.json\.unread1"):
        results.index("quick", "main", ["0" * 16])
    assert results.profiles() == {"quick": {"main": ["0" * 16]}}
    assert path.with_suffix(".json.unread1").read_text() == content


def test_what_becomes_part_of_a_path_is_a_plain_name(store: Path) -> None:
    for name in ("..", "a/b", "", "a.b", "a b"):
        with pytest.raises(UsageError, match="the name of an experiment must be a plain name"):
            Store(name)
        with pytest.raises(UsageError, match="the name of a profile must be a plain name"):
            Store("trial").index(name, "main", [])
        with pytest.raises(UsageError, match="the name of a run is 16 hexadecimal digits"):
            Store("trial").get(name)
    assert not store.exists()


def test_a_folder_of_data_with_no_plain_name_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_pictures(tmp_path / "my.set")
    monkeypatch.setenv("NORMCORE_DATA", str(tmp_path))
    with pytest.raises(UsageError, match="the name of a data set must be a plain name"):
        check(config(dataset="my.set"))


@pytest.mark.parametrize("inside", [True, False])
def test_own_results_are_beside_the_published_ones(
    inside: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NORMCORE_RESULTS", "NORMCORE_PUBLISHED"):
        monkeypatch.delenv(name, raising=False)
    if inside:
        assert (paths.published(), paths.results()) == (paths.root() / "data" / "results", paths.root() / "results")
        ignored = (paths.root() / ".gitignore").read_text(encoding="utf-8").splitlines()
        assert "/results/" in ignored
        return
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(paths, "__file__", str(tmp_path / "lib" / "normcore" / "lab" / "paths.py"))
    assert paths.results() == tmp_path / "results"
    assert paths.published() == tmp_path / "lib" / "normcore" / "lab" / "share" / "data" / "results"


# --- files -----------------------------------------------------------------------------------------------


def test_nothing_half_written_stays(tmp_path: Path) -> None:
    path = tmp_path / "file.json"

    def fail() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise OSError("No space left on device")

    with pytest.raises(OSError, match="No space"):
        fail()
    assert list(tmp_path.iterdir()) == []
    write_json(path, {"a": [1, 2]})
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(path, {"a": float("nan")})
    assert json.loads(path.read_text()) == {"a": [1, 2]}


def test_an_unchanged_file_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    write_json(path, {"a": 1})
    before = path.stat().st_mtime_ns
    write_json(path, {"a": 1})
    assert path.stat().st_mtime_ns == before


def test_what_runs_were_measured_with_is_said_in_words() -> None:
    runs = [made_up("bn", seed, [1.0], [0.5]) for seed in range(3)]
    assert measured_on(runs) == "3 runs with 3 seeds on a CPU, torch 2"
    alone = [made_up(norm, 0, [1.0], [0.5]) for norm in ("none", "bn")]
    assert measured_on(alone) == "2 runs with one seed, so without intervals, on a CPU, torch 2"


def test_a_run_is_plain_json() -> None:
    run = made_up("bn", 3, [1.0], [0.5])
    assert Run.from_json(json.loads(json.dumps(run.to_json()))) == run


# --- options of the network, outliers and probes ---------------------------------------------------------


def test_a_share_of_outliers_is_one_number_however_it_is_written() -> None:
    assert config(outliers=1).key == config(outliers=1.0).key
    assert config(outliers=0, outlier_kind="foreign").foreign == ""  # none are needed
    assert config(outliers=1, outlier_kind="foreign", foreign="shapes").outliers == 1.0


def test_a_setting_is_one_value_a_field_with_the_options_of_normalizer_network_and_optimizer() -> None:
    wanted = config(
        model_options={"activation": "tanh", "norm_first": False}, norm_options={"num_groups": 2, "schedule": {"a": 1}},
        optimizer_options={"momentum": 0.5}, norm="gn", probes={"shift": 3}, outliers=0.1,
    )  # fmt: skip
    found = setting(wanted)
    options = {"activation": "tanh", "norm_first": False, "num_groups": 2, "momentum": 0.5}
    plain = {f.name for f in dataclasses.fields(RunConfig) if not f.name.endswith("_options")} - {"probes", "beside"}
    assert found == {name: getattr(wanted, name) for name in plain} | options
    assert set(setting(config())) == plain


def test_a_run_with_probes_is_plain_json_and_one_without_can_be_read(store: Path) -> None:
    run = with_probes("bn", 0, {"shift": {"step": [0], "gradient": [None]}}, probes={"shift": 1})
    Store("trial").put(run)
    assert Store("trial").get(run.key) == run
    old = made_up("bn", 0, [1.0], [0.5])
    record = old.to_json()
    del record["probes"]
    for name in ("outliers", "outlier_kind", "foreign", "probes"):
        del record["config"][name]
    assert Run.from_json(record) == old


def test_runs_are_selected_by_the_options_of_their_network_and_of_their_normalizer() -> None:
    runs = [
        made_up(
            "bn", seed, [1.0], [0.5], model_options={"activation": a, "norm_first": f}, norm_options={"momentum": m}
        )
        for seed, (a, f, m) in enumerate([("relu", True, 0.1), ("relu", False, 0.1), ("tanh", False, 0.2)])
    ]
    found = {
        name: [run.config.seed for run in select(runs, variant, where)]
        for name, variant, where in (
            ("relu", "bn", {"activation": "relu"}),
            ("behind", {"norm": "bn", "norm_first": False}, {"activation": "relu"}),
            ("momentum", {"norm": "bn", "momentum": 0.2}, {"norm_first": False}),
            ("lr", {"norm_first": False}, {"lr": 0.01}),
        )
    }
    assert found == {"relu": [0, 1], "behind": [1], "momentum": [2], "lr": [1, 2]}
    with pytest.raises(Lacking):
        select(runs, {"norm": "bn", "norm_first": True}, {"activation": "tanh"})
