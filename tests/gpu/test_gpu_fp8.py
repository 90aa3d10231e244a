"""Eight-bit rows, what fuses them, and products, on a CUDA device at the shapes of an 8B model."""

import os
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.tiny_models import attach_trained, make_model, relative_error, save_model
from thinktune.model.checkpoint_io import load_decoder
from thinktune.model.decoder import Decoder
from thinktune.model.held_weights import Quantize
from thinktune.model.kept import Keep
from thinktune.model.lora import LoRAConfig
from thinktune.ops import fp8
from thinktune.ops.attention import Kernel, PackedAttention
from thinktune.ops.fp8 import (
    FP8Rows,
    add_rms_norm_rows,
    fp8_product,
    quantize_fp8_weight,
    quantize_rows,
    rms_norm_backward_rows,
    rms_norm_rows,
    runs_fp8,
)
from thinktune.ops.rms_norm import add_rms_norm, rms_norm_backward, rms_norm_forward
from thinktune.ops.update import Update

# cuBLAS reads it once; without it PyTorch refuses products where everything is to be repeatable.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
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
"""Of a product in float32 that is rounded to bfloat16; that alone comes to 1.7e-3."""


def _randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    generator = torch.Generator(CUDA).manual_seed(seed)
    return torch.randn(*shape, generator=generator, device=CUDA, dtype=dtype)


def _assert_same(ours: FP8Rows | None, plain: FP8Rows) -> None:
    assert ours is not None
    finite = plain.scales.isfinite()
    assert torch.equal(ours.scales.isfinite(), finite)
    assert torch.equal(ours.scales[finite], plain.scales[finite])
    assert torch.equal(ours.codes.view(torch.uint8)[finite], plain.codes.view(torch.uint8)[finite])
    assert ours.codes[~finite].float().isnan().any(1).all()


@pytest.mark.parametrize("width", [1, 300, WIDTH, QKV, INNER, 2 * INNER, 33000])
@pytest.mark.parametrize("tokens", [1, 1031])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_rows_have_the_bits_of_the_plain_path(width, tokens, dtype):
    wide, columns = _randn(tokens, width + 64, dtype=dtype), _randn(width).abs()
    if tokens > 8:
        wide[3], wide[4, 0], wide[5, 0], wide[6, 0] = 0, torch.inf, torch.nan, -torch.inf
        wide[7] *= 1e-37
        wide[8] *= 1e4
    apart = wide[:, :width]
    x = apart.contiguous()
    _assert_same(quantize_rows(x), fp8._plain_rows(x, None))
    _assert_same(quantize_rows(x, short=True), fp8._plain_rows(x, None, short=True))
    for factors in (columns, columns.float() * 1.001):
        _assert_same(quantize_rows(apart, factors), fp8._plain_rows(x, factors))


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
    grad, transposed = _randn(tokens, outputs, seed=2), codes.T.contiguous()
    rows = quantize_rows(grad, scales.bfloat16())
    _assert_same(rows, quantize_rows(grad, scales))  # bfloat16 holds them
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
    h, rrms, rows = rms_norm_rows(x, weight, EPS, wanted=True)
    _assert_close((h, rrms), rms_norm_forward(x, weight, EPS))
    _assert_same(rows, quantize_rows(h))
    base = _randn(tokens, width, seed=2)
    update = Update(_randn(tokens, 16), _randn(width, 16, seed=3), (0,), (width,), 16)
    plain = add_rms_norm(x, base.clone(), update, weight, EPS)
    out, h, rrms, rows = add_rms_norm_rows(x, base, update, weight, EPS, wanted=True)
    assert out is base
    _assert_close((out, h, rrms), plain)
    _assert_same(rows, quantize_rows(h))


@pytest.mark.parametrize("width", [WIDTH, 3584, 896])
@pytest.mark.parametrize("tokens", TOKENS)
def test_the_norms_backward_gives_the_gradient_in_eight_bits(tokens, width):
    wide, x, residual = (_randn(tokens, width + 64, seed=seed) for seed in range(3))
    x, residual = x[:, :width].contiguous(), residual[:, :width].contiguous()
    weight, columns = _randn(width, seed=3), _randn(width, seed=4).abs()
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


class _Policies:
    """A small model whose sizes tensor cores take, run with whatever each layer keeps."""

    LENGTHS = (97, 1, 300, 64, 13)

    def __init__(self, kind: Quantize, folder: Path, dropout: float) -> None:
        model = make_model(
            "llama", hidden_size=256, intermediate_size=704, num_hidden_layers=4,
            num_attention_heads=4, num_key_value_heads=2, head_dim=64,
        )  # fmt: skip
        self.decoder: Decoder = load_decoder(
            save_model(model, folder), dtype=torch.bfloat16, device=CUDA, quantize=kind
        )
        attach_trained(self.decoder, LoRAConfig(rank=8, alpha=16.0, dropout=dropout))
        self.decoder.train()
        tokens = sum(self.LENGTHS)
        self.tokens = torch.arange(tokens, device=CUDA) % 50
        self.positions = torch.cat([torch.arange(n, device=CUDA) for n in self.LENGTHS])

    def run(self, keep: Keep) -> tuple[Tensor, Tensor]:
        """Hidden states, and the adapter's gradient."""
        decoder = self.decoder
        assert decoder.adapter is not None
        decoder.plan((keep,) * 4, len(self.tokens))
        decoder.adapter.gradient.zero_()
        torch.manual_seed(5)
        hidden = decoder(self.tokens, self.positions, PackedAttention(self.LENGTHS))
        (hidden.float() * _randn(*hidden.shape, seed=9)).sum().backward()
        return hidden.detach(), decoder.adapter.gradient.clone()


@pytest.mark.parametrize("kind", [Quantize.FP8, Quantize.FP8_DGRAD])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_whatever_is_kept_the_same_bits_come_out(kind, dropout, tmp_path, monkeypatch):
    """FlashAttention-2, whose backward can be deterministic."""
    monkeypatch.setattr(PackedAttention, "kernel", lambda self, q: Kernel.FLASH)
    policies = _Policies(kind, tmp_path, dropout)
    torch.use_deterministic_algorithms(True)  # to warn only would leave attention as it is
    try:
        results = {keep: policies.run(keep) for keep in Keep}
        again = policies.run(Keep.ALL)
    finally:
        torch.use_deterministic_algorithms(False)
    first = results[Keep.ALL]
    assert first[1].isfinite().all()
    assert first[1].abs().sum() > 0
    unlike = [k for k, other in {**results, "again": again}.items()
              if not all(map(torch.equal, first, other))]  # fmt: skip
    assert not unlike


@pytest.mark.parametrize("kind", [Quantize.FP8, Quantize.FP8_DGRAD])
def test_what_is_fused_changes_a_gradient_by_no_more_than_rounding(kind, tmp_path, monkeypatch):
    """Against every product quantising its own input: attention's sums alone have another order."""
    policies = _Policies(kind, tmp_path, 0.0)
    fused = policies.run(Keep.ALL)
    product, gradient = type(policies.decoder.model.layers[0].qkv.held), "input_gradient"
    forward, backward = product.product, product.input_gradient
    monkeypatch.setattr(
        product, "product", lambda held, x, b, m, rows: forward(held, x, b, m, None)
    )
    monkeypatch.setattr(product, gradient, lambda held, g, B, rows: backward(held, g, B, None))
    apart = policies.run(Keep.ALL)
    assert torch.equal(fused[0], apart[0])
    assert relative_error(fused[1], apart[1]) < 0.05  # what flips a code is a step of it


def test_nothing_waits_for_the_device():
    x, weight = _randn(257, WIDTH), _randn(WIDTH, seed=1)
    codes, scales = quantize_fp8_weight(_randn(2 * INNER, WIDTH, seed=2))
    transposed, residual = codes.T.contiguous(), torch.zeros_like(x)
    columns, wide = torch.ones(WIDTH, device=CUDA).bfloat16(), scales.bfloat16()
    fp8_product(quantize_rows(_randn(1, 2 * INNER)), transposed, None, torch.bfloat16)
    torch.cuda.set_sync_debug_mode("error")
    try:
        h, rrms, rows = rms_norm_rows(x, weight, EPS, wanted=True)
        assert rows is not None
        gate_up = fp8_product(rows, codes, scales, torch.bfloat16)
        rows = quantize_rows(gate_up, wide)
        grad = fp8_product(rows, transposed, None, torch.bfloat16)
        rms_norm_backward_rows(grad, None, x, weight, rrms, residual, columns)
        add_rms_norm_rows(x, h, None, weight, EPS, wanted=True)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert grad.isfinite().all()
