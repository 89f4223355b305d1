"""The training loop: read it in one sitting."""

import copy
import ctypes
import itertools
import math
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..factory import make_norm
from ..layers import ClipSchedule, VirtualBatchNorm, reference_pass
from . import data, keras_contrib, models, probes
from .errors import LabError, UsageError
from .files import replacing
from .images import Images, batches, foreign_images, splits
from .outliers import Outliers
from .provenance import provenance
from .runs import HALVES, Run, RunConfig

CHECKPOINT_EVERY = 60.0  # seconds; what a killed run loses at the most


class OutOfTime(LabError):
    """The time budget ended inside a run; its state is saved and the next call goes on from there."""


def build(config: RunConfig, dataset: data.Dataset, device: torch.device) -> nn.Module:
    """The network with its normalizer, initialized from the seed; the same weights on every device."""
    torch.manual_seed(config.seed)

    def norm(channels: int) -> nn.Module:
        options = dict(config.norm_options)
        if isinstance(options.get("schedule"), dict):  # of BatchRenorm, written as what a result file can hold
            options["schedule"] = ClipSchedule(**options["schedule"])
        make_layer = keras_contrib.NORMS.get(config.norm)
        return make_layer(channels, **options) if make_layer else make_norm(config.norm, channels, **options)

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
) -> dict[str, float]:
    """Mean cross-entropy and accuracy over the items, in evaluation mode; and the accuracy over each of two fixed
    halves of them, drawn at random once for all runs, so that a step can be chosen on one and judged on the other."""
    model.eval()
    loss = torch.zeros((), dtype=torch.float64, device=items.device)
    right = []
    with referred(model, reference):
        for index in items.split(batch_size):
            x, y = images.batch(index)
            scores = model(x)
            loss += F.cross_entropy(scores, y, reduction="sum")
            right.append(scores.argmax(1) == y)
    model.train()
    hits = torch.cat(right).double()
    of_halves = {name: half.mean().item() for name, half in zip(HALVES, halves(hits), strict=True)}
    return {"loss": loss.item() / len(items), "accuracy": hits.mean().item(), **of_halves}


def halves(values: Tensor) -> tuple[Tensor, ...]:
    """The values of one half of the items and of the other, drawn at random, the same for every run."""
    order = torch.randperm(len(values), generator=torch.Generator().manual_seed(0))
    return values[order.to(values.device)].tensor_split(2)


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
        training = _Training(config, device)
        if checkpoint:
            training.resume(checkpoint)
        training.run(progress, deadline, checkpoint)
        if checkpoint:
            checkpoint.unlink(missing_ok=True)
        return training.result()


class _Training:
    """A run on its way: what it is made of, where it has got to, and what it has measured."""

    def __init__(self, config: RunConfig, device: torch.device) -> None:
        self.clock, self.provenance = time.monotonic(), provenance(device, probed=bool(config.probes))
        self.provenance["started"] = datetime.now(UTC).isoformat(timespec="seconds")
        self.config, self.device = config, device
        self.dataset = dataset = data.load(config.dataset, config.image_size, config.colours)
        self.images, self.items, self.held_out, self.held_items = splits(config, dataset, device)
        if len(self.items) < config.batch_size:
            raise UsageError(f"batch_size={config.batch_size} is more than the {len(self.items)} training images")
        self.foreign = foreign_images(config, dataset, device)
        if config.outliers:
            self.images = copy.copy(self.images)  # held-out images are of the same split
            kind, share = config.outlier_kind, config.outliers
            self.images.outliers = Outliers.draw(len(self.images), share, kind, self.foreign)
        self.model = build(config, dataset, device)
        self.optim = optimizer(config, self.model)
        self.reference: Tensor | None = None
        if any(isinstance(layer, VirtualBatchNorm) for layer in self.model.modules()):
            self.reference = self.images.batch(next(batches(self.items, config, 0)))[0]
        self.done = 0
        self.diverged_at: int | None = None
        self.curves: dict[str, dict[str, list[float]]] = {
            split: {name: [] for name in ("step", "loss", "accuracy", *HALVES * (split == config.evaluated_on))}
            for split in ("train", "batch", config.evaluated_on)
        }
        self.probes: probes.Probed = {}

    def run(self, progress: Callable[[int], None], deadline: float, checkpoint: Path | None) -> None:
        """Every step that is left, unless the loss stops being a number or the time is over."""
        config = self.config
        advance = stepper(self.model, self.optim, self.images, self.reference)
        losses, right = torch.zeros(2, config.log_every, device=self.device)
        logged, saved = self.done, time.monotonic()
        for index in batches(self.items, config, self.done):
            self.probe()
            losses[self.done - logged], right[self.done - logged] = advance(index)
            self.done += 1
            evaluated = self.done % config.eval_every == 0 or self.done == config.steps
            if not (self.done - logged == config.log_every or evaluated):
                continue
            self.log(losses[: self.done - logged], right[: self.done - logged], evaluated)
            if self.diverged_at is not None:
                return
            logged = self.done
            progress(self.done)
            if self.done == config.steps:
                break
            late = time.monotonic() > deadline
            if checkpoint and (late or time.monotonic() - saved > CHECKPOINT_EVERY):
                self.save(checkpoint)
                saved = time.monotonic()
            if late:
                raise OutOfTime(f"the time budget ended at step {self.done} of {config.steps}")
        self.probe(last=True)

    def log(self, losses: Tensor, right: Tensor, evaluated: bool) -> None:
        """A point of the training curve, the mean of these steps; where it is evaluated, of the other two as well."""
        values, size = losses.tolist(), self.config.batch_size
        bad = next((i for i, value in enumerate(values) if not math.isfinite(value)), None)
        if bad is not None:
            self.diverged_at = self.done - len(values) + bad + 1
            return
        self._point("train", loss=sum(values) / len(values), accuracy=right.sum().item() / (size * len(values)))
        if evaluated:
            self._point("batch", loss=values[-1], accuracy=right[-1].item() / size)
            measured = evaluate(self.model, self.held_out, self.held_items, reference=self.reference)
            self._point(self.config.evaluated_on, **measured)

    def _point(self, curve: str, **metrics: float) -> None:
        self.curves[curve]["step"].append(self.done)
        for name, value in metrics.items():
            self.curves[curve][name].append(round(value, 6))

    def probe(self, last: bool = False) -> None:
        """What the probes that are due find before the coming step."""
        for name in probes.due(self.config.probes, self.done, last):
            probes.take(name, self.snapshot, self.device, self.done, self.probes)

    def snapshot(self) -> probes.Snapshot:
        """What a probe sees."""
        held = self.held_out.batch(self.held_items[:512])
        first = [self.images.batch(i) for i in itertools.islice(batches(self.items, self.config, 0), probes.BATCHES)]

        def forward(network: nn.Module, x: Tensor) -> Tensor:
            with referred(network, self.reference):
                return network(x)

        def stepped(x: Tensor, y: Tensor) -> nn.Module:
            network = copy.deepcopy(self.model)
            own = optimizer(self.config, network)
            own.load_state_dict(copy.deepcopy(self.optim.state_dict()))
            step(network, own, x, y, self.reference)
            return network

        def trained() -> dict[str, float]:
            found = evaluate(copy.deepcopy(self.model), self.images, self.items, reference=self.reference)
            return {name: found[name] for name in ("loss", "accuracy")}

        return probes.Snapshot(self.model, stepped, forward, first, trained, *held, self.foreign, self.config.lr)

    def save(self, checkpoint: Path) -> None:
        """Keep what the run needs to go on."""
        generators = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            generators["cuda"] = torch.cuda.get_rng_state(self.device)
        state = {
            "model": self.model.state_dict(), "optimizer": self.optim.state_dict(), "generators": generators,
            "curves": self.curves, "probes": self.probes, "done": self.done, "seconds": time.monotonic() - self.clock,
        }  # fmt: skip
        with replacing(checkpoint) as temporary:
            torch.save(state, temporary)

    def resume(self, checkpoint: Path) -> None:
        """Go on from what an earlier call saved, if there is such; a damaged state starts anew."""
        if not checkpoint.is_file():
            return
        try:
            state = torch.load(checkpoint, map_location=self.device, weights_only=True)
            generators = state["generators"]
        except Exception:  # whatever the unpickler makes of a damaged file
            checkpoint.unlink()
            return
        self.model.load_state_dict(state["model"])
        self.optim.load_state_dict(state["optimizer"])
        torch.set_rng_state(generators["cpu"].cpu())
        if "cuda" in generators and self.device.type == "cuda":
            torch.cuda.set_rng_state(generators["cuda"].cpu(), self.device)
        self.curves, self.probes, self.done = state["curves"], state.get("probes", {}), state["done"]
        self.clock -= state["seconds"]

    def result(self) -> Run:
        """The finished or diverged run, with its provenance."""
        config, seconds = self.config, time.monotonic() - self.clock
        items = {"train_items": len(self.items), f"{config.evaluated_on}_items": len(self.held_items)}
        return Run(
            config=config,
            status="finished" if self.diverged_at is None else "diverged",
            final={f"{split}_{name}": points[name][-1] for split, points in self.curves.items()
                   for name in ("loss", "accuracy") if points[name]},
            curves=self.curves,
            provenance={
                **self.provenance,
                "seconds": round(seconds, 3),
                "images_per_second": round(self.done * config.batch_size / seconds, 1),
                "steps_per_epoch": len(self.items) // config.batch_size,
                "parameters": sum(p.numel() for p in self.model.parameters()),
                "data": {"fingerprint": self.dataset.fingerprint, "origin": self.dataset.origin, **items,
                         **_fingerprint_of(config.foreign, config.image_size)},
            },
            diverged_at=self.diverged_at,
            probes=self.probes,
        )  # fmt: skip


def _fingerprint_of(foreign: str, image_size: int) -> dict[str, str]:
    return {"foreign": data.load(foreign, image_size).fingerprint} if foreign else {}
