"""NF4: weights held as 4-bit codes of normal quantiles, to the bit as bitsandbytes holds them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from math import gcd, prod
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from thinktune.errors import CheckpointError
from thinktune.kernels import nf4 as kernels
from thinktune.kernels import nf4_decode
from thinktune.kernels.language import runs_fused

BLOCK = 64
"""Weights that share an absmax."""
GROUP = 256
"""Blocks whose absmax share a nested absmax."""
FEW = 16
"""Rows that are multiplied by the codes themselves."""
_SLICE = 2**18
"""Weights that the plain paths hold in float32 at once: they stay in a core's cache."""
_VALUES = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
    -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
    0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941,
    0.7229568362236023, 1.0,
)  # fmt: skip
"""Quantiles of the normal distribution (QLoRA, arXiv:2305.14314, appendix E)."""


@dataclass(frozen=True, slots=True)
class NF4Weight:
    """A weight in 4.127 bits: codes for blocks of 64, their absmax in 8 bits around ``offset``."""

    codes: Tensor
    """uint8, two codes a byte, the first in its upper half; of the weight row after row."""
    absmax: Tensor
    """uint8, one a block: an entry of the dynamic map (arXiv:1511.04561)."""
    nested_absmax: Tensor
    """float32, one for 256 blocks."""
    offset: Tensor
    """float32 (): the mean of the absmax before they were quantised."""
    shape: tuple[int, int]
    """Rows and columns: (out, in)."""

    @property
    def nbytes(self) -> int:
        """Bytes of its four tensors."""
        return sum(part.nbytes for part in self._tensors().values())

    def to(self, device: torch.device | str) -> "NF4Weight":
        """The same weight on ``device``."""
        return replace(self, **{name: x.to(device) for name, x in self._tensors().items()})

    def _tensors(self) -> dict[str, Tensor]:
        names = ("codes", "absmax", "nested_absmax", "offset")
        return {name: getattr(self, name) for name in names}


def quantize_nf4(weight: Float[Tensor, "out in"]) -> NF4Weight:
    """The codes that bitsandbytes' ``quantize_4bit`` gives with double quantisation.

    Of ``blocksize=64, compress_statistics=True, quant_type="nf4"``, for any shape. On a GPU the
    weight is read once in its own type; elsewhere a quarter of a million weights at a time are
    widened. Beyond the result, some 20 bytes a block are needed.

    Where bitsandbytes' libraries differ, in what their 0.50.2 wheel holds:
        - The CPU's divides the last, partial block by its absmax; the GPU's multiplies by the
          reciprocal, as in every block (``MUFU.RCP``, ``FMUL`` in its machine code). So here.
        - The GPU's reciprocal is approximate, to one unit in the last place. No two bfloat16
          numbers have a quotient so near a bound that it matters, and one pair of float16 has; of
          float32 less than one code in a million may. Here it is rounded, so that devices agree.
        - Of a block of zeros the GPU makes 0 x infinity, hence code 0 (-1), and with the nested
          error a block that is not zero; the CPU's makes code 7 (0). So here.
        - A scaled absmax halfway between two entries goes to the even one on a GPU; the CPU's
          looks up an approximation, wrong by up to 4 entries around zero. Here as on a GPU.
    """
    rows, columns = weight.shape
    numel, device = rows * columns, weight.device
    codes = torch.empty(-(-numel // 2), dtype=torch.uint8, device=device)
    absmax = torch.empty(-(-numel // BLOCK), dtype=torch.float32, device=device)
    flat, tables = weight.detach().reshape(-1), _tables(device)
    if runs_fused(flat):
        kernels.quantize(flat, tables.bounds, codes, absmax)
    else:
        for at in range(0, numel, _SLICE):
            _quantize_slice(
                flat[at : at + _SLICE],
                tables.bounds,
                codes[at // 2 : (at + _SLICE) // 2],
                absmax[at // BLOCK : (at + _SLICE) // BLOCK],
            )
    return NF4Weight(codes, *_nest(absmax, tables), (rows, columns))


def dequantize_nf4(weight: NF4Weight, out: Float[Tensor, "out in"]) -> None:
    """Fill ``out`` with the weight, in the bits of bitsandbytes' ``dequantize_4bit``.

    A value is a quantile times its block's absmax, in float32, rounded once to the type of
    ``out``, whose rows may lie apart. A GPU reads half a byte and writes an element a weight,
    and needs no memory besides; widths that are multiples of 64 take its fast path.
    """
    assert tuple(out.shape) == weight.shape
    assert out.stride(1) == 1 or out.shape[1] == 1
    tables = _tables(weight.codes.device)
    if runs_fused(out):
        kernels.dequantize(
            weight.codes, weight.absmax, weight.nested_absmax, weight.offset,
            tables.values, tables.scales, out,
        )  # fmt: skip
        return
    absmax = _unnest(weight, tables)
    rows, columns = weight.shape
    whole = BLOCK // gcd(columns, BLOCK)  # the fewest rows that end with a block
    step = whole * max(1, _SLICE // (whole * columns))
    for row in range(0, rows, step):
        part, at = out[row : row + step], row * columns
        indices = weight.codes[at // 2 : (at + part.numel() + 1) // 2].int()
        values = tables.pairs.index_select(0, indices).view(torch.float32)
        values = F.pad(values, (0, -len(values) % BLOCK)).view(-1, BLOCK)
        values *= absmax[at // BLOCK : at // BLOCK + len(values), None]
        part.copy_(values.view(-1)[: part.numel()].view(part.shape))


def nf4_linear(
    x: Float[Tensor, "T in"], weight: NF4Weight, out: Float[Tensor, "T out"] | None = None
) -> Float[Tensor, "T out"]:
    """``x W^T``, in the type of ``x``, without writing W to memory: for generating token by token.

    There a product is as slow as its weights are large; on a GPU, up to 16 rows cost the reading
    of half a byte a weight. W is rounded to the type of ``x``, as when it is written out; the sum
    is in float32. Elsewhere, or with more rows or a width that is no multiple of 128, W
    is written out first.
    """
    if out is None:
        out = x.new_empty(len(x), weight.shape[0])
    if runs_fused(x) and len(x) <= FEW and weight.shape[1] % nf4_decode.STEP == 0:
        tables = _tables(x.device)
        nf4_decode.multiply(
            x, weight.codes, weight.absmax, weight.nested_absmax, weight.offset,
            tables.values, tables.scales, out,
        )  # fmt: skip
        return out
    dense = x.new_empty(weight.shape)
    dequantize_nf4(weight, dense)
    return torch.mm(x, dense.T, out=out)


def from_bitsandbytes(tensors: Mapping[str, Tensor], name: str) -> NF4Weight:
    """The weight ``name`` of a checkpoint that bitsandbytes quantised, without a change.

    Args:
        tensors: what the checkpoint holds under ``name`` and ``name.*``; codes may be stored as
            any type (``bnb_4bit_quant_storage``).
        name: the weight's own name, ``model.layers.0.mlp.up_proj.weight``.

    Raises:
        CheckpointError: it is FP4, has other blocks or maps, is not doubly quantised (its absmax
            would have to be rounded, and the base would be another one), or parts are missing.
    """

    def part(suffix: str) -> Tensor:
        if f"{name}{suffix}" not in tensors:
            raise CheckpointError(f"{name}{suffix} is missing; download the checkpoint again")
        return tensors[f"{name}{suffix}"]

    if f"{name}.quant_state.bitsandbytes__fp4" in tensors:
        raise _unsupported(name, "held as FP4")
    state = _read_state(part(".quant_state.bitsandbytes__nf4"), name)
    if state.get("blocksize") != BLOCK:
        raise _unsupported(name, f"quantised in blocks of {state.get('blocksize')}")
    if "nested_offset" not in state:
        raise _unsupported(name, "not doubly quantised (bnb_4bit_use_double_quant)")
    if state.get("nested_blocksize") != GROUP:
        raise _unsupported(name, f"nested in blocks of {state.get('nested_blocksize')}")
    tables = _tables(torch.device("cpu"))
    for suffix, ours in ((".quant_map", tables.values), (".nested_quant_map", tables.scales)):
        theirs = part(suffix).float().cpu()
        if theirs.shape != ours.shape or not torch.allclose(theirs, ours, rtol=1e-6, atol=0):
            raise _unsupported(name, f"quantised with another map{suffix}")
    codes, absmax, nested = part(""), part(".absmax"), part(".nested_absmax")
    offset = torch.tensor(state["nested_offset"], dtype=torch.float32, device=codes.device)
    codes = codes.detach().reshape(-1).view(torch.uint8)
    shape = tuple(state.get("shape") or ())
    blocks = -(-prod(shape) // BLOCK)
    expected = (-(-prod(shape) // 2), blocks, -(-blocks // GROUP))
    if len(shape) != 2 or (len(codes), len(absmax), len(nested)) != expected:
        raise CheckpointError(
            f"{name} has {len(codes)} bytes, {len(absmax)} absmax and {len(nested)} nested absmax "
            f"for shape {shape}; download the checkpoint again"
        )
    return NF4Weight(codes, absmax, nested.float(), offset, (shape[0], shape[1]))


def _read_state(packed: Tensor, name: str) -> dict[str, Any]:
    try:
        state = json.loads(bytes(packed.tolist()))
    except ValueError as error:
        raise CheckpointError(
            f"{name}.quant_state.bitsandbytes__nf4 is not JSON ({error}); "
            "download the checkpoint again"
        ) from None
    return state if isinstance(state, dict) else {}


def _unsupported(name: str, what: str) -> CheckpointError:
    return CheckpointError(
        f"{name} is {what}; only doubly quantised NF4 in blocks of {BLOCK} is read: take the "
        "checkpoint in full precision and hold it in nf4"
    )


class _Tables(NamedTuple):
    values: Tensor
    """The 16 values of a code."""
    bounds: Tensor
    """The 15 values above which the next code begins."""
    pairs: Tensor
    """complex64: the two values of a byte, that one look-up fetches both."""
    scales: Tensor
    """The 256 values of a quantised absmax."""
    scale_bounds: Tensor
    """The 255 values above which the next of them begins."""


@cache
def _tables(device: torch.device) -> _Tables:
    values = torch.tensor(_VALUES)
    bytes_ = torch.arange(256)
    pairs = torch.stack((values[bytes_ >> 4], values[bytes_ & 15]), 1)
    scales = _dynamic_map()
    scale_bounds = (scales[:-1] + scales[1:]) / 2
    # A tie goes to the even entry: above an odd one, the bound itself belongs to the next.
    scale_bounds[1::2] = scale_bounds[1::2].nextafter(torch.tensor(-torch.inf))
    tables = (
        values, (values[:-1] + values[1:]) / 2, torch.view_as_complex(pairs), scales, scale_bounds
    )  # fmt: skip
    return _Tables(*(table.to(device) for table in tables))


def _dynamic_map() -> Tensor:
    """Signed 8-bit numbers with a decimal exponent of unary length (arXiv:1511.04561)."""
    entries = [0.0, 1.0]
    for exponent in range(7):
        edges = torch.linspace(0.1, 1, 2**exponent + 1, dtype=torch.float32)
        means = 10 ** (exponent - 6) * ((edges[:-1] + edges[1:]) / 2)
        entries += [*means.tolist(), *(-means).tolist()]
    return torch.tensor(sorted(entries), dtype=torch.float32)


def _quantize_slice(flat: Tensor, bounds: Tensor, codes: Tensor, absmax: Tensor) -> None:
    """Fill ``codes`` and ``absmax`` of weights that begin with a block."""
    x = F.pad(flat.float(), (0, -len(flat) % BLOCK)).view(-1, BLOCK)
    torch.amax(x.abs(), 1, out=absmax)
    x = x * absmax.clamp(min=kernels.LEAST).reciprocal()[:, None]
    upper, lower = torch.bucketize(x, bounds, out_int32=True).view(-1, 2).unbind(1)
    codes.copy_((upper * 16 + lower)[: len(codes)])


def _nest(absmax: Tensor, tables: _Tables) -> tuple[Tensor, Tensor, Tensor]:
    """Quantise absmax around their mean: codes, nested absmax, and the mean."""
    offset = absmax.mean()
    x = F.pad(absmax - offset, (0, -len(absmax) % GROUP)).view(-1, GROUP)
    nested = x.abs().amax(1)
    x = x * nested.reciprocal()[:, None]
    x = x.nan_to_num_(nan=-1.0)  # where all are the mean: code 0 in bitsandbytes too
    codes = torch.bucketize(x, tables.scale_bounds, out_int32=True).to(torch.uint8)
    return codes.view(-1)[: len(absmax)].clone(), nested, offset


def _unnest(weight: NF4Weight, tables: _Tables) -> Tensor:
    """Every block's absmax; product and sum are rounded apart, as bitsandbytes does."""
    absmax = tables.scales.index_select(0, weight.absmax.int())
    absmax *= weight.nested_absmax.repeat_interleave(GROUP)[: len(absmax)]
    return absmax.add_(weight.offset)
