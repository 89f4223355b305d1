"""Pictures with the objects in them."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from normcore.lab.errors import DataError, LabError, UsageError
from normcore.lab.tasks import datasets, instances

from ..helpers import png, with_objects, write_objects


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A set of one's own, of two training pictures and one test picture."""
    folder = write_objects(tmp_path / "own")
    monkeypatch.setenv("NORMCORE_DATA", str(tmp_path))
    instances.load.cache_clear()
    datasets._has_objects.cache_clear()
    return folder


def test_a_set_of_one_s_own_is_known_by_its_columns(written: Path) -> None:
    assert datasets.find("own").instances
    assert datasets.items("own", 40) == {"train": 2, "test": 1}
    data = instances.load("own", 40)
    assert (len(data), data.train, data.classes, data.origin) == (3, 2, 2, "NORMCORE_DATA")


def test_the_longer_side_fits_and_the_rest_is_ground(written: Path) -> None:
    wide, tall, square = (instances.load("own", 40)[i] for i in range(3))
    assert wide.image.shape == (40, 40, 3)
    assert (wide.image[:20] == 90).all()
    assert (wide.image[20:] == instances.GROUND).all()
    assert [np.argwhere(wide.numbers == 2)[i].tolist() for i in (0, -1)] == [[5, 25], [19, 34]]
    assert (tall.numbers[:, :20] == 1).all()
    assert not tall.numbers[:, 20:].any()
    assert square.crowds == (True,)
    assert wide.objects() == [1, 2]


def test_an_object_that_is_left_without_a_pixel_is_none(written: Path) -> None:
    rows = [with_objects(400, 400, [(0, 0, 100, 100), (7, 202, 8, 203)])] * 2
    for split in ("train", "test"):
        pq.write_table(pa.Table.from_pylist(rows), written / f"{split}.parquet")
    assert instances.load("own", 20)[0].objects() == [1]


def test_the_fingerprint_is_of_all_that_was_read(written: Path) -> None:
    first = instances.load("own", 40).fingerprint
    assert instances.load("own", 20).fingerprint == first
    pq.write_table(pa.Table.from_pylist([with_objects(60, 60, [(6, 12, 18, 31)])]), written / "test.parquet")
    instances.load.cache_clear()
    assert instances.load("own", 40).fingerprint != first


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"category": [0, 2]}, r"got \[0, 2\] and \[0\]"),
        ({"category": None}, r"got None and \[0\]"),
        ({"iscrowd": [None]}, r"got \[0\] and \[None\]"),
        ({"image": None}, r"train\.parquet, row 0: a picture is its file's bytes, got NoneType"),
        ({"mask": {"path": "mask.png"}}, r"row 0: a picture is its file's bytes, got a path, mask\.png"),
        ({"mask": {"bytes": png(np.full((60, 60), 2, np.uint8))}}, "at most 1, got the mode L and numbers to 2"),
        ({"mask": {"bytes": png(np.ones((60, 60, 3), np.uint8))}}, "at most 1, got the mode RGB and numbers to 1"),
        ({"category": [-1]}, r"an object has a class from 0 and is a crowd or not, got \[-1\]"),
        ({"image": {"bytes": b"no picture"}}, r"train\.parquet, row 0: not a readable image .*: get the file again"),
        ({"mask": {"bytes": png(np.ones((5, 7), np.uint8))}}, r"its mask has \(7, 5\) pixels, the picture \(60, 60\)"),
    ],
)
def test_what_cannot_be_is_refused_with_its_place(written: Path, changes: dict[str, Any], why: str) -> None:
    row = with_objects(60, 60, [(6, 12, 18, 30)], **changes)
    pq.write_table(pa.Table.from_pylist([row]), written / "train.parquet")
    with pytest.raises(DataError, match=why):
        instances.load("own", 40)[0]


def test_a_class_that_there_can_hardly_be_is_refused(written: Path) -> None:
    row = with_objects(60, 60, [(6, 12, 18, 30)], category=[10**9])
    pq.write_table(pa.Table.from_pylist([row]), written / "train.parquet")
    with pytest.raises(DataError, match="own: 2 objects, and one of the class 1000000000: number the classes from 0"):
        instances.load("own", 40)


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_truncated_file_is_named(split: str, written: Path) -> None:
    path = written / f"{split}.parquet"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match=rf"{split}\.parquet is truncated or not a parquet file"):
        instances.load("own", 40)


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_column_that_is_missing_is_named(split: str, written: Path) -> None:
    row = with_objects(60, 60, [(6, 12, 18, 30)])
    del row["iscrowd"]
    pq.write_table(pa.Table.from_pylist([row]), written / f"{split}.parquet")
    with pytest.raises(LabError, match=rf"{split}\.parquet has no column iscrowd"):
        instances.load("own", 40)


def test_sets_of_images_of_one_class_are_no_sets_of_objects_and_the_other_way_round() -> None:
    with pytest.raises(UsageError, match=r"digits has no objects, as drawn_objects, penn_fudan, .* have"):
        instances.load("digits", 32)
    with pytest.raises(UsageError, match="drawn_objects has the objects in its pictures"):
        datasets.load("drawn_objects", 32)


def test_the_drawn_objects_are_the_same_each_time_and_have_their_pixels() -> None:
    first, second = (list(instances.EMBEDDED["drawn_objects"]("test")) for _ in range(2))
    assert all(np.array_equal(a[0], b[0]) and np.array_equal(a[1], b[1]) for a, b in zip(first, second, strict=True))
    data = instances.load("drawn_objects", 64)
    assert (len(data), data.train, data.classes) == (50, 40, 2)
    counts = [len(data[i].objects()) for i in range(len(data))]
    assert set(counts) == {1, 2, 3}
    for scene in (data[i] for i in range(10)):
        inside, ground = (scene.image[mask].mean(0) for mask in (scene.numbers > 0, scene.numbers == 0))
        assert np.abs(inside - ground).max() > 10


@pytest.mark.data
def test_penn_fudan_is_as_it_is_known(real_data: Path) -> None:
    data = instances.load("penn_fudan", 192)
    assert (len(data), data.train, data.classes) == (170, 136, 1)
    assert sum(len(data[i].categories) for i in range(170)) == 423
    assert all(data[i].objects() for i in range(170))
