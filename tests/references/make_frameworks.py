"""Write ``frameworks.json``: what the normalization layers of Keras and Flax compute for one small batch.

The tests read the file and need neither framework. To make it again, in an environment that is thrown away after:

    python -m venv "${venv:=$(mktemp -d)}"
    "$venv/bin/pip" install keras flax
    "$venv/bin/python" tests/references/make_frameworks.py

Flax brings JAX, which is Keras' backend here too; no accelerator is needed. Flax computes in float64, Keras in
float32 (on JAX its layers do so even when asked for float64); all is written with the digits of float32. Arrays
are as the frameworks have them: channels last. ``grad_*`` are the derivatives of sum(y * r).
"""

import argparse
import json
import os
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ["KERAS_BACKEND"] = "jax"

import jax
import keras
import numpy as np
from flax import linen
from keras import layers
from numpy.typing import NDArray

Array = NDArray[np.float64]
Case = dict[str, Any]

SHAPE = (3, 2, 3, 4)  # N, H, W, C, no two alike that stand side by side
OPTIONS = ("epsilon", "momentum", "renorm_clipping")
FLAX_EPSILON = 0.01  # its defaults, 1e-5 and 1e-6, would leave no trace in these numbers


def make_input() -> dict[str, Array]:
    """A batch with an offset and a scale of its own in every channel, and the state every layer starts from."""
    rng = np.random.default_rng(15)
    spread, offset = np.array([0.05, 0.5, 1.0, 3.0]), np.array([0.2, -1.0, 0.5, 5.0])
    exact = {
        "x": rng.standard_normal(SHAPE) * spread + offset,
        "r": rng.standard_normal(SHAPE),
        "gamma": rng.uniform(0.5, 1.5, SHAPE[-1]),
        "beta": rng.standard_normal(SHAPE[-1]),
        "moving_mean": offset + spread * np.array([0.2, -2.0, 0.3, 1.5]),
        "moving_variance": (spread * np.array([0.9, 2.5, 1.1, 0.4])) ** 2,
    }
    rounded = {name: value.round(3) for name, value in exact.items()}
    return rounded | {"mask": (rng.random(SHAPE[:-1]) < 0.7).astype(float)}


def fitted(value: Array, shape: tuple[int, ...]) -> Array:
    """One number a channel as a table of this shape, whose last axis is the channels (or a single one)."""
    return np.broadcast_to(value[: shape[-1]], shape)


def per_channel(gradient: Any) -> Array:
    """The derivative for one number a channel, of which the table was made."""
    table = np.asarray(gradient)
    return table.sum(tuple(range(table.ndim - 1)))


def counted(data: Mapping[str, Array]) -> Array:
    """r without the positions that are masked out: what a layer puts there is its own affair."""
    return data["r"] * data["mask"][..., None]


def keras_case(
    layer: keras.Layer, data: Mapping[str, Array], shape: tuple[int, ...] = SHAPE, masked: bool = False
) -> Case:
    """Output, gradients and updated averages in training, and the output at inference after that.

    The layer sees x reshaped to ``shape``, and its output is reshaped back.
    """
    stddev = np.sqrt(data["moving_variance"] + layer.epsilon)
    start = dict(data, scale=data["gamma"], moving_stddev=stddev)
    start |= {"renorm_mean": data["moving_mean"], "renorm_stddev": stddev}
    layer.build(shape)
    for variable in layer.variables:
        variable.assign(fitted(start[variable.name], variable.shape))
    state = [variable.value for variable in layer.non_trainable_variables]
    in_training = {"training": True} if state else {}
    mask, r = ({"mask": data["mask"] > 0}, counted(data)) if masked else ({}, data["r"])

    def loss(weights: list[Any], x: Any) -> tuple[Any, tuple[Any, list[Any]]]:
        y, moved = layer.stateless_call(weights, state, x.reshape(shape), **in_training, **mask)
        y = y.reshape(SHAPE)
        return (y * r).sum(), (y, moved)

    weights = [variable.value for variable in layer.trainable_variables]
    (grad_weights, grad_x), (y, moved) = jax.grad(loss, (0, 1), has_aux=True)(weights, jax.numpy.asarray(data["x"]))
    config = layer.get_config()
    case = {"options": {name: config[name] for name in OPTIONS if config.get(name)}, "y": y, "grad_x": grad_x}
    for variable, gradient in zip(layer.trainable_variables, grad_weights, strict=True):
        case["grad_beta" if variable.name == "beta" else "grad_gamma"] = per_channel(gradient)
    for variable, value in zip(layer.non_trainable_variables, moved, strict=True):
        case[variable.name] = value
    if moved:
        inferred, _ = layer.stateless_call(weights, moved, data["x"].reshape(shape), training=False)
        case["y_inference"] = inferred.reshape(SHAPE)
    return case


def keras_cases(data: Mapping[str, Array]) -> dict[str, Case]:
    n, h, w, c = SHAPE
    plain = {
        "BatchNormalization": layers.BatchNormalization(),
        "LayerNormalization": layers.LayerNormalization(),
        "LayerNormalization, axis=[1, 2, 3]": layers.LayerNormalization(axis=[1, 2, 3]),
        "GroupNormalization, groups=1": layers.GroupNormalization(groups=1),
        "GroupNormalization, groups=2": layers.GroupNormalization(groups=2),
        "GroupNormalization, groups=-1": layers.GroupNormalization(groups=-1),
        "RMSNormalization": layers.RMSNormalization(epsilon=0.01),
        "BatchNormalization, renorm": layers.BatchNormalization(
            renorm=True, renorm_clipping={"rmin": 1 / 1.5, "rmax": 1.5, "dmax": 0.5}
        ),
    }
    published = {  # the two layers as the report (S0) prints them: reshape, normalize, reshape back
        "FNBB": (layers.BatchNormalization(), (n * c, h, w, 1)),
        "FNBL": (layers.LayerNormalization(), (1, n * h, w, c)),
    }
    cases = {name: keras_case(layer, data) for name, layer in plain.items()}
    cases |= {name: keras_case(layer, data, shape) for name, (layer, shape) in published.items()}
    return cases | {"BatchNormalization, mask": keras_case(layers.BatchNormalization(), data, masked=True)}


def flax_case(layer: linen.Module, data: Mapping[str, Array], masked: bool = False) -> Case:
    """The same of a Flax layer."""
    start = {"scale": "gamma", "bias": "beta", "mean": "moving_mean", "var": "moving_variance"}
    whole = np.broadcast_to(data["mask"][..., None] > 0, SHAPE)
    mask, r = ({"mask": whole}, counted(data)) if masked else ({}, data["r"])
    made = layer.init(jax.random.key(0), data["x"])
    collections = {kind: {name: data[start[name]] for name in tables} for kind, tables in made.items()}
    weights, state = collections.pop("params"), collections

    def loss(weights: dict[str, Any], x: Any) -> tuple[Any, tuple[Any, Any]]:
        y, moved = layer.apply({"params": weights} | state, x, mutable=["batch_stats"], **mask)
        return (y * r).sum(), (y, moved)

    (grad_weights, grad_x), (y, moved) = jax.grad(loss, (0, 1), has_aux=True)(weights, data["x"])
    case = {"options": {name: getattr(layer, name) for name in OPTIONS if hasattr(layer, name)}}
    case |= {"y": y, "grad_x": grad_x}
    case |= {f"grad_{start[name]}": gradient for name, gradient in grad_weights.items()}
    if state:
        case |= {start[name]: value for name, value in moved["batch_stats"].items()}
        case["y_inference"] = layer.clone(use_running_average=True).apply({"params": weights} | moved, data["x"])
    return case


def flax_cases(data: Mapping[str, Array]) -> dict[str, Case]:
    options: dict[str, Any] = {"epsilon": FLAX_EPSILON, "param_dtype": float}
    whole = {"reduction_axes": (1, 2, 3), "feature_axes": -1}
    plain = {
        "BatchNorm": linen.BatchNorm(use_running_average=False, **options),
        "LayerNorm": linen.LayerNorm(**options),
        "LayerNorm, reduction_axes=(1, 2, 3)": linen.LayerNorm(**whole, **options),
        "GroupNorm, num_groups=2": linen.GroupNorm(num_groups=2, **options),
        "InstanceNorm": linen.InstanceNorm(**options),
        "RMSNorm": linen.RMSNorm(**options),
        "RMSNorm, reduction_axes=(1, 2, 3)": linen.RMSNorm(**whole, **options),
    }
    masked = ("BatchNorm", "GroupNorm, num_groups=2", "InstanceNorm", *(name for name in plain if "axes" in name))
    cases = {name: flax_case(layer, data) for name, layer in plain.items()}
    return cases | {f"{name}, mask": flax_case(plain[name], data, masked=True) for name in masked}


def plain_lists(value: Any) -> Any:
    """Arrays as nested lists of the shortest decimals that are the same in float32."""
    if isinstance(value, Mapping):
        return {name: plain_lists(entry) for name, entry in value.items()}
    if not hasattr(value, "shape"):
        return value
    array = np.asarray(value, np.float32)
    return float(str(array)) if array.ndim == 0 else [plain_lists(entry) for entry in array]


def readable(value: Any, indent: str = "") -> str:
    """JSON with one row of numbers a line."""
    flat = not isinstance(value, dict | list) or (isinstance(value, list) and not isinstance(value[0], list))
    if flat:
        return json.dumps(value)
    inner = indent + " "
    if isinstance(value, dict):
        entries = [f"{json.dumps(name)}: {readable(entry, inner)}" for name, entry in value.items()]
    else:
        entries = [readable(entry, inner) for entry in value]
    left, right = "{}" if isinstance(value, dict) else "[]"
    return f"{left}\n{inner}" + f",\n{inner}".join(entries) + f"\n{indent}{right}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("frameworks.json"))
    output: Path = parser.parse_args().output
    jax.config.update("jax_enable_x64", True)
    data = make_input()
    reference = {
        "made_with": {name: version(name) for name in ("keras", "flax", "jax")},
        "input": data,
        "keras": keras_cases(data),
        "flax": flax_cases(data),
    }
    output.write_text(readable(plain_lists(reference)) + "\n")


if __name__ == "__main__":
    main()
