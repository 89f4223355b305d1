"""A small pipeline of its own for the tests that run Snakemake: the repository's, with fewer notebooks."""

import os
import shutil
import sys
from pathlib import Path

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


def environment(folder: Path, **others: str) -> dict[str, str]:
    """The environment of its commands: its own results, nothing published and a cache, and other variables."""
    names = ("results", "published", "cache")
    own = {f"NORMCORE_{name.upper()}": str(folder / name) for name in names}
    env = {**os.environ, **own, **others}
    env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}"
    return env
