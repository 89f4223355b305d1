"""The four passes over memory, each against its sum written out in float64."""

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from normcore import kernels

from .formulas import flat, moments_over
from .helpers import DEVICES, LAYOUTS, ROUNDING, assert_near, laid_out

shapes = st.lists(st.integers(1, 5), min_size=2, max_size=5)
dtypes = st.sampled_from(list(ROUNDING))
layouts = st.sampled_from(LAYOUTS)
devices = st.sampled_from(DEVICES)
seeds = st.integers(0, 999)


@pytest.fixture(autouse=True, scope="module", params=[1, kernels.FEW], ids=["kernels", "plain"])
def few(request: pytest.FixtureRequest) -> Iterator[None]:
    """Small as the inputs are, by torch's kernels and in blocks; and as such inputs go otherwise."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "FEW", request.param)
        patch.setattr(kernels, "SAMPLE", 1 if request.param == 1 else kernels.SAMPLE)
        patch.setattr(kernels, "BLOCK", 7)
        yield


def drawn(shape: list[int], dtype: torch.dtype, layout: str = "contiguous", device: str = "cpu") -> Tensor:
    return laid_out((2 * torch.randn(shape, dtype=torch.float64) + 1).to(device, dtype), layout)


def wide(table: Tensor, x: Tensor) -> Tensor:
    """A table (N, C) in float64 with the axes of x."""
    return table.double()[(...,) + (None,) * (x.dim() - 2)]


# --- layout and dtype --------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(3, 2), (3, 2, 4), (3, 2, 4, 5), (3, 2, 4, 5, 2)], ids=len)
def test_dense_copies_only_what_has_gaps(shape: tuple[int, ...], layout: str) -> None:
    x = laid_out(torch.randn(shape), layout)
    found = kernels.dense(x)
    last = layout == "channels_last" and len(shape) > 3
    assert torch.equal(found, x)
    assert (found is x) == (x.is_contiguous() or last)
    expected = laid_out(torch.empty(shape), "channels_last" if last else "contiguous")
    assert found.stride() == expected.stride()


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_dense_takes_the_layout_of_another(layout: str) -> None:
    like = laid_out(torch.randn(2, 3, 4, 5), layout)
    for other in LAYOUTS:
        found = kernels.dense(laid_out(torch.randn(2, 3, 4, 5), other), like=like)
        assert found.stride() == like.stride()


def test_contiguous_wins_where_both_layouts_hold() -> None:
    """One channel or one position: the same memory under both names."""
    for shape in ((4, 1, 5, 5), (4, 3, 1, 1)):
        assert kernels.memory_format(torch.randn(shape)) == torch.contiguous_format


@pytest.mark.parametrize("dtype", ROUNDING)
def test_tables_are_single_precision_at_least(dtype: torch.dtype) -> None:
    expected = torch.float64 if dtype == torch.float64 else torch.float32
    assert kernels.table_dtype(torch.empty(1, dtype=dtype)) == expected


# --- the passes --------------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(shape=shapes, dtype=dtypes, layout=layouts, device=devices, seed=seeds)
def test_moments_match_the_sums(shape: list[int], dtype: torch.dtype, layout: str, device: str, seed: int) -> None:
    torch.manual_seed(seed)
    x = kernels.dense(drawn(shape, dtype, layout, device))
    found, expected = kernels.moments(x), moments_over(flat(x.double()), 2)
    for table, wanted in zip(found, expected, strict=True):
        assert (table.shape, table.dtype) == (x.shape[:2], kernels.table_dtype(x))
        # half precision in the input is none in the tables
        assert_near(table, wanted.reshape(x.shape[:2]), min(ROUNDING[dtype], 1e-6))


@settings(max_examples=60)
@given(
    shape=shapes,
    dtype=dtypes,
    layout=layouts,
    device=devices,
    sizes=st.lists(st.sampled_from(["full", "row", "column", "one"]), min_size=3, max_size=3),
    seed=seeds,
)
def test_apply_centres_scales_and_shifts(
    shape: list[int], dtype: torch.dtype, layout: str, device: str, sizes: list[str], seed: int
) -> None:
    """Tables of every size that broadcasts to (N, C)."""
    torch.manual_seed(seed)
    x = kernels.dense(drawn(shape, dtype, layout, device))
    n, c = x.shape[:2]
    size_of = {"full": (n, c), "row": (1, c), "column": (n, 1), "one": (1, 1)}
    tables = [torch.randn(size_of[size], dtype=kernels.table_dtype(x), device=device) for size in sizes]
    center, scale, shift = (wide(table, x) for table in tables)
    y = kernels.apply(x, *tables)
    assert (y.dtype, y.shape) == (x.dtype, x.shape)
    assert y.is_contiguous(memory_format=kernels.memory_format(x))
    assert_near(y, scale * (x.double() - center) + shift, ROUNDING[dtype])


@settings(max_examples=60)
@given(shape=shapes, dtype=dtypes, layout=layouts, device=devices, seed=seeds)
def test_sums_of_dy_and_of_dy_times_centred_x(
    shape: list[int], dtype: torch.dtype, layout: str, device: str, seed: int
) -> None:
    torch.manual_seed(seed)
    x = kernels.dense(drawn(shape, dtype, layout, device))
    dy = kernels.dense(drawn(shape, dtype, "transposed", device), like=x)
    mean = kernels.moments(x)[0]
    total, dot = kernels.sums(dy, x, mean)
    rows = (*x.shape[:2], -1)
    assert total.dtype == dot.dtype == mean.dtype
    rounding = min(ROUNDING[dtype], 2e-5)
    assert_near(total, dy.double().reshape(rows).sum(2), rounding)
    assert_near(dot, (dy.double() * (x.double() - wide(mean, x))).reshape(rows).sum(2), rounding)


@settings(max_examples=60)
@given(shape=shapes, dtype=dtypes, layout=layouts, device=devices, one_row=st.booleans(), seed=seeds)
def test_the_input_gradient_adds_its_three_terms(
    shape: list[int], dtype: torch.dtype, layout: str, device: str, one_row: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    x = kernels.dense(drawn(shape, dtype, layout, device))
    dy = kernels.dense(drawn(shape, dtype, "transposed", device), like=x)
    mean = kernels.moments(x)[0]
    p, q, scale = (torch.randn_like(mean) for _ in range(3))
    scale = scale[:1] if one_row else scale
    found = kernels.input_gradient(dy, x, scale, mean, p, q)
    assert found.dtype == x.dtype
    assert found.is_contiguous(memory_format=kernels.memory_format(x))
    expected = wide(scale, x) * dy.double() + wide(p, x) * (x.double() - wide(mean, x)) + wide(q, x)
    # rounded to the dtype of x once, at the end
    exact = 1e-12 if dtype == torch.float64 else 3e-6
    atol = exact * max(expected.abs().max().item(), 1)
    torch.testing.assert_close(found.double(), expected, rtol=0.51 * torch.finfo(dtype).eps + exact, atol=atol)


# --- far from zero, and at the limits ----------------------------------------------------------------------


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_nothing_cancels_far_from_zero(layout: str, device: str) -> None:
    """float32 holds numbers near 1e4 to 5e-4, and that is all that is lost."""
    torch.manual_seed(0)
    x = laid_out((torch.randn(4, 3, 16, 16) + 1e4).to(device), layout)
    dy = laid_out(torch.randn(4, 3, 16, 16).to(device), layout)
    mean, var = kernels.moments(x)
    expected_mean, expected_var = (t.flatten(1) for t in moments_over(x.double(), 2, 3))
    torch.testing.assert_close(mean.double(), expected_mean, rtol=1.2e-7, atol=0)
    # E[x^2] - E[x]^2 in float32 would be off by several units
    torch.testing.assert_close(var.double(), expected_var, rtol=1e-3, atol=0)
    dot = kernels.sums(dy, x, mean)[1]
    expected = (dy.double() * (x.double() - wide(mean, x))).sum((2, 3))
    torch.testing.assert_close(dot.double(), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", ROUNDING)
def test_a_constant_has_no_variance(dtype: torch.dtype, layout: str, device: str) -> None:
    """Its reciprocal standard deviation, infinite, comes back as zero and not as NaN."""
    x = laid_out(torch.full((2, 3, 4, 4), 1024.0, dtype=dtype, device=device), layout)
    mean, var = kernels.moments(x)
    assert torch.equal(mean, torch.full_like(mean, 1024))
    assert torch.equal(var, torch.zeros_like(var))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("shape", [(0, 3), (0, 3, 4, 4)], ids=str)
def test_an_empty_batch_has_empty_tables(shape: tuple[int, ...], device: str) -> None:
    x = torch.empty(shape, device=device)
    mean, var = kernels.moments(x)
    assert mean.shape == var.shape == (0, 3)
    assert kernels.apply(x, mean, var, mean).shape == shape
    assert [t.shape for t in kernels.sums(x, x, mean)] == [(0, 3), (0, 3)]
    assert kernels.input_gradient(x, x, mean, mean, mean, mean).shape == shape
