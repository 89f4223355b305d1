"""Finding objects: what the network is asked for, what it is scored by, and what it starts from."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from normcore import ReferenceBatchNorm
from normcore.lab.config import RunConfig
from normcore.lab.errors import UsageError
from normcore.lab.runs import weights
from normcore.lab.runs.training import build, check, train
from normcore.lab.tasks import maskrcnn
from normcore.lab.tasks.detection import Detection, average_precisions, flipped
from normcore.lab.tasks.instances import Scene

from ..helpers import config, network, resumed

CPU = torch.device("cpu")


def wanted(**changes: Any) -> RunConfig:
    """A narrow network on the drawn objects for two steps."""
    fields: dict[str, Any] = {
        "task": "detection", "dataset": "drawn_objects", "image_size": 64, "model": "mask_rcnn", "optimizer": "sgd",
        "model_options": {"width": 0.125, "regions": 4}, "batch_size": 2, "steps": 2, "eval_every": 2, "log_every": 1,
        "task_options": {"folds": 10},
    }  # fmt: skip
    return config(**{**fields, **changes})


def scene(*objects: tuple[int, int, int, int], crowds: tuple[bool, ...] = ()) -> Scene:
    """Of 64 pixels, with objects in boxes: left, top, right, bottom."""
    numbers = np.zeros((64, 64), np.uint8)
    for number, (left, top, right, bottom) in enumerate(objects, 1):
        numbers[top:bottom, left:right] = number
    return Scene(np.zeros((64, 64, 3), np.uint8), numbers, (0,) * len(objects), crowds or (False,) * len(objects))


def found(*objects: tuple[tuple[int, int, int, int], float]) -> dict[str, Tensor]:
    """What a detector says: boxes with their scores, all of whose pixels are the object's."""
    boxes = torch.tensor([box for box, _ in objects], dtype=torch.float32).view(-1, 4)
    masks = torch.zeros(len(objects), 1, 64, 64)
    for mask, ((left, top, right, bottom), _) in zip(masks, objects, strict=True):
        mask[0, top:bottom, left:right] = 1
    scores = torch.tensor([score for _, score in objects])
    return {"boxes": boxes, "labels": torch.ones(len(objects), dtype=torch.long), "scores": scores, "masks": masks}


# --- average precision ------------------------------------------------------------------------------------


def test_what_is_found_as_it_is_has_the_highest_precision() -> None:
    boxes = (4, 4, 24, 34), (30, 10, 60, 50)
    scores = average_precisions([scene(*boxes)], [found(*((box, 0.9) for box in boxes))], 1)
    assert scores == dict.fromkeys(Detection.scores, pytest.approx(1.0))


def test_the_precision_of_a_box_that_is_off_is_counted_by_hand() -> None:
    """Of 20 by 20 pixels, four to the right: an intersection over union of 16 / 24, above 4 of the ten thresholds."""
    scores = average_precisions([scene((10, 10, 30, 30))], [found(((14, 10, 34, 30), 0.9))], 1)
    assert scores == {
        "box_ap": pytest.approx(0.4), "box_ap50": pytest.approx(1), "box_ap75": 0,
        "mask_ap": pytest.approx(0.4), "mask_ap50": pytest.approx(1), "mask_ap75": 0,
    }  # fmt: skip


def test_a_better_score_for_nothing_costs_precision_and_for_a_crowd_does_not() -> None:
    box, elsewhere = (10, 10, 30, 30), (40, 40, 60, 60)
    said = [found((elsewhere, 0.9), (box, 0.5))]
    assert average_precisions([scene(box)], said, 1)["box_ap"] == pytest.approx(0.5)
    assert average_precisions([scene(box, elsewhere, crowds=(False, True))], said, 1)["box_ap"] == pytest.approx(1)


def test_where_nothing_is_found_it_is_zero() -> None:
    assert average_precisions([scene((10, 10, 30, 30))], [found()], 1) == dict.fromkeys(Detection.scores, 0.0)


# --- what the network is asked for ------------------------------------------------------------------------


def test_targets_are_the_objects_that_are_no_crowds() -> None:
    task = Detection(wanted(), CPU)
    target = task._target(scene((4, 6, 24, 34), (30, 10, 60, 50), crowds=(True, False)))
    assert target["boxes"].tolist() == [[30, 10, 60, 50]]
    assert target["labels"].tolist() == [1]
    assert target["masks"].shape == (1, 64, 64)
    assert target["masks"].sum() == 30 * 40
    assert task._target(scene())["boxes"].shape == (0, 4)


def test_flipped_is_right_for_left_and_twice_is_as_it_was() -> None:
    task, x = Detection(wanted(), CPU), torch.randn(3, 64, 64)
    target = task._target(scene((4, 6, 24, 34)))
    once, turned = flipped(x, target)
    assert turned["boxes"].tolist() == [[40, 6, 60, 34]]
    assert turned["masks"][0, 6:34, 40:60].all()
    again, back = flipped(once, turned)
    assert torch.equal(again, x)
    assert all(torch.equal(back[name], target[name]) for name in target)


def test_the_folds_are_all_pictures_and_each_seed_holds_out_another() -> None:
    tasks = [Detection(wanted(seed=seed, task_options={"folds": 3}), CPU) for seed in range(4)]
    held = [set(task.held_items.tolist()) for task in tasks]
    assert set.union(*held[:3]) == set(range(50))
    assert sum(map(len, held[:3])) == 50
    assert held[3] == held[0]
    for task, out in zip(tasks, held, strict=True):
        assert set(task.items.tolist()) == set(range(50)) - out
    own = Detection(wanted(task_options={}), CPU)
    assert (own.items.tolist(), own.held_items.tolist()) == (list(range(40)), list(range(40, 50)))
    searched = Detection(wanted(validation=6), CPU)
    assert len(searched.held_items) == 6
    assert not {*searched.held_items.tolist()} & {
        *searched.items.tolist(),
        *Detection(wanted(), CPU).held_items.tolist(),
    }


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"dataset": "digits"}, "digits has no objects, as drawn_objects, "),
        ({"model": "lenet5"}, "unknown model 'lenet5'"),
        ({"task_options": {"fold": 3}}, "unknown option of the task detection 'fold': did you mean folds"),
        ({"task_options": {"folds": 1}}, "at least 2 parts, got 1"),
        ({"outliers": 0.1}, "outliers is of the task images"),
        ({"norm": "vbn"}, "mask_rcnn takes a list of images"),
        ({"probes": {"shift": 1}}, "unknown probe of the task detection 'shift'"),
    ],
)
def test_what_it_does_not_take_is_refused(changes: dict[str, Any], why: str) -> None:
    with pytest.raises(UsageError, match=why):
        check(wanted(**changes))


# --- the network ------------------------------------------------------------------------------------------


def test_regions_are_pooled_by_the_formula() -> None:
    """Each cell the mean of four samples, each of them between the four values around it, in double precision."""
    features = torch.randn(2, 3, 9, 12, dtype=torch.float64, requires_grad=True)
    boxes = [[[3, 5, 100, 80], [0, 0, 192, 144], [100, 100, 101, 101]], [[10, 20, 60, 70.5]]]
    regions = [torch.tensor(own, dtype=torch.float64) for own in boxes]

    def sample(image: Tensor, x: float, y: float) -> Tensor:
        x, y = min(x, 11.0), min(y, 8.0)  # of the last column and row on, those
        left, top = int(min(x, 10)), int(min(y, 7))
        rows = image[:, top : top + 2] * torch.tensor([top + 1 - y, y - top], dtype=torch.float64)[:, None]
        return (rows.sum(1)[:, left : left + 2] * torch.tensor([left + 1 - x, x - left], dtype=torch.float64)).sum(1)

    def cell(image: Tensor, box: list[float], row: int, column: int) -> Tensor:
        left, top, right, bottom = (side / 16 for side in box)
        width, height = max(right - left, 1) / 7, max(bottom - top, 1) / 7
        samples = [sample(image, left + (column + a) * width, top + (row + b) * height)
                   for a in (0.25, 0.75) for b in (0.25, 0.75)]  # fmt: skip
        return torch.stack(samples).mean(0)

    expected = torch.stack([
        torch.stack([cell(image, box, row, column) for row in range(7) for column in range(7)], 1).view(3, 7, 7)
        for image, own in zip(features, boxes, strict=True)
        for box in own
    ])  # fmt: skip
    pooled = maskrcnn.roi_align(features, regions, 7, 1 / 16)
    torch.testing.assert_close(pooled, expected)
    along = torch.randn_like(pooled)
    gradients = [torch.autograd.grad((y * along).sum(), features)[0] for y in (pooled, expected)]
    torch.testing.assert_close(*gradients)
    assert maskrcnn.roi_align(features, [regions[0][:0], regions[1][:0]], 7, 1 / 16).shape == (0, 3, 7, 7)


def test_of_boxes_that_overlap_the_best_is_kept() -> None:
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(60, 2, generator=generator) * 40
    boxes = torch.cat([corners, corners + 5 + torch.rand(60, 2, generator=generator) * 20], 1)
    scores = torch.rand(60, generator=generator)
    kept = maskrcnn.nms(boxes, scores, 0.4)

    def overlap(a: Tensor, b: Tensor) -> float:
        width, height = (min(a[i + 2], b[i + 2]) - max(a[i], b[i]) for i in (0, 1))
        shared = max(float(width), 0.0) * max(float(height), 0.0)
        return shared / (float((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])) - shared)

    expected: list[int] = []
    for i in scores.argsort(descending=True).tolist():
        if all(overlap(boxes[i], boxes[j]) <= 0.4 for j in expected):
            expected.append(i)
    assert kept.tolist() == expected
    assert 1 < len(expected) < 60
    assert maskrcnn.nms(boxes[:0], scores[:0], 0.4).tolist() == []


def test_a_frozen_normalizer_stays_as_it_is_and_the_rest_is_trained() -> None:
    run = wanted(model_options={"width": 0.125, "regions": 4, "frozen": True})
    task = Detection(run, CPU)
    model = build(run, task)
    before = {name: values.clone() for name, values in model.state_dict().items()}
    task.measure(model, task.batch(task.items[:2]))[0].backward()
    assert all(torch.equal(before[name], values) for name, values in model.state_dict().items())
    trained = {name for name, p in model.named_parameters() if p.grad is not None}
    conv = "backbone.0.weight"
    assert conv in trained
    assert "backbone.1.weight" not in trained
    assert {name.partition(".")[0] for name in trained} == {"backbone", "rpn", "roi_heads"}


def test_a_run_that_is_stopped_is_to_the_bit_the_run_that_is_not(tmp_path: Path) -> None:
    run = wanted(norm="gn", steps=2, eval_every=1)
    whole = train(run, CPU)
    assert set(whole.final) == {"train_loss", "batch_loss", *(f"test_{name}" for name in Detection.scores)}
    again, stops = resumed(run, tmp_path / "run.pt")
    assert stops == 1
    assert again.curves == whole.curves
    assert again.provenance["weights"] == whole.provenance["weights"]


def test_a_detector_starts_from_a_trained_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stages before the last in the backbone, the last before both heads; a reference batch is taken anew."""
    monkeypatch.setenv("NORMCORE_CACHE", str(tmp_path))
    first = config(
        dataset="shapes_by_colour", image_size=32, model="resnet50", model_options={"width": 0.125}, norm="rbn", steps=1
    )
    trained: Any = network(first)
    with torch.no_grad():
        for values in trained.parameters():
            values.normal_()
        trained.features[1].reference_size.fill_(7)
    weights.keep(trained, first)
    run = wanted(norm="rbn", start=first.key)
    task = Detection(run, CPU)
    model: Any = build(run, task)
    said = weights.load(model, first.key, task.begin)
    assert said == {"run": first.key, "weights": weights.fingerprint(trained)}
    stages = trained.features
    pairs = [(stages[: maskrcnn.C4], model.backbone)]
    pairs += [(stages[maskrcnn.C4 :], part) for part in (model.roi_heads.box_head, model.roi_heads.mask_head)]
    for kept, taken in pairs:
        assert all(torch.equal(a, b) for a, b in zip(kept.parameters(), taken.parameters(), strict=True))
    layers = [layer for layer in model.modules() if isinstance(layer, ReferenceBatchNorm)]
    assert len(layers) == 53 + 10
    assert not any(layer.reference_size for layer in layers)
    with pytest.raises(UsageError, match="that run has another network"):
        weights.load(build(wanted(), task), first.key, task.begin)
