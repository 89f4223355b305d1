"""Grids of pictures."""

import pandas as pd
import pytest
from bs4 import BeautifulSoup

from normcore.lab.errors import UsageError
from normcore.lab.figures.pictures import show_pictures

ROWS = pd.DataFrame({"name": ["a", "a", "b", "b"], "norm": ["bn", "in"] * 2, "given": ["AA=="] * 4,
                     "made": ["AQ==", "Ag==", "Aw==", "BA=="]})  # fmt: skip


def test_a_row_is_a_photograph_and_a_column_what_is_made_of_it() -> None:
    shown = show_pictures(ROWS, by="norm", given="photograph", alt="What.", caption="That.", names={"a": "A <tree>"})
    grid = BeautifulSoup(shown, "html.parser")
    assert [tag.text for tag in grid.select(".nc-pictures > span")] == ["photograph", "BN", "IN"]
    alts = [str(tag["alt"]) for tag in grid.select("img")]
    assert alts == ["A <tree>, photograph", "A <tree>, BN", "A <tree>, IN", "b, photograph", "b, BN", "b, IN"]
    assert [str(tag["src"])[-4:] for tag in grid.select("img")] == ["AA==", "AQ==", "Ag==", "AA==", "Aw==", "BA=="]


def test_without_runs_there_is_no_picture_and_what_is_none_is_refused() -> None:
    assert "<img" not in show_pictures(ROWS[:0], by="norm", given="photograph", alt="What.", caption="That.")
    with pytest.raises(UsageError, match="a picture is a file in Base64"):
        show_pictures(ROWS.assign(made='"><script>'), by="norm", given="photograph", alt="What.", caption="That.")
