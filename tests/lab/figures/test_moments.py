"""The demonstrations on the pages: activations of real digits, and tables of their moments."""

import re

import pytest
import torch

from normcore import make_norm
from normcore.lab.figures.moments import activations, show_moments

pytestmark = pytest.mark.usefixtures("store")


def cells(text: str) -> list[list[list[float]]]:
    """The numbers of each table."""
    tables = re.findall(r"<table>.*?</table>", text)
    rows = [re.findall(r"<tr>.*?</tr>", table)[1:] for table in tables]
    return [
        [[float(v.replace("\N{MINUS SIGN}", "-")) for v in re.findall(r"<td[^>]*>([^<]*)", r)] for r in t] for t in rows
    ]


def test_activations_are_the_same_for_the_same_seed() -> None:
    x = activations((5, 3, 6, 6), seed=1)
    assert x.shape == (5, 3, 6, 6)
    assert torch.equal(x, activations((5, 3, 6, 6), seed=1))
    assert not torch.equal(x, activations((5, 3, 6, 6), seed=2))
    with pytest.raises(ValueError, match="H and W must be equal, got 6 and 7"):
        activations((5, 3, 6, 7))


def test_moments_are_of_every_union() -> None:
    x = activations((4, 3, 6, 6)).double()
    mean, deviation = cells(show_moments(x=x))
    for table, of in ((mean, torch.mean), (deviation, lambda t: t.std(correction=0))):
        assert table[1][2] == pytest.approx(float(of(x[1, 2])), abs=0.006)
        assert table[4][2] == pytest.approx(float(of(x[:, 2])), abs=0.006)  # all instances
        assert table[1][3] == pytest.approx(float(of(x[1])), abs=0.006)  # all channels
        assert table[4][3] == pytest.approx(float(of(x)), abs=0.006)


def test_each_normalizer_settles_its_own_cells() -> None:
    x = activations((4, 3, 6, 6))
    for name, settled in {
        "bn": [(4, c) for c in range(3)],
        "ln": [(n, 3) for n in range(4)],
        "in": [(n, c) for n in range(4) for c in range(3)],
        "fnbb": [(4, 3)],
    }.items():
        mean, deviation = cells(show_moments(y=make_norm(name, 3)(x)))
        assert all((mean[n][c], deviation[n][c]) == (0, 1) for n, c in settled), name
