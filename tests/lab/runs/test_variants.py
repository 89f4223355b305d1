"""Named variants: their runs, and their names beside what was measured."""

from typing import Any

import pandas as pd
import pytest
import torch

from normcore import NORMS
from normcore.lab.config import RunConfig, grid
from normcore.lab.errors import UsageError
from normcore.lab.runs import variants
from normcore.lab.verdicts.measures import measured
from normcore.lab.verdicts.tables import curves, table

from ..helpers import config, network, run_of

FIXED: dict[str, Any] = {
    name: getattr(config(), name) for name in ("dataset", "image_size", "model", "lr", "batch_size", "steps")
}


def made(**changes: Any) -> variants.Variants:
    named: dict[str, dict[str, Any]] = {
        "plain": {"norm": "none"},
        "bn, later": {"norm": "bn", "model_options": {"norm_first": False}},
        "bn": {"norm": "bn", "model_options": {"norm_first": True}},
    }
    return variants.make(named, **{**FIXED, "seed": range(2), **changes})


def test_each_variant_has_every_combination_of_its_fields_and_the_common_ones() -> None:
    found = variants.make({"a": {"norm": "bn", "lr": [0.1, 0.2]}, "b": {"norm": ["ln", "gn"]}}, **FIXED, seed=range(2))
    assert {name: [(c.norm, c.lr, c.seed) for c in runs] for name, runs in found.items()} == {
        "a": [("bn", lr, seed) for lr in (0.1, 0.2) for seed in (0, 1)],
        "b": [(norm, 0.01, seed) for seed in (0, 1) for norm in ("ln", "gn")],
    }


@pytest.mark.parametrize("changes", [{}, {"lr": [0.1, 0.2]}, {"probes": {"shift": 1}, "outliers": [0.0, 0.5]}])
def test_the_runs_are_those_of_a_grid(changes: dict[str, Any]) -> None:
    found = made(**changes)
    assert list(found) == ["plain", "bn, later", "bn"]
    fields = {**FIXED, "seed": range(2), **changes, "norm": "bn", "model_options": {"norm_first": False}}
    assert sorted(c.key for c in found["bn, later"]) == sorted(c.key for c in grid(**fields))


def test_a_variant_s_own_fields_come_before_the_common_ones() -> None:
    found = variants.make({"a": {"norm": "bn", "lr": 5.0, "seed": 7}}, **FIXED, seed=range(2))
    assert [(c.lr, c.seed) for c in found["a"]] == [(5.0, 7)]


def test_all_runs_are_one_list_in_the_order_of_the_variants() -> None:
    found = made()
    assert variants.configs(found) == [*found["plain"], *found["bn, later"], *found["bn"]]
    assert len(variants.configs(found)) == 6
    assert variants.configs({}) == []


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(UsageError, match="lr is an empty list"):
        made(lr=[])
    with pytest.raises(TypeError, match="speed"):
        made(speed=2)


def runs_of(wanted: list[RunConfig]) -> list[Any]:
    """A run each, told apart by its last accuracy."""
    return [run_of(c, [1.0, 0.5], [0.1, place / 10], every=3) for place, c in enumerate(wanted)]


@pytest.mark.parametrize("rows", [table, measured, curves])
def test_a_row_has_the_name_of_its_run_s_variant(rows: Any) -> None:
    found = made()
    frame = rows(runs_of(variants.configs(found)[::-1]))
    named = variants.name(frame, found)
    names = {c.key: name for name, runs in found.items() for c in runs}
    assert named["variant"].tolist() == [names[key] for key in named["key"]]
    assert list(dict.fromkeys(named["variant"])) == ["plain", "bn, later", "bn"]
    assert named.index.tolist() == list(range(len(frame)))
    assert "variant" not in frame
    assert list(named.columns) == [*frame.columns, "variant"]


def test_rows_of_a_variant_stay_in_their_order() -> None:
    found = made()
    frame = curves(runs_of(variants.configs(found))).sample(frac=1, random_state=0).reset_index(names="place")
    named = variants.name(frame, found)
    for name in found:
        places = named.loc[named["variant"] == name, "place"].tolist()
        keys = {c.key for c in found[name]}
        assert places == frame.loc[frame["key"].isin(keys), "place"].tolist()
    assert len(named) == len(frame)


def test_a_run_of_no_variant_has_no_name_and_comes_last() -> None:
    found = made()
    other = config(norm="gn")
    named = variants.name(table(runs_of([other, *variants.configs(found)])), found)
    assert named["key"].iloc[-1] == other.key
    assert named["variant"].isna().tolist() == [False] * 6 + [True]
    assert named.dropna(subset=["variant"])["variant"].nunique() == 3


def test_a_frame_of_nothing_has_no_name() -> None:
    assert variants.name(pd.DataFrame({"key": []}), made()).empty


def test_batch_renorm_opens_its_clips_at_the_shares_of_the_paper() -> None:
    assert variants.renorm_schedule(100_000) == {"start": 5000, "r_end": 40_000, "d_end": 25_000}
    assert variants.renorm_schedule(2000) == {"start": 100, "r_end": 800, "d_end": 500}


def test_in_lenet5_every_normalizer_stands_where_it_can() -> None:
    found = variants.in_lenet5(NORMS, steps=100)
    assert [fields["norm"] for fields in found.values()] == list(found) == list(NORMS)
    assert [name for name, fields in found.items() if "norm_options" in fields] == ["brn"]
    fixed = {**FIXED, "model": "lenet5", "seed": 0}
    for runs in variants.make(found, **fixed).values():  # each takes the outputs of its layers
        model = network(runs[0])
        assert model(torch.randn(4, 1, 14, 14)).shape == (4, 10)
