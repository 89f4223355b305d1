"""Data sets by name, decoded once to uint8 arrays that every process maps instead of copying.

A set is looked for in the folder that ``NORMCORE_DATA`` names, then in the user's cache, then at its public
home on the Hugging Face Hub. The embedded digits need none of them, and pictures of one's own are named by
their path (:mod:`normcore.lab.pictures`).
"""

import errno
import functools
import hashlib
import io
import json
import re
import shutil
import time
import uuid
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from .. import paths, pictures
from ..errors import DataError, UsageError, unknown
from ..files import digest, locked, read_yaml, write_sealed
from . import parquet, shapes

SPLITS = ("train", "test")
#: what can be done to the images of a colour set, beside nothing: grey in all three channels; or each image's
#: channels in an order of its own, drawn once, so that no channel means a colour any more
COLOURS = ("rgb", "grey", "permuted")
PICTURES = (".jpg", ".jpeg", ".png", ".webp")  # endings of paintings
TEXT = "input.txt"  # the file of a text of one's own
OWN = "a folder of NORMCORE_DATA"  # the source of a set that the registry has not
OBJECTS = ("image", "mask", "category", "iscrowd")  # columns of pictures with the objects in them
_LAYOUT = 2  # of the decoded arrays; a change makes older caches be decoded again
_ABANDONED = 24 * 3600  # seconds after which what a process was decoding counts as left by it


@dataclass(frozen=True)
class Entry:
    """What the registry (``data/datasets.yaml``) says of a data set; see the comments there."""

    name: str
    title: str = ""
    hub: str = ""
    hub_config: str = ""
    hub_test: str = "test"
    embedded: bool = False
    classes: int = 0
    items: dict[str, int] | None = None
    hub_items: dict[str, int] | None = None
    columns: tuple[str, str] = ("image", "label")
    hub_columns: tuple[str, str] | None = None
    test_every: int = 0
    text: str = ""
    instances: bool = False
    paintings: str = ""
    source: str = ""
    licence: str = ""


_Columns = Annotated[dict[Literal["image", "label"], str], Field(min_length=2)]


class _Row(BaseModel):
    """A set in the registry's file; the fields of :class:`Entry`."""

    model_config = ConfigDict(strict=True, extra="forbid")
    title: str = ""
    hub: str = ""
    hub_config: str = ""
    hub_test: str = "test"
    embedded: bool = False
    classes: int = Field(0, ge=0)
    items: dict[Literal["train", "test"], int] | None = None
    hub_items: dict[Literal["train", "test"], int] | None = None
    columns: _Columns | None = None
    hub_columns: _Columns | None = None
    test_every: int = Field(0, ge=0)
    text: str = ""
    instances: bool = False
    paintings: str = ""
    source: str = ""
    licence: str = ""


@dataclass(frozen=True)
class Split:
    """Images (N, H, W, C) and labels (N,), mapped from disk."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]


@dataclass(frozen=True)
class Dataset:
    """A decoded data set.

    Attributes:
        name, image_size: as asked for.
        classes: number of classes.
        mean, std: per channel over the training split, pixels in [0, 1].
        train, test: the splits.
        fingerprint: hash of all pixels and labels; equal wherever a run saw the same data.
        origin: where it came from: ``embedded``, ``NORMCORE_DATA``, ``hub``, or ``own`` by its path.
    """

    name: str
    image_size: int
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    train: Split
    test: Split
    fingerprint: str
    origin: str

    @property
    def channels(self) -> int:
        return len(self.mean)


def registry() -> dict[str, Entry]:
    """All known data sets: the registry's, and the folders of ``NORMCORE_DATA`` in the right layout."""
    path = paths.share() / "data" / "datasets.yaml"
    stat = path.stat()
    entries = {**_written(path, stat.st_mtime_ns, stat.st_size)}
    folder = paths.user_data()
    if folder and folder.is_dir():
        for path in sorted(folder.iterdir()):
            text = TEXT if (path / TEXT).is_file() else ""
            files = [_parquet(path, split) for split in SPLITS]
            if path.name not in entries and (text or all(files)):
                objects = not text and _has_objects(files[0][0])
                entries[path.name] = Entry(path.name, path.name, text=text, instances=objects, source=OWN)
    return entries


def of_classes() -> list[str]:
    """Names of the sets of images that have one class each."""
    return [name for name, entry in registry().items() if not (entry.text or entry.instances or entry.paintings)]


@functools.lru_cache(maxsize=1)
def _written(path: Path, *stamp: int) -> dict[str, Entry]:
    """The sets in the registry's file, which every run of a sweep asks for; read once as long as the file is as it
    was."""
    entries = {}
    for name, row in read_yaml(path, dict[str, _Row]).items():
        for columns in {"columns", "hub_columns"} & set(row):
            row[columns] = (row[columns]["image"], row[columns]["label"])
        entries[name] = Entry(name, **row)
    return entries


def find(name: str) -> Entry:
    """The registry's entry, or one for pictures of one's own; an unknown name is a :class:`UsageError` that lists the
    closest."""
    if pictures.is_own(name):
        return Entry(name, title=pictures.short(name), source="of one's own")
    known = registry()
    if name not in known:
        raise unknown("data set", name, known)
    return known[name]


def title(name: str) -> str:
    """What a data set is called in figures and tables."""
    return find(name).title or name


@functools.lru_cache(maxsize=4)
def load(name: str, image_size: int, colours: str = "rgb") -> Dataset:
    """The data set with square images of ``image_size`` pixels, decoded on first use.

    Raises:
        UsageError: unknown name; ``colours`` that are none of ``COLOURS``, or not ``rgb`` for a grey set.
        DataError: not found anywhere, or a file that is truncated or corrupt; it names the file.
    """
    entry = find(name)
    if entry.text:
        raise UsageError(f"{name} is a text, and images are wanted")
    if entry.paintings:
        raise UsageError(f"{name} are paintings, and images of classes are wanted")
    if entry.instances:
        raise UsageError(f"{name} has the objects in its pictures, and images of one class each are wanted")
    if colours not in COLOURS:
        raise unknown("colours", colours, COLOURS)
    if pictures.is_own(name):
        name = pictures.pin(name)
    plain = pictures.short(name).replace("/", "-")
    folder = paths.cache() / "datasets" / (f"{plain}-{image_size}" + (f"-{colours}" if colours != "rgb" else ""))
    with locked(Path(f"{folder}.lock")):  # several processes may ask at once; one decodes
        files = local_files(entry)
        stamp = _stamp(files) if files else None
        if folder.is_dir():
            cached = _open(entry, image_size, folder, stamp)
            if cached:
                return cached
            shutil.rmtree(folder, ignore_errors=True)
        if entry.embedded:
            origin, rows = "embedded", EMBEDDED[name]()
        elif pictures.is_own(name):
            origin, rows = "own", pictures.rows(name)
        elif files is not None:
            origin, rows = "NORMCORE_DATA", _parquet_rows(entry, files)
        else:
            origin, rows = "hub", _hub_rows(entry)
        _decode(entry, image_size, folder, rows, origin, stamp, colours)
        decoded = _open(entry, image_size, folder, stamp)
    if decoded is None:
        raise DataError(f"{folder} was decoded and cannot be read back: is the disk full, or failing?")
    return decoded


def items(name: str, image_size: int) -> dict[str, int]:
    """Number of images in each split, as the registry says; a set of one's own, of which it says nothing, is read."""
    entry = find(name)
    if entry.items:
        return {**entry.items}
    if entry.instances:
        from . import instances

        found = instances.load(name, image_size)
        return {"train": found.train, "test": len(found) - found.train}
    dataset = load(name, image_size)
    return {split: len(getattr(dataset, split).labels) for split in SPLITS}


def where(entry: Entry) -> tuple[str, str]:
    """(state, how to get it) of a data set, without loading anything: for ``normcore data``."""
    if entry.embedded:
        return "embedded", "comes with normcore"
    if entry.paintings:
        return ("NORMCORE_DATA", "found") if painting_files(entry) else ("missing", how_to_get(entry))
    if entry.text:
        state = next((origin for origin, path in text_files(entry).items() if path.is_file()), "missing")
        return state, "found" if state != "missing" else how_to_get(entry)
    try:
        files = local_files(entry)
        if files is not None:
            lacking = parquet.lacking(files["train"][0], entry.columns)
            return ("NORMCORE_DATA", "found") if not lacking else ("no images with classes", lacking)
    except DataError as error:
        return "incomplete", str(error)
    sizes = sorted((paths.cache() / "datasets").glob(f"{entry.name}-*/meta.json"))
    if sizes:
        found = dict.fromkeys(p.parent.name.removeprefix(f"{entry.name}-").partition("-")[0] for p in sizes)
        return "cache", "decoded at " + ", ".join(f"{size} px" for size in found)
    return "missing", how_to_get(entry)


# --- finding and reading the sources ---------------------------------------------------------------------


def _parquet(folder: Path, split: str) -> list[Path]:
    return sorted(folder.glob(f"{split}*.parquet"))


def local_files(entry: Entry) -> dict[str, list[Path]] | None:
    folder = paths.user_data()
    if folder is None or entry.embedded or pictures.is_own(entry.name) or not (folder / entry.name).is_dir():
        return None
    files = {split: _parquet(folder / entry.name, split) for split in SPLITS}
    for split, found in files.items():
        if not found:
            raise DataError(f"{folder / entry.name} has no {split}*.parquet: add it, or remove the folder")
        sharded = re.search(r"-of-(\d+)\.parquet$", found[0].name)
        if sharded and len(found) != int(sharded[1]):
            raise DataError(f"{folder / entry.name}: {len(found)} of {int(sharded[1])} shards of {split} are there")
    return files


def text_files(entry: Entry) -> dict[str, Path]:
    """Where a text is looked for: origin -> file, which need not be there."""
    folder = paths.user_data()
    own = {"NORMCORE_DATA": folder / entry.name / entry.text} if folder else {}
    return {**own, "cache": paths.cache() / "datasets" / f"{entry.name}.txt"}


def painting_files(entry: Entry) -> list[Path]:
    """The files of a set of paintings, in order; none where it is not there."""
    folder = paths.user_data()
    there = folder / entry.name / entry.paintings if folder else None
    return sorted(p for p in there.iterdir() if p.suffix.lower() in PICTURES) if there and there.is_dir() else []


def _stamp(files: dict[str, list[Path]]) -> list[list[Any]]:
    stats = [(path.name, path.stat()) for split in SPLITS for path in files[split]]
    return [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats]


# (split, image bytes or array, label, where it stands: for error messages)
Row = tuple[str, bytes | NDArray[np.uint8], int, str]


def _parquet_rows(entry: Entry, files: dict[str, list[Path]]) -> Iterator[Row]:
    for split in SPLITS:
        for path in files[split]:
            for (image, label), place in parquet.rows(path, entry.columns):
                yield split, parquet.picture(image, place), label, place


@functools.lru_cache
def _has_objects(path: Path) -> bool:
    with suppress(DataError):  # what reads it says what is wrong with it
        return set(OBJECTS) <= set(parquet.columns(path))
    return False


def from_hub(entry: Entry) -> Any:
    """The data set of the Hugging Face Hub, all of its splits."""
    if not entry.hub:
        raise DataError(how_to_get(entry))
    import datasets

    datasets.disable_progress_bars()
    try:
        return datasets.load_dataset(entry.hub, *filter(None, [entry.hub_config]))
    except Exception as error:  # its many network errors share no base class
        raise DataError(f"{how_to_get(entry)} ({type(error).__name__})") from error


def _hub_rows(entry: Entry) -> Iterator[Row]:
    found = from_hub(entry)
    import datasets

    image, label = entry.hub_columns or entry.columns
    every = entry.test_every
    for stored in SPLITS[:1] if every else SPLITS:
        rows = found[entry.hub_test if stored == "test" else stored].cast_column(image, datasets.Image(decode=False))
        for number, row in enumerate(rows):
            split = ("train", "test")[number % every == 0] if every else stored
            place = f"{entry.hub}, {stored}, row {number}"
            yield split, parquet.picture(row[image], place), row[label], place


def _digits() -> Iterator[Row]:
    """scikit-learn's digits; every fifth image is a test image."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    pixels = (bunch.images * (255 / 16)).round().astype(np.uint8)
    for split, keep in (("train", lambda i: i % 5 != 0), ("test", lambda i: i % 5 == 0)):
        for i, (image, label) in enumerate(zip(pixels, bunch.target, strict=True)):
            if keep(i):
                yield split, image, int(label), f"digit {i}"


#: the sets that come with normcore, and what makes their images
EMBEDDED: dict[str, Callable[[], Iterator[Row]]] = {
    "digits": _digits,
    "shapes": shapes.rows,
    "shapes_by_shape": functools.partial(shapes.rows, by_colour=False),
    "shapes_by_colour": functools.partial(shapes.rows, by_shape=False),
}


def how_to_get(entry: Entry) -> str:
    folder = f"NORMCORE_DATA ({paths.user_data()})" if paths.user_data() else "NORMCORE_DATA (not set)"
    online = f", or go online once, to download {entry.hub} from the Hugging Face Hub" if entry.hub else ""
    one = entry.text or (entry.paintings and f"{entry.paintings}/*.jpg")
    names = [one] if one else ["train.parquet", "test.parquet"]
    files = " and ".join(f"{entry.name}/{name}" for name in names)
    return f"{entry.name} is not in {folder} and not in the cache: put it there as {files}{online}."


# --- decoding and the cache ------------------------------------------------------------------------------


def _decode(
    entry: Entry, size: int, folder: Path, rows: Iterable[Row], origin: str, stamp: list[list[Any]] | None, colours: str
) -> None:
    for left in folder.parent.glob(f".{folder.name}.*"):  # by a process that was killed
        with suppress(FileNotFoundError):  # by one that has just ended
            if time.time() - left.stat().st_mtime > _ABANDONED:
                shutil.rmtree(left, ignore_errors=True)
    temporary = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
    temporary.mkdir()
    try:
        labels = _write_images(entry, size, temporary, rows)
        check_items(entry, origin, {split: len(labels[split]) for split in SPLITS})
        check_classes(entry, [label for split in SPLITS for label in labels[split]], "image")
        _write_rest(entry, temporary, labels, origin, stamp, colours)
        temporary.rename(folder)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):  # where there are no locks, another process was first
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_images(entry: Entry, size: int, folder: Path, rows: Iterable[Row]) -> dict[str, list[int]]:
    """Writes the images of each split as they come, so that a set may be larger than memory; returns the labels."""
    labels: dict[str, list[int]] = {split: [] for split in SPLITS}
    with ExitStack() as stack:
        files = {split: stack.enter_context(_ImageFile(folder / f"{split}_images.npy", size)) for split in SPLITS}
        for split, source, label, place in rows:
            if not isinstance(label, int) or label < 0 or (entry.classes and label >= entry.classes):
                limit = f"below {entry.classes}" if entry.classes else "from 0"
                raise DataError(f"{place}: the label must be an integer {limit}, got {label!r}")
            files[split].add(_image(source, size, place))
            labels[split].append(label)
    return labels


class _ImageFile:
    """An array of images that grows on disk; a few grey ones among coloured ones become coloured."""

    def __init__(self, path: Path, size: int) -> None:
        self.path, self.size, self.number, self.channels = path, size, 0, 0

    def __enter__(self) -> "_ImageFile":
        self.file = self.path.open("wb")
        return self

    def __exit__(self, *_: object) -> None:
        with self.file:
            self._head()  # with the number of images; numpy leaves room for it to grow

    def _head(self) -> None:
        self.file.seek(0)
        shape = (self.number, self.size, self.size, self.channels)
        np.lib.format.write_array_header_1_0(self.file, {"descr": "|u1", "fortran_order": False, "shape": shape})

    def add(self, image: NDArray[np.uint8]) -> None:
        if not self.number:
            self.channels = image.shape[2]
            self._head()
        if image.shape[2] > self.channels:
            self._colour()
        self.file.write(np.broadcast_to(image, (self.size, self.size, self.channels)).tobytes())
        self.number += 1

    def _colour(self) -> None:
        """Write what is there, all grey, again in three channels."""
        grey = self.path.with_suffix(".grey")
        self.__exit__()
        self.path.rename(grey)
        self.file, self.channels, before = self.path.open("wb"), 3, self.number
        self._head()
        for image in np.load(grey, mmap_mode="r")[:before]:
            self.file.write(np.repeat(image, 3, axis=2).tobytes())
        grey.unlink()


def _write_rest(
    entry: Entry, folder: Path, labels: Mapping[str, list[int]], origin: str, stamp: list[list[Any]] | None,
    colours: str,
) -> None:  # fmt: skip
    """Beside the images their labels, and what is known of them; recolours the images in their files."""
    decoded, orders = [], np.random.default_rng(0)
    for split in SPLITS:
        if not labels[split]:
            raise DataError(f"{entry.name}: the {split} split is empty")
        images = np.load(folder / f"{split}_images.npy", mmap_mode="r+")
        _recolour(entry, images, colours, orders)
        images.flush()
        decoded.append(Split(images, np.array(labels[split], dtype=np.int64)))
        np.save(folder / f"{split}_labels.npy", decoded[-1].labels)
    mean, std = _channel_moments(decoded[0].images)
    classes = entry.classes or 1 + max(max(labels[split]) for split in SPLITS)
    meta = {
        "layout": _LAYOUT, "origin": origin, "stamp": stamp, "classes": classes, "mean": mean, "std": std,
        "fingerprint": _fingerprint(decoded), "items": {split: len(labels[split]) for split in SPLITS},
    }  # fmt: skip
    write_sealed(folder / "meta.json", meta)


def check_items(entry: Entry, origin: str, items: dict[str, int]) -> None:
    """Refuse another number of images than the registry has for the set, or for its copy on the Hub."""
    known = [counts for counts in (entry.items, entry.hub_items) if counts]
    for split, number in items.items():
        expected = dict.fromkeys(counts[split] for counts in known)
        if expected and number not in expected:
            wanted = " or ".join(map(str, expected))
            raise DataError(f"{entry.name} ({origin}): {number} {split} images, {wanted} expected; get it again")


def check_classes(entry: Entry, labels: Sequence[int], of: str) -> None:
    """Refuse a class that there can hardly be: of a number above that of all labels, of images or of objects."""
    if not entry.classes and max(labels, default=0) >= max(1, len(labels)):
        raise DataError(
            f"{entry.name}: {len(labels)} {of}s, and one of the class {max(labels)}: number the classes from 0 on"
        )


def opened(source: bytes | NDArray[np.uint8], place: str) -> Image.Image:
    """A picture of a file's bytes, or of an array; what cannot be read is a :class:`DataError` that names the place."""
    try:
        image = Image.fromarray(source) if isinstance(source, np.ndarray) else Image.open(io.BytesIO(source))
        image.load()
    except Exception as error:  # PIL raises whatever its decoders raise
        raise DataError(f"{place}: not a readable image ({error}): get the file again") from error
    return image


def _image(source: bytes | NDArray[np.uint8], size: int, place: str) -> NDArray[np.uint8]:
    image = opened(source, place)
    if image.mode not in ("L", "RGB"):
        image = image.convert("RGB")
    if image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.LANCZOS)
    array = np.asarray(image)
    return array[:, :, None] if array.ndim == 2 else array


def _recolour(entry: Entry, images: NDArray[np.uint8], colours: str, orders: np.random.Generator) -> None:
    """Make the images one of ``COLOURS``; grey is the luma of ITU-R BT.601, as PIL has it."""
    if colours == "rgb":
        return
    if images.shape[3] != 3:
        raise UsageError(
            f"{entry.name}: colours={colours!r} needs images of three channels, these have {images.shape[3]}"
        )
    for image in images:
        luma = Image.fromarray(image).convert("L") if colours == "grey" else None
        image[:] = image[:, :, orders.permutation(3)] if luma is None else np.asarray(luma)[:, :, None]


def _channel_moments(images: NDArray[np.uint8]) -> tuple[list[float], list[float]]:
    """Mean and standard deviation a channel, exactly, from the histogram of the 256 values."""
    levels = np.arange(256) / 255
    mean, std = [], []
    for channel in range(images.shape[3]):
        parts = (images[i : i + 4096, ..., channel].ravel() for i in range(0, len(images), 4096))
        share = sum(np.bincount(part, minlength=256) for part in parts) / images[..., channel].size
        mu = float(share @ levels)
        mean.append(mu)
        std.append(float(np.sqrt(share @ (levels - mu) ** 2)))
    return mean, std


class _Meta(BaseModel):
    """What is known of decoded arrays, beside them."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
    layout: Literal[2]
    origin: str
    stamp: list[list[str | int]] | None
    classes: int = Field(ge=1)
    mean: list[float]
    std: list[float]
    fingerprint: str
    items: dict[str, int]
    digest: str


def _fingerprint(splits: Iterable[Split]) -> str:
    digest = hashlib.sha256()
    for split in splits:
        for array in (split.images, split.labels):
            digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()[:16]


def _open(entry: Entry, size: int, folder: Path, stamp: list[list[Any]] | None) -> Dataset | None:
    """The decoded arrays, mapped; None where they are to be decoded again: made by another version or from other files
    than these, incomplete, or not what was decoded."""
    try:
        said = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        if said["layout"] != _LAYOUT or (stamp is not None and said["stamp"] != stamp):
            return None
        meta = _Meta.model_validate(said)
        splits = {split: _mapped(folder, split) for split in SPLITS}
        shapes = [(split.images.shape, split.labels.shape) for split in splits.values()]
        sizes = [meta.items[split] for split in SPLITS]
        if shapes != [((n, size, size, len(meta.mean)), (n,)) for n in sizes]:
            raise ValueError(f"its arrays are of the shapes {shapes}")
        if meta.digest != digest(said) or meta.fingerprint != _fingerprint(splits.values()):
            raise ValueError("it is not what was decoded")
    except Exception as error:  # whatever numpy makes of the header of an array
        warnings.warn(f"{folder} is damaged ({' '.join(str(error).split())}); it is decoded again", stacklevel=3)
        return None
    return Dataset(
        entry.name, size, meta.classes, tuple(meta.mean), tuple(meta.std),
        splits["train"], splits["test"], meta.fingerprint, meta.origin,
    )  # fmt: skip


def _mapped(folder: Path, split: str) -> Split:
    images = np.load(folder / f"{split}_images.npy", mmap_mode="r")
    labels = np.load(folder / f"{split}_labels.npy")
    if (images.dtype, labels.dtype) != (np.uint8, np.int64):
        raise ValueError(f"its arrays are of the types {images.dtype} and {labels.dtype}")
    return Split(images, labels)
