"""torch's own tools that decide by a layer's type or its attributes, with each of our layers and torch's beside them:
the right numbers, or a word."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.ao.quantization as quantization
import torch.fx.experimental.optimization as optimization
from torch import Tensor, nn
from torch.func import functional_call, grad, replace_all_batch_norm_modules_, stack_module_state, vmap
from torch.nn.utils import parametrizations, parametrize
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval
from torch.optim.swa_utils import AveragedModel, update_bn

from normcore import NORMS, BatchNorm, FusedNorm, RunningNorm, freeze_norms, fuse_norms, make_norm, recalibrate

from .formulas import flat, moments_over
from .helpers import filled

pytestmark = [
    pytest.mark.usefixtures("seed"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning"),  # of tools that torch replaces
]
AVERAGING: dict[str, Callable[[], nn.Module]] = {
    "torch": lambda: nn.BatchNorm2d(4),
    **{n: lambda n=n: make_norm(n, 4, track_running_stats=True) for n in ("bn", "brn", "rbn", "fnbb", "in", "sn")},
}
BATCH_NORMS = {name: AVERAGING[name] for name in ("torch", "bn")}
AFFINE = [name for name in AVERAGING if name != "sn"]


class Mine(RunningNorm):
    """What somebody makes of the base classes."""

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        self._check_input(x, mask)
        return 2 * x if mask is None else 2 * x * mask.unsqueeze(1)


def network(norm: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), filled(norm), nn.ReLU()).eval()


def images(n: int = 6) -> Tensor:
    return torch.randn(n, 3, 8, 8) + 1


def assert_same(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


# --- what looks for a BatchNorm: ours is one -----------------------------------------------------------------------


def test_batch_norm_is_a_batch_norm_and_the_others_are_not() -> None:
    """What derives from torch's would be taken for it, in training too."""
    kind = torch.nn.modules.batchnorm._BatchNorm
    assert {name for name, make in AVERAGING.items() if isinstance(make(), kind)} == set(BATCH_NORMS)
    assert not isinstance(make_norm("gn", 4), kind)


@pytest.mark.parametrize("name", BATCH_NORMS)
@pytest.mark.parametrize("averaged", [False, True])
def test_update_bn_averages_over_the_batches(name: str, averaged: bool) -> None:
    """As torch's: the mean of the batches' means and unbiased variances, from nothing."""
    model: nn.Module = network(BATCH_NORMS[name]())
    batches = images(12).split(4)
    hidden = [flat(model[0](x)).detach() for x in batches]
    if averaged:
        model = AveragedModel(model)
    update_bn(batches, model)
    layer = model.module[1] if averaged else model[1]
    found = [moments_over(h, 0, 2) for h in hidden]
    m = hidden[0].shape[0] * hidden[0].shape[2]
    assert_same(layer.running_mean, torch.stack([mean.flatten() for mean, _ in found]).mean(0))
    assert_same(layer.running_var, torch.stack([var.flatten() for _, var in found]).mean(0) * m / (m - 1))
    assert (layer.momentum, layer.num_batches_tracked.item()) == (0.1, 3)


@pytest.mark.parametrize("name", AVERAGING)
def test_recalibrate_is_for_all_of_them_and_for_averaged_models(name: str) -> None:
    model, batches = network(AVERAGING[name]()), images(12).split(4)
    averaged, before = AveragedModel(model), model[1].running_mean.clone()
    recalibrate(averaged, batches)
    assert torch.equal(model[1].running_mean, before)
    recalibrate(model, batches)
    assert_same(averaged.module[1].running_mean, model[1].running_mean)
    assert not torch.allclose(model[1].running_mean, before)


@pytest.mark.parametrize("name", AVERAGING)
@pytest.mark.parametrize("affine", [True, False])
def test_convert_sync_batchnorm_takes_batch_norm_with_all_it_has(name: str, affine: bool) -> None:
    """Parameters, averages and options; the others it leaves, and they synchronize by their process_group."""
    model = network(AVERAGING[name]())
    if name in BATCH_NORMS and not affine:
        model[1] = nn.BatchNorm2d(4, affine=False) if name == "torch" else make_norm("bn", 4, affine=False)
    model[1].eps, model[1].momentum, old, x = 0.25, 0.5, model[1], images()
    expected = model.eval()(x)
    new = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    assert_same(new(x), expected)
    if name not in BATCH_NORMS:
        assert new[1] is old
        return
    assert type(new[1]) is nn.SyncBatchNorm
    assert (new[1].eps, new[1].momentum, new[1].num_batches_tracked) == (0.25, 0.5, old.num_batches_tracked)
    assert (new[1].weight is old.weight, new[1].bias is old.bias) == (True, True)
    assert new[1].running_mean is old.running_mean
    frozen = freeze_norms(new).train()
    assert_same(frozen(x), expected)


@pytest.mark.parametrize("name", BATCH_NORMS)
def test_per_sample_gradients_without_running_averages(name: str) -> None:
    """``replace_all_batch_norm_modules_``, then vmap over grad: as sample by sample."""
    model = network(BATCH_NORMS[name]()).train()
    assert replace_all_batch_norm_modules_(model) is model
    assert not list(model.buffers())
    samples = torch.stack([images() for _ in range(3)])

    def loss(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        return functional_call(model, parameters, (x,)).sin().sum()

    parameters = dict(model.named_parameters())
    found = vmap(grad(loss), (None, 0))(parameters, samples)
    for i, x in enumerate(samples):
        expected = torch.autograd.grad(loss(parameters, x), list(parameters.values()))
        for (key, value), one in zip(found.items(), expected, strict=True):
            torch.testing.assert_close(value[i], one, rtol=1e-4, atol=1e-4, msg=key)


# --- what fuses: by attributes, by type, by the graph ----------------------------------------------------------------


@pytest.mark.parametrize("name", AFFINE)
def test_fuse_conv_bn_eval_and_its_twin_for_linear(name: str) -> None:
    """They read attributes, and so are right for all layers that evaluate as a scale and a shift."""
    model, x = network(AVERAGING[name]()), images()
    assert_same(fuse_conv_bn_eval(model[0], model[1])(x), model[1](model[0](x)))
    linear, norm = nn.Linear(5, 4).eval(), filled(nn.BatchNorm1d(4) if name == "torch" else AVERAGING[name]()).eval()
    x = torch.randn(3, 5)
    assert_same(fuse_linear_bn_eval(linear, norm)(x), norm(linear(x)))


@pytest.mark.parametrize("fuse", [quantization.fuse_modules, quantization.fuse_modules_qat])
@pytest.mark.parametrize("name", sorted(set(AVERAGING) - {"torch"}))
def test_fuse_modules_refuses_our_layers_by_name(name: str, fuse: Callable[..., Any]) -> None:
    """It knows exact classes only."""
    model = network(AVERAGING[name]()).train(fuse is quantization.fuse_modules_qat)
    with pytest.raises(AssertionError, match=r"did not find fuser method for: .*normcore\.layers"):
        fuse(model, [["0", "1"]])


@pytest.mark.parametrize("name", AFFINE)
def test_a_fused_model_is_quantized_as_any(name: str) -> None:
    """After fuse_norms there is an ordinary convolution, observed and quantized."""
    model, x = fuse_norms(network(AVERAGING[name]())), images()
    expected = model(x)
    wrapped = quantization.QuantWrapper(model).eval()
    wrapped.qconfig = quantization.get_default_qconfig("x86")
    prepared = quantization.prepare(wrapped)
    prepared(x)
    quantized = quantization.convert(prepared)
    assert type(quantized.module[0]).__module__.startswith("torch.ao.nn.quantized")
    step = prepared.module[0].activation_post_process.calculate_qparams()[0].item()
    assert (quantized(x) - expected).abs().max() < 4 * step


@pytest.mark.parametrize("name", AVERAGING)
def test_fusing_by_the_graph_gives_the_same_numbers(name: str) -> None:
    """It knows exact classes only, and leaves ours."""
    model, x = network(AVERAGING[name]()), images()
    fused = optimization.fuse(copy.deepcopy(model))
    assert_same(fused(x), model(x))
    assert ("1" in dict(fused.named_modules())) == (name != "torch")


# --- what follows a model through its forward ------------------------------------------------------------------------


class Masked(nn.Module):
    def __init__(self, norm: nn.Module, masked: bool) -> None:
        super().__init__()
        self.conv, self.norm, self.masked = nn.Conv2d(3, 4, 3), filled(norm), masked

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        y: Tensor = self.norm(self.conv(x), mask=mask) if self.masked else self.norm(self.conv(x))
        return y.relu()


LEAVES: dict[str, Callable[[], nn.Module]] = {
    "torch": lambda: nn.BatchNorm2d(4),
    **{n: lambda n=n: make_norm(n, 4) for n in NORMS if n != "none"},
    "a subclass": lambda: Mine(4),
    "fused": lambda: FusedNorm(nn.Identity(), (4,)),
}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", LEAVES)
def test_a_layer_is_a_leaf_of_a_symbolic_trace(name: str, training: bool) -> None:
    """One node that calls it, as torch's own are: averages move and hooks are called when the graph runs, and once."""
    model = Masked(LEAVES[name](), masked=name not in ("torch", "lrn", "fused")).train(training)
    graph = pickle.loads(pickle.dumps(torch.fx.symbolic_trace(model)))
    assert [node.target for node in graph.graph.nodes if node.op == "call_module"] == ["conv", "norm"]
    assert type(graph.norm) is type(model.norm)
    seen: list[type] = []
    model.norm.register_forward_hook(lambda layer, inputs, y: seen.append(type(y)))
    with_hook = torch.fx.symbolic_trace(copy.deepcopy(model))
    assert not seen
    x, mask = images(), torch.rand(6, 6, 6) < 0.7
    expected = model(x, mask)
    for trace in (graph, with_hook):
        assert_same(trace(x, mask), expected)
        for found, wanted in zip(trace.buffers(), model.buffers(), strict=True):
            assert_same(found, wanted)
    assert seen == [Tensor, Tensor]


def test_a_tracer_of_one_s_own_is_asked() -> None:
    """It learns of the call as of any module's, as those do that look for a model's features."""
    calls = []

    class Tracer(torch.fx.Tracer):
        def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
            calls.append(self.path_of_module(m))
            return super().call_module(m, forward, args, kwargs)

    Tracer().trace(network(BatchNorm(4)))
    assert calls == ["0", "1", "2"]


# --- what wraps parameters --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", AVERAGING)
def test_a_parametrized_scale_is_used_and_can_be_removed(name: str) -> None:
    model, x = network(AVERAGING[name]()), images()
    expected, kind = model(x), type(model[1])
    parametrizations.weight_norm(model[1], dim=None)
    assert_same(model(x), expected)
    with torch.no_grad():
        model[1].parametrizations.weight.original0.mul_(2)
    doubled = model(x)
    parametrize.remove_parametrizations(model[1], "weight")
    assert type(model[1]) is kind
    assert_same(model(x), doubled)
    assert not torch.allclose(doubled, expected)


@pytest.mark.parametrize("name", AVERAGING)
def test_many_models_at_once(name: str) -> None:
    """``stack_module_state`` and vmap, at evaluation."""
    models = [network(AVERAGING[name]()) for _ in range(3)]
    parameters, buffers = stack_module_state(models)
    x = images()

    def run(parameters: dict[str, Tensor], buffers: dict[str, Tensor]) -> Tensor:
        return functional_call(models[0], (parameters, buffers), (x,))

    found = vmap(run)(parameters, buffers)
    for y, model in zip(found, models, strict=True):
        assert_same(y, model(x))


def test_a_fused_layer_is_left_by_all_of_them() -> None:
    model = fuse_norms(network(BatchNorm(4)))
    assert isinstance(nn.SyncBatchNorm.convert_sync_batchnorm(model)[1], FusedNorm)
