"""The training loop: read it in one sitting."""

import copy
import ctypes
import functools
import hashlib
import io
import itertools
import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ... import own
from ...factory import NORMS, make_norm
from ...layers import ClipSchedule, VirtualBatchNorm, reference_pass
from ...testing import first_look
from .. import probes
from ..config import HALVES, OPTIMIZERS, ORDERS, SCHEDULES, RunConfig
from ..errors import LabError, UsageError, unknown
from ..files import replacing
from ..lifetime import told_to_stop
from ..provenance import provenance
from ..tasks import ghost, keras_contrib, task_class
from ..tasks.task import Batch, MakeNorm, Task
from . import weights
from .store import Run

_SHA256 = hashlib.sha256().digest_size  # bytes at the beginning of a checkpoint
CHECKPOINT_EVERY = 60.0  # seconds; what a killed run loses at the most
LAB_NORMS = {**keras_contrib.NORMS, **ghost.NORMS}  # normalizers of the laboratory, beside the library's


class OutOfTime(LabError):
    """The time ended inside a run, the budget's or the scheduler's; its state is saved, and the next call goes on from
    there."""


def check(config: RunConfig) -> None:
    """Refuse names that there are none of. Apart from the configuration's own checks, since a result can be read where
    its data set is not known.

    Raises:
        UsageError: what was got, and what there is.
    """
    task = task_class(config.task)
    known: dict[str, tuple[str, ...]] = {"optimizer": OPTIMIZERS, "order": ORDERS, "lr_schedule": SCHEDULES}
    if own.is_own(config.norm):
        try_out(config.norm, config.norm_options)
    else:
        known["norm"] = (*NORMS, *LAB_NORMS)
    for name, names in known.items():
        if getattr(config, name) not in names:
            raise unknown(name, getattr(config, name), names)
    for probe in config.probes:
        if probe not in probes.PROBES:
            raise unknown("probe", probe, probes.PROBES)
        if probe not in task.probes:
            raise unknown(f"probe of the task {config.task}", probe, task.probes)
    task.check(config)


def try_sizes(config: RunConfig) -> None:
    """Refuse a network that cannot be trained; see :meth:`normcore.lab.tasks.task.Task.try_sizes`.

    Raises:
        UsageError: what was got, and what the network says of it.
    """
    task_class(config.task).try_sizes(config, normalizer(config))


def try_out(reference: str, options: Mapping[str, Any]) -> None:
    """Refuse a layer of one's own that cannot be made or called.

    Raises:
        UsageError: what it does, in a sentence; what it raised is the cause.
    """
    try:
        first_look(functools.partial(make_norm, reference, **options))
    except ValueError as error:
        raise UsageError(f"{own.called(reference)}: {error}") from error


def normalizer(config: RunConfig) -> MakeNorm:
    """What makes the run's normalizers: of the library, of the laboratory, or one's own."""

    def norm(channels: int) -> nn.Module:
        options = dict(config.norm_options)
        if isinstance(options.get("schedule"), dict):  # of BatchRenorm, written as what a result file can hold
            options["schedule"] = ClipSchedule(**options["schedule"])
        make_layer = LAB_NORMS.get(config.norm)
        return make_layer(channels, **options) if make_layer else make_norm(config.norm, channels, **options)

    return norm


def build(config: RunConfig, task: Task) -> nn.Module:
    """The network with its normalizer, initialized from the seed; the same weights on every device."""
    torch.manual_seed(config.seed)
    try:
        model = task.network(normalizer(config))
    except TypeError as error:
        raise UsageError(f"norm_options or model_options: {error}") from error
    return model.to(task.device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def kept(key: str, device: torch.device) -> nn.Module:
    """The trained network that is kept of a run.

    Raises:
        LabError: it is not kept.
        UsageError: it needs a reference batch, which is not kept with it.
    """
    config = weights.config(key)
    model = build(config, task_class(config.task)(config, device))
    if any(isinstance(layer, VirtualBatchNorm) for layer in model.modules()):
        raise UsageError(f"beside: the network of run {key} needs its own reference batch, which is not kept")
    weights.load(model, key)
    return model


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


def rate(config: RunConfig, step: int) -> float:
    """The learning rate of the step that follows so many: it rises linearly over the ``warmup``, and by the ``cosine``
    falls from there to zero (Loshchilov & Hutter 2017, equation 5, without restarts)."""
    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup
    if config.lr_schedule == "constant":
        return config.lr
    done = (step - config.warmup) / (config.steps - config.warmup)
    return config.lr * (1 + math.cos(math.pi * done)) / 2


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


def batches(task: Task, config: RunConfig, start: int) -> Iterator[Tensor]:
    """The indices of every batch from step ``start`` on: each epoch a new order, made from seed and epoch
    alone, so that any step can be found again."""
    items = task.items
    per_epoch = len(items) // config.batch_size
    for step in range(start, config.steps):
        epoch, at = divmod(step, per_epoch)
        if step == start or at == 0:
            shuffled = config.seed * 1_000_003 + (epoch if config.order == "shuffled" else 0)
            generator = torch.Generator().manual_seed(shuffled)
            order = items[torch.randperm(len(items), generator=generator).to(items.device)]
            order = task.arranged(order, generator)
        yield order[at * config.batch_size : (at + 1) * config.batch_size]


def step(
    model: nn.Module, optim: torch.optim.Optimizer, task: Task, batch: Batch, reference: Tensor | None = None
) -> tuple[Tensor, ...]:
    """One optimizer step; returns the batch's loss and what else the task counts."""
    with referred(model, reference):
        loss, *counts = task.measure(model, batch)
    optim.zero_grad(set_to_none=True)
    loss.backward()
    optim.step()
    return loss.detach(), *counts


class Replayed:
    """A step of training on a GPU: its first calls run it as it is, the next captures it as a CUDA graph, and from
    then on the graph is replayed on the batch's indices. A step of a small network is mostly the launching of its
    kernels, and a graph is launched at once. What cannot be captured goes on as it is.

    Args:
        run: computes a step from the indices of its batch, without ever waiting for the device.
    """

    WARM_UP = 3  # calls before the capture, on a stream of their own as capturing demands

    def __init__(self, run: Callable[[Tensor], tuple[Tensor, ...]]) -> None:
        self.run, self.calls = run, 0
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, index: Tensor) -> tuple[Tensor, ...]:
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
    model: nn.Module, optim: torch.optim.Optimizer, task: Task, reference: Tensor | None = None
) -> Callable[[Tensor], tuple[Tensor, ...]]:
    """:func:`step` on the batch with these indices; on a GPU, replayed."""

    def run(index: Tensor) -> tuple[Tensor, ...]:
        return step(model, optim, task, task.batch(index), reference)

    captured = task.replayed and task.device.type == "cuda" and task.config.steady  # a graph keeps the rate it has seen
    return Replayed(run) if captured else run


@torch.no_grad()
def evaluate(model: nn.Module, task: Task, reference: Tensor | None = None, held: bool = True) -> dict[str, float]:
    """The task's scores in evaluation mode, over what is held out or over what is trained on."""
    model.eval()
    with referred(model, reference):
        scores = task.evaluate(model, held)
    model.train()
    return scores


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
    keep: bool = False,
) -> Run:
    """Train and evaluate as the configuration says.

    Args:
        config: what to run.
        device: where.
        progress: called with the number of steps done.
        deadline: by ``time.monotonic``; past it, or at a SIGTERM (:func:`.lifetime.stopping_well`), the state is saved
            and :class:`OutOfTime` raised.
        checkpoint: where the state of an unfinished run is kept; a state found there is gone on from.
        keep: keep the trained network, for runs that start from it.

    Raises:
        UsageError: options that the layer, the model or the optimizer does not take.
        DataError: see :func:`normcore.lab.tasks.datasets.load`.
        OutOfTime: at the deadline.
    """
    keep_memory()
    with deterministic(device):
        training = _Training(config, device)
        if checkpoint and not training.resume(checkpoint):
            training = _Training(config, device)  # what it found may have been taken in part
        training.run(progress, deadline, checkpoint)
        if checkpoint:
            checkpoint.unlink(missing_ok=True)
        if keep:
            weights.keep(training.model, config)
        return training.result()


def read_checkpoint(path: Path, device: torch.device) -> dict[str, Any]:
    """The state of a run on its way that was kept there.

    Raises:
        ValueError: it is damaged. What is none is refused by whatever torch makes of it.
    """
    content = path.read_bytes()
    if hashlib.sha256(content[_SHA256:]).digest() != content[:_SHA256]:
        raise ValueError("its checksum is another one")
    state: dict[str, Any] = torch.load(io.BytesIO(content[_SHA256:]), map_location=device, weights_only=True)
    return state


class _Training:
    """A run on its way: what it is made of, where it has got to, and what it has measured."""

    def __init__(self, config: RunConfig, device: torch.device) -> None:
        self.clock, self.provenance = time.monotonic(), provenance(device, probed=bool(config.probes))
        self.provenance["started"] = datetime.now(UTC).isoformat(timespec="seconds")
        self.config, self.device = config, device
        self.task = task = task_class(config.task)(config, device)
        self.beside = {name: kept(key, device) for name, key in config.beside.items()}
        if self.beside:
            self.provenance["beside"] = {name: weights.fingerprint(model) for name, model in self.beside.items()}
        task.take(self.beside)
        self.model = build(config, task)  # last: it sets the generator to the seed
        if config.start:
            self.provenance["start"] = weights.load(self.model, config.start, task.begin)
        self.optim = optimizer(config, self.model)
        self.reference: Tensor | None = None
        if any(isinstance(layer, VirtualBatchNorm) for layer in self.model.modules()):
            self.reference = task.batch(next(batches(task, config, 0)))[0]
        self.done = self.logged = 0  # steps; up to the last point of the curves
        self.rows = torch.zeros(len(task.metrics), config.log_every, device=device)  # of the steps since
        self.diverged_at: int | None = None
        self.curves: dict[str, dict[str, list[float]]] = {
            split: {name: [] for name in ("step", *(task.scores if split == config.evaluated_on else task.metrics))}
            for split in ("train", "batch", config.evaluated_on)
        }
        self.probes: probes.Probed = {}

    def run(self, progress: Callable[[int], None], deadline: float, checkpoint: Path | None) -> None:
        """Every step that is left, unless the loss stops being a number or the time is over."""
        config = self.config
        advance = stepper(self.model, self.optim, self.task, self.reference)
        saved = time.monotonic()
        for index in batches(self.task, config, self.done):
            self.probe()
            if not config.steady:
                for group in self.optim.param_groups:
                    group["lr"] = rate(config, self.done)
            for row, value in zip(self.rows, advance(index), strict=True):
                row[self.done - self.logged] = value
            self.done += 1
            evaluated = self.done % config.eval_every == 0 or self.done == config.steps
            if self.done - self.logged == config.log_every or evaluated:
                self.log(self.rows[:, : self.done - self.logged])
                if self.diverged_at is not None:
                    return
                if evaluated:
                    self.evaluate()
                progress(self.done)
            if self.done == config.steps:
                break
            late = told_to_stop() or time.monotonic() > deadline
            if checkpoint and (late or time.monotonic() - saved > CHECKPOINT_EVERY):
                self.save(checkpoint)
                saved = time.monotonic()
            if late:
                raise OutOfTime(f"the time ended at step {self.done} of {config.steps}")
        if not config.steps:  # a network that another run has trained is only looked at
            self.evaluate()
        self.probe(last=True)

    def log(self, rows: Tensor) -> None:
        """A point of the training curve, the mean over these steps, and of the last batch alone.

        Args:
            rows: (metrics, steps): losses, and counts of a batch's answers.
        """
        self.logged = self.done
        losses, *counts = rows
        values, answers = losses.tolist(), self.config.batch_size * self.task.answers
        bad = next((i for i, value in enumerate(values) if not math.isfinite(value)), None)
        if bad is not None:
            self.diverged_at = self.done - len(values) + bad + 1
            return
        names = self.task.metrics[1:]
        means = {n: c.sum().item() / (answers * len(values)) for n, c in zip(names, counts, strict=True)}
        self._point("train", loss=sum(values) / len(values), **means)
        self.last = {"loss": values[-1], **{n: c[-1].item() / answers for n, c in zip(names, counts, strict=True)}}

    def evaluate(self) -> None:
        """A point of the evaluation curve, and of the batch that came before it."""
        if self.done:
            self._point("batch", **self.last)
        self._point(self.config.evaluated_on, **evaluate(self.model, self.task, self.reference))

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
        task = self.task
        held = task.batch(task.held_items[:512], held=True)
        first = [task.batch(i) for i in itertools.islice(batches(task, self.config, 0), probes.BATCHES)]

        def forward(network: nn.Module, x: Tensor) -> Tensor:
            with referred(network, self.reference):
                return network(x)

        def stepped(x: Tensor, y: Tensor) -> nn.Module:
            network = copy.deepcopy(self.model)
            own = optimizer(self.config, network)
            own.load_state_dict(copy.deepcopy(self.optim.state_dict()))
            step(network, own, task, (x, y), self.reference)
            return network

        def scored(network: nn.Module, held: bool = True) -> dict[str, float]:
            scores = evaluate(copy.deepcopy(network), task, self.reference, held=held)
            return {name: scores[name] for name in task.metrics}

        def mixed() -> list[Batch]:
            order = torch.randperm(len(task.items), generator=torch.Generator().manual_seed(0)).to(task.items.device)
            return [task.batch(task.items[i]) for i in order.split(self.config.batch_size)[: probes.BATCHES]]

        def trained() -> Iterator[Batch]:
            return map(task.batch, task.items.split(125))

        return probes.Snapshot(
            self.model, stepped, forward, first, mixed, scored, *held, task.foreign, self.config.lr, task.bounds,
            self.beside, task.answers, task.long, trained, task.examples,
        )  # fmt: skip

    def save(self, checkpoint: Path) -> None:
        """Keep what the run needs to go on."""
        generators = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            generators["cuda"] = torch.cuda.get_rng_state(self.device)
        state = {
            "model": self.model.state_dict(), "optimizer": self.optim.state_dict(), "generators": generators,
            "curves": self.curves, "probes": self.probes, "done": self.done,
            "rows": self.rows[:, : self.done - self.logged].clone(), "seconds": time.monotonic() - self.clock,
        }  # fmt: skip
        content = io.BytesIO()
        torch.save(state, content)
        with replacing(checkpoint) as temporary:
            temporary.write_bytes(hashlib.sha256(content.getbuffer()).digest() + content.getbuffer())

    def resume(self, checkpoint: Path) -> bool:
        """Go on from what an earlier call saved, if there is such. False where that is damaged, or of another version:
        it is taken away, and the run begins anew."""
        if not checkpoint.is_file():
            return True
        try:
            self._take(read_checkpoint(checkpoint, self.device))
        except Exception as error:  # whatever torch makes of a state that does not fit
            why = " ".join(str(error).split())
            warnings.warn(f"{checkpoint} cannot be gone on from ({why}): the run begins anew", stacklevel=2)
            checkpoint.unlink(missing_ok=True)
            return False
        return True

    def _take(self, state: Mapping[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optim.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["generators"]["cpu"].cpu())
        if "cuda" in state["generators"] and self.device.type == "cuda":
            torch.cuda.set_rng_state(state["generators"]["cuda"].cpu(), self.device)
        self.curves, self.probes, self.done = state["curves"], state["probes"], state["done"]
        pending = state["rows"].shape[1]
        self.logged = self.done - pending
        self.rows[:, :pending] = state["rows"]
        self.clock -= state["seconds"]

    def result(self) -> Run:
        """The finished or diverged run, with its provenance."""
        config, task, seconds = self.config, self.task, time.monotonic() - self.clock
        items = {"train_items": len(task.items), f"{config.evaluated_on}_items": len(task.held_items)}
        return Run(
            config=config,
            status="finished" if self.diverged_at is None else "diverged",
            final={f"{split}_{name}": values[-1] for split, points in self.curves.items()
                   for name, values in points.items() if name not in ("step", *HALVES) and values},
            curves=self.curves,
            provenance={
                **self.provenance,
                "seconds": round(seconds, 3),
                f"{task.unit}_per_second": round(self.done * config.batch_size / seconds, 1),
                "steps_per_epoch": len(task.items) // config.batch_size,
                "parameters": sum(p.numel() for p in self.model.parameters()),
                "weights": weights.fingerprint(self.model),
                "data": {**task.provenance(), **items},
            },
            diverged_at=self.diverged_at,
            probes=self.probes,
        )  # fmt: skip
