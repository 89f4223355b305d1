"""What the tests share: a store and a cache of their own, and where the real data and a browser are."""

import gc
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

ROOT = Path(__file__).resolve().parent.parent
settings.register_profile("untimed", deadline=None)  # a busy machine is no failure
settings.load_profile("untimed")


def pytest_configure(config: pytest.Config) -> None:
    # Before anything is imported: notebooks under nbval and training processes inherit it. No test, and no
    # notebook that is validated, writes among a person's own results.
    workerinput = getattr(config, "workerinput", {})
    if workerinput:  # workers share the cores, and a thread of torch's that waits for another would spin on one
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        threads = (os.cpu_count() or 1) // workerinput["workercount"]
        os.environ.setdefault("OMP_NUM_THREADS", str(max(threads, 1)))
    if "NORMCORE_RESULTS" not in os.environ:
        folder = config.rootpath / "_build" / "test"
        worker = workerinput.get("workerid", "main")
        os.environ["NORMCORE_RESULTS"] = str(folder / f"results-{worker}")
        if worker in ("main", "gw0"):
            for old in folder.glob("results-*"):
                shutil.rmtree(old, ignore_errors=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The book first: no other file takes as long, and begun last it would keep one worker waiting."""
    items.sort(key=lambda item: item.path.name != "test_book.py")


def pytest_collection_finish() -> None:
    gc.freeze()  # what is imported and collected stays: else each collection goes through all of it


@pytest.fixture
def seed() -> None:
    """The same random numbers for a test, whatever ran before it."""
    import torch

    torch.manual_seed(0)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Results and caches of this test alone, nothing published; returns the folder of results."""
    monkeypatch.setenv("NORMCORE_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("NORMCORE_PUBLISHED", str(tmp_path / "published"))
    monkeypatch.setenv("NORMCORE_CACHE", str(tmp_path / "cache"))
    from normcore.lab.tasks import datasets

    datasets.load.cache_clear()
    yield tmp_path / "results"
    datasets.load.cache_clear()


@pytest.fixture
def real_data() -> Path:
    """The folder of real data sets; the test is skipped where there is none."""
    folder = os.environ.get("NORMCORE_DATA")
    if not folder:
        pytest.skip("NORMCORE_DATA is not set: no real data here")
    return Path(folder)
