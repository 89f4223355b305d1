"""Sphinx, taught to put a statement's verdict beside every link to it, with what was measured in the link's title.

The verdicts are those of ``_generated/verdicts.json`` (:func:`normcore.lab.book.pages.generate`).
"""

import functools
import json
import re
from pathlib import Path
from typing import Any

from docutils import nodes

_ID = re.compile(r"[SN]\d-\d\d")
_BADGE, _OURS = "sd-badge", "nc-badge"


def setup(app: Any) -> dict[str, Any]:
    """Called by Sphinx."""
    app.connect("doctree-resolved", _add)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _add(app: Any, doctree: nodes.document, _: str) -> None:
    verdicts = _verdicts(Path(app.srcdir) / "_generated" / "verdicts.json")
    for link in [link for link in doctree.findall(nodes.reference) if _ID.fullmatch(link.astext())]:
        found = verdicts.get(link.astext())
        if found and not _told(link):
            link["reftitle"] = found["measured"]
            words = nodes.inline(found["verdict"], found["verdict"], classes=[_OURS, _BADGE, *found["classes"]])
            link.parent.insert(link.parent.index(link) + 1, [nodes.Text(" "), words])


@functools.cache  # the same for every page
def _verdicts(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return found


def _told(link: nodes.reference) -> bool:
    """Whether a badge that is not of this module stands in the link's row of a table."""
    row: Any = link.parent
    while row is not None and not isinstance(row, nodes.row):
        row = row.parent
    if row is None:
        return False
    badges = [part["classes"] for part in row.findall(nodes.inline) if _BADGE in part.get("classes", ())]
    return any(_OURS not in classes for classes in badges)
