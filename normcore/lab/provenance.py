"""What a result was measured with: versions, device, commit, code."""

import ast
import functools
import hashlib
import io
import os
import platform
import re
import subprocess
import tarfile
import tokenize
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from .. import __version__
from . import paths
from .errors import LabError, UsageError

DEVICES = ("auto", "cpu", "cuda")

#: The sources that a run's bits depend on: the layers, what is trained, the loop. What draws, judges or keeps results
#: can change without making a run another. ``PROBED`` is for runs that look into the network, too. Where these sources
#: were before the laboratory had rooms, they are counted as well: of results of that time the commit alone is known.
CODE = (
    "normcore/*.py",
    "normcore/layers/*.py",
    "normcore/lab/tasks/*.py",
    "normcore/lab/runs/training.py",
    *(f"normcore/lab/{old}.py" for old in (
        "data", "images", "keras_contrib", "models", "outliers", "shapes", "training",
    )),
)  # fmt: skip
PROBED = ("normcore/lab/probes/*.py", *(f"normcore/lab/{old}.py" for old in ("distributions", "landscape", "probes")))


def choose_device(name: str) -> torch.device:
    """``auto`` is the first CUDA device where there is one, else the CPU."""
    if name not in DEVICES:
        raise UsageError(f"unknown device {name!r}: one of {', '.join(DEVICES)}")
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError("device 'cuda' was asked for, but torch finds no CUDA device: use 'auto' or 'cpu'")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def device_name(device: torch.device) -> str:
    """What the hardware calls itself."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name()


@functools.cache
def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


@functools.cache
def commit() -> str:
    """The repository's commit, with ``+`` where its code differs from it; empty outside a checkout."""

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=paths.root(), capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        changed = git("status", "--porcelain", "--", "normcore", "notebooks")
        return git("rev-parse", "--short=12", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError, LabError):
        return ""


@functools.cache
def code(probed: bool = False) -> str:
    """The hash of the sources that a run's bits depend on; ``probed`` for a run with probes."""
    root = Path(__file__).parents[2]
    sources = {p.relative_to(root).as_posix(): p.read_bytes() for p in (root / "normcore").rglob("*.py")}
    return _hash(sources, probed)


@functools.cache
def code_of_commit(name: str, probed: bool = False) -> str:
    """As :func:`code`, of a commit; empty where it is unknown: not clean (``+``), or not in the repository here."""
    if not re.fullmatch(r"[0-9a-f]{7,40}", name):
        return ""
    try:
        command = ["git", "archive", "--format=tar", name, "normcore"]
        archive = subprocess.run(command, cwd=paths.root(), capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError, LabError):
        return ""
    sources = {}
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        for member in tar:
            content = tar.extractfile(member) if member.name.endswith(".py") else None
            if content:
                sources[member.name] = content.read()
    return _hash(sources, probed)


def code_of(measured: Mapping[str, Any], probed: bool = False) -> str:
    """The hash of the code that a result was measured with, of its provenance; empty where it is unknown."""
    return measured.get("code") or code_of_commit(measured.get("commit", ""), probed)


def _hash(sources: Mapping[str, bytes], probed: bool) -> str:
    """Of the sources that count, without what computes nothing."""
    counted = sorted(name for name in sources if _counts(name, CODE + PROBED * probed))
    text = "".join(f"{name}\n{_bare(sources[name].decode())}\n" for name in counted)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _counts(name: str, patterns: Iterable[str]) -> bool:
    folder = name.rpartition("/")[0]
    return any(name == pattern or pattern == f"{folder}/*.py" for pattern in patterns)


def _bare(source: str) -> str:
    """A source without comments, docstrings and empty lines."""
    lines = source.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None:
            text = node.body[0]
            lines[text.lineno - 1 : text.end_lineno] = [""] * (text.end_lineno - text.lineno + 1)  # type: ignore[operator]
    return "\n".join(line.rstrip() for line in lines if line.strip())


def instructions() -> str:
    """The instruction set that torch computes with on this processor: ``AVX512``, ``AVX2``, ``DEFAULT`` ..."""
    return str(torch.backends.cpu.get_cpu_capability())


def versions() -> dict[str, str]:
    """Python's and the packages' that a result can depend on."""
    return {"python": platform.python_version(), "torch": torch.__version__, "numpy": version("numpy"),
            "normcore": __version__}  # fmt: skip


def provenance(device: torch.device, probed: bool = False) -> dict[str, Any]:
    """Versions, device, threads, instructions, operating system, commit and code; ``probed`` for a run with probes."""
    return {
        "device": device.type,
        "device_name": device_name(device),
        "threads": torch.get_num_threads(),
        "instructions": instructions(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "versions": versions(),
        "commit": commit(),
        "code": code(probed),
    }
