"""What is looked at in networks that make pictures."""

import base64
import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from normcore.lab.probes import pixels


def given(model: nn.Module, x: Tensor) -> Tensor:
    out: Tensor = model(x)
    return out


def test_halving_the_contrast_changes_a_copy_by_a_quarter_of_what_is_around_each_mean() -> None:
    x = torch.randn(40, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    around = x - x.mean((2, 3), keepdim=True)
    expected = 0.25 * around.square().sum() / (x - x.mean(0)).square().sum()
    assert pixels.contrast(given, nn.Identity(), x)["change"] == pytest.approx(expected.item())


def test_contrast_does_not_matter_to_what_normalizes_each_picture() -> None:
    x = torch.rand(6, 3, 16, 16, dtype=torch.float64)
    layer = nn.InstanceNorm2d(3, eps=0.0)
    assert pixels.contrast(given, layer, x)["change"] < 1e-20


def test_a_picture_is_kept_as_a_file_that_shows_it() -> None:
    picture = torch.zeros(16, 16, 3, dtype=torch.uint8)
    picture[:, 8:] = 200
    (row,) = pixels.rows([("half", picture, picture)])
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(row["made"]))))
    assert row["name"] == "half"
    assert np.abs(shown.astype(int) - picture.numpy()).max() < 12
