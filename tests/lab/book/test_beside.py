"""The normalizers side by side."""

import html
import json
import re

from bs4 import BeautifulSoup

from normcore.factory import NORMS
from normcore.lab.book.beside import beside
from normcore.lab.book.guide import NORMALIZERS
from normcore.lab.verdicts.claims import Judged
from normcore.lab.verdicts.predicates import REFUTED, SUPPORTED

from .test_guide import compared

STANDS = {name: f"Where {name} stands." for name in NORMALIZERS}


JUDGED = [
    Judged("S0-01", "ord", "It is so.", SUPPORTED, normalizers=("bn",)),
    Judged("S0-02", "ord", "It is not.", REFUTED, normalizers=("bn", "gn")),
    Judged("S0-03", "ord", "Who knows.", "inconclusive", normalizers=("bn",)),
]


def test_the_map_has_every_normalizer_once_where_its_statistics_put_it() -> None:
    text = beside(JUDGED, compared(), STANDS)
    table = BeautifulSoup(text[: text.index("## Two side by side")], "html.parser").table
    assert table is not None
    found = [str(link["href"]) for link in table.select(".nc-card a:first-child")]
    assert sorted(found) == sorted(f"normalizers/{name}.html" for name in set(NORMS) - {"none"})
    rows = {row.th.get_text(" "): row for row in table.select("tbody tr") if row.th}
    bn = rows["N·H·W"].select(".nc-card")[0]
    assert bn.find_parent("td")["data-when"] == "at evaluation by what was kept"
    assert bn.get_text(" ", strip=True).startswith("BN 2015 by running averages")
    assert bn.get_text(" ", strip=True).endswith("1 supported, 1 refuted")
    assert bn.svg is not None
    assert [card.a.text for card in rows["C·H·W"].select(".nc-card")] == ["LN", "RMSNorm"]


def test_each_has_a_part_with_what_is_known_of_it() -> None:
    parts = beside(JUDGED, compared(), STANDS).split("::::{div} ")[1:]
    assert [part.splitlines()[0] for part in parts] == [f"nc-norm nc-norm-{name}" for name in NORMALIZERS]
    bn = parts[NORMALIZERS.index("bn")]
    assert bn.count("$$") == 2
    assert "<svg" in bn
    assert "Where bn stands." in bn
    assert "Not applicable: Text, transformer." in parts[NORMALIZERS.index("in")]


def test_two_have_their_differences_in_both_directions() -> None:
    (data,) = re.findall(r'data-pairs="([^"]+)"', beside(JUDGED, compared(), STANDS))
    pairs = json.loads(html.unescape(data))
    assert set(pairs) == {"bn,in", "in,bn"}
    there, back = (next(row for row in pairs[p] if row[0].startswith("Batches of 2")) for p in ("bn,in", "in,bn"))
    assert (there[2], back[2]) == ("better than", "worse than")
    assert there[1].startswith("+0.100")
    assert back[1].startswith("-0.100")
