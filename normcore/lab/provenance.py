"""What a result was measured with: versions, device, commit."""

import functools
import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from .. import __version__
from . import paths
from .errors import LabError, UsageError

DEVICES = ("auto", "cpu", "cuda")


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


def versions() -> dict[str, str]:
    """Python's and the packages' that a result can depend on."""
    return {"python": platform.python_version(), "torch": torch.__version__, "numpy": version("numpy"),
            "normcore": __version__}  # fmt: skip


def provenance(device: torch.device) -> dict[str, Any]:
    """Versions, device, threads, operating system and commit."""
    return {
        "device": device.type,
        "device_name": device_name(device),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "versions": versions(),
        "commit": commit(),
    }
