"""What a network makes of pictures."""

import base64
import io
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from .landscape import Forward

QUALITY = 90  # of the pictures that are kept, as JPEG counts


@torch.no_grad()
def contrast(forward: Forward, model: nn.Module, x: Tensor, share: float = 0.5) -> dict[str, float]:
    r"""How far the pictures change that a network makes, when those that it is given have ``share`` of their contrast.

    .. math:: \frac{E\|f(m + s\,(x - m)) - f(x)\|^2}{E\|f(x) - E f(x)\|^2}

    with :math:`m` the mean of each channel of a picture x, (N, C, H, W): 0 where contrast does not matter.
    """
    change = 0.0
    made = torch.cat([forward(model, some) for some in x.split(32)])
    mean = x.mean((2, 3), keepdim=True)
    for at, some in zip(made.split(32), torch.lerp(mean, x, share).split(32), strict=True):
        change += (forward(model, some) - at).double().square().sum().item()
    spread = (made - made.mean(0)).double().square().sum().item()
    return {"change": change / spread if spread else float("inf")}


def encoded(picture: Tensor) -> str:
    """A picture (H, W, C) of bytes as a JPEG file in Base64."""
    content = io.BytesIO()
    Image.fromarray(picture.cpu().numpy()).save(content, "JPEG", quality=QUALITY, subsampling=0)
    return base64.b64encode(content.getvalue()).decode()


def rows(examples: Any) -> list[dict[str, Any]]:
    """A row a picture: the photograph's ``name``, and what is ``given`` and ``made``, :func:`encoded`."""
    return [{"name": name, "given": encoded(given), "made": encoded(made)} for name, given, made in examples]
