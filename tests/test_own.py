"""One's own layer by file or module, and what is said where there is none."""

import copy
import pickle
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from normcore import convert_norms, make_norm
from normcore.own import load, pin, short

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


def test_a_file_is_also_found_from_a_folder_below(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    below = mine.parent / "notebooks"
    below.mkdir()
    monkeypatch.chdir(mine.parent)
    pinned = pin("mine.py:Mine")
    monkeypatch.chdir(below)
    assert pin("mine.py:Mine") == pinned
    assert make_norm(pinned, 2).factor == 2.0


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


def test_a_pinned_reference_stands_for_that_source_and_no_other(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)  # bytecode of the same second and size is no source
    pinned = pin(f"{mine}:Mine")
    assert pin(pinned) == pinned
    assert short(pinned) == f"Mine@{pinned[-8:]}"
    assert make_norm(pinned, 2).factor == 2.0
    mine.write_text(MINE.replace("2.0", "5.0"))
    assert pin(f"{mine}:Mine") != pinned
    assert load(f"{mine}:Mine")(2).factor == 5.0  # not the module that was loaded before
    with pytest.raises(ValueError, match=r"mine\.py has changed: Mine@\w{8} was asked for, and it is Mine@\w{8} now"):
        load(pinned)
    mine.unlink()
    assert pin(pinned) == pinned  # to read it needs no source


def test_where_a_file_lies_is_no_part_of_what_it_is(mine: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere" / "other.py"
    moved.parent.mkdir()
    moved.write_text(MINE)
    assert short(pin(f"{mine}:Mine")) == short(pin(f"{moved}:Mine"))


def test_a_module_is_pinned_to_its_source() -> None:
    pinned = pin("normcore.layers.batch:BatchNorm")
    assert pinned.startswith("normcore.layers.batch:BatchNorm@")
    assert load(pinned).__name__ == "BatchNorm"
    for reference in ("nothing.here:Norm", "nothing_here:Norm", "sys:Norm"):
        with pytest.raises(ValueError, match=r"cannot be imported|there is no module .* with a source"):
            pin(reference)
