"""The normalizers side by side."""

import html
import json
import re

from normcore.factory import NORMS
from normcore.lab.book.beside import beside
from normcore.lab.book.guide import NORMALIZERS

from .test_guide import compared

STANDS = {name: f"Where {name} stands." for name in NORMALIZERS}


def test_the_map_has_every_normalizer_once_where_its_statistics_put_it() -> None:
    text = beside(compared(), STANDS)
    lines = text[: text.index("## Two side by side")].splitlines()
    found = [name for line in lines for name in re.findall(r"\(/normalizers/(\w+)\.ipynb\)", line)]
    assert sorted(found) == sorted(set(NORMS) - {"none"})
    (batch,) = [line for line in lines if line.startswith("| `N·H·W` |")]
    assert "[BN](/normalizers/bn.ipynb) (2015)" in batch
    (layer,) = [line for line in lines if line.startswith("| `C·H·W` |")]
    assert {"LN", "RMSNorm"} == set(re.findall(r"\[(\w+)\]", layer))


def test_each_has_a_part_with_what_is_known_of_it() -> None:
    parts = beside(compared(), STANDS).split("::::{div} ")[1:]
    assert [part.splitlines()[0] for part in parts] == [f"nc-norm nc-norm-{name}" for name in NORMALIZERS]
    bn = parts[NORMALIZERS.index("bn")]
    assert bn.count("$$") == 2
    assert "<svg" in bn
    assert "Where bn stands." in bn
    assert "It cannot stand there: Text, transformer." in parts[NORMALIZERS.index("in")]


def test_two_have_their_differences_in_both_directions() -> None:
    (data,) = re.findall(r'data-pairs="([^"]+)"', beside(compared(), STANDS))
    pairs = json.loads(html.unescape(data))
    assert set(pairs) == {"bn,in", "in,bn"}
    there, back = (next(row for row in pairs[p] if row[0].startswith("Batches of 2")) for p in ("bn,in", "in,bn"))
    assert (there[2], back[2]) == ("better than", "worse than")
    assert there[1].startswith("+0.1 [")
    assert back[1].startswith("-0.1 [")
