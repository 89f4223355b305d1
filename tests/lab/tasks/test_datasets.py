"""Data sets: where they are found, how they are decoded, what is refused."""

import itertools
import json
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from normcore.lab.errors import DataError, UsageError
from normcore.lab.tasks import datasets

from ..helpers import write_pictures

pytestmark = pytest.mark.usefixtures("store")


def test_the_embedded_digits_are_all_1797_of_them() -> None:
    digits = datasets.load("digits", 28)
    assert digits.train.images.shape == (1437, 28, 28, 1)
    assert digits.test.images.shape == (360, 28, 28, 1)
    assert digits.train.images.dtype == np.uint8
    assert (digits.classes, digits.channels, digits.origin) == (10, 1, "embedded")
    assert set(np.unique(digits.train.labels)) == set(range(10))


def test_mean_and_deviation_are_those_of_the_training_pixels() -> None:
    digits = datasets.load("digits", 14)
    pixels = digits.train.images.astype(np.float64) / 255
    assert digits.mean[0] == pytest.approx(pixels.mean(), abs=1e-12)
    assert digits.std[0] == pytest.approx(pixels.std(), abs=1e-12)


def test_a_second_load_maps_the_same_arrays_and_decodes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    first = datasets.load("digits", 14)
    datasets.load.cache_clear()
    monkeypatch.setattr(datasets, "_decode", None)  # would fail if it were called
    second = datasets.load("digits", 14)
    assert second.fingerprint == first.fingerprint
    assert isinstance(second.train.images, np.memmap)


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def said(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


DAMAGE: dict[str, Callable[[Path], object]] = {
    "a bit of a pixel": lambda folder: flip(folder / "train_images.npy", -1),
    "a bit of a label": lambda folder: flip(folder / "test_labels.npy", -8),
    "a header": lambda folder: flip(folder / "train_images.npy", 20),
    "a split cut off": lambda folder: (folder / "train_images.npy").write_bytes(b"\x93NUMPY" + bytes(100)),
    "an empty file": lambda folder: (folder / "test_labels.npy").write_bytes(b""),
    "a missing file": lambda folder: (folder / "test_images.npy").unlink(),
    "the mean": lambda folder: said(folder / "meta.json", mean=[0.5]),
    "the deviation": lambda folder: said(folder / "meta.json", std=[0.0]),
    "the number of classes": lambda folder: said(folder / "meta.json", classes=11),
    "a missing field": lambda folder: (folder / "meta.json").write_text(f'{{"layout": {datasets._LAYOUT}}}'),
    "another kind of record": lambda folder: (folder / "meta.json").write_text("[1]"),
    "no files": lambda folder: [path.unlink() for path in folder.iterdir()],
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_cache_is_decoded_again(damage: str, store: Path) -> None:
    first = datasets.load("digits", 14)
    arrays = [np.array(array) for split in (first.train, first.test) for array in (split.images, split.labels)]
    known = first.fingerprint, first.mean, first.std, first.classes
    del first  # what is mapped changes with its file
    datasets.load.cache_clear()
    DAMAGE[damage](store.parent / "cache" / "datasets" / "digits-14")
    with pytest.warns(UserWarning, match=r"digits-14 is damaged .*; it is decoded again"):
        again = datasets.load("digits", 14)
    assert (again.fingerprint, again.mean, again.std, again.classes) == known
    for before, after in zip(
        arrays, (again.train.images, again.train.labels, again.test.images, again.test.labels), strict=True
    ):
        np.testing.assert_array_equal(before, after)


def test_a_folder_of_normcore_data_is_a_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_pictures(tmp_path / "data" / "noise", channels=3)
    monkeypatch.setenv("NORMCORE_DATA", str(tmp_path / "data"))
    noise = datasets.load("noise", 14)
    assert noise.train.images.shape == (40, 14, 14, 3)
    assert (noise.classes, noise.channels, noise.origin) == (2, 3, "NORMCORE_DATA")
    assert datasets.items("noise", 14)["train"] == 40


def test_pixels_are_decoded_as_they_were_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_pictures(tmp_path / "data" / "noise", train=5, test=2)
    monkeypatch.setenv("NORMCORE_DATA", str(tmp_path / "data"))
    expected = np.random.default_rng(0).integers(0, 256, (5, 14, 14, 1), dtype=np.uint8)
    np.testing.assert_array_equal(datasets.load("noise", 14).train.images, expected)


def test_changed_files_are_decoded_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_pictures(tmp_path / "data" / "noise", train=5)
    monkeypatch.setenv("NORMCORE_DATA", str(tmp_path / "data"))
    before = datasets.load("noise", 14)
    datasets.load.cache_clear()
    write_pictures(folder, train=6)
    after = datasets.load("noise", 14)
    assert len(after.train.labels) == 6
    assert after.fingerprint != before.fingerprint


@pytest.mark.parametrize("damage", ["truncated", "text", "pictures", "paths"])
def test_a_corrupt_file_is_named_and_refused(damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = write_pictures(tmp_path / "data" / "noise")
    monkeypatch.setenv("NORMCORE_DATA", str(tmp_path / "data"))
    path = folder / "test.parquet"
    cells: dict[str, list[dict[str, object]]] = {
        "pictures": [{"bytes": b"not a picture", "path": "0.png"}],
        "paths": [{"bytes": None, "path": "0.png"}],
    }
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-100])
    elif damage == "text":
        path.write_text("not a table")
    else:
        image = pa.array(cells[damage], pa.struct({"bytes": pa.binary(), "path": pa.string()}))
        pq.write_table(pa.table({"image": image, "label": [0]}), path)
    with pytest.raises(DataError, match=r"test\.parquet"):
        datasets.load("noise", 14)
    cache = tmp_path / "cache" / "datasets"
    assert not (cache / "noise-14").exists()  # nothing half-decoded is left under the final name


def test_a_missing_column_or_shard_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_pictures(tmp_path / "data" / "noise")
    monkeypatch.setenv("NORMCORE_DATA", str(tmp_path / "data"))
    (folder / "train.parquet").rename(folder / "train-00000-of-00002.parquet")
    with pytest.raises(DataError, match="1 of 2 shards of train"):
        datasets.load("noise", 14)
    import pyarrow as pa
    import pyarrow.parquet as pq

    (folder / "train-00000-of-00002.parquet").unlink()
    pq.write_table(pa.table({"picture": [1], "label": [0]}), folder / "train.parquet")
    with pytest.raises(DataError, match=r"no column image; its columns are picture, label"):
        datasets.load("noise", 14)


def test_a_class_that_there_can_hardly_be_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = write_pictures(tmp_path / "data" / "noise", test=3)
    monkeypatch.setenv("NORMCORE_DATA", str(tmp_path / "data"))
    picture = pq.read_table(folder / "train.parquet")["image"].slice(0, 1)
    pq.write_table(pa.table({"image": picture, "label": [10**9]}), folder / "train.parquet")
    with pytest.raises(DataError, match="noise: 4 images, and one of the class 1000000000: number the classes from 0"):
        datasets.load("noise", 14)


@pytest.mark.parametrize("label", ["cat", None, -1, 1.5])
def test_a_label_that_is_none_is_named(label: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = write_pictures(tmp_path / "data" / "noise")
    monkeypatch.setenv("NORMCORE_DATA", str(tmp_path / "data"))
    pictures = pq.read_table(folder / "train.parquet")["image"].slice(0, 1)
    pq.write_table(pa.table({"image": pictures, "label": [label]}), folder / "train.parquet")
    with pytest.raises(DataError, match=r"train\.parquet, row 0: the label must be an integer"):
        datasets.load("noise", 14)


def test_an_incomplete_folder_is_listed_with_what_it_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_pictures(tmp_path / "data" / "mnist")
    (folder / "test.parquet").unlink()
    monkeypatch.setenv("NORMCORE_DATA", str(tmp_path / "data"))
    state, how = datasets.where(datasets.find("mnist"))
    assert state == "incomplete"
    assert "test*.parquet" in how


def test_a_file_with_too_few_images_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_pictures(tmp_path / "data" / "mnist")
    monkeypatch.setenv("NORMCORE_DATA", str(tmp_path / "data"))
    with pytest.raises(DataError, match="40 train images, 60000 expected"):
        datasets.load("mnist", 14)


def test_a_set_is_called_by_its_title() -> None:
    assert datasets.title("fashion_mnist") == "Fashion-MNIST"
    assert datasets.title("somewhere/flowers@877a4471") == "flowers@877a4471"


def test_an_unknown_name_is_refused_with_the_closest() -> None:
    with pytest.raises(UsageError, match=r"unknown data set 'fashion_mist': did you mean fashion_mnist"):
        datasets.load("fashion_mist", 28)


# --- colours ---------------------------------------------------------------------------------------------


@pytest.fixture
def coloured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a set ``noise`` of three channels."""
    folder = write_pictures(tmp_path / "data" / "noise", channels=3)
    monkeypatch.setenv("NORMCORE_DATA", str(tmp_path / "data"))
    return folder


def order_of(image: NDArray[np.uint8], original: NDArray[np.uint8]) -> tuple[int, ...]:
    """The order of the original's channels that gives this image."""
    (found,) = [p for p in itertools.permutations(range(3)) if (original[:, :, p] == image).all()]
    return found


@pytest.mark.parametrize("size", [14, 7])
def test_grey_is_the_luma_in_three_channels(size: int, coloured: Path) -> None:
    plain, grey = datasets.load("noise", size), datasets.load("noise", size, "grey")
    assert (grey.channels, grey.classes, grey.origin) == (3, 2, "NORMCORE_DATA")
    for before, after in (plain.train, grey.train), (plain.test, grey.test):
        np.testing.assert_array_equal(after.labels, before.labels)
        assert after.images.shape == before.images.shape
        for original, image in zip(before.images, after.images, strict=True):
            luma = np.asarray(Image.fromarray(original).convert("L"))
            for channel in range(3):
                np.testing.assert_array_equal(image[:, :, channel], luma)
    assert len(set(grey.mean)) == len(set(grey.std)) == 1
    assert grey.mean[0] == pytest.approx(np.dot(plain.mean, [0.299, 0.587, 0.114]), abs=1 / 255)


@pytest.mark.parametrize("size", [14, 7])
def test_permuted_is_each_image_s_channels_in_an_order_of_its_own(size: int, coloured: Path) -> None:
    plain, permuted = datasets.load("noise", size), datasets.load("noise", size, "permuted")
    orders = []
    for before, after in (plain.train, permuted.train), (plain.test, permuted.test):
        np.testing.assert_array_equal(after.labels, before.labels)
        orders += [order_of(image, original) for image, original in zip(after.images, before.images, strict=True)]
    assert len(orders) == 50
    assert set(orders) == set(itertools.permutations(range(3)))


def test_the_permutations_are_drawn_once_for_all(
    coloured: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = datasets.load("noise", 14, "permuted")
    datasets.load.cache_clear()
    monkeypatch.setenv("NORMCORE_CACHE", str(tmp_path / "another cache"))
    again = datasets.load("noise", 14, "permuted")
    assert again.fingerprint == first.fingerprint
    np.testing.assert_array_equal(again.train.images, first.train.images)


def test_colours_are_kept_apart_in_the_cache(coloured: Path, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = {colours: datasets.load("noise", 14, colours).fingerprint for colours in datasets.COLOURS}
    assert len(set(kept.values())) == 3
    folders = {path.parent.name for path in (store.parent / "cache" / "datasets").glob("*/meta.json")}
    assert folders == {"noise-14", "noise-14-grey", "noise-14-permuted"}
    datasets.load.cache_clear()
    monkeypatch.setattr(datasets, "_decode", None)  # would fail if it were called
    assert {colours: datasets.load("noise", 14, colours).fingerprint for colours in datasets.COLOURS} == kept
    assert datasets.load("noise", 14).fingerprint == kept["rgb"]


@pytest.mark.parametrize("colours", ["grey", "permuted"])
def test_a_set_of_one_channel_has_no_colours_to_change(colours: str, store: Path) -> None:
    with pytest.raises(UsageError, match=f"digits: colours='{colours}' needs images of three channels, these have 1"):
        datasets.load("digits", 14, colours)
    assert not list((store.parent / "cache" / "datasets").glob("*/meta.json"))


def test_unknown_colours_are_refused_with_the_known() -> None:
    with pytest.raises(UsageError, match="unknown colours 'sepia': known are grey, permuted, rgb"):
        datasets.load("shapes", 14, "sepia")
    with pytest.raises(UsageError, match="unknown colours 'gray': did you mean grey"):
        datasets.load("shapes", 14, "gray")


@pytest.mark.parametrize("first", [1, 3], ids=["grey first", "colour first"])
def test_grey_images_among_coloured_ones_become_coloured(first: int, tmp_path: Path) -> None:
    """And the file is what numpy itself would have written."""
    images = [np.full((4, 4, channels), i, dtype=np.uint8) for i, channels in enumerate((first, 1, 3, 1))]
    with datasets._ImageFile(tmp_path / "images.npy", 4) as file:
        for image in images:
            file.add(image)
    np.save(tmp_path / "expected.npy", np.stack([np.broadcast_to(image, (4, 4, 3)) for image in images]))
    assert (tmp_path / "images.npy").read_bytes() == (tmp_path / "expected.npy").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["expected.npy", "images.npy"]


def test_a_set_is_decoded_into_its_file_and_not_into_memory(tmp_path: Path) -> None:
    picture = np.zeros((64, 64, 3), dtype=np.uint8)
    rows = ((split, picture, 0, "") for split in datasets.SPLITS for _ in range(1000))
    tracemalloc.start()
    try:
        labels = datasets._write_images(datasets.Entry("noise"), 64, tmp_path, rows)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert [len(labels[split]) for split in datasets.SPLITS] == [1000, 1000]
    assert peak < 100 * picture.nbytes


# --- the Hub ---------------------------------------------------------------------------------------------


class _Offline(SimpleNamespace):
    """``datasets`` on a machine without a network."""

    @staticmethod
    def disable_progress_bars() -> None: ...

    @staticmethod
    def load_dataset(name: str) -> None:
        raise ConnectionError(f"could not reach {name}")


def test_offline_and_missing_is_one_clear_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NORMCORE_DATA", str(tmp_path))
    monkeypatch.setitem(sys.modules, "datasets", _Offline())
    with pytest.raises(DataError) as caught:
        datasets.load("mnist", 28)
    text = str(caught.value)
    assert "\n" not in text
    assert all(part in text for part in ("mnist/train.parquet", "NORMCORE_DATA", "ylecun/mnist", "go online"))


def put_on_hub(entry: datasets.Entry, files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The registry has this entry alone, and ``datasets`` reads these files, one a split, as what is on the Hub."""
    import datasets as hub

    def asked(*named: str) -> bool:
        return named == ((entry.hub, entry.hub_config) if entry.hub_config else (entry.hub,))

    real = hub.load_dataset
    names = {split: str(path) for split, path in files.items()}
    column = (entry.hub_columns or entry.columns)[0]
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(
        hub,
        "load_dataset",
        lambda *named: (
            asked(*named)
            and real("parquet", data_files=names, cache_dir=str(tmp_path / "hf")).cast_column(column, hub.Image())
        ),
    )
    monkeypatch.setattr(datasets, "registry", lambda: {entry.name: entry})


def test_the_hub_is_asked_where_there_is_no_local_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The path through Hugging Face ``datasets``, on a local repository of theirs instead of the network."""
    folder = write_pictures(tmp_path / "hub" / "noise")
    entry = datasets.Entry("noise", hub="someone/noise", classes=2)
    put_on_hub(entry, {split: folder / f"{split}.parquet" for split in datasets.SPLITS}, tmp_path, monkeypatch)
    noise = datasets.load("noise", 14)
    assert (noise.origin, noise.train.images.shape) == ("hub", (40, 14, 14, 1))
    assert datasets.where(entry)[0] == "cache"


def test_a_configuration_on_the_hub_and_its_own_name_of_the_test_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_pictures(tmp_path / "hub" / "noise")
    entry = datasets.Entry("noise", hub="someone/noise", hub_config="160px", hub_test="validation", classes=2)
    files = {"train": folder / "train.parquet", "validation": folder / "test.parquet"}
    put_on_hub(entry, files, tmp_path, monkeypatch)
    noise = datasets.load("noise", 14)
    assert (len(noise.train.labels), len(noise.test.labels)) == (40, 10)


@pytest.fixture
def unsplit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> datasets.Entry:
    """A set of 23 pictures that has only a training split on the Hub, and columns of other names there."""
    import pyarrow.parquet as pq

    path = write_pictures(tmp_path / "hub" / "noise", train=23, channels=3) / "train.parquet"
    pq.write_table(pq.read_table(path).rename_columns(["picture", "labels"]), path)
    entry = datasets.Entry(
        "noise", hub="someone/noise", hub_columns=("picture", "labels"), test_every=5, classes=2,
        items={"train": 20, "test": 5}, hub_items={"train": 18, "test": 5},
    )  # fmt: skip
    put_on_hub(entry, {"train": path}, tmp_path, monkeypatch)
    return entry


def test_of_a_hub_set_without_a_test_split_every_nth_image_is_tested_on(unsplit: datasets.Entry) -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (23, 14, 14, 3), dtype=np.uint8)
    labels = np.arange(23) % 2
    tested = np.arange(23) % 5 == 0
    noise = datasets.load("noise", 14)
    assert noise.origin == "hub"
    for split, kept in (noise.train, ~tested), (noise.test, tested):
        np.testing.assert_array_equal(split.images, pictures[kept])  # none is lost, and none is in both
        np.testing.assert_array_equal(split.labels, labels[kept])
    assert (len(noise.train.labels), len(noise.test.labels)) == (18, 5)


def test_a_local_copy_has_its_own_columns_and_splits_and_all_its_items(
    unsplit: datasets.Entry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_pictures(tmp_path / "data" / "noise", train=20, test=5)
    monkeypatch.setenv("NORMCORE_DATA", str(tmp_path / "data"))
    noise = datasets.load("noise", 14)
    assert (noise.origin, len(noise.train.labels), len(noise.test.labels)) == ("NORMCORE_DATA", 20, 5)
    for train, accepted in ((18, True), (19, False)):  # as many as on the Hub are all there are, too
        datasets.load.cache_clear()
        write_pictures(folder, train=train, test=5)
        if accepted:
            assert len(datasets.load("noise", 14).train.labels) == train
            continue
        with pytest.raises(DataError, match=r"noise \(NORMCORE_DATA\): 19 train images, 20 or 18 expected"):
            datasets.load("noise", 14)


def test_the_sizes_in_the_cache_are_listed_once_whatever_their_colours(unsplit: datasets.Entry) -> None:
    for size, colours in ((14, "rgb"), (14, "grey"), (7, "permuted")):
        datasets.load("noise", size, colours)
    assert datasets.where(unsplit) == ("cache", "decoded at 14 px, 7 px")


def test_cats_and_dogs_come_from_the_hub_s_one_split() -> None:
    entry = datasets.find("cats_vs_dogs")
    assert (entry.columns, entry.hub_columns, entry.test_every) == (("image", "label"), ("image", "labels"), 5)
    assert entry.classes == 2


def test_fashion_mnist_is_the_canonical_one(real_data: Path) -> None:
    """Fashion-MNIST's known statistics, and the label counts of its paper."""
    fashion = datasets.load("fashion_mnist", 28)
    assert fashion.mean[0] == pytest.approx(0.2860, abs=5e-5)
    assert fashion.std[0] == pytest.approx(0.3530, abs=5e-5)
    assert np.bincount(fashion.train.labels).tolist() == [6000] * 10
    assert np.bincount(fashion.test.labels).tolist() == [1000] * 10


def test_every_registered_set_says_how_many_images_it_has_where_it_is_and_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without its data, which are not looked at."""
    monkeypatch.delenv("NORMCORE_DATA", raising=False)
    monkeypatch.setattr(datasets, "_decode", None)  # would fail if it were called
    for entry in datasets.registry().values():
        if entry.text and entry.embedded:  # as long as scikit-learn has it
            continue
        if not entry.paintings:  # which are not trained on
            assert set(entry.items or {}) == set(datasets.SPLITS)
            assert datasets.items(entry.name, 28) == entry.items
        state, how = datasets.where(entry)
        assert state in {"embedded", "NORMCORE_DATA", "cache", "missing"}
        assert how
        assert entry.source
