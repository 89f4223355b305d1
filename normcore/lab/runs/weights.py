"""The weights of trained networks: what they hash to, and those that are kept because other runs take them."""

import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from .. import paths
from ..config import RunConfig
from ..errors import LabError, UsageError
from ..files import replacing

Begin = Callable[[nn.Module, dict[str, Tensor]], Any]


def fingerprint(model: nn.Module) -> str:
    """16 hexadecimal digits of the parameters and buffers, with their names."""
    return _digest(_state(model))


def _digest(state: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, values in sorted(state.items()):
        digest.update(f"{name} {values.dtype} {tuple(values.shape)}".encode())
        digest.update(values.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def file(key: str) -> Path:
    """Where the network of a run is kept; it need not be there."""
    return paths.cache() / "networks" / f"{key}.safetensors"


def keep(model: nn.Module, of: RunConfig) -> None:
    """Keep the network of a run, with what the run was."""
    with replacing(file(of.key)) as temporary:
        save_file(_state(model), temporary, {"config": json.dumps(dataclasses.asdict(of))})


def config(key: str) -> RunConfig:
    """What the run was whose network is kept.

    Raises:
        LabError: it is not kept, or by a version that did not say.
    """
    path = _there(key)
    with safe_open(path, "pt") as kept:
        said = (kept.metadata() or {}).get("config")
    if said is None:
        raise LabError(f"{path} does not say of what run it is: delete it, and it is made again")
    return RunConfig(**json.loads(said))


def load(model: nn.Module, key: str, begin: Begin = nn.Module.load_state_dict) -> dict[str, Any]:
    """Give the model the weights of the network that is kept of a run; returns which run that is, and their hash.

    Args:
        begin: how it takes them.

    Raises:
        LabError: it is not kept.
        UsageError: it is another network.
    """
    state = load_file(_there(key))
    try:
        begin(model, state)
    except RuntimeError as error:
        why = str(error).split(":", 1)[-1].strip()
        raise UsageError(f"start={key!r}: that run has another network: {why}") from error
    return {"run": key, "weights": _digest(state)}


def _there(key: str) -> Path:
    if not file(key).is_file():
        raise LabError(f"the network of run {key} is not kept: a sweep over a run that takes it trains it")
    return file(key)


def _state(model: nn.Module) -> dict[str, Tensor]:
    return {name: values.detach().cpu().contiguous() for name, values in model.state_dict().items()}
