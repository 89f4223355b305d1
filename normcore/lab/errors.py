"""Errors for people: what was got, what was expected, what to do."""

import difflib
from collections.abc import Iterable


class LabError(Exception):
    """Anything the lab refuses or could not do; its message is one sentence for a person."""


class UsageError(LabError, ValueError):
    """A name or a parameter that does not exist or cannot be. Raised before any work is started."""


class DataError(LabError):
    """A data set that is missing, truncated or corrupt."""


class SweepIncomplete(LabError):
    """A sweep stopped before all its runs were there; what was measured is kept, the next call goes on."""


class TimeUp(SweepIncomplete):
    """A sweep stopped because its time ended, the budget's or, with SIGTERM, the scheduler's: the state of every run is
    saved, nothing is wrong, and the same call goes on from there."""


class ShardDone(SweepIncomplete):
    """A shard has done its part; the runs that are missing are the other shards'."""


def unknown(what: str, name: str, known: Iterable[str]) -> UsageError:
    """A :class:`UsageError` that names the closest valid names, or all where none is close."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(close)}?" if close else f"known are {', '.join(known) or 'none'}."
    return UsageError(f"unknown {what} {name!r}: {hint}")
