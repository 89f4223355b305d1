"""Statistics over a process group: two processes with a share each are one process with the whole batch."""

import copy
import pickle
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from normcore import NORMS, convert_norms, freeze_norms, make_norm, recalibrate

pytestmark = pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(), reason="no gloo here")

KINDS: dict[str, Callable[..., nn.Module]] = {
    "bn": partial(make_norm, "bn"),
    "bn, averaging": partial(make_norm, "bn", momentum=None),
    "bn, not affine": partial(make_norm, "bn", affine=False),
    "bn, masked": partial(make_norm, "bn"),
    "brn": partial(make_norm, "brn", schedule=None, r_max=1.5, d_max=0.5),
    "rbn": partial(make_norm, "rbn"),
    "sn": partial(make_norm, "sn"),
    "fnbb": partial(make_norm, "fnbb"),
    "fnbl": partial(make_norm, "fnbl", semantics="text"),
}
SHARES = [(5, 3), (8, 0), (0, 8)]
SHAPES = [(8, 3), (8, 3, 4, 2)]
Case = tuple[str, tuple[int, int], tuple[int, ...]]
CASES: list[Case] = [(kind, shares, shape) for kind in KINDS for shares in SHARES for shape in SHAPES]
Results = dict[Any, dict[str, Tensor]]


def trained(case: Case, share: slice, group: Any = None) -> dict[str, Tensor]:
    """Two training steps on a share of the batch, then an evaluation of it."""
    kind, _, shape = case
    torch.manual_seed(0)
    layer = KINDS[kind](3, process_group=group).double()
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    found: dict[str, Tensor] = {}
    for step in range(2):
        whole, mask = torch.randn(shape, dtype=torch.float64) * 2 + step, torch.rand(shape[0], *shape[2:]) < 0.7
        x = whole[share].clone().requires_grad_()
        y = layer(x, mask[share]) if "masked" in kind else layer(x)
        y.sin().sum().backward()
        found |= {f"y of step {step}": y.detach(), f"dx of step {step}": x.grad}
    found["evaluation"] = layer.eval()(whole[share]).detach()
    found |= {f"gradient of {key}": p.grad for key, p in layer.named_parameters()}
    return found | {key: b.clone() for key, b in layer.named_buffers()}


class OnCPU(nn.SyncBatchNorm):
    """torch's layer, which trains on a GPU alone; recalibrate looks at its input and its group."""

    def forward(self, x: Tensor) -> Tensor:
        return x


def data_of(rank: int) -> Tensor:
    return torch.randn(6, 3, 4, generator=torch.Generator().manual_seed(rank), dtype=torch.float64) + 3 * rank


def worker(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2, timeout=timedelta(seconds=60)
    )
    bounds = {case: (slice(0, case[1][0]), slice(case[1][0], None)) for case in CASES}
    found: dict[Any, dict[str, Tensor]] = {case: trained(case, bounds[case][rank], dist.group.WORLD) for case in CASES}
    nobody = make_norm("bn", 3, process_group=dist.group.WORLD)
    nobody(torch.empty(0, 3, 4))
    found["nobody"] = nobody.state_dict()
    sizes = ((1, 3, 2), (4, 0, 2))[rank]
    found["recalibrated"] = recalibrate(OnCPU(3).double(), data_of(rank).split(sizes)).state_dict()
    torch.save(found, folder / f"{rank}.pt")
    if rank == 0:  # at evaluation nobody waits for the others
        make_norm("bn", 3, process_group=dist.group.WORLD).eval()(torch.randn(2, 3))
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[Results]:
    """Of rank 0 and of rank 1: all cases in one start of the processes."""
    folder = tmp_path_factory.mktemp("processes")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parent.parent))  # where the processes find this module
        mp.spawn(worker, args=(folder,), nprocs=2)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c[0]}-{c[1][0]}+{c[1][1]}-{len(c[2])}D")
def test_two_shares_are_one_batch(results: list[Results], case: Case) -> None:
    expected = trained(case, slice(None))
    parts = [result[case] for result in results]
    assert all(part.keys() == expected.keys() for part in parts)
    for key, value in expected.items():
        if key.startswith("gradient"):  # what DistributedDataParallel, or the loss, sums or averages
            found = [parts[0][key] + parts[1][key]]
        elif key.startswith(("y", "dx", "evaluation")):
            found = [torch.cat([part[key] for part in parts])]
        else:  # buffers are the same in both
            found = [part[key] for part in parts]
        for tensor in found:
            torch.testing.assert_close(tensor, value, rtol=1e-9, atol=1e-9, msg=lambda m, key=key: f"{key}: {m}")


def test_a_batch_that_is_empty_everywhere_moves_no_averages(results: list[Results]) -> None:
    """It counts as a batch, as in one process."""
    layer = make_norm("bn", 3)
    layer(torch.empty(0, 3, 4))
    for result in results:
        for key, value in layer.state_dict().items():
            assert torch.equal(result["nobody"][key], value), key
    assert layer.num_batches_tracked == 1


def test_synchronized_layers_of_torch_are_recalibrated_to_the_data_of_all_processes(results: list[Results]) -> None:
    data = torch.cat([data_of(rank).movedim(1, -1).flatten(0, -2) for rank in range(2)])
    for result in results:
        torch.testing.assert_close(result["recalibrated"]["running_mean"], data.mean(0))
        torch.testing.assert_close(result["recalibrated"]["running_var"], data.var(0))


def test_synchronized_layers_of_torch_stay_synchronized(tmp_path: Path) -> None:
    """Theirs mean all processes when they name no group; where there are no processes, there is nothing to share."""
    assert convert_norms(nn.SyncBatchNorm(3), "bn").process_group is None
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        assert convert_norms(nn.SyncBatchNorm(3), "sn").process_group is dist.group.WORLD
        assert type(freeze_norms(nn.SyncBatchNorm(3))) is nn.SyncBatchNorm
        assert convert_norms(nn.BatchNorm2d(3), "bn").process_group is None
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize("name", sorted(NORMS))
def test_a_layer_without_a_group_is_copied_and_pickled(name: str) -> None:
    """Before and after use, and with gradients there."""
    layer, x = make_norm(name, 4), torch.randn(3, 4, 5, 5)
    for _ in range(2):
        twins = (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)))
        expected = layer(x)
        for twin in twins:
            assert torch.equal(twin(x), expected)
        if expected.requires_grad:
            expected.square().sum().backward()


@pytest.mark.parametrize("name", [name for name in KINDS if name in NORMS])
def test_a_synchronized_layer_is_copied_and_saved(name: str, tmp_path: Path) -> None:
    """A copy is of the same processes; what is loaded, of all where there are some, and alone where there are none."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        layer, x = KINDS[name](4, process_group=dist.group.WORLD), torch.randn(3, 4, 5)
        layer(x)
        model = torch.optim.swa_utils.AveragedModel(nn.Sequential(layer))
        torch.save(layer, tmp_path / "layer.pt")
        loaded = torch.load(tmp_path / "layer.pt", weights_only=False)
        expected = layer(x)
        for twin in (copy.deepcopy(model.module[0]), loaded):
            assert twin.process_group is dist.group.WORLD
            assert torch.equal(twin(x), expected)
        some = KINDS[name](4, process_group=dist.new_group([0]))
        assert copy.copy(some).process_group is copy.deepcopy(some).process_group is some.process_group
        with pytest.raises(pickle.PicklingError, match="Save its state_dict"):
            pickle.dumps(some)
    finally:
        dist.destroy_process_group()
    assert torch.load(tmp_path / "layer.pt", weights_only=False).process_group is None
