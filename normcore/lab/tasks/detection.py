"""Finding the objects in a picture: a box and a mask for each."""

import contextlib
import io
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from ..config import AVERAGE_PRECISIONS, RunConfig
from ..errors import LabError, UsageError, unknown
from . import instances
from .instances import Scene
from .maskrcnn import C4, mask_rcnn, torchvision
from .task import Batch, MakeNorm, Task

FOLDS = "folds"  # a task option: the pictures of both splits in so many parts, of which the seed says which is held out
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's colours, from 0 to 1
MODELS = {"mask_rcnn": mask_rcnn}


class Detection(Task):
    """Boxes, classes and masks of the objects, by the sum of Mask R-CNN's five losses; half of the training pictures
    are flipped, anew at each step.

    Scores are COCO's: average precision of boxes and of masks over intersections over union of .50 to .95 (``ap``),
    and at .50 and .75. Without ``folds`` the test split is held out; with, the pictures of both splits are cut into
    so many parts, the same for every run, and the part with the seed's number is held out. A run that starts from
    another's trained ResNet-50 takes what stands before its head, for boxes and for masks alike; what keeps a reference
    batch takes a new one, and averages go on.
    """

    unit: ClassVar[str] = "images"
    metrics: ClassVar[tuple[str, ...]] = ("loss",)
    scores: ClassVar[tuple[str, ...]] = AVERAGE_PRECISIONS
    probes: ClassVar[tuple[str, ...]] = ()
    replayed = False

    def __init__(self, config: RunConfig, device: torch.device) -> None:
        super().__init__(config, device)
        self.data = data = instances.load(config.dataset, config.image_size)
        train, test = _parts(len(data), data.train, config.task_options.get(FOLDS, 0), config.seed)
        if config.validation:
            order = train[torch.randperm(len(train), generator=torch.Generator().manual_seed(0))]
            train, test = order[config.validation :], order[: config.validation]
        if len(train) < config.batch_size:
            raise UsageError(f"batch_size={config.batch_size} is more than the {len(train)} training images")
        self.items, self.held_items = train.to(device), test.to(device)
        self.mean, self.std = (torch.tensor(v, device=device).view(3, 1, 1) for v in (MEAN, STD))

    @classmethod
    def check(cls, config: RunConfig) -> None:
        instances.find(config.dataset)
        if config.model not in MODELS:
            raise unknown("model", config.model, MODELS)
        for name in config.task_options.keys() - {FOLDS}:
            raise unknown("option of the task detection", name, [FOLDS])
        folds = config.task_options.get(FOLDS, 0)
        if isinstance(folds, bool) or not isinstance(folds, int) or folds < 0 or folds == 1:
            raise UsageError(f"{FOLDS} must be 0, for the set's own split, or at least 2 parts, got {folds!r}")
        for name in ("outliers", "foreign"):
            if getattr(config, name):
                raise UsageError(f"{name} is of the task images, got {getattr(config, name)!r}")
        if config.norm == "vbn":
            raise UsageError("vbn passes a reference batch through the network, and mask_rcnn takes a list of images")

    @classmethod
    def prepare(cls, config: RunConfig) -> None:
        torchvision()
        _coco()
        instances.load(config.dataset, config.image_size)

    def network(self, norm: MakeNorm) -> nn.Module:
        config = self.config
        return MODELS[config.model](norm, self.data.classes, config.image_size, **config.model_options)

    def begin(self, model: nn.Module, state: dict[str, Tensor]) -> None:
        parts: dict[bool, dict[str, Tensor]] = {False: {}, True: {}}  # whether of the last stage
        for name, values in state.items():
            if name.startswith("features."):
                place, _, rest = name.removeprefix("features.").partition(".")
                last = int(place) >= C4
                parts[last][f"{int(place) - C4 * last}.{rest}"] = values
        network: Any = model
        heads = network.roi_heads
        for part, last in ((network.backbone, False), (heads.box_head, True), (heads.mask_head, True)):
            part.load_state_dict(parts[last])
        for layer in model.modules():
            if hasattr(layer, "reference_size"):
                layer.reference_size.zero_()  # type: ignore[operator]

    def batch(self, index: Tensor, held: bool = False) -> Batch:
        scenes = [self.data[i] for i in index.tolist()]
        return [self._image(scene) for scene in scenes], [self._target(scene) for scene in scenes]

    def _image(self, scene: Scene) -> Tensor:
        pixels = torch.tensor(scene.image, device=self.device).permute(2, 0, 1)
        return (pixels / 255 - self.mean) / self.std

    def _target(self, scene: Scene) -> dict[str, Tensor]:
        """What the network should find: the objects that are no crowds."""
        wanted = [k for k in scene.objects() if not scene.crowds[k - 1]]
        numbers = torch.tensor(scene.numbers, device=self.device)
        masks = numbers == torch.tensor(wanted, dtype=torch.uint8, device=self.device).view(-1, 1, 1)
        labels = [1 + scene.categories[k - 1] for k in wanted]  # 0 is the ground
        boxes = torch.tensor([_box(scene.numbers == k) for k in wanted], dtype=torch.float32, device=self.device)
        return {
            "boxes": boxes.view(-1, 4),
            "labels": torch.tensor(labels, dtype=torch.long, device=self.device),
            "masks": masks.to(torch.uint8),
        }

    def measure(self, model: nn.Module, batch: Batch) -> tuple[Tensor, ...]:
        flips = (torch.rand(len(batch[0])) < 0.5).tolist()
        pairs = [flipped(x, target) if flip else (x, target) for x, target, flip in zip(*batch, flips, strict=True)]
        losses = model([x for x, _ in pairs], [target for _, target in pairs])
        return (sum(losses.values(), torch.zeros((), device=self.device)),)

    def evaluate(self, model: nn.Module, held: bool = True, batch_size: int = 8) -> dict[str, float]:
        """Average precisions over all held-out pictures, or over all training pictures."""
        items, found = self.held_items if held else self.items, []
        for index in items.split(batch_size):
            outputs = model([self._image(self.data[i]) for i in index.tolist()])
            found += [{name: values.cpu() for name, values in output.items()} for output in outputs]
        return average_precisions([self.data[i] for i in items.tolist()], found, self.data.classes)

    def provenance(self) -> dict[str, Any]:
        vision, compiled = torchvision()
        return {
            "fingerprint": self.data.fingerprint, "origin": self.data.origin,
            "torchvision": vision.__version__, "compiled": compiled,
        }  # fmt: skip


def _parts(number: int, train: int, folds: int, seed: int) -> tuple[Tensor, Tensor]:
    """What is trained on and what is held out, in order."""
    if not folds:
        return torch.arange(train), torch.arange(train, number)
    order = torch.randperm(number, generator=torch.Generator().manual_seed(0))
    parts = list(order.tensor_split(folds))
    held = parts.pop(seed % folds)
    return torch.cat(parts).sort().values, held.sort().values


def _box(mask: Any) -> list[float]:
    """Left, top, right and bottom of a mask's pixels."""
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    return [float(v) for v in (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)]


def flipped(x: Tensor, target: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """A picture (C, H, W) and its objects, left and right exchanged."""
    boxes = target["boxes"].clone()
    boxes[:, [0, 2]] = x.shape[2] - boxes[:, [2, 0]]
    return x.flip(2), {**target, "boxes": boxes, "masks": target["masks"].flip(2)}


# --- average precision ------------------------------------------------------------------------------------


def average_precisions(scenes: Sequence[Scene], found: Sequence[dict[str, Tensor]], classes: int) -> dict[str, float]:
    """COCO's average precisions of boxes and of masks, by pycocotools; 0 where nothing was found.

    Args:
        scenes: what is there.
        found: in each of them, as torchvision's Mask R-CNN says it: ``boxes`` (R, 4), ``labels`` and ``scores`` (R,),
            ``masks`` (R, 1, S, S) from 0 to 1, of which those from one half on are the object's pixels.
        classes: of objects.
    """
    coco, evaluator, encode = _coco()
    truth = coco()
    truth.dataset = {
        "info": {}, "images": [dict(zip(("id", "height", "width"), (i, *one.numbers.shape), strict=True))
                                for i, one in enumerate(scenes)],
        "categories": [{"id": 1 + c} for c in range(classes)],
        "annotations": [dict(one, id=1 + i) for i, one in enumerate(
            {"image_id": i, "category_id": 1 + scene.categories[k - 1], "iscrowd": int(scene.crowds[k - 1]),
             **_outlined(scene.numbers == k, encode)}
            for i, scene in enumerate(scenes) for k in scene.objects()
        )],
    }  # fmt: skip
    results = [
        {"image_id": i, "category_id": int(label), "score": float(score), "bbox": _sides(box.tolist()),
         "segmentation": encode(np.asfortranarray(mask[0].numpy() >= 0.5, dtype=np.uint8))}
        for i, one in enumerate(found)
        for box, label, score, mask in zip(one["boxes"], one["labels"], one["scores"], one["masks"], strict=True)
    ]  # fmt: skip
    if not results:
        return dict.fromkeys(AVERAGE_PRECISIONS, 0.0)
    scores: list[float] = []
    with contextlib.redirect_stdout(io.StringIO()):  # which it writes tables to
        truth.createIndex()
        for kind, other in (("bbox", "segmentation"), ("segm", "bbox")):
            own = [{name: value for name, value in one.items() if name != other} for one in results]
            judged = evaluator(truth, truth.loadRes(own), kind)
            judged.evaluate()
            judged.accumulate()
            judged.summarize()
            scores += [max(0.0, float(value)) for value in judged.stats[:3]]  # -1 where there is no object
    return dict(zip(AVERAGE_PRECISIONS, scores, strict=True))


def _coco() -> tuple[Any, Any, Any]:
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
        from pycocotools.mask import encode
    except ImportError as error:
        raise LabError("average precision needs pycocotools: pip install 'normcore[detection]'") from error
    return COCO, COCOeval, encode


def _outlined(mask: Any, encode: Any) -> dict[str, Any]:
    code = encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"segmentation": code, "area": int(mask.sum()), "bbox": _sides(_box(mask))}


def _sides(box: list[float]) -> list[float]:
    """Left, top, width and height."""
    left, top, right, bottom = box
    return [left, top, right - left, bottom - top]
