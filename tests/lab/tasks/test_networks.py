"""The networks of the experiments: their parts, their shapes, and what they refuse."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from normcore import Norm
from normcore.factory import NORMS, make_norm
from normcore.lab.errors import UsageError
from normcore.lab.runs.training import try_sizes
from normcore.lab.tasks import datasets
from normcore.lab.tasks.networks import (
    ACTIVATIONS,
    MODELS,
    Bottleneck,
    UnsteadyNoise,
    alexnet,
    fourconv,
    lenet5,
    resnet50,
    spatial_only,
    vgg16,
)  # fmt: skip
from normcore.lab.tasks.task import MakeNorm

from ..helpers import config, network


@pytest.fixture(scope="module", autouse=True)
def decoded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One cache of data sets for all that is here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NORMCORE_CACHE", str(tmp_path_factory.mktemp("cache")))
        datasets.load.cache_clear()
        yield
        datasets.load.cache_clear()


class Marker(nn.Module):
    """Stands where the normalizer does, and says how many channels it was made for."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert x.shape[1] == self.channels
        return x


def kinds(model: nn.Module) -> list[str]:
    """The parts in their order, the normalizers with their channels."""
    leaves = (m for m in model.modules() if not list(m.children()))
    return [f"norm {m.channels}" if isinstance(m, Marker) else type(m).__name__ for m in leaves]


def out(model: nn.Module, *shape: int) -> tuple[int, ...]:
    return tuple(model(torch.zeros(shape)).shape)


def parameters(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(p.shape) for name, p in model.named_parameters()}


# --- LeNet-5 ---------------------------------------------------------------------------------------------


def test_lenet5_by_default_is_what_it_was() -> None:
    """Published runs were made with it: the same parts in the same places, and so the same weights of a seed."""
    model = lenet5(Marker, 1, 10, 28)
    assert kinds(model) == [
        "Conv2d", "norm 6", "ReLU", "MaxPool2d", "Conv2d", "norm 16", "ReLU", "MaxPool2d", "Flatten",
        "Linear", "norm 120", "ReLU", "Linear", "norm 84", "ReLU", "Linear",
    ]  # fmt: skip
    assert parameters(model) == {
        "0.weight": (6, 1, 5, 5), "0.bias": (6,), "4.weight": (16, 6, 5, 5), "4.bias": (16,),
        "9.weight": (120, 400), "9.bias": (120,), "12.weight": (84, 120), "12.bias": (84,),
        "15.weight": (10, 84), "15.bias": (10,),
    }  # fmt: skip
    assert sum(p.numel() for p in model.parameters()) == 61_706
    stated = lenet5(Marker, 1, 10, 28, activation="relu", norm_first=True, linear_norm=True)
    assert kinds(stated) == kinds(model)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_normalizer_can_stand_behind_the_activation(activation: str) -> None:
    name = type(ACTIVATIONS[activation]()).__name__
    found = kinds(lenet5(Marker, 3, 7, 14, activation=activation, norm_first=False))
    assert found == [
        "Conv2d", name, "norm 6", "MaxPool2d", "Conv2d", name, "norm 16", "MaxPool2d", "Flatten",
        "Linear", name, "norm 120", "Linear", name, "norm 84", "Linear",
    ]  # fmt: skip
    first = kinds(lenet5(Marker, 3, 7, 14, activation=activation))
    assert [part for part in first if part != name] == [part for part in found if part != name]
    assert first.index("norm 6") < first.index(name)


@pytest.mark.parametrize(
    ("activation", "function"),
    [
        ("relu", lambda x: x.clamp_min(0)),
        ("tanh", torch.tanh),
        ("sigmoid", lambda x: 1 / (1 + torch.exp(-x))),
        ("gelu", lambda x: x * (1 + torch.erf(x / 2**0.5)) / 2),
    ],
)
def test_each_activation_is_the_function_of_its_name(
    activation: str, function: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    x = torch.linspace(-4, 4, 101)
    torch.testing.assert_close(ACTIVATIONS[activation]()(x), function(x), rtol=1e-5, atol=1e-6)
    torch.manual_seed(0)
    model, x = lenet5(Marker, 1, 10, 14, activation=activation), torch.randn(3, 1, 14, 14)
    assert isinstance(model, nn.Sequential)
    by_hand = x
    for part in model:
        by_hand = function(by_hand) if isinstance(part, type(ACTIVATIONS[activation]())) else part(by_hand)
    torch.testing.assert_close(model(x), by_hand, rtol=1e-4, atol=1e-5)


def test_there_are_four_activations() -> None:
    assert set(ACTIVATIONS) == {"relu", "tanh", "sigmoid", "gelu"}


@pytest.mark.parametrize("norm_first", [True, False])
def test_linear_layers_can_be_left_bare(norm_first: bool) -> None:
    found = kinds(lenet5(Marker, 1, 10, 14, norm_first=norm_first, linear_norm=False))
    assert [part for part in found if part.startswith("norm")] == ["norm 6", "norm 16"]
    normed = lenet5(Marker, 1, 10, 14, norm_first=norm_first)
    bare = lenet5(Marker, 1, 10, 14, norm_first=norm_first, linear_norm=False)
    assert parameters(bare) == parameters(normed)


@pytest.mark.parametrize("norm", NORMS)
def test_lenet5_trains_with_every_normalizer_where_it_can_stand(norm: str) -> None:
    """Those that need spatial axes, behind the convolutions alone."""
    options = {"linear_norm": not spatial_only(norm)}
    model = network(config(norm=norm, model_options=options))
    model(torch.randn(8, 1, 14, 14)).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_the_layers_themselves_say_which_need_spatial_axes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert {norm for norm in NORMS if spatial_only(norm)} == {"in", "lrn"}

    class Flattening(Norm):  # takes the input, and gives out the same whatever it is
        def forward(self, x: Tensor) -> Tensor:
            return (x - x.flatten(2).mean(2).view(*x.shape[:2], *[1] * (x.dim() - 2))) if x.dim() > 2 else x - x

    monkeypatch.setitem(NORMS, "flattening", Flattening)
    assert spatial_only("flattening")


@pytest.mark.parametrize("norm", ["in", "lrn"])
def test_what_needs_spatial_axes_cannot_stand_behind_a_linear_layer(norm: str) -> None:
    model = network(config(norm=norm))
    with pytest.raises((ValueError, IndexError, RuntimeError)):
        model(torch.randn(8, 1, 14, 14))


@pytest.mark.parametrize(
    ("model", "size", "options", "message"),
    [
        ("lenet5", 14, {"activation": "rellu"}, "unknown activation 'rellu': did you mean relu"),
        ("lenet5", 11, {}, "lenet5 needs images of at least 12 pixels, got image_size=11"),
        ("lenet5", 14, {"norm_last": True}, "norm_options or model_options.*norm_last"),
        ("fourconv", 11, {}, "fourconv needs images of at least 12 pixels, got image_size=11"),
        ("fourconv", 12, {"noisy": True}, "norm_options or model_options.*noisy"),
        ("alexnet", 14, {}, "alexnet needs images of at least 15 pixels, got image_size=14"),
        ("alexnet", 16, {"width": 0.0}, "alexnet needs width > 0 and 0 <= dropout < 1, got width=0.0 and dropout=0.0"),
        ("alexnet", 16, {"width": -1.0}, "got width=-1.0"),
        ("alexnet", 16, {"width": float("nan")}, "got width=nan"),
        ("alexnet", 16, {"dropout": 1.0}, "got width=1.0 and dropout=1.0"),
        ("alexnet", 16, {"dropout": -0.1}, "dropout=-0.1"),
        ("alexnet", 16, {"dropout": "half"}, "norm_options or model_options"),
    ],
)
def test_what_cannot_be_built_is_refused(model: str, size: int, options: dict[str, Any], message: str) -> None:
    wanted = config(model=model, image_size=size, model_options=options)
    with pytest.raises(UsageError, match=message):
        network(wanted)


@pytest.mark.parametrize(
    ("norm", "number", "message"),
    [
        ("bn", 1, r"lenet5 with bn at 14 pixels, batch_size=1: Expected more than 1 value per channel"),
        ("lrn", 64, r"lenet5 with lrn at 14 pixels, batch_size=64: LocalResponseNorm takes"),
        ("ghost-bn", 60, r"batch_size=60: groups of 8 do not divide a batch of 60"),
    ],
)
def test_a_normalizer_that_cannot_be_trained_at_these_sizes_is_refused_before_anything_is_run(
    norm: str, number: int, message: str
) -> None:
    options = {"group": 8} if norm == "ghost-bn" else {}
    with pytest.raises(UsageError, match=message):
        try_sizes(config(norm=norm, norm_options=options, batch_size=number))


@pytest.mark.parametrize(("norm", "options", "number"), [("ln", {}, 1), ("vbn", {}, 1), ("ghost-bn", {"group": 8}, 64)])
def test_what_can_be_trained_is_not(norm: str, options: dict[str, Any], number: int) -> None:
    try_sizes(config(norm=norm, norm_options=options, batch_size=number))


# --- four convolutions -----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [12, 13, 14, 28, 32])
@pytest.mark.parametrize(("channels", "classes"), [(1, 10), (3, 2)])
def test_fourconv_fits_its_images(size: int, channels: int, classes: int) -> None:
    model = fourconv(Marker, channels, classes, size)
    assert out(model, 2, channels, size, size) == (2, classes)
    assert out(model.get_submodule("features"), 2, channels, size, size) == (2, 32, size // 4, size // 4)


def test_fourconv_has_named_parts() -> None:
    model = fourconv(Marker, 1, 10, 14)
    assert [name for name, _ in model.named_children()] == ["features", "head"]
    features, head = model.children()
    stages = [[name for name, _ in stage.named_children()] for stage in features.children()]
    assert stages == [["conv", "norm", "act", "pool"]] * 2 + [["conv", "norm", "act"]] * 2
    assert kinds(features) == [
        "Conv2d", "norm 6", "ReLU", "MaxPool2d", "Conv2d", "norm 16", "ReLU", "MaxPool2d",
        "Conv2d", "norm 32", "ReLU", "Conv2d", "norm 32", "ReLU",
    ]  # fmt: skip
    assert kinds(head) == ["Flatten", "Linear", "ReLU", "Linear"]
    assert {name: shape for name, shape in parameters(model).items() if name.endswith("weight")} == {
        "features.0.conv.weight": (6, 1, 5, 5), "features.1.conv.weight": (16, 6, 5, 5),
        "features.2.conv.weight": (32, 16, 3, 3), "features.3.conv.weight": (32, 32, 3, 3),
        "head.1.weight": (84, 288), "head.3.weight": (10, 84),
    }  # fmt: skip


def test_noise_follows_each_normalizer_and_has_no_weights() -> None:
    noisy, quiet = fourconv(Marker, 1, 10, 14, noise=True), fourconv(Marker, 1, 10, 14)
    assert kinds(noisy) == [
        part for kind in kinds(quiet) for part in ([kind, "UnsteadyNoise"] if kind.startswith("norm") else [kind])
    ]
    assert parameters(noisy) == parameters(quiet)
    stage = noisy.get_submodule("features.1")
    assert [name for name, _ in stage.named_children()] == ["conv", "norm", "noise", "act", "pool"]
    noisy.load_state_dict(quiet.state_dict())
    x = torch.randn(3, 1, 14, 14)
    assert not torch.equal(noisy(x), quiet(x))
    assert torch.equal(noisy.eval()(x), quiet(x))


# --- noise that changes ----------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(8, 3), (8, 3, 5), (8, 3, 5, 4), (2, 3, 2, 2, 2)])
def test_at_evaluation_the_noise_is_none(shape: tuple[int, ...]) -> None:
    x, noise = torch.randn(shape), UnsteadyNoise()
    before = torch.get_rng_state()
    assert torch.equal(noise.eval()(x), x)
    assert torch.equal(torch.get_rng_state(), before)
    disturbed = noise.train()(x)
    assert disturbed.shape == x.shape
    assert not torch.equal(disturbed, x)


def scales_and_means(seed: int, items: int = 1000, channels: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    """Of each sample and channel, read off what two values of it become."""
    torch.manual_seed(seed)
    x = torch.tensor([0.0, 1.0]).expand(items, channels, 2)
    y = UnsteadyNoise()(x).double()
    return y[..., 1] - y[..., 0], y[..., 0]


@settings(max_examples=30)
@given(st.integers(0, 10_000))
def test_the_noise_of_a_step_has_a_mean_and_a_scale_for_each_channel_in_their_ranges(seed: int) -> None:
    """And around each a deviation of 0.1 from sample to sample; the mean of 1,000 of them is 0.003 away."""
    for found, (low, high) in zip(scales_and_means(seed), ((1, 1.25), (-0.5, 0.5)), strict=True):
        centers = found.mean(0)
        assert (centers > low - 0.016).all()
        assert (centers < high + 0.016).all()
        assert (found.std(0) - 0.1).abs().max() < 0.015
        assert centers.max() - centers.min() > 1e-3  # of each channel its own


def test_the_noise_fills_its_ranges_and_changes_with_every_step() -> None:
    steps = [scales_and_means(seed, 400, 8) for seed in range(60)]
    for place, (low, high) in enumerate(((1, 1.25), (-0.5, 0.5))):
        centers = torch.stack([step[place].mean(0) for step in steps]).flatten()
        width = high - low
        assert centers.mean().item() == pytest.approx((low + high) / 2, abs=0.1 * width)
        assert centers.std().item() == pytest.approx(width / 12**0.5, rel=0.15)
        assert centers.min() < low + 0.1 * width
        assert centers.max() > high - 0.1 * width


def test_each_sample_and_channel_is_scaled_and_shifted_as_a_whole() -> None:
    x = torch.randn(4, 3, 6, 5, dtype=torch.float64)
    y = UnsteadyNoise()(x)
    for sample in range(4):
        for channel in range(3):
            a, b = x[sample, channel].flatten(), y[sample, channel].flatten()
            s = (b - b.mean()) @ (a - a.mean()) / (a - a.mean()).square().sum()
            torch.testing.assert_close(b, s * a + (b.mean() - s * a.mean()))
    assert not torch.equal(UnsteadyNoise()(x), UnsteadyNoise()(x))


def test_gradients_pass_through_the_noise() -> None:
    x = torch.zeros(5, 2, 3, requires_grad=True)
    UnsteadyNoise()(x).sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, x.grad[:, :, :1].expand_as(x))  # the scale of its sample and channel
    assert (x.grad > 0.3).all()


# --- AlexNet ---------------------------------------------------------------------------------------------


SMALL = 1 / 32


@pytest.mark.parametrize("size", [16, 17, 28, 30, 31, 32, 47, 48, 64])
def test_alexnet_fits_its_images(size: int) -> None:
    assert out(alexnet(Marker, 3, 100, size, width=SMALL), 2, 3, size, size) == (2, 100)


def test_alexnet_for_32_pixels_is_the_paper_s_but_for_its_kernels() -> None:
    """Its numbers of channels and of hidden units; 2 x 2 x 256 features."""
    with torch.device("meta"):
        model = alexnet(Marker, 3, 100, 32)
    conv = ["Conv2d", "{}", "MaxPool2d", "ReLU"], ["Conv2d", "{}", "ReLU"]
    hidden = ["Dropout", "Linear", "norm 4096", "ReLU"]
    assert kinds(model) == [
        part.format(f"norm {number}")
        for number, pooled in ((64, True), (192, True), (384, False), (256, False), (256, True))
        for part in conv[0 if pooled else 1]
    ] + ["Flatten", *hidden, *hidden, "Linear"]
    assert {name: shape for name, shape in parameters(model).items() if name.endswith("weight")} == {
        "0.weight": (64, 3, 3, 3), "4.weight": (192, 64, 3, 3), "8.weight": (384, 192, 3, 3),
        "11.weight": (256, 384, 3, 3), "14.weight": (256, 256, 3, 3), "20.weight": (4096, 1024),
        "24.weight": (4096, 4096), "27.weight": (100, 4096),
    }  # fmt: skip
    assert [m.stride for m in model.modules() if isinstance(m, nn.Conv2d)] == [(2, 2), *[(1, 1)] * 4]


@pytest.mark.parametrize("width", [2.0, 1.0, 0.25, 0.125, 0.001])
def test_the_width_scales_channels_and_hidden_units_down_to_eight(width: float) -> None:
    with torch.device("meta"):
        model = alexnet(Marker, 1, 10, 16, width=width)
    found = [m.channels for m in model.modules() if isinstance(m, Marker)]
    assert found == [max(8, int(n * width)) for n in (64, 192, 384, 256, 256, 4096, 4096)]


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_dropout_is_before_each_hidden_linear_layer(dropout: float) -> None:
    """And does nothing at evaluation, or where its share is 0."""
    model = alexnet(Marker, 1, 10, 16, width=SMALL, dropout=dropout)
    assert isinstance(model, nn.Sequential)
    assert [m.p for m in model if isinstance(m, nn.Dropout)] == [dropout] * 2
    behind = [type(after).__name__ for m, after in itertools.pairwise(model) if isinstance(m, nn.Dropout)]
    assert behind == ["Linear", "Linear"]
    x = torch.randn(4, 1, 16, 16)
    assert torch.equal(model(x), model(x)) is (dropout == 0)
    assert torch.equal(model.eval()(x), model(x))


def test_pooling_and_relu_commute_to_the_bit() -> None:
    """What is pooled first has the scores of what is not."""
    torch.manual_seed(0)
    model = alexnet(Marker, 1, 10, 32, width=SMALL)
    assert isinstance(model, nn.Sequential)
    parts = list(model)
    for i in [i for i, part in enumerate(parts) if isinstance(part, nn.MaxPool2d)]:
        parts[i], parts[i + 1] = parts[i + 1], parts[i]
    x = torch.randn(4, 1, 32, 32)
    assert torch.equal(nn.Sequential(*parts)(x), model(x))


@pytest.mark.parametrize("model", ["lenet5", "catdog", "fourconv", "alexnet"])
def test_behind_a_normalizer_that_is_an_activation_there_is_none(model: str) -> None:
    class Both(nn.Identity):
        activates = True

    def activations(norm: MakeNorm) -> int:
        return sum(isinstance(m, nn.ReLU) for m in MODELS[model](norm, 3, 2, 32).modules())

    normalizers = sum(isinstance(m, Both) for m in MODELS[model](lambda _: Both(), 3, 2, 32).modules())
    assert normalizers >= 2
    assert activations(lambda _: Both()) == activations(lambda _: nn.Identity()) - normalizers


def test_all_networks_are_known_by_name() -> None:
    assert set(MODELS) == {"lenet5", "catdog", "fourconv", "alexnet", "vgg16", "resnet50"}
    for name, make in MODELS.items():
        options = {"width": SMALL} if name in ("alexnet", "vgg16", "resnet50") else {}
        assert out(make(Marker, 3, 7, 32, **options), 2, 3, 32, 32) == (2, 7), name


# --- VGG-16 ----------------------------------------------------------------------------------------------


def test_vgg16_has_the_paper_s_thirteen_convolutions() -> None:
    model = vgg16(Marker, 3, 10, 32, width=0.125)
    block = ["Conv2d", "norm {}", "ReLU"]
    wanted = [
        part.format(n) for n, k in ((8, 2), (16, 2), (32, 3), (64, 3), (64, 3)) for part in [*block * k, "MaxPool2d"]
    ]
    assert kinds(model) == [*wanted, "Flatten", "Linear", "ReLU", "Linear", "ReLU", "Linear"]
    assert out(model, 2, 3, 32, 32) == (2, 10)
    # configuration D of the paper has 138 million for images of 224 pixels and 1000 classes
    with torch.device("meta"):
        assert (
            sum(p.numel() for p in vgg16(lambda n: nn.Identity(), 3, 1000, 224, he=False).parameters()) == 138_357_544
        )


def test_he_s_initialization_keeps_the_signal_of_vgg16_and_torch_s_loses_it() -> None:
    x, spread = torch.randn(16, 3, 32, 32), {}
    for he in (True, False):
        torch.manual_seed(0)
        model = vgg16(lambda n: nn.Identity(), 3, 10, 32, width=0.25, he=he)
        spread[he] = model(x).std(0).mean().item()  # between images
    assert spread[True] > 0.1
    assert spread[False] < 1e-3


@pytest.mark.parametrize(("options", "words"), [({"image_size": 31}, "32 pixels"), ({"width": 0.0}, "width > 0")])
def test_vgg16_refuses_what_it_cannot_be(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        vgg16(Marker, 1, 10, **{"image_size": 32, **options})


# --- ResNet-50 -------------------------------------------------------------------------------------------


def test_resnet50_has_the_paper_s_parameters() -> None:
    """25.6 million for images of ImageNet, as torchvision's, with a pair of each normalizer's for every channel."""
    with torch.device("meta"):
        model = resnet50(nn.BatchNorm2d, 3, 1000, 224)
        assert model(torch.empty(2, 3, 224, 224)).shape == (2, 1000)
    assert sum(p.numel() for p in model.parameters()) == 25_557_032
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert len(convolutions) == 53
    assert sum(isinstance(m, nn.BatchNorm2d) for m in model.modules()) == 53


@pytest.mark.parametrize("norm", ["bn", "gn", "sn", "none"])
def test_a_block_of_resnet50_starts_as_its_shortcut(norm: str) -> None:
    """Whether a normalizer's scale or the last convolution's weights make it so."""
    block, x = Bottleneck(lambda n: make_norm(norm, n), 32, 8, 1), torch.randn(4, 32, 5, 5)
    torch.testing.assert_close(block(x), x.relu())
    block(x).square().sum().backward()
    moved = [p for p in block.parameters() if p.grad is not None and p.grad.abs().max() > 0]
    assert moved  # and can learn to be something else


@pytest.mark.parametrize(("stride", "side"), [(2, 2), (1, 4)])
def test_resnet50_keeps_the_positions_of_small_images_where_told_so(stride: int, side: int) -> None:
    model = resnet50(Marker, 3, 10, 64, width=0.125, last_stride=stride)
    assert model.get_submodule("features")(torch.zeros(1, 3, 64, 64)).shape == (1, 256, side, side)


@pytest.mark.parametrize("options", [{"image_size": 31}, {"width": 0.0}, {"last_stride": 3}])
def test_resnet50_refuses_what_it_cannot_be(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="resnet50 needs"):
        resnet50(Marker, 3, 10, **{"image_size": 64, **options})
