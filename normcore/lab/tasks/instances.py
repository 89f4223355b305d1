"""Pictures with the objects in them: a number of its object for each pixel, as the parquet files of
``NORMCORE_DATA`` have it, or drawn."""

import functools
import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import DataError, UsageError
from . import datasets, parquet, shapes
from .datasets import OBJECTS

GROUND = (124, 116, 104)  # behind a picture that is not square: ImageNet's mean colour
Pixels = NDArray[np.uint8]


class Row(NamedTuple):
    """A picture as it is kept: it and its objects' numbers as files' bytes or as arrays, and where it stands."""

    image: bytes | Pixels
    numbers: bytes | Pixels
    categories: list[int]
    crowds: list[int]
    place: str


@dataclass(frozen=True)
class Scene:
    """A picture and its objects.

    Attributes:
        image: (S, S, 3).
        numbers: (S, S), of each pixel the number of its object, 1 and on; 0 is the ground.
        categories: of object k, at place k - 1, its class.
        crowds: of each object whether it is a crowd of them, which nobody is asked to tell apart.
    """

    image: Pixels
    numbers: Pixels
    categories: tuple[int, ...]
    crowds: tuple[bool, ...]

    def objects(self) -> list[int]:
        """The numbers of the objects that have a pixel."""
        there = set(np.unique(self.numbers).tolist())
        return [k for k in range(1, len(self.categories) + 1) if k in there]


class Instances:
    """A data set of pictures with objects, in squares of ``size`` pixels: the longer side fits, the rest is ground.

    Args:
        name, size: as asked for.
        classes: of objects.
        rows: of every training picture, then of every test picture.
        train: so many are training pictures.
        origin: where it came from: ``embedded`` or ``NORMCORE_DATA``.
    """

    def __init__(self, name: str, size: int, classes: int, rows: Sequence[Row], train: int, origin: str) -> None:
        self.name, self.size, self.classes, self.train, self.origin = name, size, classes, train, origin
        self._rows, self._scene = rows, functools.lru_cache(maxsize=1024)(self._decoded)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, number: int) -> Scene:
        """Scene of this number.

        Raises:
            DataError: not readable.
        """
        return self._scene(number)

    def _decoded(self, number: int) -> Scene:
        image, numbers, categories, crowds, place = self._rows[number]
        picture = datasets.opened(image, place).convert("RGB")
        mask = datasets.opened(numbers, place)
        if mask.size != picture.size:
            raise DataError(f"{place}: its mask has {mask.size} pixels, the picture {picture.size}; get it again")
        if mask.mode != "L" or int(mask.getextrema()[1]) > len(categories):  # type: ignore[arg-type]
            raise DataError(
                f"{place}: of each pixel its mask has the number of its object in a byte (mode L), at most "
                f"{len(categories)}, got the mode {mask.mode} and numbers to {np.asarray(mask).max()}; get it again"
            )
        scale = self.size / max(picture.size)
        width, height = (max(1, round(side * scale)) for side in picture.size)
        square, objects = Image.new("RGB", (self.size, self.size), GROUND), Image.new("L", (self.size, self.size))
        square.paste(picture.resize((width, height), Image.Resampling.LANCZOS))
        objects.paste(mask.resize((width, height), Image.Resampling.NEAREST))
        return Scene(np.asarray(square), np.asarray(objects), tuple(categories), tuple(map(bool, crowds)))

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hash of all that was read; equal wherever a run saw the same data."""
        digest = hashlib.sha256()
        for image, numbers, categories, crowds, _ in self._rows:
            digest.update(image if isinstance(image, bytes) else image.data)
            digest.update(numbers if isinstance(numbers, bytes) else numbers.data)
            digest.update(repr([categories, crowds]).encode())
        return digest.hexdigest()[:16]


def find(name: str) -> datasets.Entry:
    """The registry's entry of a set with objects.

    Raises:
        UsageError: unknown name, or a set without objects.
        DataError: a set of one's own that cannot be read.
    """
    entry = datasets.find(name)
    if not entry.instances:
        known = ", ".join(other for other, one in datasets.registry().items() if one.instances)
        files = datasets.local_files(entry)
        why = parquet.lacking(files["train"][0], OBJECTS) if files else ""
        raise UsageError(f"{name} has no objects, as {known} have" + (f": {why}" if why else ""))
    return entry


@functools.lru_cache(maxsize=2)
def load(name: str, size: int) -> Instances:
    """The data set of this name.

    Raises:
        UsageError: unknown name, or a set without objects.
        DataError: not found, or damaged.
    """
    entry = find(name)
    if entry.embedded:
        origin, rows = "embedded", {split: list(EMBEDDED[name](split)) for split in datasets.SPLITS}
    else:
        origin, rows = "NORMCORE_DATA", _stored(entry)
    datasets.check_items(entry, origin, {split: len(own) for split, own in rows.items()})
    every = [*rows["train"], *rows["test"]]
    datasets.check_classes(entry, [category for row in every for category in row.categories], "object")
    classes = entry.classes or 1 + max((c for row in every for c in row.categories), default=0)
    return Instances(name, size, classes, every, len(rows["train"]), origin)


def _stored(entry: datasets.Entry) -> dict[str, list[Row]]:
    """The rows of each split from the files of ``NORMCORE_DATA``."""
    files = datasets.local_files(entry)
    if files is None:
        raise DataError(datasets.how_to_get(entry))
    return {
        split: [_row(entry, cells, place) for path in paths for cells, place in parquet.rows(path, OBJECTS)]
        for split, paths in files.items()
    }


def _row(entry: datasets.Entry, cells: list[Any], place: str) -> Row:
    image, mask, categories, crowds = cells
    limit = entry.classes or math.inf
    if not (_integers(categories, limit) and _integers(crowds, 2) and len(categories) == len(crowds)):
        wanted = f"below {entry.classes}" if entry.classes else "from 0"
        raise DataError(f"{place}: an object has a class {wanted} and is a crowd or not, got {categories} and {crowds}")
    return Row(parquet.picture(image, place), parquet.picture(mask, place), categories, crowds, place)


def _integers(values: Any, limit: float) -> bool:
    """Whether it is a list of integers from 0 to below the limit."""
    return isinstance(values, list) and all(type(value) is int and 0 <= value < limit for value in values)


def _drawn(split: str) -> Iterator[Row]:
    """One to three discs and squares on a noisy ground, each hiding those before it."""
    random = np.random.default_rng(datasets.SPLITS.index(split))
    for number in range({"train": 40, "test": 10}[split]):
        ground = random.uniform(90, 165, 3) + random.normal(0, 15, (shapes.SIZE, shapes.SIZE, 3))
        numbers = np.zeros(ground.shape[:2], np.uint8)
        categories = random.integers(2, size=random.integers(1, 4)).tolist()
        for own, square in enumerate(categories, 1):
            inside = shapes.mask(bool(square), random)
            ground[inside] += random.choice([-1, 1], 3) * random.uniform(40, 80, 3)
            numbers[inside] = own
        picture, place = ground.clip(0, 255).round().astype(np.uint8), f"picture {number} of {split}"
        yield Row(picture, numbers, categories, [0] * len(categories), place)


#: the sets that come with normcore, and what makes a split's rows
EMBEDDED: dict[str, Callable[[str], Iterator[Row]]] = {"drawn_objects": _drawn}
