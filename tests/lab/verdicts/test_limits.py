"""What threatens a verdict and what would change it."""

import dataclasses
import math
import re

import numpy as np
import pytest

from normcore.lab import provenance
from normcore.lab.runs.store import Run, Store
from normcore.lab.stats import ALPHA, Interval, over_looks
from normcore.lab.verdicts import claims, limits
from normcore.lab.verdicts.claims import Judged
from normcore.lab.verdicts.limits import threats, turning
from normcore.lab.verdicts.predicates import PREDICATES, REFUTED, SUPPORTED, TIE, Part

from ..helpers import made_up


def seeds(gaps: list[float]) -> list[Run]:
    """BN's loss minus that of no normalizer is one of these in each seed."""
    pairs = [
        [made_up("none", seed, [1.0], [0.5]), made_up("bn", seed, [1.0 + gap], [0.5])] for seed, gap in enumerate(gaps)
    ]
    return [run for pair in pairs for run in pair]


def lower(gaps: list[float]) -> Part:
    return PREDICATES["lower"](seeds(gaps), says="lower", metric="train_loss", a="bn", b="none")


def judged(*parts: Part, **fields: object) -> Judged:
    known = {"experiment": "fashion-lenet", "profile": "quick", "parts": parts, **fields}
    return Judged("S9-01", "ord", "It is so.", str(known.pop("verdict", parts[0].verdict)), **known)  # type: ignore[arg-type]


FIVE = [-0.30, -0.34, -0.28, -0.31, -0.33]


@pytest.mark.parametrize(("gaps", "now"), [(FIVE, SUPPORTED), ([-gap for gap in FIVE], REFUTED)])
def test_the_next_seeds_turn_a_verdict_where_it_says_so(gaps: list[float], now: str) -> None:
    part = lower(gaps)
    assert part.verdict == now
    (words,) = turning(judged(part))
    found = re.fullmatch(
        rf"\*lower\*: stays {now} if seeds 6 to 8 average (below|above) (\S+); the first 5 average \S+", words[:-1]
    )
    assert found, words
    bound = float(found[2])
    # three seeds that leave the variance over all eight as it was, their mean on either side of the bound
    variance, mean = float(np.var(gaps, ddof=1)), float(np.mean(gaps))
    for step, stays in ((-0.002, now == SUPPORTED), (0.002, now != SUPPORTED)):
        total = (5 * mean + 3 * (bound + step)) / 8
        effect = dataclasses.replace(part, seeds=8).effect._replace(mean=total, se=math.sqrt(variance / 8), n=8)
        p = over_looks(effect.below(0)) if now == SUPPORTED else over_looks(effect.above(part.tie))
        assert (p <= ALPHA) == stays


def test_what_is_undecided_can_become_each_of_the_others() -> None:
    (words,) = [line for line in turning(judged(lower([-0.3, 0.25, 0.1, -0.2, 0.05]))) if line.startswith("*")]
    assert re.search(r"becomes supported if seeds 6 to 8 average below \S+, refuted if above \S+; the first 5", words)


def test_a_tie_stays_one_between_two_bounds() -> None:
    part = lower([1e-4, -1e-4, 2e-4, -2e-4, 0.0])
    assert part.cause == TIE
    assert "stays a tie if seeds 6 to 8 average between -" in turning(judged(part))[0]


def test_fewer_than_five_wait_for_the_first_look() -> None:
    said = turning(judged(lower(FIVE[:3])))
    assert said[-1] == "*lower*: is judged when there are 5 seeds; there are 3."


def test_the_last_look_is_the_last() -> None:
    part = lower(FIVE * 4)
    assert turning(judged(part)) == ["*lower*: stays as it is: 20 seeds are the last look."]


def test_of_what_no_seed_can_change_it_says_what_has_to_go() -> None:
    assert turning(judged(lower(FIVE), cause="grid end", reason="the best rate is an end"))[0] == (
        "No number of seeds, as long as this is so: the best rate is an end."
    )
    assert turning(Judged("S9-01", "ord", "", claims.NOT_TESTABLE, reason="it is a wish")) == [
        "Nothing that is run here: it is a wish."
    ]


def test_threats_are_what_the_runs_are(monkeypatch: pytest.MonkeyPatch, store: Store) -> None:
    now = provenance.code()
    runs = [dataclasses.replace(run, provenance=run.provenance | {"code": now}) for run in seeds(FIVE)]
    part = dataclasses.replace(lower(FIVE), runs=tuple(runs))
    said = threats(judged(part))
    assert said[0].startswith("All its runs are of the network `lenet5` on `digits`.")
    assert said[1] == (
        "The protocol of the source is the profile `full`; these runs are of `quick`: images of 14 pixels a side "
        "instead of 28, not on `fashion_mnist`."
    )
    assert said[2].startswith("It rests on 5 seeds. Where more are added it is taken anew (at 8, 12, 20)")
    assert len(said) == 3
    outcomes = [
        {"outcome": outcome, "commit": "c0ffee", "instructions": "AVX2"}
        for outcome in ("to the bit", "within seed noise", "to the bit")
    ]
    monkeypatch.setattr(limits, "noted", lambda experiment: outcomes)
    mixed = threats(judged(dataclasses.replace(part, runs=(*runs[:-2], *seeds(FIVE)[-2:]))))
    assert mixed[2] == (
        "2 of its 10 runs were made by earlier code of the layers, the tasks or the training loop. 3 runs of this "
        "experiment were made again by the code of `c0ffee` with the instruction set AVX2: 2 to the bit, 1 within seed "
        "noise. How some come out now, `normcore verify fashion-lenet` says."
    )
    assert "0.2: among so many" in threats(judged(part, q=0.2))[-1]
    assert threats(judged(part, profile="full"))[1] == said[2]


def test_of_what_is_not_judged_there_is_no_threat() -> None:
    nothing = Interval(math.nan, math.nan, math.nan)
    assert threats(Judged("S9-01", "ord", "", claims.NOT_MEASURED)) == []
    exact = Part("equal", "difference", nothing, None, SUPPORTED)
    assert threats(judged(exact, definition="lrn", experiment=""))[0].startswith("It is judged on the layers")
