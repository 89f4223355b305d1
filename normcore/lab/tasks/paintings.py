"""Paintings, whose style pictures are given, and photographs that a book may show."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from ..errors import DataError, unknown
from . import datasets

#: photographs that come with scikit-learn, CC BY 2.0, by danielbuechele and vultilion on Flickr
SHOWN = ("china", "flower")


@dataclass(frozen=True)
class Paintings:
    """Pictures in squares, their middle parts.

    Attributes:
        pixels: (P, S, S, 3).
        names: of their files, in this order.
        fingerprint: hash of the pixels.
        origin: ``embedded`` or ``NORMCORE_DATA``.
    """

    pixels: NDArray[np.uint8]
    names: tuple[str, ...]
    fingerprint: str
    origin: str


def known() -> list[str]:
    """The registry's sets of paintings."""
    return [name for name, entry in datasets.registry().items() if entry.paintings]


def load(name: str, size: int) -> Paintings:
    """The paintings of a set of the registry.

    Raises:
        UsageError: there is none of this name.
        DataError: not found, or not readable; it names the file.
    """
    if name not in known():
        raise unknown("set of paintings", name, known())
    entry = datasets.find(name)
    files, origin = (photographs(), "embedded") if entry.embedded else (_local(entry), "NORMCORE_DATA")
    pixels = np.stack([square(path, size) for path in files])
    names = tuple(path.stem for path in files)
    return Paintings(pixels, names, hashlib.sha256(pixels.tobytes()).hexdigest()[:16], origin)


def photographs() -> list[Path]:
    """The files of ``SHOWN``."""
    import sklearn.datasets

    folder = Path(sklearn.datasets.__file__).parent / "images"
    return [folder / f"{name}.jpg" for name in SHOWN]


def square(path: Path, size: int) -> NDArray[np.uint8]:
    """The middle of a picture in colour, (size, size, 3).

    Raises:
        DataError: not readable.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error}): get it again") from error
    picture = datasets.opened(content, str(path)).convert("RGB")
    return np.asarray(ImageOps.fit(picture, (size, size), Image.Resampling.LANCZOS))


def _local(entry: datasets.Entry) -> list[Path]:
    files = datasets.painting_files(entry)
    if not files:
        raise DataError(datasets.how_to_get(entry))
    return files
