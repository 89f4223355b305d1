"""Mask R-CNN with a ResNet-50-C4 backbone: torchvision's, with a normalizer behind every convolution of the ResNet."""

import functools
import importlib.util
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...surgery import freeze_norms
from ..errors import LabError, UsageError
from .networks import bottlenecks, resnet50
from .task import MakeNorm

C4 = 4 + 3 + 4 + 6  # of a ResNet-50's parts: the stem, and the blocks of the stages before the last
POOLED = 7  # cells on a side of a region, as many as 14 leave where the last stage halves them


@functools.cache
def torchvision() -> tuple[ModuleType, bool]:
    """torchvision, and whether its compiled operators are there.

    Where they do not load, as those of PyPI's wheel beside a build of torch without CUDA, the operators that importing
    it asks for are defined here, and non-maximum suppression is :func:`nms`.

    Raises:
        LabError: it is not installed.
    """
    found = importlib.util.find_spec("torchvision")
    if found is None or found.origin is None:
        raise LabError("Mask R-CNN needs torchvision and pycocotools: pip install 'normcore[detection]'")
    compiled = any(map(_loads, Path(found.origin).parent.glob("_C*.so")))
    if not compiled:
        _define()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that its readers of images do not load: none is used
        import torchvision
        import torchvision.extension
        import torchvision.models.detection
    if not compiled:
        torchvision.extension._has_ops = lambda: True  # nms is there, and what else is called is replaced:
        torchvision.models.detection.roi_heads.project_masks_on_boxes = _masks_in_boxes
    return torchvision, compiled


def _loads(library: Path) -> bool:
    try:
        torch.ops.load_library(str(library))
    except (ImportError, OSError):
        return False
    return True


@functools.cache
def _define() -> torch.library.Library:
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.impl(name, nms, "CompositeExplicitAutograd")
    return library


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Non-maximum suppression: the best box, without those that overlap it by more than the threshold; the best of the
    rest; and so on.

    Args:
        boxes: (N, 4), left, top, right, bottom.
        scores: (N,).
        iou_threshold: intersection over union.

    Returns:
        indices of what is left, the best first.
    """
    order = scores.argsort(descending=True, stable=True)
    boxes = boxes[order]
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    corner, opposite = (boxes[:, None, half] for half in (slice(0, 2), slice(2, 4)))
    sides = torch.minimum(opposite, boxes[None, :, 2:]) - torch.maximum(corner, boxes[None, :, :2])
    shared = sides.clamp_min(0).prod(2)
    overlapping = (shared > iou_threshold * (area[:, None] + area - shared)).cpu().numpy()
    kept, left = [], [True] * len(order)
    for i, row in enumerate(overlapping):
        if left[i]:
            kept.append(i)
            for j in row[i + 1 :].nonzero()[0]:
                left[i + 1 + j] = False
    return order[torch.tensor(kept, dtype=torch.long, device=order.device)]


def roi_align(features: Tensor, boxes: list[Tensor], size: int, scale: float) -> Tensor:
    """RoIAlign (He et al. 2017, section 3) with two samples a cell and axis.

    Equal to torchvision's for regions inside the image; its compiled operator is faster.

    Args:
        features: (N, C, H, W).
        boxes: of each image (R, 4), in its pixels.
        size: cells on a side.
        scale: of the features, to the image.

    Returns:
        (regions of all images, C, size, size).
    """
    *_, height, width = features.shape
    places = torch.arange(2 * size, dtype=features.dtype, device=features.device)
    at = (places + 0.5) / (2 * size)  # shares of a region's sides
    pooled = []
    for image, own in zip(features, boxes, strict=True):
        corner, sides = own[:, :2] * scale, ((own[:, 2:] - own[:, :2]) * scale).clamp_min(1)
        x, y = (corner[:, axis, None] + sides[:, axis, None] * at for axis in (0, 1))  # (R, samples), 0 the first cell
        across, down = 2 * x[:, None] / (width - 1) - 1, 2 * y[:, :, None] / (height - 1) - 1  # from -1 to 1
        grid = torch.stack(torch.broadcast_tensors(across, down), 3)
        rows = F.grid_sample(image[None], grid.flatten(0, 1)[None], padding_mode="border", align_corners=True)
        samples = rows.view(len(image), len(own), size, 2, size, 2)
        pooled.append(samples.mean((3, 5)).transpose(0, 1))
    return torch.cat(pooled)


def _masks_in_boxes(masks: Tensor, boxes: Tensor, matched: Tensor, size: int) -> Tensor:
    """What a mask head should give out: of each box (R, 4) the mask that it is matched with, (R, size, size)."""
    return roi_align(masks[matched, None].to(boxes), list(boxes[:, None]), size, 1.0).squeeze(1)


@functools.cache
def _pool_class() -> type[nn.Module]:
    vision, compiled = torchvision()

    class RoIAlign(vision.ops.MultiScaleRoIAlign):  # type: ignore[name-defined]
        """Pools regions of the one map of features that there is."""

        def forward(self, x: dict[str, Tensor], boxes: list[Tensor], image_shapes: list[tuple[int, int]]) -> Tensor:
            (features,) = x.values()
            scale, size = features.shape[-1] / image_shapes[0][1], self.output_size[0]
            if compiled:
                pooled: Tensor = vision.ops.roi_align(features, boxes, size, scale, sampling_ratio=2)
                return pooled
            return roi_align(features, boxes, size, scale)

    return RoIAlign


class Backbone(nn.Sequential):
    """The parts of a ResNet, with the number of channels that it gives out."""

    def __init__(self, parts: nn.Sequential, channels: int) -> None:
        super().__init__(*parts)
        self.out_channels = channels


class Stage(nn.Sequential):
    """The last stage of a ResNet on regions, (R, C, 7, 7): by its mean over positions, (R, 2 C), for boxes."""

    def forward(self, x: Tensor) -> Tensor:
        pooled: Tensor = super().forward(x).mean((2, 3))
        return pooled


def _numbers(regions: int) -> dict[str, int]:
    """What torchvision counts in an image, for so many regions to train on."""
    proposals = {"train": max(50, 4 * regions), "test": max(20, 2 * regions)}
    return {
        **{f"rpn_{when}_nms_top_n_{mode}": number for when in ("pre", "post") for mode, number in proposals.items()},
        "rpn_batch_size_per_image": max(64, regions // 2),
        "box_batch_size_per_image": regions,
        "box_detections_per_img": min(100, max(10, regions)),
    }


def mask_rcnn(
    norm: MakeNorm, classes: int, image_size: int, width: float = 1.0, regions: int = 512, frozen: bool = False
) -> nn.Module:
    """Mask R-CNN (He et al. 2017) on the fourth stage of a ResNet-50, its "C4".

    The stages before the last look at the image; the last looks at each region, once for its class and box and once,
    with weights and statistics of its own, for its mask. All their convolutions have the normalizer, and no other
    layer has one.

    Args:
        norm: makes a normalizer.
        classes: of objects, without the ground.
        image_size: pixels on a side.
        width: multiplies the ResNet's numbers of channels.
        regions: of each image, that the last stage is trained on. What else is counted in an image goes along:
            proposals, anchors to train on, and what is found at most; with 512 it is about what torchvision has.
        frozen: whether normalizers that keep running statistics use them in training too, and leave them, weights and
            biases as they are, as is the rule in detection: what a network starts from must have brought them.

    Raises:
        LabError: torchvision is not installed.
    """
    vision, _ = torchvision()
    detection = vision.models.detection
    if image_size < 64 or regions < 1:
        needs = "images of at least 64 pixels and at least 1 region"
        raise UsageError(f"mask_rcnn needs {needs}, got image_size={image_size} and regions={regions}")
    network: Any = resnet50(norm, 3, classes, image_size, width, last_stride=1)
    stages, last = network.features[:C4], network.features[C4:]
    inner = last[0].branch[0].in_channels
    outer = 2 * inner
    of_masks = bottlenecks(norm, inner, inner // 2, len(last))
    mask_width = max(8, round(256 * width))
    pool = functools.partial(_pool_class(), ["0"], POOLED, 2)
    sizes = tuple(round(image_size * share) for share in (1 / 12, 1 / 6, 1 / 3, 2 / 3))
    model: nn.Module = detection.MaskRCNN(
        Backbone(stages, inner),
        min_size=image_size, max_size=image_size, image_mean=[0.0] * 3, image_std=[1.0] * 3,
        rpn_anchor_generator=detection.rpn.AnchorGenerator((sizes,), ((0.5, 1.0, 2.0),)),
        box_roi_pool=pool(), box_head=Stage(*last),
        box_predictor=detection.faster_rcnn.FastRCNNPredictor(outer, classes + 1),
        mask_roi_pool=pool(), mask_head=nn.Sequential(*of_masks),
        mask_predictor=detection.mask_rcnn.MaskRCNNPredictor(outer, mask_width, classes + 1),
        **_numbers(regions),
    )  # fmt: skip
    return freeze_norms(model) if frozen else model
