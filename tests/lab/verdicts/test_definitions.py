"""Definitions are judged by what the layers compute: another layer, another verdict."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from normcore import (
    BatchNorm,
    BatchRenorm,
    ChannelLayerNorm,
    FullNormBB,
    GroupNorm,
    InstanceNorm,
    LayerNorm,
    LocalResponseNorm,
    ReferenceBatchNorm,
)
from normcore.lab.book import statements
from normcore.lab.errors import LabError, UsageError
from normcore.lab.verdicts import claims, definitions
from normcore.lab.verdicts.claims import IMPLEMENTED, NOT_TESTABLE
from normcore.lab.verdicts.definitions import ALL, DEFINITIONS, SAMPLE, C, N, standardized
from normcore.lab.verdicts.predicates import INCONCLUSIVE, MIXED, REFUTED, SUPPORTED, equals, exceeds

VERDICTS = {
    "S0-15": SUPPORTED, "S0-16": REFUTED, "S0-23": SUPPORTED, "S0-24": SUPPORTED, "S0-25": MIXED,
    "S1-02": SUPPORTED, "S1-03": IMPLEMENTED, "S1-14": SUPPORTED,
    "S2-01": SUPPORTED, "S2-02": REFUTED, "S2-06": SUPPORTED, "S2-13": SUPPORTED, "S2-14": SUPPORTED,
    "S3-02": SUPPORTED, "S3-03": REFUTED, "S3-04": REFUTED, "S3-05": MIXED, "S3-12": NOT_TESTABLE,
    "S4-01": SUPPORTED,
}  # fmt: skip
ENTRIES = {entry["id"]: entry for entry in claims.read()["claims"]}
JUDGED = [claim for claim, entry in ENTRIES.items() if "definition" in entry]


# --- layers that are something else ----------------------------------------------------------------------


class Learns(nn.Module):
    """Learns so many pairs, and gives back its input."""

    def __init__(self, pairs: int) -> None:
        super().__init__()
        self.weight, self.bias = (nn.Parameter(torch.zeros(pairs)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return x


class Identity(nn.Module):
    """Normalizes, then takes sigma and mu for gamma and beta."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.ones(channels))
        self.register_buffer("bias", torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return x


class Untold(nn.Module):
    """Has no use for a number of groups."""

    def __init__(self, channels: int, ignored: int = 0) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return standardized(x, SAMPLE)


class FromScratch(nn.Module):
    """S4's batch normalization, with the input left as it is."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.running_mean, self.running_var = torch.zeros(channels), torch.zeros(channels)

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() not in (2, 4):
            raise ValueError("2 or 4 dimensions")
        mean, var = definitions.moments(x)
        if self.training:
            self.running_mean = 0.9 * self.running_mean + 0.1 * mean.flatten()
            self.running_var = 0.9 * self.running_var + 0.1 * var.flatten()
            return x
        mean, var = map(definitions.column, (self.running_mean, self.running_var))
        return definitions.normalized(x, mean, var)


class Competing(nn.Module):
    """Squares the responses, then divides by those around them: the larger gains on the smaller, and lowers it."""

    def __init__(self, size: int, **constants: float) -> None:
        super().__init__()
        self.window = LocalResponseNorm(size, **constants)

    def forward(self, x: Tensor) -> Tensor:
        return self.window(x) * x


def always(value: Any) -> Callable[..., Any]:
    return lambda *_, **__: value


def batch_norm(*_: Any) -> BatchNorm:
    return BatchNorm(C)


# claim: what is put in the place of what (in the definitions, unless a class is named), so that the verdict turns
OTHERWISE: dict[str, list[tuple[Any, str, Any]]] = {
    "S0-15": [(definitions, "FullNormBB", BatchNorm)],
    "S0-16": [(definitions, "published_fnbl", lambda x: standardized(x, ALL, definitions.KERAS_EPS))],
    "S0-23": [(definitions, "LayerNorm", ChannelLayerNorm)],
    "S0-24": [(definitions, "InstanceNorm", BatchNorm)],
    "S0-25": [(definitions, "LocalResponseNorm", Competing)],
    "S1-02": [(definitions, "BatchNorm", InstanceNorm)],
    "S1-03": [(ReferenceBatchNorm, "set_reference", always(None))],
    "S1-14": [(BatchRenorm, "_clips", always((torch.tensor(1.0), torch.tensor(0.0))))],
    "S2-01": [(definitions, "BatchNorm", FullNormBB)],
    "S2-02": [
        (definitions, "LayerNorm", lambda _: Learns(N)),
        (definitions, "InstanceNorm", lambda _, affine: Learns(N * C)),
        (definitions, "GroupNorm", lambda groups, _: Learns(N * groups)),
    ],
    "S2-06": [(BatchNorm, "eval", lambda layer: layer)],
    "S2-13": [(definitions, "standardized", lambda x, *_: x)],
    "S2-14": [(definitions, "BatchNorm", LayerNorm)],
    "S3-02": [(definitions, "GroupNorm", lambda _, channels, **options: LayerNorm(channels, **options))],
    "S3-03": [(definitions, "LayerNorm", Identity)],
    "S3-04": [(definitions, "GroupNorm", batch_norm), (definitions, "LayerNorm", batch_norm)],
    "S3-05": [(definitions, "GroupNorm", Untold)],
    "S4-01": [(definitions, "BatchNorm", FromScratch)],
}


# --- the entries -----------------------------------------------------------------------------------------


def test_every_definition_has_a_function_that_measures_it_or_a_reason() -> None:
    stated = [claim for claim, entry in ENTRIES.items() if entry["kind"] == "def"]
    assert list(VERDICTS) == stated
    for claim in stated:
        assert ("definition" in ENTRIES[claim]) != ("reason" in ENTRIES[claim]), claim
    assert sorted(ENTRIES[claim]["definition"] for claim in JUDGED) == sorted(DEFINITIONS)


@pytest.mark.parametrize("claim", JUDGED)
def test_every_number_that_is_measured_is_judged(claim: str) -> None:
    entry = ENTRIES[claim]
    judged = {part["measure"] for part in entry["parts"] + entry.get("also", [])}
    assert judged == set(DEFINITIONS[entry["definition"]]())


@pytest.mark.parametrize("claim", VERDICTS)
def test_definitions_are_judged_as_the_layers_are(claim: str) -> None:
    assert claims.judge(claim).verdict == VERDICTS[claim]


@pytest.mark.parametrize("claim", JUDGED)
def test_another_layer_turns_the_verdict(claim: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for place, name, other in OTHERWISE[claim]:
        monkeypatch.setattr(place, name, other)
    turned = {SUPPORTED: (REFUTED, MIXED), REFUTED: (SUPPORTED,), MIXED: (SUPPORTED,), IMPLEMENTED: (INCONCLUSIVE,)}
    assert claims.judge(claim).verdict in turned[VERDICTS[claim]]


@pytest.mark.parametrize("claim", JUDGED)
def test_measuring_is_repeatable_and_leaves_no_trace(claim: str) -> None:
    state, dtype = torch.get_rng_state(), torch.get_default_dtype()
    measure = DEFINITIONS[ENTRIES[claim]["definition"]]
    assert measure() == measure()
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_default_dtype() == dtype


def test_what_explains_a_verdict_holds_but_where_it_says_what_does_not() -> None:
    """LRN's pairs; GN and LN beside BN; GN's arguments; the layer of PyTorch beside S4's."""
    unlike = Counter(claim for claim in JUDGED for part in claims.judge(claim).also if part.verdict != SUPPORTED)
    assert unlike == {"S0-25": 2, "S3-04": 2, "S3-05": 1, "S4-01": 3}


# --- the tools -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layer", "number"), [(BatchNorm(C), C), (LayerNorm(C), N), (FullNormBB(C), 1), (GroupNorm(2, C), 2 * N)]
)
def test_sets_of_statistics_are_counted(layer: nn.Module, number: int) -> None:
    assert definitions.sets(layer.double()) == number


def test_the_published_fnbb_and_fnbl_keep_every_value_in_its_place() -> None:
    x = definitions.random_input()
    assert (definitions.published_fnbb(x) * x).mean() > 0.5
    assert (definitions.published_fnbl(x) * x).mean() > 0.2


# --- the predicates --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "options", "verdict", "expected"),
    [
        (1e-13, {}, SUPPORTED, "at most 1e-12"),
        (1e-11, {}, REFUTED, "at most 1e-12"),
        (0.0, {"value": 0}, SUPPORTED, "expected 0"),
        (6.0, {"value": 6}, SUPPORTED, "expected 6"),
        (5.0, {"value": 6}, REFUTED, "expected 6"),
        (5.0, {"value": 6, "tolerance": 2}, SUPPORTED, "expected 6 within 2"),
        (float("nan"), {"value": 6}, REFUTED, "expected 6"),
    ],
)
def test_equals_goes_by_the_tolerance(found: float, options: dict[str, float], verdict: str, expected: str) -> None:
    part = equals({"pairs": found}, "so many", "pairs", **options)
    assert (part.verdict, part.measured, part.seeds) == (verdict, f"pairs ({expected})", None)


@pytest.mark.parametrize(
    ("found", "options", "verdict"),
    [(0.1, {}, SUPPORTED), (1e-13, {}, REFUTED), (0.5, {"bound": 0.5}, REFUTED), (float("nan"), {}, REFUTED)],
)
def test_exceeds_goes_by_the_bound(found: float, options: dict[str, float], verdict: str) -> None:
    assert exceeds({"difference": found}, "there is one", "difference", **options).verdict == verdict


def entry(**changes: Any) -> dict[str, Any]:
    part = {"predicate": "equals", "says": "it is", "measure": "pairs", "value": C}
    definition = {"definition": "pairs_of_bn", "parts": [part], "also": [{**part, "value": C + 1}]}
    return {"id": "S9-01", "kind": "def", "statement": "It is.", **definition, **changes}


def test_what_is_measured_besides_does_not_enter_the_verdict() -> None:
    judged = claims._judge(entry(), [], "")
    assert (judged.verdict, judged.also[0].verdict) == (SUPPORTED, REFUTED)


def test_a_wrong_entry_is_named() -> None:
    with pytest.raises(UsageError, match="unknown definition of S9-01 'pairs_of_bm': did you mean pairs_of_bn"):
        claims._judge(entry(definition="pairs_of_bm"), [], "")
    with pytest.raises(UsageError, match="unknown predicate of S9-01 'lower': known are equals, exceeds"):
        claims._judge(entry(parts=[{"predicate": "lower", "says": "x"}]), [], "")
    with pytest.raises(LabError, match=r"statement S9-01, equals: unknown measure 'pear': did you mean pairs"):
        claims._judge(entry(parts=[{"predicate": "equals", "says": "x", "measure": "pear"}]), [], "")


def test_a_definition_is_shown_without_an_interval() -> None:
    judged = claims.judge("S0-16")
    shown = judged._repr_html_()
    assert "at most 1e-12" in shown
    assert "nan" not in shown
    plain = json.loads(json.dumps(judged.to_json()))
    effect = plain["parts"][0]["effect"]
    assert (effect["mean"], effect["low"], effect["high"]) == (pytest.approx(2.6, abs=0.1), None, None)
    assert plain["parts"][0]["seeds"] is None
    assert plain["also"][0]["verdict"] == SUPPORTED


def test_the_ledger_shows_how_a_definition_was_measured() -> None:
    text = statements.body(claims.judge("S2-02"), {})
    assert "| what must hold | measured | verdict |" in text
    assert "| also measured, outside of the verdict | measured | verdict |" in text
    assert "`pairs_and_statistics` of `normcore/lab/verdicts/definitions.py`" in text
    assert "nan" not in text


def test_the_ledger_links_to_the_pages_that_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statements.paths, "root", lambda: tmp_path)
    (tmp_path / "book").mkdir()
    (tmp_path / "book" / "_toc.yml").write_text("chapters:\n- file: normalizers/gn\n")
    assert statements._normalizer_links(["gn", "ln"], "..") == "[GN](../normalizers/gn.ipynb)"
    assert statements._normalizer_links(["ln"], ".") == ""
