"""What an installation takes along of the repository, so that `normcore compare` works without one: the registry of
data sets, the notebook of a comparison with its results, and how a page looks. Everything else is in pyproject.toml."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

SHARED = [
    "data/datasets.yaml",
    "data/results/compare",
    "notebooks/compare.ipynb",
    "notebooks/compare.yaml",
    "notebooks/newcomers",
    "book/_assets/book.css",
    "book/_assets/curves.js",
]


class BuildWithShare(build_py):
    """Copies what is shared beside the laboratory; an editable installation has the repository itself."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        root = Path(__file__).parent
        for name in SHARED:
            source, target = root / name, Path(self.build_lib, "normcore", "lab", "share", name)
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
            elif source.is_file():
                shutil.copy(source, target)


setup(cmdclass={"build_py": BuildWithShare})
