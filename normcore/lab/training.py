"""The training loop: read it in one sitting."""

import copy
import ctypes
import math
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..factory import make_norm
from ..layers import ClipSchedule, VirtualBatchNorm, reference_pass
from . import data, models, probes
from .errors import LabError, UsageError
from .files import replacing
from .outliers import Outliers
from .provenance import provenance
from .runs import Run, RunConfig

CHECKPOINT_EVERY = 60.0  # seconds; what a killed run loses at the most


class OutOfTime(LabError):
    """The time budget ended inside a run; its state is saved and the next call goes on from there."""


class Images:
    """A split on the device: uint8 pixels and labels, gathered and standardized a batch at a time.

    The pixels stay as they were decoded, (N, H, W, C); on a CPU they are the mapped file itself. A batch is
    (B, C, H, W), channels_last, float32, standardized by the training split's mean and deviation. With ``outliers``,
    some of the images are.
    """

    def __init__(self, split: data.Split, dataset: data.Dataset, device: torch.device) -> None:
        self.outliers: Outliers | None = None
        self.pixels = _as_tensor(split.images).to(device)
        self.labels = torch.from_numpy(split.labels).to(device)
        std = torch.tensor(dataset.std).clamp_min(1e-8)
        self.scale = (1 / (255 * std)).to(device)
        self.shift = (-torch.tensor(dataset.mean) / std).to(device)

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, index: Tensor | slice) -> tuple[Tensor, Tensor]:
        pixels = self.pixels[index]
        x = torch.addcmul(self.shift, pixels.to(torch.float32), self.scale)
        x = x.permute(0, 3, 1, 2)
        if self.outliers is not None:
            assert isinstance(index, Tensor)
            x = self.outliers(x, index)
        return x, self.labels[index]


def _as_tensor(images: Any) -> Tensor:
    with warnings.catch_warnings():  # the mapped array is read-only, and nothing here writes to it
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(images)


def splits(config: RunConfig, dataset: data.Dataset, device: torch.device) -> tuple[Images, Tensor, Images, Tensor]:
    """(training images, their indices, evaluation images, their indices).

    The held-out validation images are drawn once for all seeds, so that every run is judged on the same.
    """
    train = Images(dataset.train, dataset, device)
    if not config.validation:
        test = Images(dataset.test, dataset, device)
        return train, torch.arange(len(train), device=device), test, torch.arange(len(test), device=device)
    if config.validation + config.batch_size > len(train):
        raise UsageError(f"validation={config.validation} leaves no batch of {config.batch_size} to train on")
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(0)).to(device)
    held_out, kept = order[: config.validation].sort().values, order[config.validation :].sort().values
    return train, kept, train, held_out


def batches(items: Tensor, config: RunConfig, start: int) -> Iterator[Tensor]:
    """The indices of every batch from step ``start`` on: each epoch a new order, made from seed and epoch
    alone, so that any step can be found again."""
    per_epoch = len(items) // config.batch_size
    for step in range(start, config.steps):
        epoch, at = divmod(step, per_epoch)
        if step == start or at == 0:
            generator = torch.Generator().manual_seed(config.seed * 1_000_003 + epoch)
            order = items[torch.randperm(len(items), generator=generator).to(items.device)]
        yield order[at * config.batch_size : (at + 1) * config.batch_size]


def foreign_images(config: RunConfig, dataset: data.Dataset, device: torch.device) -> Tensor:
    """512 training images of the data set that the run calls foreign, as this one's would be: with as many channels,
    standardized by its own mean and deviation. Without such a set, none."""
    if not config.foreign:
        return torch.empty(0, device=device)
    other = data.load(config.foreign, config.image_size)
    x, _ = Images(other.train, other, device).batch(slice(0, 512))
    if other.channels != dataset.channels:
        x = x.mean(1, keepdim=True).expand(-1, dataset.channels, -1, -1)
    return x.contiguous(memory_format=torch.channels_last)


def build(config: RunConfig, dataset: data.Dataset, device: torch.device) -> nn.Module:
    """The network with its normalizer, initialized from the seed; the same weights on every device."""
    torch.manual_seed(config.seed)

    def norm(channels: int) -> nn.Module:
        options = dict(config.norm_options)
        if isinstance(options.get("schedule"), dict):  # of BatchRenorm, written as what a result file can hold
            options["schedule"] = ClipSchedule(**options["schedule"])
        return make_norm(config.norm, channels, **options)

    make = models.MODELS[config.model]
    try:
        model = make(norm, dataset.channels, dataset.classes, config.image_size, **config.model_options)
    except TypeError as error:
        raise UsageError(f"norm_options or model_options: {error}") from error
    return model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def optimizer(config: RunConfig, model: nn.Module) -> torch.optim.Optimizer:
    options = dict(config.optimizer_options)
    cuda = next(model.parameters()).is_cuda
    fused = {} if options.keys() & {"foreach", "differentiable"} else {"fused": True, "capturable": cuda}
    try:
        if config.optimizer == "adam":
            return torch.optim.Adam(model.parameters(), lr=config.lr, **{**fused, **options})
        return torch.optim.SGD(model.parameters(), lr=config.lr, **{"momentum": 0.9, **options})
    except (TypeError, ValueError) as error:
        raise UsageError(f"optimizer_options {options}: {error}") from error


@contextmanager
def referred(model: nn.Module, reference: Tensor | None) -> Iterator[None]:
    """Within the block, virtual batch normalization has this reference batch; without one, nothing is changed.

    A network with a part ``features`` has its normalizers there: the reference goes no farther, and so leaves the
    running statistics of the rest alone.
    """
    if reference is None:
        yield
        return
    with reference_pass(getattr(model, "features", model), reference):
        yield


def step(
    model: nn.Module, optim: torch.optim.Optimizer, x: Tensor, y: Tensor, reference: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """One optimizer step; returns the batch's loss and its number of right answers."""
    with referred(model, reference):
        scores = model(x)
    loss = F.cross_entropy(scores, y)
    optim.zero_grad(set_to_none=True)
    loss.backward()
    optim.step()
    return loss.detach(), (scores.detach().argmax(1) == y).sum()


class Replayed:
    """A step of training on a GPU: its first calls run it as it is, the next captures it as a CUDA graph, and from
    then on the graph is replayed on the batch's indices. A step of a small network is mostly the launching of its
    kernels, and a graph is launched at once. What cannot be captured goes on as it is.

    Args:
        run: computes a step from the indices of its batch, without ever waiting for the device.
    """

    WARM_UP = 3  # calls before the capture, on a stream of their own as capturing demands

    def __init__(self, run: Callable[[Tensor], tuple[Tensor, Tensor]]) -> None:
        self.run, self.calls = run, 0
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, index: Tensor) -> tuple[Tensor, Tensor]:
        self.calls += 1
        if self.calls <= self.WARM_UP:
            stream, current = torch.cuda.Stream(), torch.cuda.current_stream()
            stream.wait_stream(current)
            with torch.cuda.stream(stream):
                found = self.run(index)
            current.wait_stream(stream)
            return found
        if self.calls == self.WARM_UP + 1:
            self._capture(index)
        if self.graph is None:
            return self.run(index)
        self.index.copy_(index)
        self.graph.replay()
        return self.found

    def _capture(self, index: Tensor) -> None:
        self.index, graph = index.clone(), torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                self.found = self.run(self.index)
        except RuntimeError as error:
            warnings.warn(f"this step cannot be captured as a CUDA graph and runs without: {error}", stacklevel=2)
            return
        self.graph = graph


def stepper(
    model: nn.Module, optim: torch.optim.Optimizer, images: Images, reference: Tensor | None = None
) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """:func:`step` on the batch with these indices; on a GPU, replayed."""

    def run(index: Tensor) -> tuple[Tensor, Tensor]:
        return step(model, optim, *images.batch(index), reference)

    return Replayed(run) if images.labels.is_cuda else run


@torch.no_grad()
def evaluate(
    model: nn.Module, images: Images, items: Tensor, batch_size: int = 125, reference: Tensor | None = None
) -> tuple[float, float]:
    """Mean cross-entropy and accuracy over the items, in evaluation mode."""
    model.eval()
    loss, right = torch.zeros(2, dtype=torch.float64, device=items.device)
    with referred(model, reference):
        for index in items.split(batch_size):
            x, y = images.batch(index)
            scores = model(x)
            loss += F.cross_entropy(scores, y, reduction="sum")
            right += (scores.argmax(1) == y).sum()
    model.train()
    return loss.item() / len(items), right.item() / len(items)


def keep_memory() -> None:
    """Have the C library keep freed memory for the next step instead of giving it back to the system: pages that
    come anew every step are cleared every step, which takes a third of its time. Where this is not glibc, nothing."""
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        for parameter, size in ((-3, 1 << 25), (-1, 1 << 30), (-2, 1 << 28)):  # M_MMAP_THRESHOLD, M_TRIM_.., M_TOP_PAD
            libc.mallopt(parameter, size)


@contextmanager
def deterministic(device: torch.device) -> Iterator[None]:
    """One thread on a CPU: the same configuration then gives the same bits, and several runs side by side
    beat several threads on one."""
    threads = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def train(
    config: RunConfig,
    device: torch.device,
    *,
    progress: Callable[[int], None] = lambda step: None,
    deadline: float = math.inf,
    checkpoint: Path | None = None,
) -> Run:
    """Train and evaluate as the configuration says.

    Args:
        config: what to run.
        device: where.
        progress: called with the number of steps done.
        deadline: by ``time.monotonic``; past it the state is saved and :class:`OutOfTime` raised.
        checkpoint: where the state of an unfinished run is kept; a state found there is gone on from.

    Raises:
        UsageError: options that the layer, the model or the optimizer does not take.
        DataError: see :func:`normcore.lab.data.load`.
        OutOfTime: at the deadline.
    """
    keep_memory()
    with deterministic(device):
        return _train(config, device, progress, deadline, checkpoint)


def _train(
    config: RunConfig,
    device: torch.device,
    progress: Callable[[int], None],
    deadline: float,
    checkpoint: Path | None,
) -> Run:
    started, clock, origin = datetime.now(UTC), time.monotonic(), provenance(device)
    dataset = data.load(config.dataset, config.image_size, config.colours)
    images, items, held_out, held_items = splits(config, dataset, device)
    if len(items) < config.batch_size:
        raise UsageError(f"batch_size={config.batch_size} is more than the {len(items)} training images")
    foreign = foreign_images(config, dataset, device)
    if config.outliers:
        images = copy.copy(images)  # held-out images are of the same split
        images.outliers = Outliers.draw(len(images), config.outliers, config.outlier_kind, foreign)
    model = build(config, dataset, device)
    optim = optimizer(config, model)
    curves: dict[str, dict[str, list[float]]] = {
        split: {"step": [], "loss": [], "accuracy": []} for split in ("train", "batch", config.evaluated_on)
    }
    probed: probes.Probed = {}
    reference = None
    if any(isinstance(layer, VirtualBatchNorm) for layer in model.modules()):
        reference = images.batch(next(batches(items, config, 0)))[0]
    done, seconds = _resume(checkpoint, config, device, model, optim, curves, probed)
    losses = torch.zeros(config.log_every, device=device)
    right = torch.zeros(config.log_every, device=device)
    advance = stepper(model, optim, images, reference)
    saved, diverged_at, logged = time.monotonic(), None, done

    def snapshot(index: Tensor) -> probes.Snapshot:
        held = held_out.batch(held_items[:512])
        return _snapshot(config, model, optim, images.batch(index), reference, held, foreign)

    def probe(index: Tensor, last: bool = False) -> None:
        for name in probes.due(config.probes, done, last):
            probes.take(name, lambda: snapshot(index), device, done, probed)

    for index in batches(items, config, done):
        probe(index)
        loss, hits = advance(index)
        losses[done - logged], right[done - logged] = loss, hits
        done += 1
        evaluated = done % config.eval_every == 0 or done == config.steps
        if not (done - logged == config.log_every or evaluated):
            continue
        values = losses[: done - logged].tolist()
        bad = next((i for i, value in enumerate(values) if not math.isfinite(value)), None)
        if bad is not None:
            diverged_at = logged + bad + 1
            break
        accuracy = right[: done - logged].sum().item() / (config.batch_size * len(values))
        _point(curves["train"], done, sum(values) / len(values), accuracy)
        logged = done
        if evaluated:
            _point(curves["batch"], done, values[-1], hits.item() / config.batch_size)
            _point(curves[config.evaluated_on], done, *evaluate(model, held_out, held_items, reference=reference))
        progress(done)
        now = time.monotonic()
        late = now > deadline and done < config.steps
        if checkpoint and done < config.steps and (late or now - saved > CHECKPOINT_EVERY):
            _save(checkpoint, device, model, optim, curves, probed, done, seconds + now - clock)
            saved = now
        if late:
            raise OutOfTime(f"the time budget ended at step {done} of {config.steps}")
    if diverged_at is None and config.probes:
        probe(index, last=True)

    if checkpoint:
        checkpoint.unlink(missing_ok=True)
    seconds += time.monotonic() - clock
    return Run(
        config=config,
        status="finished" if diverged_at is None else "diverged",
        final={f"{split}_{name}": points[name][-1] for split, points in curves.items()
               for name in ("loss", "accuracy") if points[name]},
        curves=curves,
        provenance={
            **origin,
            "started": started.isoformat(timespec="seconds"),
            "seconds": round(seconds, 3),
            "images_per_second": round(done * config.batch_size / seconds, 1),
            "steps_per_epoch": len(items) // config.batch_size,
            "parameters": sum(p.numel() for p in model.parameters()),
            "data": {"fingerprint": dataset.fingerprint, "origin": dataset.origin,
                     "train_items": len(items), f"{config.evaluated_on}_items": len(held_items),
                     **_fingerprint_of(config.foreign, config.image_size)},
        },
        diverged_at=diverged_at,
        probes=probed,
    )  # fmt: skip


def _fingerprint_of(foreign: str, image_size: int) -> dict[str, str]:
    return {"foreign": data.load(foreign, image_size).fingerprint} if foreign else {}


def _snapshot(
    config: RunConfig,
    model: nn.Module,
    optim: torch.optim.Optimizer,
    batch: tuple[Tensor, Tensor],
    reference: Tensor | None,
    held: tuple[Tensor, Tensor],
    foreign: Tensor,
) -> probes.Snapshot:
    """What a probe sees before the step on this batch."""

    def forward(network: nn.Module, x: Tensor) -> Tensor:
        with referred(network, reference):
            return network(x)

    def stepped() -> nn.Module:
        network = copy.deepcopy(model)
        own = optimizer(config, network)
        own.load_state_dict(copy.deepcopy(optim.state_dict()))
        step(network, own, *batch, reference)
        return network

    return probes.Snapshot(model, stepped, forward, *batch, *held, foreign, config.lr)


def _point(curve: dict[str, list[float]], step: int, loss: float, accuracy: float) -> None:
    for name, value in (("step", step), ("loss", round(loss, 6)), ("accuracy", round(accuracy, 6))):
        curve[name].append(value)


def _save(
    path: Path,
    device: torch.device,
    model: nn.Module,
    optim: torch.optim.Optimizer,
    curves: dict[str, dict[str, list[float]]],
    probed: probes.Probed,
    done: int,
    seconds: float,
) -> None:
    generators = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        generators["cuda"] = torch.cuda.get_rng_state(device)
    state = {
        "model": model.state_dict(), "optimizer": optim.state_dict(), "generators": generators,
        "curves": curves, "probes": probed, "done": done, "seconds": seconds,
    }  # fmt: skip
    with replacing(path) as temporary:
        torch.save(state, temporary)


def _resume(
    path: Path | None,
    config: RunConfig,
    device: torch.device,
    model: nn.Module,
    optim: torch.optim.Optimizer,
    curves: dict[str, dict[str, list[float]]],
    probed: probes.Probed,
) -> tuple[int, float]:
    """(steps done, seconds spent) of an earlier call that did not finish; a damaged state starts anew."""
    if path is None or not path.is_file():
        return 0, 0.0
    try:
        state = torch.load(path, map_location=device, weights_only=True)
        generators = state["generators"]
    except Exception:  # whatever the unpickler makes of a damaged file
        path.unlink()
        return 0, 0.0
    model.load_state_dict(state["model"])
    optim.load_state_dict(state["optimizer"])
    torch.set_rng_state(generators["cpu"].cpu())
    if "cuda" in generators and device.type == "cuda":
        torch.cuda.set_rng_state(generators["cuda"].cpu(), device)
    curves.update(state["curves"])
    probed.update(state.get("probes", {}))
    return state["done"], state["seconds"]
