"""One's own pictures in place of the name of a data set: a folder, a parquet file, or a public name of the Hugging Face
Hub, read by its library ``datasets``.

A reference to files is pinned to what they hold, ``path/to/flowers@877a4471``: it then stands for those very pictures,
wherever they lie.
"""

import functools
import hashlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .. import own
from .errors import DataError, UsageError

TEST_SHARE = 0.2  # of pictures that come without a test split, in each class
_TESTS = ("test", "validation", "valid", "val")  # names of a split that is tested on, the first that there is


def is_own(name: str) -> bool:
    """Whether a name refers to pictures of one's own: a path, or ``owner/name`` of the Hub."""
    return "/" in name or "\\" in name or name.startswith(".") or name.endswith(".parquet")


def pin(reference: str) -> str:
    """The reference with the hash of its files, 8 hexadecimal digits; one that has it, and a public name, as it is.

    Raises:
        UsageError: there is no such file or folder, and it is no public name either.
    """
    where, _, digest = reference.partition("@")
    place = own.upwards(where)
    if digest or (place is None and _public(where)):
        return reference
    if place is None:
        raise UsageError(f"there is no folder or file {where} (looked in {Path.cwd()} and the folders above)")
    return f"{where}@{_digest(place)}"


def short(reference: str) -> str:
    """A pinned reference without the folders above: what is trained on does not depend on where it lies.

    >>> short("somewhere/flowers@877a4471"), short("owner/flowers")
    ('flowers@877a4471', 'owner/flowers')
    """
    where, at, digest = reference.partition("@")
    return f"{Path(where).name}{at}{digest}" if digest else reference


def rows(reference: str) -> Iterator[tuple[str, bytes, int, str]]:
    """Of each picture: its split, its file's bytes, its class, and where it stands, for error messages. Where there is
    no test split, a fifth of each class is tested on.

    Raises:
        DataError: the files have changed, hold no pictures or no classes, or cannot be read.
    """
    import datasets

    splits, image, label = _loaded(reference)
    for split, table in splits.items():
        raw = table.cast_column(image, datasets.Image(decode=False))
        for number, row in enumerate(raw):
            cell = row[image]
            path = cell.get("path") or ""
            content = cell["bytes"] if cell["bytes"] is not None else Path(path).read_bytes()
            yield split, content, row[label], path or f"{reference}, {split}, row {number}"


def _loaded(reference: str) -> tuple[dict[str, Any], str, str]:
    """The splits, and the names of the columns of pictures and of classes."""
    import datasets

    where, _, digest = reference.partition("@")
    place = own.upwards(where)
    if digest and place is None:
        raise DataError(f"{where} is not there any more (looked in {Path.cwd()} and the folders above)")
    if digest and place and _digest(place) != digest:
        raise DataError(f"{where} has changed: {short(reference)} was asked for, and it is @{_digest(place)} now")
    datasets.disable_progress_bars()
    try:
        with tempfile.TemporaryDirectory() as cache:
            if place is None:
                found = datasets.load_dataset(where)
            elif place.is_file():
                found = datasets.load_dataset("parquet", data_files=str(place), cache_dir=cache, keep_in_memory=True)
            else:
                found = datasets.load_dataset(str(place), cache_dir=cache, keep_in_memory=True)
    except Exception as error:  # its errors, of the network and of files, share no base class
        raise DataError(f"{where} cannot be read as pictures: {own.in_words(error)}") from error
    first = "train" if "train" in found else next(iter(found))
    image, label = _columns(where, found[first])
    if not isinstance(found[first].features[label], datasets.ClassLabel):
        found = datasets.DatasetDict({name: split.class_encode_column(label) for name, split in found.items()})
    train = found[first]
    classes = train.features[label].names
    if len(classes) < 2:
        raise DataError(
            f"{where} has one class only, {classes[0]!r}: a folder for each class, with its pictures, is wanted"
        )
    test = next((found[name] for name in _TESTS if name in found), None)
    if test is None:
        parts = train.train_test_split(test_size=TEST_SHARE, seed=0, stratify_by_column=label)
        train, test = parts["train"], parts["test"]
    return {"train": train, "test": test}, image, label


def _columns(where: str, table: Any) -> tuple[str, str]:
    """Of pictures and of classes."""
    import datasets

    features = table.features
    images = [n for n, f in features.items() if isinstance(f, datasets.Image) or (isinstance(f, dict) and "bytes" in f)]
    if not images:
        raise DataError(f"{where} has no column of pictures; its columns are {', '.join(features)}")
    labels = [n for n, f in features.items() if isinstance(f, datasets.ClassLabel)]
    plain = [
        n for n, f in features.items() if isinstance(f, datasets.Value) and f.dtype in ("string", "int64", "int32")
    ]
    labels += [n for n in ("label", "labels", "class", "target") if n in plain] + (plain if len(plain) == 1 else [])
    if not labels:
        hint = "put the pictures of each class into a folder of its own" if len(features) == 1 else "call it label"
        raise DataError(f"{where} has no column of classes ({hint}); its columns are {', '.join(features)}")
    return images[0], labels[0]


def _public(name: str) -> bool:
    """Whether this may be ``owner/name`` of the Hub: one stroke, and nothing of a path."""
    owner, _, rest = name.partition("/")
    return bool(owner and rest) and "/" not in rest and "\\" not in name and not name.startswith((".", "~", "/"))


def _digest(place: Path) -> str:
    files = [place] if place.is_file() else sorted(p for p in place.rglob("*") if p.is_file() and _counts(place, p))
    stats = [(p, p.stat()) for p in files]
    return _of_files(place, tuple((p.relative_to(place).as_posix(), s.st_size, s.st_mtime_ns) for p, s in stats))


def _counts(place: Path, path: Path) -> bool:
    return not any(part.startswith(".") for part in path.relative_to(place).parts)


@functools.lru_cache(maxsize=16)
def _of_files(place: Path, stamp: tuple[tuple[str, int, int], ...]) -> str:
    """Of the names and the contents of these files; read again when one of them has another size or time."""
    digest = hashlib.sha256()
    for name, _, _ in stamp:
        digest.update(name.encode() + b"\0")
        with (place / name).open("rb") as file:  # of a file alone the name is "."
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:8]
