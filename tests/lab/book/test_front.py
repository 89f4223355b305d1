"""The front page."""

import re
from pathlib import Path

import normcore
from normcore.lab import paths
from normcore.lab.book import front
from normcore.lab.book.guide import rank
from normcore.lab.compare.battery import Comparison
from normcore.lab.stats import Interval
from normcore.lab.verdicts.claims import NOT_MEASURED, Judged
from normcore.lab.verdicts.predicates import REFUTED, SUPPORTED, Part

from .test_guide import compared


def judged(statement: str, verdict: str, p: float, look: int = 8) -> Judged:
    part = Part("it is", "test loss, BN minus LN", Interval(-0.2, -0.3, -0.1), 12, verdict, look=look)
    return Judged(statement, "ord", f"What {statement} says.", verdict, p=p, parts=(part,))


def test_it_has_the_verdicts_the_clearest_statements_and_the_comparison() -> None:
    found = [
        judged("S0-01", SUPPORTED, 0.01, 12), judged("S0-02", SUPPORTED, 0.001), judged("S0-03", REFUTED, 0.02),
        Judged("S0-04", "ord", "Untested.", NOT_MEASURED),
    ]  # fmt: skip
    text = front.front(found, compared(), rank(compared()))
    bar = re.findall(r'style="flex-grow:(\d)" href="claims.html#verdict=([^"]+)">(\d [^<]+)<', text)
    assert bar == [
        ("2", "supported", "2 supported"),
        ("1", "refuted", "1 refuted"),
        ("1", "not+measured+yet", "1 not measured yet"),
    ]
    assert "nothing that varies was decided with fewer than 8 seeds" in text
    assert "**Most clearly supported**: What S0-02 says ([S0-02](#s0-02)): test loss, BN minus LN: -0.2000" in text
    assert "**Most clearly refuted**: What S0-03 says" in text
    assert "**Batches of 2.** BN does best" in text
    assert text.count("<figure") == 1
    assert 'data-series="in"' in text
    assert "minus BN's" in text


def test_without_a_comparison_there_is_no_figure() -> None:
    empty = Comparison("smoke", compared().battery, [], compared().scores.iloc[:0])
    text = front.front([Judged("S0-04", "ord", "Untested.", NOT_MEASURED)], empty, rank(empty))
    assert "<figure" not in text
    assert "1 not measured yet" in text


def test_the_documents_are_named() -> None:
    assert [line[:6] for line in front.documents().splitlines()] == [f"- [S{n}]" for n in range(5)]


def test_the_book_says_how_it_is_cited() -> None:
    text = front.cite()
    assert f"version {normcore.__version__}" in text
    assert "@software{normcore,\n  author = {{The normcore maintainers}},\n" in text


def test_without_results_there_is_no_picture_for_the_readme(store: Path) -> None:
    assert front.overview_svg() == ""


def test_the_readme_s_picture_is_of_the_published_results() -> None:
    """The picture's means are those of the committed results, so that it cannot go stale unnoticed."""
    picture = (paths.root() / "book" / "_assets" / "overview.svg").read_text(encoding="utf-8")
    numbers = [[float(v) for v in re.findall(r"-?\d+(?:\.\d+)?", text)] for text in (picture, front.overview_svg())]
    assert len(numbers[0]) == len(numbers[1])
    assert max(abs(a - b) for a, b in zip(*numbers, strict=True)) < 0.11  # places stand in tenths
