"""One's own layer by file or module, and what is said where there is none."""

import copy
import pickle
from pathlib import Path

import pytest
import torch
from torch import nn

from normcore import convert_norms, make_norm
from normcore.own import load

from .helpers import MINE


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(MINE)
    return tmp_path / "mine.py"


def test_a_class_and_a_function_of_a_file(mine: Path) -> None:
    x = torch.ones(1, 2, 3)
    assert make_norm(f"{mine}:Mine", 2, factor=4.0)(x).eq(4).all()
    layer = make_norm(f"{mine}:made", 2)
    assert all(another(x).eq(3).all() for another in (layer, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))))


def test_two_files_of_one_name_are_two_modules(mine: Path, tmp_path: Path) -> None:
    other = tmp_path / "other" / "mine.py"
    other.parent.mkdir()
    other.write_text(MINE.replace("2.0", "5.0"))
    assert [load(f"{path}:Mine")(2).factor for path in (mine, other, mine)] == [2.0, 5.0, 2.0]


def test_a_name_of_a_module() -> None:
    assert load("torch.nn:BatchNorm2d") is nn.BatchNorm2d


def test_a_model_is_converted_to_it(mine: Path) -> None:
    model = convert_norms(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)), f"{mine}:Mine")
    assert type(model[1]).__name__ == "Mine"


@pytest.mark.parametrize(
    ("text", "reference", "says"),
    [
        (MINE, "mine.py:Other", "there is no Other in .*; it has Mine, Unfinished, made"),
        (MINE, "mine.py:NUMBER", "NUMBER in .* is neither a class of torch.nn.Module nor a function"),
        (MINE, "mine.py:", "file.py:Name or package.module:Name"),
        (MINE, "nine.py:Mine", "there is no file .*nine.py"),
        ("import nothing_of_this_name", "mine.py:Mine", "cannot be imported: ModuleNotFoundError: No module named"),
        ("1 / 0", "mine.py:Mine", "cannot be imported: ZeroDivisionError: division by zero"),
        ("def broken(:", "mine.py:Mine", "cannot be imported: SyntaxError"),
    ],
)
def test_what_cannot_be_loaded_is_said_in_a_sentence(mine: Path, text: str, reference: str, says: str) -> None:
    mine.write_text(text)
    with pytest.raises(ValueError, match=says) as refused:
        make_norm(str(mine.parent / reference), 2)
    assert "\n" not in str(refused.value)
