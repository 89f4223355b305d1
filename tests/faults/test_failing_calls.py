"""Every call that can fail fails once, and the process is killed at every call, as SQLite is tested. Afterwards nothing
half-written stands under a final name, and a second call completes with the numbers of an undisturbed sweep."""

import shutil
import warnings
from contextlib import suppress
from pathlib import Path

import pytest

from normcore.lab.errors import LabError
from normcore.lab.runs.store import Store

from .calls import FAULTS, KILLED, Meter, Place, Tally, in_children, sound, swept

pytestmark = pytest.mark.faults


@pytest.mark.parametrize("fresh", [False, True], ids=["first", "again"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_sweep_survives_every_call_that_fails(
    fault: str, fresh: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tally: Tally
) -> None:
    """With a state of the run kept at every step; ``again``, what was measured is there at any time."""
    place = Place(tmp_path, monkeypatch)

    def begun(name: str) -> Path:
        if fresh:
            shutil.copytree(tmp_path / "done", tmp_path / name)
        return place.into(name)

    place.into("done")
    undisturbed = swept()
    with Meter(begun("counted")).measuring() as meter:
        assert swept(fresh=fresh) == undisturbed
    assert meter.count > 50
    killed = fault.startswith("killed")
    # what is left by a kill after a call is what is left by one before the next: each state is met once
    for at in range(1, meter.count + 1, 2 if killed else 1):
        folder, kind = begun(str(at)), "killed at a call: a sweep" if killed else f"a call fails: {fault}"
        with tally.fault(kind), warnings.catch_warnings():
            warnings.simplefilter("ignore")

            def disturbed(folder: Path = folder, at: int = at) -> None:
                with Meter(folder, at, FAULTS[fault]).measuring():
                    swept(fresh=fresh)

            if killed:
                assert in_children(disturbed) == [KILLED]
            else:
                with suppress(LabError, OSError):
                    disturbed()
            sound(folder)
            if fresh:
                assert all(Store("trial").get(key) for key in undisturbed)
            assert swept() == undisturbed, f"{fault}, call {at} of {meter.count}"
