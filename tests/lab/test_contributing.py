"""The example of CONTRIBUTING.md does what is said of it: it is read from there, and trained."""

import re
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch

import normcore
from normcore import NORMS
from normcore.lab.runs import variants
from normcore.lab.runs.training import train
from normcore.own import load

from .helpers import config

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
LAYER = "notebooks/normalizers/centered.py"


def block(beginning: str) -> str:
    """The block of Python code with this in its first line."""
    blocks = map(textwrap.dedent, re.findall(r"```python\n(.*?)\n *```", TEXT, flags=re.DOTALL))
    (code,) = (code for code in blocks if beginning in code.splitlines()[0])
    return code


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    assert f"({LAYER})" in TEXT
    names = {**vars(normcore), "torch": torch, "CenteredNorm": load(f"{ROOT / LAYER}:CenteredNorm")}
    monkeypatch.setitem(NORMS, "centered", names["CenteredNorm"])
    monkeypatch.setattr(normcore, "CenteredNorm", names["CenteredNorm"], raising=False)
    return names


def test_its_test_passes(example: dict[str, Any]) -> None:
    exec(block("def test_centered_norm"), example)
    example["test_centered_norm_follows_its_formula"]()


@pytest.mark.usefixtures("store", "example")
def test_lenet5_learns_with_it_as_the_command_has_it() -> None:
    """Behind the linear layers it would give out a constant: it is left out there, and the network learns."""
    placed = variants.placed("centered")
    assert placed == {"norm": "centered", "model_options": {"linear_norm": False}}
    run = train(config(**placed, steps=90, lr=0.003, optimizer="adam", eval_every=45), torch.device("cpu"))
    assert run.final["test_accuracy"] > 0.8
