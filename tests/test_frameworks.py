"""The layers against what Keras and Flax computed (``references/make_frameworks.py``), conventions mapped here.

Theirs: channels last; ``momentum`` is the weight of the old value; the running variance is biased. Ours runs
in float64, Flax did too, Keras in float32; what they gave was written with the digits of float32.
"""

import inspect
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from normcore import (
    BatchNorm,
    BatchRenorm,
    ChannelLayerNorm,
    FullNormBB,
    FullNormBL,
    GroupNorm,
    InstanceNorm,
    LayerNorm,
    Norm,
    RMSNorm,
)
from normcore.layers import RunningNorm

Case = dict[str, Any]
Key = tuple[str, str]

REFERENCE: dict[str, Any] = json.loads((Path(__file__).parent / "references" / "frameworks.json").read_text())
INPUT: dict[str, Any] = REFERENCE["input"]
CHANNELS = 4
TOLERANCE = {"keras": 1e-5, "flax": 1e-6}

LAYERS: dict[Key, Callable[..., Norm]] = {
    ("keras", "BatchNormalization"): BatchNorm,
    ("keras", "BatchNormalization, mask"): BatchNorm,
    ("keras", "BatchNormalization, renorm"): BatchRenorm,
    ("keras", "LayerNormalization"): ChannelLayerNorm,
    ("keras", "LayerNormalization, axis=[1, 2, 3]"): LayerNorm,
    ("keras", "GroupNormalization, groups=1"): LayerNorm,
    ("keras", "GroupNormalization, groups=2"): partial(GroupNorm, 2),
    ("keras", "GroupNormalization, groups=-1"): partial(InstanceNorm, affine=True),
    ("keras", "RMSNormalization"): RMSNorm,
    ("keras", "FNBB"): FullNormBB,
    ("keras", "FNBL"): partial(FullNormBL, semantics="code"),
    ("flax", "BatchNorm"): BatchNorm,
    ("flax", "BatchNorm, mask"): BatchNorm,
    ("flax", "LayerNorm"): ChannelLayerNorm,
    ("flax", "LayerNorm, reduction_axes=(1, 2, 3)"): LayerNorm,
    ("flax", "LayerNorm, reduction_axes=(1, 2, 3), mask"): LayerNorm,
    ("flax", "GroupNorm, num_groups=2"): partial(GroupNorm, 2),
    ("flax", "GroupNorm, num_groups=2, mask"): partial(GroupNorm, 2),
    ("flax", "InstanceNorm"): partial(InstanceNorm, affine=True),
    ("flax", "InstanceNorm, mask"): partial(InstanceNorm, affine=True),
    ("flax", "RMSNorm"): RMSNorm,
    ("flax", "RMSNorm, reduction_axes=(1, 2, 3)"): RMSNorm,
    ("flax", "RMSNorm, reduction_axes=(1, 2, 3), mask"): RMSNorm,
}
# theirs takes the last axis alone by default, ours every axis but the first: the positions become samples of ours
PER_POSITION: set[Key] = {("keras", "RMSNormalization"), ("flax", "RMSNorm")}
RENORM: Key = ("keras", "BatchNormalization, renorm")
AVERAGING = [key for key in LAYERS if "momentum" in REFERENCE[key[0]][key[1]]["options"]]

# Torch's kernels serve many a layer; data in channels-last memory and a mask of ones lead to the engine.
every_route = pytest.mark.parametrize("route", ["kernel", "engine"])
every_case = pytest.mark.parametrize("key", LAYERS, ids=" ".join)
every_averaging_case = pytest.mark.parametrize("key", AVERAGING, ids=" ".join)


def case_of(key: Key) -> Case:
    framework, name = key
    return REFERENCE[framework][name]


def table(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def image(values: list[Any]) -> Tensor:
    """NHWC, as theirs, to NCHW."""
    return table(values).movedim(-1, 1).contiguous()


def options_of(case: Case) -> dict[str, Any]:
    """Their options by our names."""
    theirs = case["options"]
    ours: dict[str, Any] = {"eps": theirs["epsilon"]}
    if "momentum" in theirs:
        ours["momentum"] = 1 - theirs["momentum"]
    if "renorm_clipping" in theirs:
        clips = theirs["renorm_clipping"]
        ours |= {"r_max": clips["rmax"], "d_max": clips["dmax"], "schedule": None}
    return ours


def layer_of(key: Key, make: Callable[..., Norm] | None = None) -> Norm:
    """Our layer in the state from which theirs started; FNBB has one number where the others have C."""
    layer = (make or LAYERS[key])(CHANNELS, dtype=torch.float64, **options_of(case_of(key)))
    start = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
    with torch.no_grad():
        for ours, theirs in start.items():
            tensor = getattr(layer, ours, None)
            if tensor is not None:
                tensor.copy_(table(INPUT[theirs])[: tensor.numel()])
    return layer


def mask_of(key: Key) -> Tensor | None:
    return table(INPUT["mask"]).bool() if key[1].endswith("mask") else None


def run(key: Key, layer: Norm, x: Tensor, route: str) -> Tensor:
    if key in PER_POSITION:
        last = x.movedim(1, -1)
        return layer(last.reshape(-1, CHANNELS)).view(last.shape).movedim(-1, 1)
    mask = mask_of(key)
    if route == "engine":
        x = x.contiguous(memory_format=torch.channels_last)
        if mask is None and "mask" in inspect.signature(layer.forward).parameters:
            mask = torch.ones(x.shape[0], *x.shape[2:], dtype=torch.bool)
    return layer(x) if mask is None else layer(x, mask)


def assert_agree(key: Key, ours: Tensor, theirs: Tensor) -> None:
    tolerance = TOLERANCE[key[0]]
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


def test_every_recorded_case_is_compared() -> None:
    recorded = {(framework, name) for framework in ("keras", "flax") for name in REFERENCE[framework]}
    assert recorded == set(LAYERS)


@every_route
@every_case
def test_outputs_in_training_agree(key: Key, route: str) -> None:
    expected, mask = image(case_of(key)["y"]), mask_of(key)
    if mask is not None:  # theirs normalizes what the mask leaves out, ours gives zero
        expected = expected * mask.unsqueeze(1)
    assert_agree(key, run(key, layer_of(key), image(INPUT["x"]), route), expected)


@every_route
@every_case
def test_gradients_agree(key: Key, route: str) -> None:
    case, layer, x = case_of(key), layer_of(key), image(INPUT["x"]).requires_grad_()
    (run(key, layer, x, route) * image(INPUT["r"])).sum().backward()
    assert x.grad is not None
    assert_agree(key, x.grad, image(case["grad_x"]))
    for name, theirs in (("weight", "grad_gamma"), ("bias", "grad_beta")):
        parameter = getattr(layer, name)
        assert (parameter is None) == (theirs not in case)
        if parameter is not None:
            assert_agree(key, parameter.grad, table(case[theirs]))


def trained(key: Key, route: str) -> tuple[RunningNorm, Tensor, Tensor]:
    """Our layer after the batch; the running variance before it; what the batch added to it, made biased."""
    layer = layer_of(key)
    assert isinstance(layer, RunningNorm)
    assert layer.running_var is not None
    before, keep = layer.running_var.clone(), case_of(key)["options"]["momentum"]
    x, mask = image(INPUT["x"]), mask_of(key)
    run(key, layer, x, route)
    count = (x.numel() if mask is None else int(mask.sum()) * CHANNELS) // before.numel()
    return layer, before, (layer.running_var - keep * before) * (count - 1) / count


@every_route
@every_averaging_case
def test_running_means_agree(key: Key, route: str) -> None:
    layer, _, _ = trained(key, route)
    assert layer.running_mean is not None
    assert_agree(key, layer.running_mean, table(case_of(key)["moving_mean"]))


@every_route
@pytest.mark.parametrize("key", [key for key in AVERAGING if key != RENORM], ids=" ".join)
def test_running_variances_agree_once_ours_is_biased(key: Key, route: str) -> None:
    _, before, added = trained(key, route)
    keep = case_of(key)["options"]["momentum"]
    assert_agree(key, keep * before + added, table(case_of(key)["moving_variance"]))


def test_batch_renorm_of_keras_averages_the_deviation_where_ours_averages_the_variance() -> None:
    case = case_of(RENORM)
    _, before, added = trained(RENORM, "engine")
    eps, keep = case["options"]["epsilon"], case["options"]["momentum"]
    deviation = keep * (before + eps).sqrt() + (1 - keep) * (added / (1 - keep) + eps).sqrt()
    assert_agree(RENORM, deviation, table(case["moving_stddev"]))
    assert not torch.allclose(keep * before + added, table(case["moving_variance"]), rtol=1e-3)


def test_batch_renorm_is_compared_with_clips_that_act_in_some_channels_only() -> None:
    x, eps = image(INPUT["x"]), case_of(RENORM)["options"]["epsilon"]
    clips = case_of(RENORM)["options"]["renorm_clipping"]
    std, mean = (x.var((0, 2, 3), correction=0) + eps).sqrt(), x.mean((0, 2, 3))
    running = (table(INPUT["moving_variance"]) + eps).sqrt()
    r, d = std / running, (mean - table(INPUT["moving_mean"])) / running
    assert [bool((r < clips["rmin"]).any()), bool((r > clips["rmax"]).any())] == [True, True]
    assert 0 < (d.abs() > clips["dmax"]).sum() < CHANNELS
    assert ((r >= clips["rmin"]) & (r <= clips["rmax"]) & (d.abs() <= clips["dmax"])).any()


@every_averaging_case
def test_outputs_at_evaluation_agree_with_their_running_averages(key: Key) -> None:
    case, layer = case_of(key), layer_of(key).eval()
    assert isinstance(layer, RunningNorm)
    assert layer.running_mean is not None
    assert layer.running_var is not None
    layer.running_mean.copy_(table(case["moving_mean"]))
    layer.running_var.copy_(table(case["moving_variance"]))
    assert_agree(key, layer(image(INPUT["x"])), image(case["y_inference"]))


def test_layer_normalization_of_keras_is_not_layer_norm_over_the_map() -> None:
    key = ("keras", "LayerNormalization")
    ours = layer_of(key, LayerNorm)(image(INPUT["x"]))
    assert (ours - image(case_of(key)["y"])).abs().max() > 0.5


def test_the_published_fnbl_is_keras_layer_normalization_exactly() -> None:
    assert case_of(("keras", "FNBL"))["y"] == case_of(("keras", "LayerNormalization"))["y"]


@pytest.mark.parametrize("make", [ChannelLayerNorm, partial(FullNormBL, semantics="code")])
def test_the_published_fnbl_is_channel_layer_norm_and_fnbl_by_its_code(make: Callable[..., Norm]) -> None:
    key = ("keras", "FNBL")
    assert_agree(key, layer_of(key, make)(image(INPUT["x"])), image(case_of(key)["y"]))


def test_the_published_fnbl_is_not_fnbl_by_its_text() -> None:
    key = ("keras", "FNBL")
    ours = layer_of(key, partial(FullNormBL, semantics="text"))(image(INPUT["x"]))
    assert (ours - image(case_of(key)["y"])).abs().max() > 0.5


def test_fnbl_by_its_text_has_the_statistics_of_the_published_fnbb() -> None:
    key, x = ("keras", "FNBB"), image(INPUT["x"])
    case = case_of(key)
    layer = FullNormBL(CHANNELS, "text", eps=case["options"]["epsilon"], dtype=torch.float64)
    gamma, beta = INPUT["gamma"][0], INPUT["beta"][0]  # the published FNBB has one pair
    assert_agree(key, gamma * layer(x) + beta, image(case["y"]))
