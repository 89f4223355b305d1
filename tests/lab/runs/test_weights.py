"""Networks that other runs start from."""

import dataclasses
from typing import Any

import pytest
import torch

from normcore.lab.config import RunConfig
from normcore.lab.errors import LabError, UsageError
from normcore.lab.runs import weights
from normcore.lab.runs.store import Store
from normcore.lab.runs.sweep import sweep
from normcore.lab.runs.training import train

from ..helpers import config, network, run_of

pytestmark = pytest.mark.usefixtures("store")


def after(first: RunConfig, **changes: Any) -> RunConfig:
    return dataclasses.replace(first, **{"start": first.key, "steps": 0, **changes})


def test_a_run_can_start_from_another_s_network_and_only_look_at_it() -> None:
    first = config(probes={"training_set": 6})
    (looked,) = sweep([after(first)], of(first))
    (trained,) = sweep([first], Store("trial"))
    assert looked.curves["test"] == {**trained.curves["test"], "step": [0]} | {
        name: values[-1:] for name, values in trained.curves["test"].items() if name != "step"
    }
    assert looked.curves["train"]["step"] == []
    assert looked.provenance["start"] == {"run": first.key, "weights": trained.provenance["weights"]}
    assert looked.provenance["weights"] == trained.provenance["weights"]
    assert looked.probes["training_set"]["loss"] == trained.probes["training_set"]["loss"][-1:]


def of(first: RunConfig) -> Store:
    """A store that has the run, but not its network."""
    store = Store("trial")
    sweep([first], store)
    assert not weights.file(first.key).exists()
    return store


def test_it_goes_on_from_there() -> None:
    first = config(lr=0.003)
    later, anew = sweep([after(first, steps=6), dataclasses.replace(first, lr=0.003)], of(first))
    assert later.curves["train"]["loss"][0] < anew.curves["train"]["loss"][0]


def test_two_runs_of_one_sweep_can_depend_on_each_other() -> None:
    first = config()
    looked, trained = sweep([after(first), first], Store("trial"), jobs=2)
    assert looked.final["test_loss"] == trained.final["test_loss"]
    assert weights.file(first.key).is_file()


def test_with_another_seed_a_run_takes_the_networks_of_that_seed() -> None:
    """Through as many runs as there are; what is not in the store stays as it is named."""
    store, first = Store("trial"), config()
    second = after(first, steps=3)
    third = after(second, beside={"first": first.key, "elsewhere": "0123456789abcdef"})
    for wanted in first, second:
        store.put(run_of(wanted, [1.0], [0.5]))
    again = [dataclasses.replace(first, seed=7)]
    again.append(after(again[0], steps=3))
    assert store.with_seed(first, 7) == again[0]
    assert store.with_seed(third, 7) == after(again[1], beside={"first": again[0].key, "elsewhere": "0123456789abcdef"})


def test_a_network_that_comes_out_otherwise_is_said_to() -> None:
    first = config()
    store = of(first)
    run = store.get(first.key)
    assert run
    store.put(dataclasses.replace(run, final={**run.final, "test_loss": 9.0}))
    with pytest.warns(UserWarning, match="trained again for others to start from, ends elsewhere than its result"):
        sweep([after(first)], store)
    assert store.get(first.key) != run  # what was measured is not replaced


def test_what_cannot_be_started_from_is_refused_in_words() -> None:
    with pytest.raises(UsageError, match="there is no run '0123456789abcdef'"):
        sweep([config(start="0123456789abcdef")], Store("trial"))
    with pytest.raises(UsageError, match="steps must be at least 1, got 0"):
        config(steps=0)
    first = config()
    with pytest.raises(LabError, match=f"the network of run {first.key} is not kept"):
        train(after(first), torch.device("cpu"))
    weights.keep(network(first), first)
    with pytest.raises(UsageError, match=r"that run has another network: .*"):
        train(after(first, model_options={"linear_norm": False}), torch.device("cpu"))


def test_the_fingerprint_is_of_every_value_and_name() -> None:
    one, other = network(config()), network(config())
    assert weights.fingerprint(one) == weights.fingerprint(other)
    assert len(weights.fingerprint(one)) == 16
    with torch.no_grad():
        next(other.parameters()).view(-1)[0] += 1e-6
    assert weights.fingerprint(one) != weights.fingerprint(other)
    assert weights.fingerprint(torch.nn.Sequential(one)) != weights.fingerprint(one)
