"""A Sphinx extension for the page of the library: docstrings are written to be read as plain text, too."""

import re
from typing import Any


def setup(app: Any) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("autodoc-process-docstring", escape_shapes)
    return {"parallel_read_safe": True}


def escape_shapes(app: Any, what: str, name: str, value: object, options: Any, lines: list[str]) -> None:
    """The star of ``(N, C, *spatial)`` is a star, not the beginning of emphasis."""
    lines[:] = [re.sub(r"(``.*?``)|\*(?=spatial)", lambda m: m[1] or r"\*", line) for line in lines]
