"""Pictures with the objects in them: a number of its object for each pixel, as the parquet files of
``NORMCORE_DATA`` have it, or drawn."""

import functools
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import DataError, UsageError
from . import datasets, shapes
from .datasets import OBJECTS

GROUND = (124, 116, 104)  # behind a picture that is not square: ImageNet's mean colour
Pixels = NDArray[np.uint8]


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
        rows: (picture, numbers, categories, crowds) of every training picture, then of every test picture; pictures
            and numbers as files' bytes, or as arrays.
        train: so many are training pictures.
        origin: where it came from: ``embedded`` or ``NORMCORE_DATA``.
    """

    def __init__(self, name: str, size: int, classes: int, rows: Sequence["Row"], train: int, origin: str) -> None:
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
        image, numbers, categories, crowds = self._rows[number]
        place = f"{self.name}, picture {number}"
        picture = datasets.opened(image, place).convert("RGB")
        mask = datasets.opened(numbers, place)
        if mask.size != picture.size:
            raise DataError(f"{place}: its mask has {mask.size} pixels, the picture {picture.size}; get it again")
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
        for image, numbers, *objects in self._rows:
            digest.update(image if isinstance(image, bytes) else image.data)
            digest.update(numbers if isinstance(numbers, bytes) else numbers.data)
            digest.update(repr(objects).encode())
        return digest.hexdigest()[:16]


# (picture, numbers of objects, their categories, whether they are crowds)
Row = tuple[bytes | Pixels, bytes | Pixels, Sequence[int], Sequence[int]]


@functools.lru_cache(maxsize=2)
def load(name: str, size: int) -> Instances:
    """The data set of this name.

    Raises:
        UsageError: unknown name, or a set without objects.
        DataError: not found, or damaged.
    """
    entry = datasets.find(name)
    if not entry.instances:
        raise UsageError(f"{name} says of no pixel what object it is of, and objects are wanted")
    if entry.embedded:
        origin, rows = "embedded", {split: list(EMBEDDED[name](split)) for split in datasets.SPLITS}
    else:
        origin, rows = "NORMCORE_DATA", _stored(entry)
    datasets.check_items(entry, origin, {split: len(own) for split, own in rows.items()})
    every = [*rows["train"], *rows["test"]]
    classes = entry.classes or 1 + max((c for _, _, categories, _ in every for c in categories), default=0)
    return Instances(name, size, classes, every, len(rows["train"]), origin)


def _stored(entry: datasets.Entry) -> dict[str, list[Row]]:
    """The rows of each split from the files of ``NORMCORE_DATA``."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    files = datasets.local_files(entry)
    if files is None:
        raise DataError(datasets.how_to_get(entry))
    rows: dict[str, list[Row]] = {split: [] for split in files}
    for split, paths in files.items():
        for path in paths:
            try:
                with pq.ParquetFile(path) as file:
                    if missing := sorted(set(OBJECTS) - set(file.schema_arrow.names)):
                        raise DataError(f"{path} has no column {', '.join(missing)}, which pictures with objects have")
                    table = file.read(columns=list(OBJECTS))
            except (pa.ArrowException, OSError) as error:
                raise DataError(f"{path} is truncated or not a parquet file ({error}): get it again") from error
            rows[split] += [_row(entry, row, f"{path}, row {number}") for number, row in enumerate(table.to_pylist())]
    return rows


def _row(entry: datasets.Entry, row: dict[str, Any], place: str) -> Row:
    categories, crowds = row["category"], row["iscrowd"]
    if len(categories) != len(crowds) or any(c < 0 or (entry.classes and c >= entry.classes) for c in categories):
        limit = f"below {entry.classes}" if entry.classes else "from 0"
        raise DataError(f"{place}: an object has a class {limit} and is a crowd or not, got {categories} and {crowds}")
    return row["image"]["bytes"], row["mask"]["bytes"], categories, crowds


def _drawn(split: str) -> Iterator[Row]:
    """One to three discs and squares on a noisy ground, each hiding those before it."""
    random = np.random.default_rng(datasets.SPLITS.index(split))
    for _ in range({"train": 40, "test": 10}[split]):
        ground = random.uniform(90, 165, 3) + random.normal(0, 15, (shapes.SIZE, shapes.SIZE, 3))
        numbers = np.zeros(ground.shape[:2], np.uint8)
        categories = random.integers(2, size=random.integers(1, 4)).tolist()
        for number, square in enumerate(categories, 1):
            inside = shapes.mask(bool(square), random)
            ground[inside] += random.choice([-1, 1], 3) * random.uniform(40, 80, 3)
            numbers[inside] = number
        yield ground.clip(0, 255).round().astype(np.uint8), numbers, categories, [0] * len(categories)


#: the sets that come with normcore, and what makes a split's rows
EMBEDDED: dict[str, Callable[[str], Iterator[Row]]] = {"drawn_objects": _drawn}
