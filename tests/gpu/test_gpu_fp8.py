"""Eight-bit rows, what fuses them, and products, on a CUDA device at the shapes of an 8B model."""

import pytest
import torch
from torch import Tensor

from tests.tiny_models import relative_error
from thinktune.ops import fp8
from thinktune.ops.fp8 import (
    FP8Rows,
    add_rms_norm_rows,
    fp8_product,
    quantize_fp8_weight,
    quantize_rows,
    rms_norm_backward_rows,
    rms_norm_rows,
    runs_fp8,
    swiglu_rows,
)
from thinktune.ops.rms_norm import add_rms_norm, rms_norm_backward, rms_norm_forward
from thinktune.ops.swiglu import swiglu_forward
from thinktune.ops.update import Update

CUDA = torch.device("cuda")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not (torch.cuda.is_available() and runs_fp8(CUDA)),
        reason="no CUDA device that multiplies eight bits (Ada, Hopper or later)",
    ),
    pytest.mark.filterwarnings("ignore:Synchronization debug mode:UserWarning"),
]
WIDTH, INNER, QKV, EPS = 4096, 14336, 6144, 1e-5
TOKENS = (1, 17, 257, 4096)
FUSED = 2e-3
"""Of a fused kernel in bfloat16 against the unfused: sums may be taken in another order."""
PRODUCT = 1.5e-2
"""Of a product with fast accumulation against float64: single values were seen to err by 2 % over
4,096 terms (arXiv:2412.19437, section 3.3.2)."""
EMULATED = 3e-3
"""Of a product in float32 that is rounded to bfloat16."""


def _randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    generator = torch.Generator(CUDA).manual_seed(seed)
    return torch.randn(*shape, generator=generator, device=CUDA, dtype=dtype)


def _assert_same(ours: FP8Rows, plain: FP8Rows) -> None:
    finite = plain.scales.isfinite()
    assert torch.equal(ours.scales.isfinite(), finite)
    assert torch.equal(ours.scales[finite], plain.scales[finite])
    assert torch.equal(ours.codes.view(torch.uint8)[finite], plain.codes.view(torch.uint8)[finite])
    assert ours.codes[~finite].float().isnan().any(1).all()


@pytest.mark.parametrize("width", [1, 300, WIDTH, QKV, INNER, 2 * INNER, 33000])
@pytest.mark.parametrize("tokens", [1, 1031])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_rows_have_the_bits_of_the_plain_path(width, tokens, dtype):
    wide, columns = _randn(tokens, width + 64, dtype=dtype), _randn(width, dtype=torch.float32)
    if tokens > 8:
        wide[3], wide[4, 0], wide[5, 0], wide[6, 0] = 0, torch.inf, torch.nan, -torch.inf
        wide[7] *= 1e-37
        wide[8] *= 1e4
    apart = wide[:, :width]
    x = apart.contiguous()
    _assert_same(quantize_rows(x), fp8._plain_rows(x, None))
    _assert_same(quantize_rows(apart, columns.abs()), fp8._plain_rows(x, columns.abs()))


def test_ties_between_codes_are_rounded_as_on_the_cpu():
    x = (2.0 ** torch.arange(-12, 8)[:, None] * (1 + torch.arange(17) / 16)).flatten()
    x = torch.cat([x, x * (1 + 2**-20), x * (1 - 2**-20)])
    x = torch.cat([x, -x, torch.tensor([448.0])])[None]
    plain = quantize_rows(x)
    _assert_same(quantize_rows(x.cuda()), FP8Rows(*(part.cuda() for part in plain)))


def test_a_weight_has_the_bits_it_has_on_the_cpu():
    weight = _randn(1031, WIDTH)
    codes, scales = quantize_fp8_weight(weight.cpu())
    _assert_same(FP8Rows(*quantize_fp8_weight(weight)), FP8Rows(codes.cuda(), scales.cuda()))


def test_quantising_a_weight_takes_no_memory_beside_the_result():
    weight = _randn(2 * INNER, WIDTH)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    quantize_fp8_weight(weight)
    added = torch.cuda.max_memory_allocated() - before
    assert added < 1.2 * weight.numel(), added


def _emulated(rows: FP8Rows, codes: Tensor, scales: Tensor | None) -> Tensor:
    return fp8_product(rows, codes, scales, torch.float64)


@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize(
    ("inputs", "outputs"),
    [(WIDTH, QKV), (WIDTH, WIDTH), (WIDTH, 2 * INNER), (INNER, WIDTH), (16, 48)],
)
def test_products_forward_and_backward_are_the_emulated_ones(tokens, inputs, outputs):
    weight = _randn(outputs, inputs) * torch.logspace(-1, 1, outputs, device=CUDA)[:, None]
    codes, scales = quantize_fp8_weight(weight.bfloat16())
    rows = quantize_rows(_randn(tokens, inputs, seed=1))
    y = fp8_product(rows, codes, scales, torch.bfloat16)
    assert relative_error(y, _emulated(rows, codes, scales)) < PRODUCT
    out = torch.full_like(y, torch.nan)
    assert fp8_product(rows, codes, scales, torch.bfloat16, out) is out
    assert torch.equal(out, y)
    rows, transposed = quantize_rows(_randn(tokens, outputs, seed=2), scales), codes.T.contiguous()
    dx = fp8_product(rows, transposed, None, torch.bfloat16)
    assert relative_error(dx, _emulated(rows, transposed, None)) < PRODUCT


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("outputs", [48, 47])
def test_what_tensor_cores_refuse_is_emulated(dtype, outputs):
    rows, weight = quantize_rows(_randn(33, 80)), quantize_fp8_weight(_randn(outputs, 80, seed=1))
    for kind in (dtype, torch.bfloat16):
        y = fp8_product(rows, *weight, kind)
        assert y.dtype == kind
        multiplied = kind == torch.bfloat16 and outputs % 16 == 0
        limit = PRODUCT if multiplied else EMULATED
        assert relative_error(y, _emulated(rows, *weight)) < limit


@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
def test_a_row_that_is_not_finite_has_no_finite_product_and_spoils_no_other(bad):
    x, weight = _randn(257, WIDTH), quantize_fp8_weight(_randn(QKV, WIDTH, seed=1))
    clean = fp8_product(quantize_rows(x), *weight, torch.bfloat16)
    x[2, 5] = bad
    y = fp8_product(quantize_rows(x), *weight, torch.bfloat16)
    assert not y[2].isfinite().any()
    assert torch.equal(y[3:], clean[3:])


def _assert_close(ours: tuple[Tensor, ...], plain: tuple[Tensor, ...]) -> None:
    for mine, other in zip(ours, plain, strict=True):
        assert mine.dtype == other.dtype
        assert relative_error(mine, other) < FUSED


@pytest.mark.parametrize("width", [WIDTH, 3584, 896])
@pytest.mark.parametrize("tokens", TOKENS)
def test_norms_give_their_rows_in_eight_bits(tokens, width):
    x, weight = _randn(tokens, width), _randn(width, seed=1)
    h, rrms, rows = rms_norm_rows(x, weight, EPS)
    _assert_close((h, rrms), rms_norm_forward(x, weight, EPS))
    _assert_same(rows, quantize_rows(h))
    base = _randn(tokens, width, seed=2)
    update = Update(_randn(tokens, 16), _randn(width, 16, seed=3), (0,), (width,), 16)
    plain = add_rms_norm(x, base.clone(), update, weight, EPS)
    out, h, rrms, rows = add_rms_norm_rows(x, base, update, weight, EPS)
    assert out is base
    _assert_close((out, h, rrms), plain)
    _assert_same(rows, quantize_rows(h))


@pytest.mark.parametrize("width", [WIDTH, 3584, 896])
@pytest.mark.parametrize("tokens", TOKENS)
def test_the_norms_backward_gives_the_gradient_in_eight_bits(tokens, width):
    wide, x, residual = (_randn(tokens, width + 64, seed=seed) for seed in range(3))
    x, residual = x[:, :width].contiguous(), residual[:, :width].contiguous()
    weight, columns = _randn(width, seed=3), _randn(width, seed=4, dtype=torch.float32).abs()
    low_rank = _randn(tokens, 16, seed=5), _randn(16, width, seed=6)
    _, rrms = rms_norm_forward(x, weight, EPS)
    apart = wide.clone()[:, :width]
    plain = rms_norm_backward(apart, low_rank, x, weight, rrms, residual.clone())
    spare = wide[:, width:].clone()
    grad, rest = wide[:, :width], (x, weight, rrms, residual, columns)
    out, h, rows = rms_norm_backward_rows(grad, low_rank, *rest)
    assert out is residual
    assert torch.equal(wide[:, width:], spare)
    _assert_close((out, h), plain)
    _assert_same(rows, quantize_rows(out, columns))


@pytest.mark.parametrize("rank", [0, 8, 16, 64, 128])
@pytest.mark.parametrize("tokens", TOKENS)
def test_the_activation_is_given_in_eight_bits(tokens, rank):
    gate_up, update = _randn(tokens, 2 * INNER), None
    if rank:
        right = torch.zeros(2 * INNER, 2 * rank, device=CUDA, dtype=torch.bfloat16)
        right[:INNER, :rank] = _randn(INNER, rank, seed=1)
        right[INNER:, rank:] = _randn(INNER, rank, seed=2)
        left = _randn(tokens, 2 * rank, seed=3)
        update = Update(left, right, (0, rank), (INNER, INNER), rank)
    act, rows = swiglu_rows(gate_up, update)
    _assert_close((act,), (swiglu_forward(gate_up, update),))
    _assert_same(rows, quantize_rows(act))
    again, same = swiglu_rows(gate_up, update)
    assert torch.equal(again, act)
    _assert_same(same, rows)


def test_a_bad_value_in_the_activation_is_not_lost():
    gate_up = _randn(33, 2 * INNER)
    gate_up[4, 7], gate_up[5, INNER + 9] = torch.nan, torch.inf
    act, rows = swiglu_rows(gate_up)
    assert rows.scales.isfinite().logical_not().nonzero().flatten().tolist() == [4, 5]
    _assert_same(rows, quantize_rows(act))


def test_nothing_waits_for_the_device():
    x, weight = _randn(257, WIDTH), _randn(WIDTH, seed=1)
    codes, scales = quantize_fp8_weight(_randn(2 * INNER, WIDTH, seed=2))
    transposed, residual = codes.T.contiguous(), torch.zeros_like(x)
    columns = torch.ones(WIDTH, device=CUDA)
    fp8_product(quantize_rows(_randn(1, 2 * INNER)), transposed, None, torch.bfloat16)
    torch.cuda.set_sync_debug_mode("error")
    try:
        h, rrms, rows = rms_norm_rows(x, weight, EPS)
        gate_up = fp8_product(rows, codes, scales, torch.bfloat16)
        swiglu_rows(gate_up)
        grad = fp8_product(quantize_rows(gate_up, scales), transposed, None, torch.bfloat16)
        rms_norm_backward_rows(grad, None, x, weight, rrms, residual, columns)
        add_rms_norm_rows(x, h, None, weight, EPS)
    finally:
        torch.cuda.set_sync_debug_mode("default")
