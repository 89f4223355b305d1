"""The names of the laboratory, and what importing them costs."""

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from normcore import lab

HEAVY = {"datasets", "matplotlib", "pandas", "pyarrow", "scipy", "seaborn", "sklearn"}


# of a worker, a kernel, a light command
LIGHT = ["errors", "config", "runs.store", "runs.sweep", "runs.training", "runs.study", "runs.experiments", "cli"]


def test_what_counts_and_draws_is_not_imported_before_it_is_needed() -> None:
    modules = [f"normcore.lab.{name}" for name in LIGHT]
    code = f"import sys, {', '.join(modules)}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    imported = set(done.stdout.split())
    assert imported >= set(modules)
    assert not imported & HEAVY


def typed() -> dict[str, str]:
    """name -> module, of what ``lab`` imports where types are checked."""
    (block,) = (node for node in ast.parse(Path(lab.__file__).read_text()).body if isinstance(node, ast.If))
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    return {alias.name: node.module or "" for node in imports for alias in node.names}


def test_type_checkers_see_the_names_that_there_are() -> None:
    names = typed()
    assert names == {**lab._HOMES, **{name: module.rpartition(".")[0] for name, module in lab._MODULES.items()}}
    assert set(names) <= set(dir(lab))
    for name, module in names.items():
        if name in lab._MODULES:
            assert getattr(lab, name) is import_module(f"normcore.lab.{lab._MODULES[name]}")
        else:
            assert getattr(lab, name) is getattr(import_module(f"normcore.lab.{module}"), name)


def test_a_name_that_there_is_not_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"normcore\.lab.*tabel"):
        _ = lab.tabel  # type: ignore[attr-defined]
    with pytest.raises(ImportError, match="tabel"):
        from normcore.lab import tabel  # type: ignore[attr-defined]  # noqa: F401
