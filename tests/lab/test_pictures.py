"""One's own pictures by their path: what is taken, how it is pinned, and what is said of what cannot be."""

import io
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from normcore.lab import pictures
from normcore.lab.cli import _with_own
from normcore.lab.errors import DataError, LabError, UsageError
from normcore.lab.runs.training import check, train
from normcore.lab.tasks import datasets

from .helpers import config


def picture(value: int) -> bytes:
    file = io.BytesIO()
    pixels = np.full((9, 8, 3), value, np.uint8)
    pixels[0, 0] = 255 - value
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


def folder(place: Path, splits: tuple[str, ...] = ("",), number: int = 10) -> Path:
    """Pictures in class folders: those of ``dark`` are darker than those of ``light``."""
    for split in splits:
        for offset, name in ((0, "dark"), (100, "light")):
            for i in range(number):
                path = place / split / name / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(picture(offset + 5 * i))
    return place


@pytest.fixture
def flowers(tmp_path: Path, store: Path) -> Path:
    return folder(tmp_path / "flowers")


def test_a_folder_of_class_folders_is_split_in_each_class(flowers: Path) -> None:
    found = datasets.load(str(flowers), 8)
    assert (found.classes, found.channels, found.origin) == (2, 3, "own")
    assert np.bincount(found.train.labels).tolist() == [8, 8]
    assert np.bincount(found.test.labels).tolist() == [2, 2]
    dark = np.concatenate([s.images[s.labels == 0] for s in (found.train, found.test)])
    assert sorted(int(image[4, 4, 0]) for image in dark) == [5 * i for i in range(10)]


def test_its_own_test_split_is_kept(tmp_path: Path, store: Path) -> None:
    found = datasets.load(str(folder(tmp_path / "both", ("train", "test"), 3)), 8)
    assert (len(found.train.labels), len(found.test.labels)) == (6, 6)


@pytest.mark.parametrize("labels", [["dark", "light"], [3, 7]])
def test_a_parquet_file(labels: list[str | int], tmp_path: Path, store: Path) -> None:
    cells = [{"bytes": picture(100 * (i % 2) + i), "path": None} for i in range(20)]
    table = pa.table({"image": cells, "label": [labels[i % 2] for i in range(20)]})
    pq.write_table(table, tmp_path / "mine.parquet")
    found = datasets.load(str(tmp_path / "mine.parquet"), 8)
    assert (found.classes, len(found.train.labels), len(found.test.labels)) == (2, 16, 4)


def test_a_run_is_of_these_pictures_wherever_they_lie(flowers: Path, tmp_path: Path) -> None:
    before = config(dataset=str(flowers), image_size=14, batch_size=4)
    assert before.dataset == f"{flowers}@{before.dataset[-8:]}"
    assert train(before, torch.device("cpu")).status == "finished"
    moved = tmp_path / "elsewhere" / "flowers"
    shutil.copytree(flowers, moved)
    assert config(dataset=str(moved), image_size=14, batch_size=4).key == before.key
    (flowers / "dark" / "0.png").write_bytes(picture(77))
    changed = config(dataset=str(flowers), image_size=14, batch_size=4)
    assert changed.key != before.key
    datasets.load(before.dataset, 14)  # decoded, so that the old pictures are still there
    with pytest.raises(DataError, match=r"flowers has changed: flowers@\w{8} was asked for, and it is @\w{8} now"):
        datasets.load(before.dataset, 15)


def test_it_is_found_from_a_folder_below(flowers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (flowers.parent / "notebooks").mkdir()
    monkeypatch.chdir(flowers.parent / "notebooks")
    assert config(dataset="./flowers", image_size=14).dataset == f"./flowers@{pictures.pin(str(flowers))[-8:]}"


def test_what_is_a_public_name_and_what_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert pictures.pin("owner/flowers") == "owner/flowers"
    for name in ("./flowers", "some/where/flowers", "/nowhere/flowers"):
        with pytest.raises(UsageError, match=f"there is no folder or file {name}"):
            pictures.pin(name)
    assert pictures.is_own("mine.parquet")
    assert not pictures.is_own("fashion_mnist")


def test_a_public_name_is_read_by_the_library(monkeypatch: pytest.MonkeyPatch, flowers: Path) -> None:
    import datasets as library

    own = library.load_dataset

    def instead(name: str, **how: object) -> object:
        return own(str(flowers), **how) if name == "owner/flowers" else own(name, **how)

    monkeypatch.setattr(library, "load_dataset", instead)
    assert datasets.load("owner/flowers", 8).classes == 2


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda place: (place / "dark" / "0.png").write_bytes(b"no picture"), r"dark/0\.png: not a readable image"),
        (lambda place: shutil.rmtree(place / "light"), "no column of classes .put the pictures of each class into"),
        (lambda place: [p.unlink() for p in place.rglob("*.png")], "flowers cannot be read as pictures"),
        (lambda place: [p.rename(place / f"{p.parent.name}{p.name}") for p in sorted(place.rglob("*.png"))],
         "no column of classes"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_in_a_sentence(spoil: object, says: str, flowers: Path) -> None:
    spoil(flowers)  # type: ignore[operator]
    with pytest.raises(LabError, match=says) as refused:
        datasets.load(str(flowers), 8)
    assert "\n" not in str(refused.value)


def test_a_command_names_them_so_that_they_are_found_from_anywhere(
    flowers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(flowers.parent)
    pinned = _with_own("./flowers")
    assert pinned == pictures.pin(str(flowers))
    assert _with_own(["owner/flowers", "bn", 0.1]) == ["owner/flowers", "bn", 0.1]


def test_a_folder_called_by_its_name_is_told_to_be_a_path(flowers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(flowers.parent)
    with pytest.raises(UsageError, match=r"unknown data set 'flowers': pictures .* by their path, \./flowers"):
        check(config(dataset="flowers"))


def test_a_folder_that_is_not_there_is_refused_before_training() -> None:
    with pytest.raises(UsageError, match="there is no folder or file nowhere/at/all"):
        check(config(dataset="nowhere/at/all"))
