"""How alike features are, by the formulas."""

import pytest
import torch
from torch import Tensor, nn

from normcore.lab.probes.similarity import cosine, features, gram, similarity


def forward(model: nn.Module, x: Tensor) -> Tensor:
    scores: Tensor = model(x)
    return scores


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    stages = nn.Sequential(nn.Sequential(nn.Linear(6, 5), nn.Tanh()), nn.Sequential(nn.Linear(5, 4), nn.Tanh()))
    model = nn.Sequential()
    model.add_module("features", stages)
    model.add_module("head", nn.Linear(4, 2))
    return model.double()


def test_the_cosine_is_the_mean_over_all_pairs_of_different_images() -> None:
    torch.manual_seed(0)
    values = torch.randn(7, 5, dtype=torch.float64)
    pairs = [torch.dot(x, z) / (x.norm() * z.norm()) for i, x in enumerate(values) for z in values[:i]]
    assert cosine(values) == pytest.approx(float(torch.stack(pairs).mean()))
    assert cosine(values[:1].expand(3, 5)) == pytest.approx(1)


def test_alignment_is_one_of_what_is_turned_scaled_and_moved_and_less_of_what_is_not() -> None:
    """By its other form, of the features and not of the images: |X^T Z|^2 / (|X^T X| |Z^T Z|)."""
    torch.manual_seed(0)
    x, z = torch.randn(20, 5, dtype=torch.float64), torch.randn(20, 3, dtype=torch.float64)
    turned = 3 * x @ torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64))[0] + 7
    assert float((gram(x) * gram(turned)).sum()) == pytest.approx(1)
    x0, z0 = x - x.mean(0), z - z.mean(0)
    expected = (x0.T @ z0).norm() ** 2 / ((x0.T @ x0).norm() * (z0.T @ z0).norm())
    assert float((gram(x) * gram(z)).sum()) == pytest.approx(float(expected))
    assert expected < 0.5


@torch.no_grad()
def test_rows_are_of_images_of_layers_and_of_networks() -> None:
    x = torch.randn(9, 6, dtype=torch.float64)
    model, twin = network(0), network(0)
    first, second = features(forward, model, x)
    assert (first.shape, second.shape) == ((9, 5), (9, 4))
    rows = similarity(forward, model, {"twin": twin, "other": network(1)}, x)
    assert [(row["of"], row["layer"], row["other"]) for row in rows] == [
        ("inputs", 1, "1"), ("inputs", 2, "2"), ("layers", 1, "2"), ("networks", 1, "twin"), ("networks", 2, "twin"),
        ("networks", 1, "other"), ("networks", 2, "other"),
    ]  # fmt: skip
    assert rows[0]["cosine"] == pytest.approx(cosine(first))
    assert rows[1]["centred"] == pytest.approx(cosine(second - second.mean(0)))
    assert rows[2]["cosine"] == pytest.approx(float((gram(first) * gram(second)).sum()))
    assert [row["cosine"] for row in rows[3:5]] == pytest.approx([1, 1])
    assert all(row["cosine"] < 0.99 for row in rows[5:])
