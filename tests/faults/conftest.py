"""Faults are counted, by kind, as they are injected and as they are survived: the table on the book's page of method.

NORMCORE_FAULTS=data/faults.json pytest -n 2 tests/faults -m faults
"""

import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from normcore.lab.files import write_sealed
from normcore.lab.provenance import provenance

from .calls import Tally

COUNTED = "fault"  # the name of a test's property for each fault, by its kind and whether it was survived
counts: Counter[tuple[str, bool]] = Counter()


@pytest.fixture
def tally(record_property: Callable[[str, object], None]) -> Iterator[Tally]:
    counting = Tally()
    yield counting
    for kind, number in counting.injected.items():
        record_property(COUNTED, [kind, number, counting.survived[kind]])


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "teardown":
        for name, value in report.user_properties:
            if name == COUNTED:
                kind, injected, survived = value
                counts[kind, False] += injected
                counts[kind, True] += survived


def pytest_sessionfinish(session: pytest.Session) -> None:
    wanted = os.environ.get("NORMCORE_FAULTS")
    if not wanted or hasattr(session.config, "workerinput"):
        return
    kinds = sorted({kind for kind, _ in counts})
    rows = [{"kind": k, "injected": counts[k, False], "survived": counts[k, True]} for k in kinds]
    write_sealed(Path(wanted), {"faults": rows, "provenance": provenance(torch.device("cpu"))})
