"""Runs as tables: tidy, with everything that tells the runs apart."""

from normcore.lab.verdicts.tables import curves, probed, table

from ..helpers import made_up, with_probes


def test_tables_and_curves_are_tidy() -> None:
    runs = [made_up(norm, seed, [1.0, 0.5], [0.5, 0.8]) for norm in ("none", "bn") for seed in (0, 1)]
    rows = table(runs)
    assert rows[["norm", "seed", "status", "test_accuracy"]].to_numpy().tolist()[-1] == ["bn", 1, "finished", 0.8]
    points = curves(runs)
    assert len(points) == 4 * 2 * 2
    last = points.iloc[-1]
    assert (last["split"], last["epoch"], last["samples"]) == ("test", 2.0, 20 * 32)


def test_curves_and_tables_have_the_options_of_the_network() -> None:
    runs = [made_up("bn", 0, [1.0, 0.5], [0.5, 0.8], model_options={"norm_first": first}) for first in (True, False)]
    assert curves(runs).groupby("norm_first").size().to_dict() == {True: 4, False: 4}
    assert table(runs)["probes"].tolist() == ["{}", "{}"]


def test_the_rows_of_a_probe_stand_beside_the_setting_of_their_run() -> None:
    runs = [
        with_probes("bn", 0, {"shift": {"step": [0, 0, 9], "layer": [2, 3, 2], "gradient": [0.1, None, 0.3]},
                              "smoothness": {"step": [0], "beta": [5.0]}}, model_options={"norm_first": True}),
        with_probes("gn", 1, {"shift": {"step": [0], "layer": [2], "gradient": [0.5]}}),
        made_up("ln", 2, [1.0], [0.5]),
    ]  # fmt: skip
    found = probed(runs, "shift")
    assert found[["norm", "seed", "step", "layer"]].to_numpy().tolist() == [
        ["bn", 0, 0, 2], ["bn", 0, 0, 3], ["bn", 0, 9, 2], ["gn", 1, 0, 2],
    ]  # fmt: skip
    assert found["gradient"].isna().tolist() == [False, True, False, False]
    assert found["gradient"].dropna().tolist() == [0.1, 0.3, 0.5]
    assert found["key"].tolist() == [runs[0].key] * 3 + [runs[1].key]
    assert set(found["split"]) == {"shift"}
    assert found["norm_first"].tolist()[:3] == [True] * 3
    assert found.index.tolist() == [0, 1, 2, 3]
    assert probed(runs, "smoothness")["beta"].tolist() == [5.0]
    assert probed(runs, "outliers").empty
    assert probed([], "shift").empty


def test_a_probe_that_gave_no_row_has_none_beside_those_of_other_runs() -> None:
    """Such as the distributions in a network without named layers."""
    empty = with_probes("bn", 0, {"distributions": {}})
    assert probed([empty], "distributions").empty
    other = with_probes("gn", 1, {"distributions": {"step": [0], "mean": [0.5]}})
    assert probed([empty, other], "distributions")[["norm", "mean"]].to_numpy().tolist() == [["gn", 0.5]]


def test_a_list_in_a_row_of_a_probe_stays_one() -> None:
    (row,) = probed([with_probes("bn", 0, {"distributions": {"step": [0], "histogram": [[1, 2]]}})], "distributions")[
        "histogram"
    ]
    assert row == [1, 2]
