"""Where things are: the repository, the results, the caches, the user's data."""

import os
from pathlib import Path

import platformdirs

from .errors import UsageError


def root() -> Path:
    """The repository: the nearest folder, from here or from the package upwards, with the book's config."""
    for start in (Path.cwd(), Path(__file__).resolve().parent):
        for folder in (start, *start.parents):
            if (folder / "_config.yml").is_file() and (folder / "notebooks").is_dir():
                return folder
    raise UsageError("no normcore repository here: run this inside a clone (the folder with _config.yml)")


def results() -> Path:
    """The store of results: ``NORMCORE_RESULTS``, or ``data/results`` of the repository."""
    chosen = os.environ.get("NORMCORE_RESULTS")
    return Path(chosen) if chosen else root() / "data" / "results"


def cache() -> Path:
    """Decoded data sets and unfinished runs: ``NORMCORE_CACHE``, or the user's cache folder."""
    chosen = os.environ.get("NORMCORE_CACHE")
    return Path(chosen) if chosen else Path(platformdirs.user_cache_dir("normcore"))


def user_data() -> Path | None:
    """The folder of data sets that ``NORMCORE_DATA`` names, if it is set."""
    chosen = os.environ.get("NORMCORE_DATA")
    return Path(chosen).resolve() if chosen else None
