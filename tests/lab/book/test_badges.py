"""Beside every link to a statement stands its verdict."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from docutils import nodes
from docutils.utils import new_document

from normcore.lab.book import pages
from normcore.lab.book.badges import _add
from normcore.lab.stats import Interval
from normcore.lab.verdicts.claims import VERDICTS, Judged
from normcore.lab.verdicts.predicates import SUPPORTED, Part

PART = Part("it is lower", "loss", Interval(-0.2, -0.3, -0.1), 5, SUPPORTED)


@pytest.fixture
def app(tmp_path: Path) -> SimpleNamespace:
    judged = [Judged("S0-01", "ord", "It is.", SUPPORTED, parts=(PART,))]
    judged += [Judged(f"S0-1{i}", "ord", "It is.", verdict) for i, verdict in enumerate(VERDICTS)]
    (tmp_path / "_generated").mkdir()
    (tmp_path / "_generated" / "verdicts.json").write_text(pages.verdicts(judged))
    return SimpleNamespace(srcdir=str(tmp_path))


def link(text: str) -> nodes.reference:
    return nodes.reference("", "", nodes.inline(text, text), refuri="claims.html")


def badges(node: nodes.Element) -> list[str]:
    return [part.astext() for part in node.findall(nodes.inline) if "sd-badge" in part["classes"]]


def test_a_link_to_a_statement_has_its_verdict_and_other_links_have_none(app: SimpleNamespace) -> None:
    document, line = new_document("page"), nodes.paragraph()
    document += line
    line += [link("S0-01"), nodes.Text(", "), link("the ledger"), link("S0-99"), link("S0-11")]
    _add(app, document, "page")
    assert line.astext() == f"S0-01 {SUPPORTED}, the ledgerS0-99S0-11 {VERDICTS[1]}"
    assert line.children[0]["reftitle"].startswith("it is lower: loss: -0.2")
    assert badges(line) == [SUPPORTED, VERDICTS[1]]


def test_a_row_that_tells_it_already_is_left_alone(app: SimpleNamespace) -> None:
    document, row = new_document("page"), nodes.row()
    document += row
    row += [nodes.entry("", nodes.paragraph("", "", link("S0-01"))),
            nodes.entry("", nodes.paragraph("", "", nodes.inline("", "supported", classes=["sd-badge"])))]  # fmt: skip
    _add(app, document, "page")
    assert badges(row) == ["supported"]


def test_each_verdict_has_a_look() -> None:
    found = json.loads(pages.verdicts([Judged("S0-01", "ord", "It is.", verdict) for verdict in VERDICTS]))
    assert all(len(one["classes"]) == 2 for one in found.values())
