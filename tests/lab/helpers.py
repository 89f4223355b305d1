"""Small real configurations for the lab's tests: the embedded digits, a few steps."""

import dataclasses
import io
import math
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from normcore.lab.config import RunConfig
from normcore.lab.runs.experiments import Experiment
from normcore.lab.runs.store import Run
from normcore.lab.runs.training import OutOfTime, build, train
from normcore.lab.tasks.images import ImageClassification

HOW = """device = "cpu"
jobs = 1
fresh = False
shard = "1/1"
time_budget = ""
train = True
"""


def config(**changes: Any) -> RunConfig:
    """LeNet-5 on the digits for six steps, with these changes."""
    fields: dict[str, Any] = {
        "dataset": "digits", "image_size": 14, "model": "lenet5", "norm": "bn", "lr": 0.01, "batch_size": 32,
        "steps": 6, "seed": 0, "eval_every": 3, "log_every": 2,
    }  # fmt: skip
    return RunConfig(**{**fields, **changes})


def network(wanted: RunConfig) -> nn.Module:
    """The run's network as it is before the first step."""
    return build(wanted, ImageClassification(wanted, torch.device("cpu")))


def made_up(
    norm: str, seed: int, loss: list[float], accuracy: list[float], status: str = "finished", *, every: float = 10,
    train_accuracy: list[float] | None = None, batch_loss: list[float] | None = None, **changes: Any,
) -> Run:  # fmt: skip
    """A run with given curves, one point an epoch of ten steps, for the tests of statistics and verdicts."""
    wanted = config(**{"norm": norm, "seed": seed, "steps": int(every * len(loss)), **changes})
    return run_of(wanted, loss, accuracy, status, every=every, train_accuracy=train_accuracy, batch_loss=batch_loss)


def run_of(
    wanted: RunConfig, loss: list[float], accuracy: list[float], status: str = "finished", *, every: float = 10,
    train_accuracy: list[float] | None = None, batch_loss: list[float] | None = None,
) -> Run:  # fmt: skip
    """A run of this configuration with given curves: a point after each ``every`` steps, the same in training and on
    the test set unless the accuracy in training is another, and of the current batch where its loss is given."""
    steps = [every * (i + 1) for i in range(len(loss))]
    curves = {
        "train": {"step": steps, "loss": loss, "accuracy": train_accuracy or accuracy},
        "test": {"step": steps, "loss": loss, "accuracy": accuracy},
    }
    if batch_loss:
        curves["batch"] = {"step": steps, "loss": batch_loss, "accuracy": accuracy}
    final = {
        f"{split}_{name}": values[-1]
        for split, points in curves.items()
        for name, values in points.items()
        if name != "step" and values
    }
    versions = {"python": "3", "torch": "2", "numpy": "2", "normcore": "0"}
    provenance = {
        "steps_per_epoch": 10, "seconds": 1.0, "images_per_second": 1.0, "device": "cpu", "device_name": "a CPU",
        "threads": 1, "versions": versions, "commit": "c0ffee", "started": "2030-01-31T12:00:00+00:00",
        "data": {"fingerprint": "abc", "origin": "embedded"},
    }  # fmt: skip
    return Run(wanted, status, final, curves, provenance)


def steady(config: RunConfig, accuracy: float, status: str = "finished") -> Run:
    """A run of this accuracy throughout, and of the loss that is one minus it."""
    points = 10
    run = run_of(config, [1 - accuracy] * points, [accuracy] * points, status, every=config.steps / points)
    split = config.evaluated_on
    run.curves[split] = run.curves["test"]
    run.final.update({f"{split}_accuracy": accuracy, f"{split}_loss": 1 - accuracy})
    return run


def with_probes(norm: str, seed: int, rows: dict[str, dict[str, list[Any]]], **changes: Any) -> Run:
    """A run of one point with these rows of its probes."""
    return dataclasses.replace(made_up(norm, seed, [1.0], [0.5], **changes), probes=rows)


def pair(difference: list[float], **changes: Any) -> list[Run]:
    """BN's loss is that of no norm, 1.0, plus a difference a seed."""
    plain = [made_up("none", s, [2.0, 1.0], [0.5, 0.6], **changes) for s in range(len(difference))]
    return plain + [made_up("bn", s, [2.0, 1.0 + d], [0.5, 0.6], **changes) for s, d in enumerate(difference)]


def resumed(wanted: RunConfig, checkpoint: Path) -> tuple[Run, int]:
    """The run on a CPU, stopped by its deadline over and over and gone on with each time; how often it was stopped."""
    stops = 0
    while True:
        try:
            run = train(wanted, torch.device("cpu"), deadline=-math.inf, checkpoint=checkpoint)
        except OutOfTime:
            assert checkpoint.is_file()
            stops += 1
        else:
            assert not checkpoint.exists()
            return run, stops


def write_pictures(folder: Path, train: int = 40, test: int = 10, size: int = 14, channels: int = 1) -> Path:
    """A small data set of drawn noise in the Hugging Face parquet layout; returns its folder."""
    generator = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    for split, number in (("train", train), ("test", test)):
        pictures = generator.integers(0, 256, (number, size, size, channels), dtype=np.uint8)
        cells = [{"bytes": png(p), "path": f"{i}.png"} for i, p in enumerate(pictures)]
        columns = {"image": cells, "label": [i % 2 for i in range(number)]}
        pq.write_table(pa.table(columns), folder / f"{split}.parquet")
    return folder


def with_objects(height: int, width: int, boxes: list[tuple[int, int, int, int]], **changes: Any) -> dict[str, Any]:
    """A row of a file: a grey picture with an object in each of the boxes (left, top, right, bottom)."""
    mask = np.zeros((height, width), np.uint8)
    for number, (left, top, right, bottom) in enumerate(boxes, 1):
        mask[top:bottom, left:right] = number
    image = np.full((height, width, 3), 90, np.uint8)
    return {
        "image": {"bytes": png(image)}, "mask": {"bytes": png(mask)},
        "category": [i % 2 for i in range(len(boxes))], "iscrowd": [0] * len(boxes), **changes,
    }  # fmt: skip


def write_objects(folder: Path) -> Path:
    """Two training pictures with three objects and a test picture with a crowd; returns their folder."""
    folder.mkdir(parents=True)
    train = [with_objects(40, 80, [(10, 5, 30, 25), (50, 10, 70, 40)]), with_objects(80, 40, [(0, 0, 40, 80)])]
    for split, rows in (("train", train), ("test", [with_objects(60, 60, [(6, 12, 18, 30)], iscrowd=[1])])):
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{split}.parquet")
    return folder


def write_experiment(folder: Path, *cells: str, head: str, profiles: str = "quick: {steps: 8}\n") -> Experiment:
    """An experiment ``a-trial`` with these cells behind its parameters."""
    notebook = nbformat.v4.new_notebook()
    parameters = nbformat.v4.new_code_cell(head)
    parameters.metadata["tags"] = ["parameters"]
    title = nbformat.v4.new_markdown_cell("# A trial\n\nWords.")
    notebook.cells = [title, parameters, *map(nbformat.v4.new_code_cell, cells)]
    path = folder / "a_trial.ipynb"
    nbformat.write(notebook, path)
    path.with_suffix(".yaml").write_text(profiles)
    return Experiment("a-trial", path)


def png(pixels: NDArray[np.uint8]) -> bytes:
    """Pixels (H, W), (H, W, 1) or (H, W, 3) as a file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels.squeeze(-1) if pixels.shape[2:] == (1,) else pixels).save(buffer, "png")
    return buffer.getvalue()
