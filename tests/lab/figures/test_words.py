"""What is to be seen, in words: no more than the runs that are drawn carry."""

from typing import Any

import pandas as pd
import pytest
from scipy import stats

from normcore.lab.figures import look
from normcore.lab.figures.charts import draw_measures, draw_ranking
from normcore.lab.figures.curves import interactive_curves
from normcore.lab.figures.words import told
from normcore.lab.verdicts.tables import curves

from ..helpers import made_up

LOW = [0.500, 0.501, 0.499, 0.502, 0.498]


def table(**values: list[float]) -> pd.DataFrame:
    rows = [{"variant": name, "seed": i, "peak": v} for name, seeds in values.items() for i, v in enumerate(seeds)]
    return pd.DataFrame(rows)


def ranked(**values: list[float]) -> str:
    """What a ranking says of itself."""
    (sentence,) = look.seen_in([draw_ranking(table(**values), "peak", "peak accuracy")])
    return sentence


def test_the_difference_is_the_paired_one_of_the_seeds_with_its_interval() -> None:
    high = [0.52, 0.53, 0.51, 0.525, 0.535]
    found = stats.ttest_rel(high, LOW)
    ends = found.confidence_interval()
    said = f"{sum(high) / 5 - sum(LOW) / 5:.3g} [{ends.low:.3g}, {ends.high:.3g}]"
    assert ranked(none=LOW, bn=high) == (
        f"Peak accuracy: BN is {said} above no norm, more than the smallest difference of interest, 0.005."
    )


def test_a_difference_that_chance_makes_tells_nothing_apart() -> None:
    said = ranked(none=LOW, bn=[0.45, 0.56, 0.51, 0.48, 0.53])
    assert said.endswith("above no norm; the two cannot be told apart with 5 seeds.")


def test_a_difference_too_small_to_matter_is_called_so() -> None:
    said = ranked(none=LOW, bn=[v + 0.001 + d for v, d in zip(LOW, (0, 1e-5, 0, 2e-5, 0), strict=True)])
    assert said.endswith("less than the smallest difference of interest, 0.005.")


@pytest.mark.parametrize(
    ("seeds", "end"), [(1, "; one run each."), (3, "(range 0.05 to 0.05) above no norm; 3 seeds, too few to judge by.")]
)
def test_too_few_seeds_tell_nothing_apart(seeds: int, end: str) -> None:
    assert ranked(none=LOW[:seeds], bn=[v + 0.05 for v in LOW[:seeds]]).endswith(end)


def test_two_that_were_picked_out_need_a_smaller_p_value() -> None:
    """Alone these two are told apart, with p of about 0.01, and not as the ends of eight."""
    high = [0.54, 0.58, 0.52, 0.57, 0.545]
    between = {f"other {i}": [v + 0.03 for v in LOW] for i in range(6)}
    assert "told apart" not in ranked(none=LOW, bn=high)
    assert ranked(none=LOW, bn=high, **between).endswith("picked from 8, the two cannot be told apart with 5 seeds.")


def test_between_those_that_share_no_seed_nothing_is_said() -> None:
    apart = table(none=LOW, bn=LOW)
    apart.loc[apart["variant"] == "bn", "seed"] += 10
    assert look.seen_in([draw_ranking(apart, "peak", "peak accuracy")]) == []


def test_where_there_is_only_one_it_is_said_what_it_is() -> None:
    low, high = stats.t.interval(0.95, 4, 0.5, stats.sem(LOW))
    (said,) = look.seen_in([draw_ranking(table(bn=LOW), "peak", "peak accuracy", title="cats")])
    assert said == f"Peak accuracy (cats): only BN is there, 0.5 [{low:.3g}, {high:.3g}]."


def test_several_lines_are_told_of_by_the_one_that_changes_most() -> None:
    sizes = {"none": (0, 0), "bn": (0, 0.1), "gn": (0, 0.02)}
    rows = [table(**{name: [v + d for v in LOW]}).assign(batch_size=size, jitter=0.0)
            for name, by in sizes.items() for size, d in zip((8, 16), by, strict=True)]  # fmt: skip
    (said,) = look.seen_in(draw_measures(pd.concat(rows), {"peak": "peak"}, x="batch_size"))
    assert said.startswith("Peak, the widest gap (BN): batch 16 is 0.1 [0.1, 0.1] above batch 8")


def of_curves(runs: list[Any], **options: Any) -> look.Html:
    return interactive_curves(curves(runs), [("train", "loss", "nats")], alt="Loss.", caption="Lines.", **options)


def test_curves_are_compared_at_their_end_and_those_that_diverged_are_not() -> None:
    runs = [made_up("none", s, [2.0, 1.0, 0.5 + s / 1000], [0.5] * 3) for s in range(5)]
    runs += [made_up("bn", s, [1.0, 0.5, 0.3 + s / 1000], [0.5] * 3) for s in range(5)]
    said = "Training loss at the end: no norm is 0.2 [0.2, 0.2] above BN"
    shown = of_curves(runs)
    assert f'<span class="nc-seen">{said}' in shown
    assert f'aria-label="Loss. {said}' in shown
    gone = curves(runs)
    gone = gone[(gone["norm"] != "none") | (gone["step"] == gone["step"].min())]
    left = interactive_curves(gone, [("train", "loss", "nats")], alt="", caption="")
    assert "Training loss at the end, of runs that came to it: only BN is there" in left


def test_curves_of_different_lengths_are_compared_at_the_last_point_that_all_have() -> None:
    runs = [made_up("bn", s, [3.0, 2.0, 1.0], [0.5] * 3, batch_size=size) for size in (8, 16) for s in range(5)]
    assert "after 160 images seen: batch 16 is 1 [1, 1] above batch 8" in of_curves(runs, by="batch_size", x="samples")


def test_the_panels_of_several_measures_have_a_sentence_each_and_a_text_stands_as_it_is() -> None:
    panels = [draw_ranking(table(none=LOW[:1], bn=[0.6]), "peak", what) for what in ("first", "second", "third")]
    said = look.seen_in(panels)
    assert [sentence.split(":")[0] for sentence in said] == ["First", "Second", "Third"]
    caption = look.show(panels, alt="", caption="Drawn.").split("<figcaption>")[1]
    assert "Second" in caption
    assert "Third" not in caption
    assert told([["As it is."]]) == ["As it is."]
