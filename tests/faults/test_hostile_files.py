"""Every kind of file that is read, damaged at random: refused by a sentence, made again, or without effect."""

import io
import json
import random
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml

from normcore.lab import paths, pictures
from normcore.lab.bench import steps as bench_steps
from normcore.lab.book import advice, guide, speed
from normcore.lab.errors import LabError
from normcore.lab.files import read_yaml
from normcore.lab.runs.experiments import Experiment
from normcore.lab.runs.store import Store
from normcore.lab.runs.training import OutOfTime, train
from normcore.lab.tasks import datasets, instances, paintings
from normcore.lab.verdicts import claims

from ..lab.helpers import config, made_up, write_objects, write_pictures
from .calls import Tally

pytestmark = [pytest.mark.faults, pytest.mark.usefixtures("store")]

HOSTILE: list[Any] = [
    None, True, -1, 0, 7.0, 10**30, float("nan"), float("inf"), "", "x", "../../etc/passwd", "<script>",
    "!!python/object/apply:os.system ['true']", [], {}, [[]], {"x": None}, "\x00", "é" * 1000,
]  # fmt: skip
TOKENS = [b"\x00", b"\xff\xfe", b"{", b"}", b"[", b"]", b'"', b":", b"\n", b"null", b"NaN", b"1e999", b"[" * 5000,
          b"!!python/object/apply:os.system ['true']\n", b"&a [*a]", b"<script>"]  # fmt: skip


def bytes_mutated(content: bytes, rng: random.Random) -> bytes:
    """The content with a bit, a stretch or its end changed."""
    at = rng.randrange(len(content))
    length = rng.choice([1, 4, 64, 1024])
    kind = rng.randrange(6)
    if kind == 0:
        return content[:at] + bytes([content[at] ^ 1 << rng.randrange(8)]) + content[at + 1 :]
    if kind == 1:
        return content[:at] + rng.randbytes(length) + content[at + length :]
    if kind == 2:
        return content[:at] + content[at + length :]
    if kind == 3:
        return content[:at]
    if kind == 4:
        return content[:at] + content[at : at + length] * 2 + content[at + length :]
    return content[:at] + rng.choice(TOKENS) + content[at:]


def places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where something stands in a value made of dictionaries and lists."""
    if isinstance(value, dict | list):
        for name in list(value) if isinstance(value, dict) else range(len(value)):
            yield (*place, name)
            yield from places(value[name], (*place, name))


def value_mutated(value: Any, rng: random.Random) -> Any:
    """The value with an entry gone, renamed, or something else in its place."""
    place = rng.choice(list(places(value)))
    inside = value
    for name in place[:-1]:
        inside = inside[name]
    kind = rng.randrange(3)
    if kind == 0:
        del inside[place[-1]]
    elif kind == 1 and isinstance(inside, dict):
        inside[rng.choice(["new", "x y", "<b>", "..", "key"])] = inside.pop(place[-1])
    else:
        inside[place[-1]] = rng.choice(HOSTILE)
    return value


def table(rows: list[dict[str, Any]]) -> bytes:
    """A parquet file of these rows."""
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), file)
    return file.getvalue()


def as_json(value: Any) -> bytes:
    return json.dumps(value).encode("utf-8", "replace")


def as_yaml(value: Any) -> bytes:
    return bytes(yaml.safe_dump(value, allow_unicode=True, encoding="utf-8"))


LOADERS: dict[str, tuple[Callable[[bytes], Any], Callable[[Any], bytes]]] = {
    ".json": (json.loads, as_json),
    ".ipynb": (json.loads, as_json),
    ".yaml": (yaml.safe_load, as_yaml),
    ".yml": (yaml.safe_load, as_yaml),
    ".parquet": (lambda content: pq.read_table(io.BytesIO(content)).to_pylist(), table),
}
#: what is raised where no table can hold the values
NO_TABLE = (pa.ArrowException, ValueError, TypeError, AttributeError, OverflowError)


def mutated(path: Path, content: bytes, rng: random.Random) -> bytes:
    """Of a file of values every other time its values are changed, and else its bytes."""
    if path.suffix in LOADERS and rng.random() < 0.5:
        load, dump = LOADERS[path.suffix]
        with suppress(*NO_TABLE):
            return dump(value_mutated(load(content), rng))
    return bytes_mutated(content, rng)


def survived(tally: Tally, kind: str, path: Path, read: Callable[[], Any], number: int, *, sealed: bool) -> None:
    """Read the file, of this kind, in so many mutations; what is ``sealed`` is never another than it was."""
    rng = random.Random(0)
    before, content = read(), path.read_bytes()
    for i in range(number):
        changed = mutated(path, content, rng)
        path.unlink(missing_ok=True)  # what is mapped keeps its bytes
        path.write_bytes(changed)
        with tally.fault(f"a file is damaged: {kind}"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            said = "nothing"
            try:
                after = read()
            except LabError as error:
                after, said = before, str(error)
            except Exception as error:
                raise AssertionError(f"mutation {i} of {path.name}: {type(error).__name__}: {error}") from error
            assert said == "nothing" or path.stem in said, f"mutation {i} of {path.name} is refused without its name"
            assert not sealed or after is None or after == before, f"mutation {i} of {path.name}"
    path.write_bytes(content)


def test_results(tally: Tally) -> None:
    runs = Store("trial")
    run = made_up("bn", 0, [1.0, 0.5], [0.5, 0.75])
    runs.put(run)
    survived(tally, "a result", runs.path(run.key), lambda: runs.get(run.key), 500, sealed=True)


def test_lists_of_a_profile_s_runs(tally: Tally) -> None:
    runs = Store("trial")
    runs.index("quick", "main", ["0" * 16, "1" * 16])
    path = runs.folder / "profiles" / "quick.json"
    survived(tally, "the list of a profile's runs", path, runs.profiles, 200, sealed=False)


@pytest.mark.parametrize("name", ["meta.json", "train_images.npy", "train_labels.npy"])
def test_decoded_images(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tally: Tally) -> None:
    write_pictures(tmp_path / "data" / "noise")
    monkeypatch.setenv("NORMCORE_DATA", str(tmp_path / "data"))

    def read() -> Any:
        datasets.load.cache_clear()
        noise = datasets.load("noise", 14)
        arrays = (noise.train.images, noise.train.labels, noise.test.images, noise.test.labels)
        return noise.mean, noise.std, noise.classes, noise.fingerprint, [np.array(a).tobytes() for a in arrays]

    read()
    survived(tally, "a decoded data set", paths.cache() / "datasets" / "noise-14" / name, read, 100, sealed=True)


def test_checkpoints(tmp_path: Path, tally: Tally) -> None:
    checkpoint = tmp_path / "run.pt"
    wanted, device = config(eval_every=5), torch.device("cpu")
    with pytest.raises(OutOfTime):
        train(wanted, device, checkpoint=checkpoint, deadline=0)
    content = checkpoint.read_bytes()

    def read() -> Any:
        run = train(wanted, device, checkpoint=checkpoint)
        checkpoint.write_bytes(content)
        return run.curves, run.provenance["weights"]

    survived(tally, "a checkpoint", checkpoint, read, 60, sealed=True)


@pytest.mark.parametrize("damaged", ["train.parquet", "test.parquet"])
def test_data_sets(damaged: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tally: Tally) -> None:
    folder = write_pictures(tmp_path / "data" / "noise", train=5, test=3)
    monkeypatch.setenv("NORMCORE_DATA", str(tmp_path / "data"))

    def read() -> Any:
        datasets.load.cache_clear()
        return datasets.load("noise", 14).fingerprint

    survived(tally, "a data set (parquet)", folder / damaged, read, 150, sealed=False)


@pytest.mark.parametrize("damaged", ["train.parquet", "test.parquet"])
def test_pictures_with_objects(damaged: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tally: Tally) -> None:
    folder = write_objects(tmp_path / "data" / "objects")
    monkeypatch.setenv("NORMCORE_DATA", str(tmp_path / "data"))

    def read() -> Any:
        instances.load.cache_clear()
        datasets._has_objects.cache_clear()
        data = instances.load("objects", 14)
        return data.fingerprint, [data[i].objects() for i in range(len(data))]

    survived(tally, "pictures with objects (parquet)", folder / damaged, read, 150, sealed=False)


def test_pictures_of_one_s_own(tmp_path: Path, tally: Tally) -> None:
    from PIL import Image

    for split, number in (("train", 2), ("test", 1)):
        for kind in ("cat", "dog"):
            folder = tmp_path / "own" / split / kind
            folder.mkdir(parents=True)
            for i in range(number):
                Image.fromarray(np.full((9, 9, 3), 40 * i, np.uint8)).save(folder / f"{i}.png")
    own = str(tmp_path / "own")

    def read() -> Any:
        datasets.load.cache_clear()
        return datasets.load(own, 8).fingerprint

    assert pictures.is_own(own)
    survived(tally, "a picture", tmp_path / "own" / "train" / "cat" / "0.png", read, 100, sealed=False)


def test_paintings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tally: Tally) -> None:
    from PIL import Image

    folder = tmp_path / "data" / "style_transfer" / "style"
    folder.mkdir(parents=True)
    Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3)).save(folder / "wave.jpg")
    monkeypatch.setenv("NORMCORE_DATA", str(tmp_path / "data"))

    def read() -> Any:
        return paintings.load("style_transfer", 8).fingerprint

    survived(tally, "a painting", folder / "wave.jpg", read, 100, sealed=False)


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the files that people write, of which some are damaged."""
    copy = tmp_path / "repository"
    for name in (
        "_config.yml", "data/datasets.yaml", "book/claims.yml", "book/guide.yml", "book/advice.yml",
        "notebooks/noniid.yaml", "notebooks/noniid.ipynb", "data/benchmarks/steps-cpu.json",
        "data/benchmarks/layers-cpu.json", "data/benchmarks/passes-cpu.json", "data/benchmarks/training-cpu.json",
    ):  # fmt: skip
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes((paths.root() / name).read_bytes())
    monkeypatch.chdir(copy)
    assert paths.root() == copy
    return copy


def test_the_registry_of_data_sets(repository: Path, tally: Tally) -> None:
    survived(tally, "datasets.yaml", repository / "data" / "datasets.yaml", datasets.registry, 200, sealed=False)


def test_the_ledger(repository: Path, tally: Tally) -> None:
    path = repository / "book" / "claims.yml"
    whole = read_yaml(path)
    few = {**whole, "claims": [c for c in whole["claims"] if c["id"] in ("S1-12", "S2-01")]}
    path.write_text(yaml.safe_dump(few, allow_unicode=True), encoding="utf-8")
    survived(tally, "claims.yml", path, lambda: [one.verdict for one in claims.judge_all()], 150, sealed=False)


@pytest.mark.parametrize(("name", "read"), [("guide", guide.read), ("advice", advice.read)])
def test_what_the_book_is_made_of(name: str, read: Callable[[], Any], repository: Path, tally: Tally) -> None:
    survived(tally, "guide.yml and advice.yml", repository / "book" / f"{name}.yml", read, 50, sealed=False)


def test_profiles(repository: Path, tally: Tally) -> None:
    experiment = Experiment("noniid", repository / "notebooks" / "noniid.ipynb")
    path = experiment.notebook.with_suffix(".yaml")
    survived(tally, "a notebook's profiles", path, lambda: experiment.profile("quick"), 200, sealed=False)


def test_notebooks(repository: Path, tally: Tally) -> None:
    path = repository / "notebooks" / "noniid.ipynb"

    def read() -> Any:
        experiment = Experiment("noniid", path)
        return experiment.title, experiment.parameters

    survived(tally, "a notebook", path, read, 150, sealed=False)


@pytest.mark.parametrize("name", ["steps", "layers", "passes", "training"])
def test_benchmarks(name: str, repository: Path, tally: Tally) -> None:
    folder = repository / "data" / "benchmarks"
    for path in folder.iterdir():
        if path.name != f"{name}-cpu.json":  # whose figures would be drawn each time
            path.unlink()
    read = {"steps": lambda: bench_steps.step_costs().to_dict("records")}.get(name, lambda: speed._device("cpu"))
    survived(tally, "a benchmark", folder / f"{name}-cpu.json", read, 60, sealed=False)


def test_a_bomb_of_a_picture_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few bytes that say that they are 2.5 gigapixels."""
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0))
    bomb = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    with pytest.raises(LabError, match="not a readable image"):
        datasets._image(bomb, 14, "train.parquet, row 0")


def test_yaml_that_would_run_code_runs_none(tmp_path: Path) -> None:
    path, mark = tmp_path / "evil.yaml", tmp_path / "was here"
    path.write_text(f"x: !!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path ['{mark}']]\n")
    with pytest.raises(LabError, match=r"evil\.yaml, line 1: not YAML"):
        read_yaml(path)
    assert not mark.exists()


def test_an_error_names_file_line_and_what_is_expected(tmp_path: Path) -> None:
    path = tmp_path / "datasets.yaml"
    path.write_text("# sets\nmine:\n  title: Mine\n  classes: ten\n")
    with pytest.raises(LabError, match=r"datasets\.yaml, line 4: mine, classes: Input should be a valid integer"):
        read_yaml(path, dict[str, datasets._Row])


def test_no_name_brings_markup_into_a_page(tmp_path: Path) -> None:
    """Whatever pages show is read from files that may not have any, however it is written."""
    tag = "<img src=x onerror=alert(1)>"
    hostile = made_up("bn", 0, [1.0], [0.5])
    hostile.provenance["device_name"] = tag
    runs = Store("trial")
    runs.put(hostile)
    with pytest.warns(UserWarning, match="is not a result .*HTML in a name or a text: provenance, device_name"):
        assert runs.get(hostile.key) is None
    escaped = runs.path(hostile.key).read_text().replace("<", "\\u003C")
    runs.path(hostile.key).write_text(escaped)
    with pytest.warns(UserWarning, match="HTML in a name or a text"):
        assert runs.get(hostile.key) is None
    with pytest.raises(LabError, match="norm_options has HTML in a name or a text"):
        config(norm_options={"eps": tag})
    (tmp_path / "claims.yml").write_text(f"claims:\n- id: S1-01\n  statement: {tag}\n")
    with pytest.raises(LabError, match=r"claims\.yml, line 3: HTML has no place here"):
        read_yaml(tmp_path / "claims.yml")
