"""A comparison by the command: one page that needs nothing else, its numbers, and what is refused before it."""

import re
from pathlib import Path

import nbformat
import pandas as pd
import pytest

from normcore.lab.compare import download, page

from ...helpers import MINE
from ..test_cli import call


@pytest.fixture
def executed(tmp_path: Path) -> Path:
    from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

    table = download(scores=pd.DataFrame({"a": [1], "b": [2]}))
    outputs = [
        new_output("display_data", {"text/html": table}),
        new_output("stream", text="<careful>"),
        new_output("execute_result", {"text/plain": "1 < 2"}),
    ]
    cells = [new_markdown_cell("# A & B\n\n| a |\n|---|\n| 1 |"), new_code_cell("x < y", outputs=outputs)]
    path = tmp_path / "done.ipynb"
    nbformat.write(new_notebook(cells=cells), path)
    return path


def test_an_executed_notebook_becomes_one_page(executed: Path, tmp_path: Path) -> None:
    page.write(executed, tmp_path / "out.html")
    text = (tmp_path / "out.html").read_text()
    assert "<title>A &amp; B</title>" in text
    assert "<td>1</td>" in text
    assert "<pre>&lt;careful&gt;</pre>" in text
    assert "<pre>1 &lt; 2</pre>" in text
    assert "<summary>code</summary><pre>x &lt; y</pre>" in text
    assert not re.findall(r'(?:src|href)="(?!data:)[^"#]', text)  # no other file, no other host
    assert page.tables(executed) == {"scores.csv": "a,b\n1,2\n"}


@pytest.mark.parametrize(
    ("layer", "says"),
    [
        ("nine.py:Mine", "there is no file nine.py"),
        ("mine.py:Nine", "there is no Nine in mine.py"),
        ("mine.py:Unfinished", "Unfinished: it takes none of"),
        ("mine.py:NUMBER", "NUMBER in mine.py is neither a class of torch.nn.Module nor a function"),
        ("mine.py:NaN", "NaN: it gives out values that are not finite"),
        ("mine.py:Shape", r"Shape: it gives out \(6, 4\)"),
        ("mine.py:Needy", "Needy: TypeError: .*missing 1 required positional argument: 'more'"),
        ("mine.py:none", "none: it is a NoneType, not a torch.nn.Module"),
        ("mine.py:Mine --against bn,bm", "unknown norm 'bm'"),
        ("mine.py:Mine --options [1]", "--options takes names and values"),
    ],
)
def test_what_cannot_be_compared_is_one_sentence_before_any_training(
    layer: str,
    says: str,
    tmp_path: Path,
    store: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    bad = """
class NaN(Mine):
    def forward(self, x):
        return x / 0

class Shape(Mine):
    def forward(self, x):
        return x[:, :4]

class Needy(Mine):
    def __init__(self, channels, more):
        super().__init__(channels)

def none(channels):
    return None
"""
    (tmp_path / "mine.py").write_text(MINE + bad)
    monkeypatch.chdir(tmp_path)
    code, _, err = call(monkeypatch, capfd, "compare", *layer.split(), "--profile", "smoke")
    assert code == 2, err
    (line,) = err.strip().splitlines()
    assert re.search(says, line)
    assert not store.exists()


def test_what_a_layer_raised_is_shown_when_asked_for(
    tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.py").write_text("def broken(channels):\n    return channels / 0\n")
    monkeypatch.chdir(tmp_path)
    code, _, err = call(monkeypatch, capfd, "check", "mine.py:broken", "--verbose")
    assert code == 2
    assert "return channels / 0" in err
    assert err.strip().splitlines()[-1] == "broken: ZeroDivisionError: division by zero"
