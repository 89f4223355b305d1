"""Data sets: where they are found, how they are decoded, what is refused."""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from normcore.lab import data
from normcore.lab.errors import DataError, UsageError

from .helpers import write_pictures

pytestmark = pytest.mark.usefixtures("store")


def test_the_embedded_digits_are_all_1797_of_them() -> None:
    digits = data.load("digits", 28)
    assert digits.train.images.shape == (1437, 28, 28, 1)
    assert digits.test.images.shape == (360, 28, 28, 1)
    assert digits.train.images.dtype == np.uint8
    assert (digits.classes, digits.channels, digits.origin) == (10, 1, "embedded")
    assert set(np.unique(digits.train.labels)) == set(range(10))


def test_mean_and_deviation_are_those_of_the_training_pixels() -> None:
    digits = data.load("digits", 14)
    pixels = digits.train.images.astype(np.float64) / 255
    assert digits.mean[0] == pytest.approx(pixels.mean(), abs=1e-12)
    assert digits.std[0] == pytest.approx(pixels.std(), abs=1e-12)


def test_a_second_load_maps_the_same_arrays_and_decodes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    first = data.load("digits", 14)
    data.load.cache_clear()
    monkeypatch.setattr(data, "_decode", None)  # would fail if it were called
    second = data.load("digits", 14)
    assert second.fingerprint == first.fingerprint
    assert isinstance(second.train.images, np.memmap)


def test_a_damaged_cache_is_decoded_again(store: Path) -> None:
    first = data.load("digits", 14)
    data.load.cache_clear()
    array = next((store.parent / "cache" / "datasets").glob("digits-14/train_images.npy"))
    array.write_bytes(array.read_bytes()[:5000])
    assert data.load("digits", 14).fingerprint == first.fingerprint
    assert len(data.load("digits", 14).train.images) == 1437


def test_a_folder_of_normcore_data_is_a_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_pictures(tmp_path / "data" / "noise", channels=3)
    monkeypatch.setenv("NORMCORE_DATA", str(tmp_path / "data"))
    noise = data.load("noise", 14)
    assert noise.train.images.shape == (40, 14, 14, 3)
    assert (noise.classes, noise.channels, noise.origin) == (2, 3, "NORMCORE_DATA")
    assert data.train_items("noise", 14) == 40


def test_pixels_are_decoded_as_they_were_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_pictures(tmp_path / "data" / "noise", train=5, test=2)
    monkeypatch.setenv("NORMCORE_DATA", str(tmp_path / "data"))
    expected = np.random.default_rng(0).integers(0, 256, (5, 14, 14, 1), dtype=np.uint8)
    np.testing.assert_array_equal(data.load("noise", 14).train.images, expected)


def test_changed_files_are_decoded_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_pictures(tmp_path / "data" / "noise", train=5)
    monkeypatch.setenv("NORMCORE_DATA", str(tmp_path / "data"))
    before = data.load("noise", 14)
    data.load.cache_clear()
    write_pictures(folder, train=6)
    after = data.load("noise", 14)
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
        data.load("noise", 14)
    cache = tmp_path / "cache" / "datasets"
    assert not (cache / "noise-14").exists()  # nothing half-decoded is left under the final name


def test_a_missing_column_or_shard_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_pictures(tmp_path / "data" / "noise")
    monkeypatch.setenv("NORMCORE_DATA", str(tmp_path / "data"))
    (folder / "train.parquet").rename(folder / "train-00000-of-00002.parquet")
    with pytest.raises(DataError, match="1 of 2 shards of train"):
        data.load("noise", 14)
    import pyarrow as pa
    import pyarrow.parquet as pq

    (folder / "train-00000-of-00002.parquet").unlink()
    pq.write_table(pa.table({"picture": [1], "label": [0]}), folder / "train.parquet")
    with pytest.raises(DataError, match=r"no column image; its columns are picture, label"):
        data.load("noise", 14)


@pytest.mark.parametrize("label", ["cat", None, -1, 1.5])
def test_a_label_that_is_none_is_named(label: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = write_pictures(tmp_path / "data" / "noise")
    monkeypatch.setenv("NORMCORE_DATA", str(tmp_path / "data"))
    pictures = pq.read_table(folder / "train.parquet")["image"].slice(0, 1)
    pq.write_table(pa.table({"image": pictures, "label": [label]}), folder / "train.parquet")
    with pytest.raises(DataError, match=r"train\.parquet, row 0: the label must be an integer"):
        data.load("noise", 14)


def test_an_incomplete_folder_is_listed_with_what_it_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_pictures(tmp_path / "data" / "mnist")
    (folder / "test.parquet").unlink()
    monkeypatch.setenv("NORMCORE_DATA", str(tmp_path / "data"))
    state, how = data.where(data.find("mnist"))
    assert state == "incomplete"
    assert "test*.parquet" in how


def test_a_file_with_too_few_images_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_pictures(tmp_path / "data" / "mnist")
    monkeypatch.setenv("NORMCORE_DATA", str(tmp_path / "data"))
    with pytest.raises(DataError, match="40 train images, 60000 expected"):
        data.load("mnist", 14)


def test_an_unknown_name_is_refused_with_the_closest() -> None:
    with pytest.raises(UsageError, match=r"unknown data set 'fashion_mist': did you mean fashion_mnist"):
        data.load("fashion_mist", 28)


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
        data.load("mnist", 28)
    text = str(caught.value)
    assert "\n" not in text
    assert all(part in text for part in ("mnist/train.parquet", "NORMCORE_DATA", "ylecun/mnist", "go online"))


def test_the_hub_is_asked_where_there_is_no_local_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The path through Hugging Face ``datasets``, on a local repository of theirs instead of the network."""
    import datasets

    folder = write_pictures(tmp_path / "hub" / "noise")
    files = {split: str(folder / f"{split}.parquet") for split in data.SPLITS}
    entry = data.Entry("noise", hub="someone/noise", classes=2)
    real = datasets.load_dataset
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(
        datasets,
        "load_dataset",
        lambda name: real("parquet", data_files=files, cache_dir=str(tmp_path / "hf")).cast_column(
            "image", datasets.Image()
        ),
    )
    monkeypatch.setattr(data, "registry", lambda: {"noise": entry})
    noise = data.load("noise", 14)
    assert (noise.origin, noise.train.images.shape) == ("hub", (40, 14, 14, 1))
    assert data.where(entry)[0] == "cache"


def test_fashion_mnist_is_the_canonical_one(real_data: Path) -> None:
    """Fashion-MNIST's known statistics, and the label counts of its paper."""
    fashion = data.load("fashion_mnist", 28)
    assert fashion.mean[0] == pytest.approx(0.2860, abs=5e-5)
    assert fashion.std[0] == pytest.approx(0.3530, abs=5e-5)
    assert np.bincount(fashion.train.labels).tolist() == [6000] * 10
    assert np.bincount(fashion.test.labels).tolist() == [1000] * 10


def test_every_registered_set_says_where_it_is_and_how_to_get_it() -> None:
    for entry in data.registry().values():
        state, how = data.where(entry)
        assert state in {"embedded", "NORMCORE_DATA", "cache", "missing"}
        assert how
        assert entry.source
