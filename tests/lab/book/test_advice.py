"""When to use a normalizer: what the sources say beside what was measured."""

from dataclasses import replace

import pytest

from normcore.factory import NORMS
from normcore.lab.book import advice
from normcore.lab.book.guide import rank
from normcore.lab.compare.battery import workloads
from normcore.lab.runs.experiments import find
from normcore.lab.stats import Interval
from normcore.lab.verdicts import claims
from normcore.lab.verdicts.claims import NOT_MEASURED, Judged
from normcore.lab.verdicts.predicates import REFUTED, Part

from ..helpers import made_up
from .test_guide import compared

ADVISED = {statement for entries in advice.read().values() for entry in entries for statement in entry["sources"]}


def judged(statement: str) -> Judged:
    """Refuted by an effect, if it is the one that the tests look at."""
    if statement != "S2-04":
        return Judged(statement, "ord", "It is so.", NOT_MEASURED)
    part = Part("it is", "test accuracy, BN minus GN", Interval(-0.2, -0.3, -0.1), 5, REFUTED)
    return Judged(statement, "ord", "It is so.", REFUTED, parts=(part,), normalizers=("bn",))


def test_it_is_of_the_book_s_normalizers_and_statements_and_of_workloads_that_there_are() -> None:
    assert set(advice.read()) == set(NORMS) - {"none"}
    assert {j["id"] for j in claims.read()["claims"]} >= ADVISED
    named = {w for entries in advice.read().values() for entry in entries for w in entry.get("workloads", [])}
    assert named <= {w.name for w in workloads(32, (2, 4, 8), 0.9, 0.05, [0.1])}


def test_what_was_measured_stands_beside_what_is_said() -> None:
    comparison = compared()
    text = advice.advice("bn", [judged(s) for s in ADVISED], comparison, rank(comparison))
    (small,) = [line for line in text.splitlines() if "small batches" in line]
    said, found = small.strip("| ").split(" | ")
    assert "[S2-04](#s2-04)" in said
    assert "S2-04: test accuracy, BN minus GN: -0.2000 [-0.3000, -0.1000]" in found
    assert "[Batches of 2](#guide-batch-2): group 1 of 3" in found
    (style,) = [line for line in text.splitlines() if "style transfer" in line]
    assert style.endswith("not measured here</span> |")


def test_of_another_normalizer_its_difference_from_bn_is_said() -> None:
    comparison = compared()
    text = advice.everywhere("in", [judged(s) for s in ADVISED], comparison, rank(comparison))
    assert "- [Batches of 2](#guide-batch-2): group 2 of 3; minus BN -0.100" in text
    assert "guide-transformer" not in text  # where it cannot stand


@pytest.mark.parametrize("norm", ["bn", "lrn"])
def test_a_page_has_its_statements_and_costs(norm: str) -> None:
    comparison = compared()
    text = advice.everywhere(norm, [judged(s) for s in ADVISED], comparison, rank(comparison))
    assert ("- [S2-04](#s2-04) It is so." in text) == (norm == "bn")
    assert "A training step of the network of the cats and dogs takes" in text


def test_what_switchable_normalization_has_learned_is_shown_where_runs_have_looked() -> None:
    comparison = compared()
    text = advice.everywhere("sn", [], comparison, rank(comparison))
    assert 'after training: <span class="nc-unmeasured">not measured here</span>.' in text
    runs = []
    for seed, share in enumerate((0.2, 0.4)):
        columns = {"step": [0, 0, 10, 10], "layer": [1] * 4, "of": ["mean", "var"] * 2, "in": [1 / 3] * 2 + [0.1] * 2,
                   "ln": [1 / 3] * 2 + [0.9 - share] * 2, "bn": [1 / 3] * 2 + [share, 0.5]}  # fmt: skip
        runs.append(replace(made_up("sn", seed, [1.0], [0.5]), probes={"mixture": columns}))
    shown = [advice.Shown(find("fashion-lenet"), "quick", runs)]
    text = advice.everywhere("sn", [], comparison, rank(comparison), shown)
    assert "after 10 steps of `lenet5` on `digits` with batches of 32 at the rate 0.01: means over 2 seeds." in text
    assert "| 1 | 0.10 | 0.60 | 0.30 | 0.10 | 0.60 | 0.50 |" in text
    assert "| [LeNet-5 on Fashion-MNIST, with and without BN](/runs/fashion_lenet.ipynb) | `quick` | 2 | 2 |" in text
    of_another = advice.everywhere("bn", [], comparison, rank(comparison), shown)
    assert "How its layers" not in of_another
    assert "fashion_lenet" not in of_another
