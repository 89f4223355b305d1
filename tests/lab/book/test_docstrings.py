"""Docstrings on the page of the library: all public names are there, and a star is a star."""

import re

import normcore
from normcore import own, testing
from normcore.lab import paths
from normcore.lab.book.docstrings import escape_shapes


def test_a_shape_is_no_emphasis() -> None:
    lines = ["``(y, *statistics)`` of (N, C, *spatial), ``x[*spatial]``", "*really*"]
    escape_shapes(None, "class", "normcore.Norm", None, None, lines)
    assert lines == [r"``(y, *statistics)`` of (N, C, \*spatial), ``x[*spatial]``", "*really*"]


def test_every_public_name_is_on_the_page_of_the_library() -> None:
    text = (paths.root() / "book" / "api.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\.\. (?:auto\w+|py:data):: (\w+)$", text, flags=re.MULTILINE)
    assert sorted(["normcore", *normcore.__all__, *own.__all__, *testing.__all__]) == sorted(listed)
