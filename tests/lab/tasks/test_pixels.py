"""Pictures of pictures: the losses by their formulas, the networks' sizes, and what a run needs."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from normcore.lab.config import RunConfig
from normcore.lab.errors import DataError, UsageError
from normcore.lab.runs.store import Store
from normcore.lab.runs.sweep import sweep
from normcore.lab.runs.training import build, check, train
from normcore.lab.tasks import generators, paintings
from normcore.lab.tasks.networks import vgg16
from normcore.lab.tasks.pixels import StyleTransfer, SuperResolution

from ..helpers import config, resumed

CPU = torch.device("cpu")
SMALL = {
    "dataset": "shapes", "image_size": 32, "model_options": {"width": 0.125, "blocks": 1}, "batch_size": 2, "steps": 2,
    "eval_every": 2, "log_every": 1, "norm": "in",
}  # fmt: skip


def restyling(**changes: Any) -> RunConfig:
    options = {"paintings": "sample_photographs", "random": True, "weight": 0.5}
    return config(**{**SMALL, "task": "style", "model": "johnson", "task_options": options, **changes})


def enlarging(**changes: Any) -> RunConfig:
    return config(**{**SMALL, "task": "super_resolution", "model": "srresnet", **changes})


def looking(**changes: Any) -> RunConfig:
    return config(**{**SMALL, "model": "vgg16", "model_options": {"width": 0.125}, **changes})


# --- networks --------------------------------------------------------------------------------------------


def test_a_picture_comes_out_as_large_as_it_should() -> None:
    x = torch.rand(2, 3, 24, 24)
    y = generators.johnson(nn.Identity, 3, 24, width=0.125, blocks=2)(x)
    assert y.shape == x.shape
    assert y.min() > 0
    assert y.max() < 1
    assert generators.SRResNet(nn.Identity, 3, 24, width=0.125, blocks=2)(x).shape == (2, 3, 48, 48)


def test_a_normalizer_is_behind_every_convolution_of_johnson_but_the_last() -> None:
    channels: list[int] = []

    def norm(number: int) -> nn.Module:
        channels.append(number)
        return nn.Identity()

    model = generators.johnson(norm, 3, 24, blocks=2)
    assert channels == [32, 64, *[128] * 5, 64, 32]
    assert sum(isinstance(layer, nn.Conv2d) for layer in model.modules()) == len(channels) + 1


def test_the_stages_are_what_vgg16_gives_out_before_its_poolings() -> None:
    model, x = vgg16(nn.Identity, 3, 10, 32, width=0.125), torch.rand(2, 3, 32, 32)
    found = generators.stages(model, x, 4)
    assert [tuple(f.shape[1:]) for f in found] == [(8, 32, 32), (16, 16, 16), (32, 8, 8), (64, 4, 4)]
    expected = x
    for layer in list(model.children())[:6]:  # two convolutions, each with a place for a normalizer and ReLU
        expected = layer(expected)
    torch.testing.assert_close(found[0], expected)
    with pytest.raises(UsageError, match="4 max-poolings are needed"):
        generators.stages(nn.Sequential(nn.MaxPool2d(2)), x, 4)


def test_gram_matrices_are_means_of_products() -> None:
    features = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    expected = torch.einsum("nchw,ndhw->ncd", features, features) / (3 * 4 * 5)
    torch.testing.assert_close(generators.gram(features), expected)


# --- style transfer --------------------------------------------------------------------------------------


def test_the_loss_is_the_distance_in_content_and_in_style_in_their_units() -> None:
    wanted = restyling()
    task = StyleTransfer(wanted, CPU)
    model = build(wanted, task)
    x, _ = task.batch(task.held_items[:3], held=True)
    with torch.no_grad():
        found = task.losses(model, (x, x))
        made = task.painted(model, x)
        photographs = task.photographs(task.items[:128])
        of = {name: generators.stages(task.perceptual, images, 4)
              for name, images in (("x", x), ("y", made), ("s", task.style), ("all", photographs))}  # fmt: skip

    def apart(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return ((a - b) ** 2).sum(tuple(range(1, a.dim())))

    content = apart(of["y"][1], of["x"][1]) / apart(of["all"][1], of["all"][1].mean(0, keepdim=True)).mean()
    grams = {name: [generators.gram(f) for f in features] for name, features in of.items()}
    style = (
        sum(apart(grams["y"][i], grams["s"][i]) / apart(grams["all"][i], grams["s"][i]).mean() for i in range(4)) / 4
    )
    torch.testing.assert_close(found["content"], content)
    torch.testing.assert_close(found["style"], style)
    torch.testing.assert_close(found["loss"], content + 0.5 * style)


def test_a_photograph_as_it_is_has_a_content_of_zero_and_a_style_of_about_one() -> None:
    task = StyleTransfer(restyling(), CPU)
    x, _ = task.batch(task.items[:128])
    task.painted = lambda model, given: given  # type: ignore[method-assign]
    with torch.no_grad():
        found = task.losses(nn.Identity(), (x, x))
    assert found["content"].abs().max() == 0
    assert found["style"].mean().item() == pytest.approx(1, abs=1e-4)


def test_every_seed_has_a_painting_of_its_own_and_the_random_weights_of_its_own() -> None:
    tasks = [StyleTransfer(restyling(seed=seed), CPU) for seed in range(3)]
    assert [task.painting for task in tasks] == ["china", "flower", "china"]
    first, _, third = (next(task.perceptual.parameters()) for task in tasks)
    assert not torch.equal(first, third)
    torch.testing.assert_close(next(StyleTransfer(restyling(), CPU).perceptual.parameters()), first)


def test_the_network_that_looks_is_that_of_a_run_beside_and_stays_as_it_is(store: Path) -> None:
    look = looking()
    options = {"paintings": "sample_photographs"}
    wanted = restyling(task_options=options, beside={"perceptual": look.key}, probes={"contrast": 2, "examples": 2})
    first, run = sweep([look, wanted], Store("trial"), device="cpu")
    assert run.provenance["beside"] == {"perceptual": first.provenance["weights"]}
    assert run.provenance["data"]["painting"] == "china"
    assert set(run.final) >= {"train_loss", "train_style", "test_loss", "test_content", "test_style"}
    assert run.probes["examples"]["name"] == ["china", "flower"] * 2
    with pytest.raises(UsageError, match="needs a network that looks"):
        train(restyling(task_options=options), CPU)


def test_a_run_that_is_stopped_comes_to_the_same_bits(tmp_path: Path) -> None:
    wanted = restyling(norm="bn", steps=3)
    run, stops = resumed(wanted, tmp_path / "state")
    assert stops == 2
    assert run.provenance["weights"] == train(wanted, CPU).provenance["weights"]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model": "vgg16"}, "unknown model 'vgg16'"),
        ({"task_options": {"paintings": "no"}}, "unknown paintings 'no'"),
        ({"task_options": {"paintings": "sample_photographs", "weight": "much"}}, "weight must be a number from 0 on"),
        ({"task_options": {"paintings": "sample_photographs", "random": 1}}, "random must be true or false"),
        ({"task_options": {"colour": 1}}, "unknown option of the task style 'colour'"),
        ({"dataset": "style_transfer"}, "unknown data set 'style_transfer'"),
        ({"outliers": 0.5}, "outliers is of the task images"),
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        check(restyling(**changes))


def test_grey_pictures_have_no_style() -> None:
    with pytest.raises(UsageError, match="digits is grey"):
        StyleTransfer(restyling(dataset="digits"), CPU)


# --- paintings -------------------------------------------------------------------------------------------


def test_paintings_are_their_middle_parts_and_a_damaged_one_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "style_transfer" / "style"
    folder.mkdir(parents=True)
    monkeypatch.setenv("NORMCORE_DATA", str(tmp_path))
    with pytest.raises(DataError, match=r"put it there as style_transfer/style/\*\.jpg"):
        paintings.load("style_transfer", 16)
    picture = np.zeros((32, 64, 3), np.uint8)
    picture[:, 16:48] = 200
    Image.fromarray(picture).save(folder / "a.png")
    found = paintings.load("style_transfer", 16)
    assert (found.names, found.origin, found.pixels.shape) == (("a",), "NORMCORE_DATA", (1, 16, 16, 3))
    assert found.pixels.min() > 150
    (folder / "b.jpg").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"b\.jpg: not a readable image"):
        paintings.load("style_transfer", 16)


# --- super-resolution ------------------------------------------------------------------------------------


def test_the_signal_to_noise_ratio_is_of_pixels_from_0_to_1_and_gains_over_bicubic() -> None:
    task = SuperResolution(enlarging(), CPU)
    x, y = task.batch(task.held_items[:4], held=True)
    torch.testing.assert_close(x, F.avg_pool2d(y, 2))

    class Nearest(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return F.interpolate(x, scale_factor=2.0)

    found = task.scored(Nearest(), (x, y))
    pixels = task.held.pixels[task.held_items[:4]].double() / 255
    small = F.avg_pool2d(pixels.permute(0, 3, 1, 2), 2)
    for name, mode in (("nearest", "nearest"), ("bicubic", "bicubic")):
        larger = F.interpolate(small, scale_factor=2.0, mode=mode).clamp(0, 1).permute(0, 2, 3, 1)
        psnr = -10 * ((larger - pixels) ** 2).mean((1, 2, 3)).log10()
        seen = found["psnr"] if name == "nearest" else found["psnr"] - found["gain"]
        torch.testing.assert_close(seen.double(), psnr, atol=1e-3, rtol=1e-4)


def test_super_resolution_trains() -> None:
    run = train(enlarging(steps=30, eval_every=30, norm="none", batch_size=8, lr=0.001), CPU)
    assert run.curves["train"]["loss"][-1] < 0.8 * run.curves["train"]["loss"][0]
    assert set(run.final) >= {"train_loss", "test_loss", "test_psnr", "test_gain"}
