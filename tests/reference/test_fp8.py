"""Eight-bit weights and rows on the CPU, against the format itself and float64 products."""

import pytest
import torch
from torch import Tensor

from tests.tiny_models import relative_error
from thinktune.ops import fp8
from thinktune.ops.fp8 import (
    FP8Rows,
    fp8_product,
    quantize_fp8_weight,
    quantize_rows,
    runs_fp8,
)

TYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def _randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _numbers() -> Tensor:
    """The 127 numbers of E4M3 that are not negative, written down from the format."""
    mantissas, exponents = torch.arange(8.0).double(), torch.arange(16.0).double()
    normal = (1 + mantissas / 8) * 2 ** (exponents[1:, None] - 7)
    return torch.cat([mantissas / 8 * 2**-6, normal.flatten()])[:-1]  # the last one is NaN


def _nearest(y: Tensor) -> Tensor:
    """Bits of the nearest number to each, and of the even one of two that are as near."""
    table = _numbers()
    distance = (y.double().abs()[..., None] - table).abs()
    near = distance == distance.amin(-1, keepdim=True)
    even = torch.arange(len(table)) % 2 == 0
    found = torch.where(near.sum(-1) == 1, near.int().argmax(-1), (near & even).int().argmax(-1))
    return found + 128 * y.signbit()


def test_codes_are_the_nearest_numbers_of_the_format_and_ties_are_even():
    table = _numbers().float()
    middles = (table[1:] + table[:-1]) / 2
    both = torch.cat([table, middles, middles * (1 + 2**-20), middles * (1 - 2**-20)])
    x = torch.cat([both, -both, _randn(500) * 100]).clamp(-448, 448)[None]
    rows = quantize_rows(x)
    assert rows.scales.tolist() == [1.0]
    assert torch.equal(rows.codes.view(torch.uint8).int(), _nearest(x).int())


@pytest.mark.parametrize("dtype", TYPES)
def test_a_weight_is_its_codes_times_its_scales_up_to_half_a_step(dtype):
    weight = (_randn(67, 131) * torch.logspace(-4, 2, 67)[:, None]).to(dtype)
    codes, scales = quantize_fp8_weight(weight)
    assert (codes.dtype, scales.dtype) == (torch.float8_e4m3fn, torch.float32)
    assert codes.is_contiguous()
    weight = weight.double()
    held = codes.double() * scales.double()[:, None]
    half_a_step = (weight.abs() / 16).clamp(min=0) + scales.double()[:, None] * 2**-10
    assert ((held - weight).abs() <= half_a_step * (1 + 1e-5)).all()
    assert torch.equal(codes.float().abs().amax(1), torch.full((67,), 448.0))
    exact = (weight.abs().amax(1) / 448).float()
    assert torch.equal(scales, scales.bfloat16().float())
    assert (scales <= exact).all()
    assert (scales * (1 + 2**-7) >= exact * (1 - 2e-7)).all()


def test_a_weight_has_the_same_bits_in_slices_and_whole(monkeypatch):
    weight = _randn(29, 48).bfloat16()
    whole = quantize_rows(weight, short=True)
    for size in (1, 48, 7 * 48 + 5):
        monkeypatch.setattr(fp8, "_SLICE", size)
        codes, scales = quantize_fp8_weight(weight)
        assert torch.equal(codes.view(torch.uint8), whole.codes.view(torch.uint8))
        assert torch.equal(scales, whole.scales)


def test_rows_of_zeros_and_rows_too_small_for_a_scale_are_zero():
    x = torch.zeros(3, 16)
    x[1, 3], x[2, 5] = 1e-44, -1e-36
    rows = quantize_rows(x)
    assert rows.scales.tolist() == [1.0, 1.0, 1.0]
    assert not rows.codes.float().any()


def test_the_smallest_rows_with_a_scale_and_the_largest_are_kept():
    x = torch.tensor([[6e-36, -3e-36], [3.4e38, 1.7e38]])
    rows = quantize_rows(x)
    held = rows.codes.double() * rows.scales.double()[:, None]
    assert relative_error(held, x.double()) < 1e-6


def test_rows_times_columns_are_rows_of_the_product():
    x, columns = _randn(7, 33).bfloat16(), _randn(33, seed=1)
    for factors in (columns, columns.bfloat16()):
        ours, plain = quantize_rows(x, factors), quantize_rows(x.float() * factors)
        assert torch.equal(ours.codes.view(torch.uint8), plain.codes.view(torch.uint8))
        assert torch.equal(ours.scales, plain.scales)


def test_rows_that_lie_apart_have_the_bits_of_contiguous_ones():
    wide = _randn(5, 64)
    for apart in (wide[:, 16:48], wide.T[:, :4], wide[:, ::3]):
        ours, plain = quantize_rows(apart), quantize_rows(apart.contiguous())
        assert torch.equal(ours.codes.view(torch.uint8), plain.codes.view(torch.uint8))
        assert ours.codes.is_contiguous()


@pytest.mark.parametrize("bad", [float("inf"), -float("inf"), float("nan")])
def test_a_row_that_is_not_finite_has_no_finite_product_and_spoils_no_other(bad):
    x, weight = _randn(4, 32), quantize_fp8_weight(_randn(48, 32, seed=1))
    clean = fp8_product(quantize_rows(x), *weight, torch.float32)
    x[2, 5] = bad
    y = fp8_product(quantize_rows(x), *weight, torch.float32)
    assert not y[2].isfinite().any()
    assert torch.equal(y[[0, 1, 3]], clean[[0, 1, 3]])


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("scaled", [True, False])
def test_the_product_is_that_of_what_codes_and_scales_stand_for(dtype, scaled):
    rows, (codes, scales) = quantize_rows(_randn(5, 48)), quantize_fp8_weight(_randn(32, 48))
    y = fp8_product(rows, codes, scales if scaled else None, dtype)
    right = codes.double() * (scales.double()[:, None] if scaled else 1)
    truth = (rows.codes.double() * rows.scales.double()[:, None]) @ right.T
    tolerance = {torch.float64: 1e-14, torch.float32: 1e-6}.get(dtype, 2 * torch.finfo(dtype).eps)
    assert y.dtype == dtype
    assert relative_error(y, truth) < tolerance
    out = torch.full_like(y, torch.nan)
    assert fp8_product(rows, codes, scales if scaled else None, dtype, out) is out
    assert torch.equal(out, y)


def test_forward_and_backward_err_by_the_rounding_of_the_format():
    """Uniform rounding to 3 bits of mantissa errs by 2.6 % on a side; both sides: 3.7 %."""
    x, weight, grad = _randn(64, 256), _randn(512, 256, seed=1), _randn(64, 512, seed=2)
    weight *= torch.logspace(-2, 1, 512)[torch.randperm(512)][:, None]
    codes, scales = quantize_fp8_weight(weight)
    y = fp8_product(quantize_rows(x), codes, scales, torch.float32)
    dx = fp8_product(quantize_rows(grad, scales), codes.T.contiguous(), None, torch.float32)
    assert 0.02 < relative_error(y, x.double() @ weight.double().T) < 0.045
    assert 0.02 < relative_error(dx, grad.double() @ weight.double()) < 0.045


def test_no_rows_make_no_products():
    rows = quantize_rows(torch.empty(0, 32), torch.ones(32))
    assert rows.codes.shape == (0, 32)
    y = fp8_product(rows, *quantize_fp8_weight(_randn(16, 32)), torch.bfloat16)
    assert y.shape == (0, 16)


def test_a_cpu_multiplies_no_eight_bits():
    assert not runs_fp8(torch.device("cpu"))
    assert isinstance(quantize_rows(_randn(2, 3)), FP8Rows)
