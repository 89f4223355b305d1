"""Where things are: the repository, the results, the caches, the user's data."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import platformdirs

from .. import own
from .errors import UsageError


def root() -> Path:
    """The repository: the nearest folder, from here or from the package upwards, with the book's config."""
    for start in (Path.cwd(), Path(__file__).resolve().parent):
        for folder in (start, *start.parents):
            if (folder / "_config.yml").is_file() and (folder / "notebooks").is_dir():
                return folder
    raise UsageError("no normcore repository here: run this inside a clone (the folder with _config.yml)")


def share() -> Path:
    """Where the registry of data sets, the notebooks and the published results are: the repository, or without one what
    an installation has of it."""
    try:
        return root()
    except UsageError:
        return Path(__file__).parent / "share"


def work() -> Path:
    """Where work is done and left: the repository, or without one the working folder."""
    try:
        return root()
    except UsageError:
        return Path.cwd()


def published() -> Path:
    """The published results, which everything reads and only ``normcore publish`` writes: ``NORMCORE_PUBLISHED``, or
    ``data/results`` of :func:`share`."""
    chosen = os.environ.get("NORMCORE_PUBLISHED")
    return Path(chosen).resolve() if chosen else share() / "data" / "results"


def results() -> Path:
    """The results of one's own runs: ``NORMCORE_RESULTS``, or ``results`` of :func:`work`."""
    chosen = os.environ.get("NORMCORE_RESULTS")
    return Path(chosen).resolve() if chosen else work() / "results"


@contextmanager
def only(folder: Path) -> Iterator[None]:
    """Within the block, and for the processes that it starts, this folder's results are all there are. Nothing is
    written to them."""
    names = ("NORMCORE_RESULTS", "NORMCORE_PUBLISHED")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, str(folder)))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def named(where: str) -> Path:
    """A file of the working folder or of one above, as it is found from the repository, or where it is not within, from
    anywhere."""
    full = (own.upwards(where) or Path(where)).resolve()
    try:
        return full.relative_to(root())
    except (UsageError, ValueError):
        return full


def plain(what: str, name: str) -> str:
    """The name, if it is a plain one and so can be a part of a path: letters, digits, ``-`` and ``_``.

    Raises:
        UsageError: if it is not.
    """
    if not re.fullmatch(r"[\w-]+", name):
        raise UsageError(f"{what} must be a plain name of letters, digits, - and _, got {name!r}")
    return name


def cache() -> Path:
    """Decoded data sets and unfinished runs: ``NORMCORE_CACHE``, or the user's cache folder."""
    chosen = os.environ.get("NORMCORE_CACHE")
    return Path(chosen) if chosen else Path(platformdirs.user_cache_dir("normcore"))


def user_data() -> Path | None:
    """The folder of data sets that ``NORMCORE_DATA`` names, if it is set."""
    chosen = os.environ.get("NORMCORE_DATA")
    return Path(chosen).resolve() if chosen else None
