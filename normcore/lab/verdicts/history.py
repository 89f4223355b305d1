"""The verdicts that were published: of every statement which one it had, since when, and what changed it.

They stand in ``history.yml`` beside the published results, an entry for each time that verdicts changed: its ``date``,
``why``, the ``commit`` where it was known, and the new ``verdicts``. It is only ever added to.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

import yaml

from .. import paths
from ..files import read_yaml, write_text


class Change(NamedTuple):
    """A verdict of a statement, and since when it was so."""

    date: str
    verdict: str
    why: str
    commit: str = ""


def history() -> dict[str, list[Change]]:
    """Statement -> its verdicts, the earliest first."""
    found: dict[str, list[Change]] = {}
    for entry in _entries():
        for statement, verdict in entry["verdicts"].items():
            change = Change(str(entry["date"]), verdict, entry["why"], str(entry.get("commit", "")))
            found.setdefault(statement, []).append(change)
    return found


def note(verdicts: Mapping[str, str], why: str) -> dict[str, str]:
    """Add those of the verdicts (statement -> verdict) that are not the last that were noted; returns them."""
    last = {statement: changes[-1].verdict for statement, changes in history().items()}
    new = {statement: verdict for statement, verdict in verdicts.items() if last.get(statement) != verdict}
    if new:
        entry = {"date": f"{datetime.now(UTC):%Y-%m-%d}", "why": why, "verdicts": new}
        path = paths.published() / "history.yml"
        before = path.read_text(encoding="utf-8") if path.is_file() else ""
        write_text(path, before + yaml.safe_dump([entry], sort_keys=False, allow_unicode=True, width=120))
    return new


def _entries() -> list[dict[str, Any]]:
    path = paths.published() / "history.yml"
    return list(read_yaml(path, list[dict[str, Any]] | None) or []) if path.is_file() else []
