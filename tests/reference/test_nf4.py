"""NF4 is to the bit what bitsandbytes holds and gives back."""

import json
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from thinktune.errors import CheckpointError
from thinktune.ops.nf4 import NF4Weight, dequantize_nf4, from_bitsandbytes, quantize_nf4

bnb: Any = pytest.importorskip(
    "bitsandbytes.functional", reason="bitsandbytes, the reference, is not installed"
)

TYPES = (torch.float32, torch.bfloat16, torch.float16)
NEAR = 1.6e-5
"""How near a bound bitsandbytes' CPU library may miss: it looks up one of 65,536 cells."""
LARGE = {torch.float32: 1e35, torch.bfloat16: 1e35, torch.float16: 6e4}
"""The sum of all absmax is finite; bitsandbytes takes their mean."""


def whole_blocks(weight: Tensor) -> Tensor:
    """In a last block filled with zeros bitsandbytes' CPU library multiplies, as its GPU one."""
    flat = weight.reshape(-1)
    return torch.nn.functional.pad(flat, (0, -len(flat) % 64))


def theirs(weight: Tensor, *, nested: bool = True) -> tuple[Tensor, Any]:
    return bnb.quantize_4bit(
        whole_blocks(weight), blocksize=64, compress_statistics=nested, quant_type="nf4"
    )


def filled(weight: NF4Weight, dtype: torch.dtype) -> Tensor:
    out = torch.full(weight.shape, torch.nan, dtype=dtype)
    dequantize_nf4(weight, out)
    return out


def gpu_nested_codes(scaled: Tensor) -> Tensor:
    """bitsandbytes' ``dQuantize``, step for step (csrc/kernels.cu), for each number."""
    entries = bnb.create_dynamic_map()
    pivot = torch.full(scaled.shape, 127)
    lower, upper = torch.zeros_like(pivot), torch.full_like(pivot, 255)
    for step in (64, 32, 16, 8, 4, 2, 1):
        above = scaled > entries[pivot]
        lower, upper = torch.where(above, pivot, lower), torch.where(above, upper, pivot)
        pivot = torch.where(above, pivot + step, pivot - step)
    at = entries[pivot]
    above = scaled > at
    to_upper = above & (scaled > (entries[upper] + at) * 0.5)
    to_lower = ~above & (scaled < (entries[lower] + at) * 0.5)
    return torch.where(to_upper, upper, torch.where(to_lower, lower, pivot)).to(torch.uint8)


def scaled_absmax(weight: Tensor, ours: NF4Weight) -> Tensor:
    centred = theirs(weight, nested=False)[1].absmax - ours.offset
    return centred * (1 / ours.nested_absmax).repeat_interleave(256)[: len(centred)]


def assert_same(weight: Tensor) -> None:
    ours, (codes, state) = quantize_nf4(weight), theirs(weight)
    numel = weight.numel()
    assert torch.equal(ours.codes, codes.view(-1)[: -(-numel // 2)])
    assert torch.equal(ours.offset, state.offset)
    assert torch.equal(ours.nested_absmax, state.state2.absmax)
    scaled = scaled_absmax(weight, ours)
    assert torch.equal(ours.absmax, gpu_nested_codes(scaled))
    entries = bnb.create_dynamic_map()
    bounds = (entries[1:] + entries[:-1]) / 2
    missed = scaled[ours.absmax != state.absmax]
    missed = missed[missed.isfinite()]
    assert bool(((missed[:, None] - bounds).abs().amin(1) < NEAR).all())
    held = NF4Weight(ours.codes, state.absmax, ours.nested_absmax, ours.offset, ours.shape)
    true = bnb.dequantize_4bit(codes, state).view(-1)[:numel].view(weight.shape)
    assert torch.equal(filled(held, weight.dtype), true)


def random_weight(shape: tuple[int, int], kind: str, dtype: torch.dtype, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator)
    match kind:
        case "normal":
            x *= 0.02
        case "heavy-tailed":
            x = x / torch.randn(shape, generator=generator).abs().clamp(min=1e-3) * 0.02
        case "zero blocks":
            x.view(-1)[: x.numel() // 2] = 0
        case "denormals":
            x *= 1e-39
        case "huge":
            x = x.clamp(-3, 3) / 3 * LARGE[dtype]
        case "few values":
            x = x.round() / 64
        case _:
            raise ValueError(kind)
    return x.to(dtype)


KINDS = ("normal", "heavy-tailed", "zero blocks", "denormals", "huge", "few values")


@settings(deadline=None, max_examples=100)
@given(
    rows=st.integers(1, 70),
    columns=st.integers(1, 200),
    kind=st.sampled_from(KINDS),
    dtype=st.sampled_from(TYPES),
    seed=st.integers(0, 2**32),
)
def test_codes_absmax_and_values_are_those_of_bitsandbytes(
    rows: int, columns: int, kind: str, dtype: torch.dtype, seed: int
):
    assert_same(random_weight((rows, columns), kind, dtype, seed))


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("kind", ["normal", "heavy-tailed"])
@pytest.mark.parametrize("shape", [(48, 67), (577, 1000), (531, 769)])
def test_a_weight_of_several_slices_is_that_of_bitsandbytes(
    shape: tuple[int, int], kind: str, dtype: torch.dtype
):
    assert_same(random_weight(shape, kind, dtype, 1))


def test_every_code_and_every_entry_of_the_map_is_that_of_bitsandbytes():
    bits = torch.arange(256, dtype=torch.uint8).repeat_interleave(256)
    absmax = torch.arange(256, dtype=torch.uint8).repeat(8)
    nested = torch.linspace(0.001, 0.3, 8)
    held = NF4Weight(bits, absmax, nested, torch.tensor(0.31), (2048, 64))
    state = bnb.QuantState(
        absmax=absmax,
        shape=torch.Size((2048, 64)),
        blocksize=64,
        quant_type="nf4",
        dtype=torch.float32,
        offset=held.offset,
        state2=bnb.QuantState(
            absmax=nested, blocksize=256, code=bnb.create_dynamic_map(), dtype=torch.float32
        ),
    )
    for dtype in TYPES:
        state.dtype = dtype
        assert torch.equal(filled(held, dtype), bnb.dequantize_4bit(bits[:, None], state))


def test_no_bfloat16_weight_is_near_enough_to_a_bound_for_the_reciprocal_s_last_bit():
    """So an approximate reciprocal, as on a GPU, gives the codes of a rounded one."""
    mantissas = torch.arange(128, 256, dtype=torch.float32)
    absmax = mantissas / 128
    rounded = 1 / absmax
    low, high = (rounded.nextafter(torch.tensor(end)) for end in (0.0, 9.0))
    values = torch.cat([mantissas * 2.0 ** (-7 - shift) for shift in range(8)])
    values = torch.cat([values, -values])
    map_ = bnb.get_4bit_type("nf4", device="cpu")
    bounds = (map_[1:] + map_[:-1]) / 2
    codes = [
        torch.bucketize(values[:, None] * reciprocal, bounds) for reciprocal in (low, rounded, high)
    ]
    assert torch.equal(codes[0], codes[1])
    assert torch.equal(codes[1], codes[2])


def test_ties_between_entries_go_to_the_even_one_as_on_a_gpu():
    entries = bnb.create_dynamic_map()
    ties = (entries[1:] + entries[:-1]) / 2
    from thinktune.ops.nf4 import _tables  # noqa: PLC0415 - no absmax hits every tie

    codes = torch.bucketize(ties, _tables(torch.device("cpu")).scale_bounds)
    assert torch.equal(codes, gpu_nested_codes(ties).long())
    assert bool((codes % 2 == 0).all())


@pytest.mark.parametrize("dtype", [*TYPES, torch.float64])
def test_rows_that_lie_apart_are_filled_and_nothing_between_them(dtype: torch.dtype):
    weight = quantize_nf4(random_weight((131, 67), "normal", torch.bfloat16, 0))
    wide = torch.full((131, 80), 7.0, dtype=dtype)
    dequantize_nf4(weight, wide[:, :67])
    assert torch.equal(wide[:, :67], filled(weight, torch.float32).to(dtype))
    assert bool((wide[:, 67:] == 7).all())


def test_a_block_of_zeros_stays_zero_beside_others():
    weight = torch.randn(8, 64, generator=torch.Generator().manual_seed(0))
    weight[3] = 0
    assert bool((filled(quantize_nf4(weight), torch.bfloat16)[3] == 0).all())


def test_a_weight_takes_four_bits_and_an_eighth():
    weight = quantize_nf4(torch.zeros(256, 1024))
    assert weight.nbytes == 256 * 1024 // 2 + 256 * 1024 // 64 + 4 * 16 + 4
    assert weight.to("meta").codes.is_meta


def checkpoint(weight: Tensor, **options: Any) -> dict[str, Tensor]:
    """What bitsandbytes writes for a layer's weight."""
    settings_ = {"blocksize": 64, "compress_statistics": True, "quant_type": "nf4"} | options
    codes, state = bnb.quantize_4bit(weight, **settings_)
    packed = state.as_dict(packed=True)
    return {"w": codes, **{f"w.{name}": tensor for name, tensor in packed.items()}}


@pytest.mark.parametrize("storage", [torch.uint8, torch.bfloat16, torch.float32])
def test_a_checkpoint_of_bitsandbytes_is_read_as_it_is(storage: torch.dtype):
    weight = random_weight((48, 68), "normal", torch.bfloat16, 3)
    ours = from_bitsandbytes(checkpoint(weight, quant_storage=storage), "w")
    codes, state = bnb.quantize_4bit(
        weight, blocksize=64, compress_statistics=True, quant_type="nf4"
    )
    assert ours.shape == (48, 68)
    assert torch.equal(filled(ours, torch.bfloat16), bnb.dequantize_4bit(codes, state))


def edited(tensors: dict[str, Tensor], **changes: Any) -> dict[str, Tensor]:
    key = "w.quant_state.bitsandbytes__nf4"
    state = json.loads(bytes(tensors[key].tolist())) | changes
    return tensors | {key: torch.tensor(list(json.dumps(state).encode()), dtype=torch.uint8)}


def test_a_checkpoint_held_otherwise_is_refused_by_name():
    weight = random_weight((16, 64), "normal", torch.bfloat16, 3)
    good = checkpoint(weight)
    refused = {
        "held as FP4": checkpoint(weight, quant_type="fp4"),
        "in blocks of 128": checkpoint(weight, blocksize=128),
        "not doubly quantised": checkpoint(weight, compress_statistics=False),
        "nested in blocks of 64": edited(good, nested_blocksize=64),
        "another map.quant_map": good | {"w.quant_map": good["w.quant_map"] * 1.001},
        "another map.nested_quant_map": good | {"w.nested_quant_map": torch.zeros(256)},
        "w.nested_absmax is missing": {k: v for k, v in good.items() if k != "w.nested_absmax"},
        "for shape (16, 66)": edited(good, shape=[16, 66]),
        "for shape ()": edited(good, shape=None),
        "is not JSON": good
        | {"w.quant_state.bitsandbytes__nf4": torch.zeros(3, dtype=torch.uint8)},
    }
    for message, tensors in refused.items():
        with pytest.raises(CheckpointError) as told:
            from_bitsandbytes(tensors, "w")
        assert message in str(told.value), told.value
        assert "\n" not in str(told.value)
