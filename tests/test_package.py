"""The package as a whole: what imports what, and that the examples in its docstrings hold."""

import ast
import doctest
import importlib
import importlib.metadata
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import normcore

FOLDER = Path(normcore.__file__).parent
MODULES = sorted(m.name for m in pkgutil.walk_packages([str(FOLDER)], "normcore."))


CORE = sorted(p for p in FOLDER.rglob("*.py") if p.relative_to(FOLDER).parts[0] != "lab")


@pytest.mark.parametrize("path", CORE, ids=lambda p: str(p.relative_to(FOLDER)))
def test_the_core_imports_torch_and_nothing_else(path: Path) -> None:
    imported = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            relative = "." * node.level + (node.module or "")
            imported.add(relative if node.level else relative.partition(".")[0])
    assert not {name for name in imported if name.lstrip(".").startswith("lab") or name == "normcore"}
    outside = {name for name in imported if not name.startswith(".")} - sys.stdlib_module_names
    assert outside <= {"torch"}


def test_importing_the_layers_does_not_load_the_lab() -> None:
    code = "import sys, normcore; assert not [m for m in sys.modules if m.startswith('normcore.lab')]"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", ["normcore", *MODULES])
def test_the_examples_in_the_docstrings_hold(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_the_version_is_the_installed_one() -> None:
    try:
        installed = importlib.metadata.version("normcore")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("normcore runs from its sources here, not installed")
    assert installed == normcore.__version__
