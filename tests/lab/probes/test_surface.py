"""The loss around a network's weights, by hand."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from normcore.lab.probes.surface import GRID, RADII, Around, direction, surface


def forward(model: nn.Module, x: Tensor) -> Tensor:
    scores: Tensor = model(x)
    return scores


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 4)).double()


@pytest.fixture
def batches() -> list[tuple[Tensor, Tensor]]:
    torch.manual_seed(1)
    return [(torch.randn(n, 2, 4, 4, dtype=torch.float64), torch.randint(4, (n,))) for n in (8, 3)]


def test_a_direction_is_as_long_as_the_weights_filter_by_filter(model: nn.Module) -> None:
    for weight, along in zip(model.parameters(), direction(model), strict=True):
        if weight.dim() < 2:
            assert not along.any()
        else:
            torch.testing.assert_close(along.flatten(1).norm(dim=1), weight.flatten(1).norm(dim=1))
            assert not torch.allclose(along, weight)


def test_the_loss_is_that_of_the_moved_weights_in_evaluation_mode(
    model: nn.Module, batches: list[tuple[Tensor, Tensor]]
) -> None:
    across, up = direction(model), direction(model)
    kept = {name: values.clone() for name, values in model.state_dict().items()}
    found = Around(forward, model, batches)((0.5, across), (-0.25, up))
    assert all(torch.equal(kept[name], values) for name, values in model.state_dict().items())
    with torch.no_grad():
        for weight, a, b in zip(model.parameters(), across, up, strict=True):
            weight += 0.5 * a - 0.25 * b
        x, y = (torch.cat(parts) for parts in zip(*batches, strict=True))
        assert found == pytest.approx(F.cross_entropy(model.eval()(x), y).item())


def test_the_rise_is_above_the_loss_at_the_weights_and_the_plane_passes_through_them(
    model: nn.Module, batches: list[tuple[Tensor, Tensor]]
) -> None:
    rows = surface(forward, model, batches)
    assert [row["radius"] for row in rows] == [*RADII, *[None] * GRID**2]
    middle = rows[len(RADII) + GRID**2 // 2]
    assert (middle["x"], middle["y"]) == (0, 0)
    assert middle["loss"] == pytest.approx(Around(forward, model, batches)())
    corners = [row for row in rows if row["x"] is not None and abs(row["x"]) == abs(row["y"]) == 1]
    assert len(corners) == 4
    flat = nn.Sequential(nn.Flatten(), nn.Linear(32, 4)).double()
    nn.init.zeros_(flat[1].weight)
    assert all(row["rise"] == pytest.approx(0) for row in surface(forward, flat, batches)[: len(RADII)])
