"""NF4 on a CUDA device: the bits of the CPU and of bitsandbytes' own kernels, at memory's speed."""

import pytest
import torch
from torch import Tensor

from thinktune.ops.nf4 import FEW, NF4Weight, dequantize_nf4, nf4_linear, quantize_nf4

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
HALVES = (torch.bfloat16, torch.float16)
SHAPES = ((4096, 1024), (48, 67), (1, 1), (333, 192), (2048, 14336))


def _weight(rows: int, columns: int, dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(rows)
    return (torch.randn(rows, columns, generator=generator) * 0.02).to(dtype)


def _filled(weight: NF4Weight, dtype: torch.dtype) -> Tensor:
    out = torch.full(weight.shape, torch.nan, dtype=dtype, device=weight.codes.device)
    dequantize_nf4(weight, out)
    return out


def _needs(dtype: torch.dtype) -> None:
    if dtype == torch.bfloat16 and not torch.cuda.is_bf16_supported(including_emulation=False):
        pytest.skip("this device has no bfloat16")


@pytest.mark.parametrize("dtype", [*HALVES, torch.float32])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_gpu_gives_the_codes_of_the_cpu(shape: tuple[int, int], dtype: torch.dtype):
    _needs(dtype)
    weight = _weight(*shape, dtype)
    weight[shape[0] // 2] = 0
    there, here = quantize_nf4(weight.cuda()), quantize_nf4(weight)
    assert torch.equal(there.codes.cpu(), here.codes)
    # The mean is summed in another order; what hangs on it may move by a unit in the last place.
    torch.testing.assert_close(there.offset.cpu(), here.offset, rtol=1e-6, atol=0)
    torch.testing.assert_close(there.nested_absmax.cpu(), here.nested_absmax, rtol=1e-4, atol=1e-8)
    apart = there.absmax.cpu() != here.absmax
    assert apart.float().mean() <= 1e-3


@pytest.mark.parametrize("dtype", [*HALVES, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_gpu_gives_the_values_of_the_cpu_and_touches_nothing_else(
    shape: tuple[int, int], dtype: torch.dtype
):
    _needs(dtype)
    here = quantize_nf4(_weight(*shape, torch.bfloat16))
    rows, columns = shape
    true = _filled(here, dtype)
    assert torch.equal(_filled(here.to("cuda"), dtype).cpu(), true)
    for gap in (64, 7):
        wide = torch.full((rows, columns + gap), 5.0, dtype=dtype, device="cuda")
        dequantize_nf4(here.to("cuda"), wide[:, :columns])
        assert torch.equal(wide[:, :columns].cpu(), true)
        assert bool((wide[:, columns:] == 5).all())


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("shape", [(4096, 1024), (2048, 14336)])
def test_the_gpu_gives_what_bitsandbytes_gives_there(shape: tuple[int, int], dtype: torch.dtype):
    bnb = pytest.importorskip("bitsandbytes.functional", reason="bitsandbytes is not installed")
    _needs(dtype)
    weight = _weight(*shape, dtype).cuda()
    ours = quantize_nf4(weight)
    codes, state = bnb.quantize_4bit(
        weight, blocksize=64, compress_statistics=True, quant_type="nf4"
    )
    assert torch.equal(ours.offset, state.offset)
    assert torch.equal(ours.nested_absmax, state.state2.absmax)
    if dtype == torch.bfloat16:  # proven for all of them in tests/reference/test_nf4.py
        assert torch.equal(ours.codes, codes.view(-1))
    # Its reciprocal is approximate: see quantize_nf4.
    assert (ours.codes != codes.view(-1)).float().mean() < 2e-6
    assert (ours.absmax != state.absmax).float().mean() < 1e-4
    held = NF4Weight(codes.view(-1), state.absmax, state.state2.absmax, state.offset, shape)
    assert torch.equal(_filled(held, dtype), bnb.dequantize_4bit(codes, state))


def test_quantising_takes_no_copy_of_the_weight():
    weight = torch.randn(14336, 4096, device="cuda", dtype=torch.float16)
    quantize_nf4(weight[:64])  # compile, and put the tables there
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    held = quantize_nf4(weight)
    taken = torch.cuda.max_memory_allocated() - before
    assert taken < 2 * held.nbytes
    assert held.nbytes < 0.26 * weight.nbytes


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("tokens", [1, 3, FEW, FEW + 1])
@pytest.mark.parametrize("shape", [(4096, 4096), (1000, 14336), (33, 128), (64, 192)])
def test_a_product_with_codes_is_that_with_the_weight_written_out(
    shape: tuple[int, int], tokens: int, dtype: torch.dtype
):
    _needs(dtype)
    held = quantize_nf4(_weight(*shape, dtype).cuda())
    x = torch.randn(tokens, shape[1], device="cuda", dtype=dtype)
    found, true = nf4_linear(x, held), x.double() @ _filled(held, dtype).double().T
    # The products are exact in float32, so what is left is the sum's order and one rounding.
    step = 2.0**-8 if dtype == torch.bfloat16 else 2.0**-11
    assert (found.double() - true).norm() / true.norm() < step
    assert torch.equal(nf4_linear(x, held), found)  # however often
    out = torch.empty_like(found)
    assert nf4_linear(x, held, out) is out
    assert torch.equal(out, found)
