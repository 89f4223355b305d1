"""A small pipeline of its own for the tests that run Snakemake: the repository's, with fewer notebooks."""

import os
import shutil
import sys
from contextlib import suppress
from pathlib import Path

import nbformat
import psutil

from .lab.helpers import HOW

ROOT = Path(__file__).resolve().parent.parent


def project(folder: Path, *notebooks: Path) -> Path:
    """A folder in which the pipeline runs with these notebooks alone, and with their profiles."""
    for name in ("Snakefile", "_config.yml", "data/datasets.yaml", "book/claims.yml", "book/advice.yml"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    shutil.copytree(ROOT / "profiles", folder / "profiles")
    (folder / "normcore").symlink_to(ROOT / "normcore")
    (folder / "notebooks").mkdir()
    for path in (p for notebook in notebooks for p in (notebook, notebook.with_suffix(".yaml")) if p.is_file()):
        shutil.copy(path, folder / "notebooks")
    return folder


def trial(path: Path, code: str) -> Path:
    """A notebook with the parameters of an experiment and this one cell; returns its path."""
    notebook = nbformat.v4.new_notebook()
    parameters = nbformat.v4.new_code_cell('profile = "smoke"\n' + HOW, metadata={"tags": ["parameters"]})
    notebook.cells = [nbformat.v4.new_markdown_cell("# A trial"), parameters, nbformat.v4.new_code_cell(code)]
    nbformat.write(notebook, path)
    return path


def at_work(folder: Path) -> list[psutil.Process]:
    """Every process that works in the folder."""
    working = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.status() != psutil.STATUS_ZOMBIE and Path(process.cwd()) == folder:
                working.append(process)
    return working


def environment(folder: Path, **others: str) -> dict[str, str]:
    """The environment of its commands: its own results, nothing published and a cache, and other variables."""
    names = ("results", "published", "cache")
    own = {f"NORMCORE_{name.upper()}": str(folder / name) for name in names}
    env = {**os.environ, **own, **others}
    env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}"
    return env
