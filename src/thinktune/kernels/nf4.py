"""NF4: weights to 4-bit codes, and back."""

# pyright: reportInvalidTypeForm=false
from __future__ import annotations

from torch import Tensor

from thinktune.kernels.language import jit, tl

LEAST = 1e-38
"""What a block's absmax is raised to before it divides: a block of zeros stays one."""
_BLOCKS = 16
"""Blocks of 64 weights a program: its 128 threads load 4 bytes of codes, and store 16 of bf16."""


@jit
def _quantize(W: tl.tensor, BOUNDS: tl.tensor, CODES: tl.tensor, ABSMAX: tl.tensor,
              num_weights: tl.tensor, num_bytes: tl.tensor, LEAST: tl.constexpr,
              BLOCKS: tl.constexpr):  # fmt: skip
    blocks = tl.program_id(0) * BLOCKS + tl.arange(0, BLOCKS)
    at = blocks.to(tl.int64)[:, None] * 64 + tl.arange(0, 64)[None, :]
    x = tl.load(W + at, mask=at < num_weights, other=0.0).to(tl.float32)
    absmax = tl.max(tl.abs(x), axis=1)
    tl.store(ABSMAX + blocks, absmax, mask=blocks * 64 < num_weights)
    x *= tl.div_rn(1.0, tl.maximum(absmax, tl.full((BLOCKS,), LEAST, tl.float32)))[:, None]
    codes = tl.zeros((BLOCKS, 64), tl.int32)
    for bound in tl.static_range(15):
        codes += (x > tl.load(BOUNDS + bound)).to(tl.int32)
    upper, lower = tl.split(codes.reshape(BLOCKS, 32, 2))
    byte_at = blocks.to(tl.int64)[:, None] * 32 + tl.arange(0, 32)[None, :]
    packed = (upper * 16 + lower).to(tl.uint8)
    tl.store(CODES + byte_at, packed, mask=byte_at < num_bytes)


@jit
def block_absmax(blocks: tl.tensor, mask: tl.tensor, ABSMAX: tl.tensor, NESTED: tl.tensor,
                 OFFSET: tl.tensor, SCALES: tl.tensor):  # fmt: skip
    """The absmax of some blocks; product and sum are rounded apart (no fused multiply-add)."""
    scale = tl.load(SCALES + tl.load(ABSMAX + blocks, mask=mask, other=0).to(tl.int32))
    return scale * tl.load(NESTED + blocks // 256, mask=mask, other=0.0) + tl.load(OFFSET)


@jit
def _dequantize(CODES: tl.tensor, ABSMAX: tl.tensor, NESTED: tl.tensor, OFFSET: tl.tensor,
                VALUES: tl.tensor, SCALES: tl.tensor, OUT: tl.tensor, num_bytes: tl.tensor,
                num_blocks: tl.tensor, num_weights: tl.tensor, row_step: tl.tensor,
                WIDTH: tl.constexpr, BLOCKS: tl.constexpr):  # fmt: skip
    byte_at = tl.program_id(0) * (BLOCKS * 32) + tl.arange(0, BLOCKS * 32)
    codes = tl.load(CODES + byte_at, mask=byte_at < num_bytes, other=0).to(tl.int32)
    # Loaded from the table in one dimension: in two, threads would hold them down the blocks.
    upper, lower = tl.load(VALUES + (codes >> 4)), tl.load(VALUES + (codes & 15))
    values = tl.join(upper, lower).reshape(BLOCKS, 64)
    blocks = tl.program_id(0) * BLOCKS + tl.arange(0, BLOCKS)
    block_mask = blocks < num_blocks
    absmax = block_absmax(blocks, block_mask, ABSMAX, NESTED, OFFSET, SCALES)
    out = (values * absmax[:, None]).to(OUT.dtype.element_ty)
    in_block = tl.arange(0, 64)[None, :]
    if WIDTH % 64 == 0:  # a block lies within a row
        row, col = blocks // (WIDTH // 64), blocks % (WIDTH // 64) * 64
        at = (row.to(tl.int64) * row_step + col)[:, None] + in_block
        tl.store(OUT + at, out, mask=block_mask[:, None])
    else:
        flat = blocks[:, None] * 64 + in_block
        at = (flat // WIDTH).to(tl.int64) * row_step + flat % WIDTH
        tl.store(OUT + at, out, mask=flat < num_weights)


def quantize(flat: Tensor, bounds: Tensor, codes: Tensor, absmax: Tensor) -> None:
    """Fill ``codes``, two a byte, and the ``absmax`` of every 64 weights."""
    grid = (-(-len(absmax) // _BLOCKS),)
    _quantize[grid](
        flat, bounds, codes, absmax, len(flat), len(codes), LEAST=LEAST, BLOCKS=_BLOCKS,
        num_warps=4, enable_fp_fusion=False,
    )  # fmt: skip


def dequantize(
    codes: Tensor, absmax: Tensor, nested: Tensor, offset: Tensor,
    values: Tensor, scales: Tensor, out: Tensor,
) -> None:  # fmt: skip
    """Fill ``out``, whose rows may lie apart: ``values[code] x absmax``, of nested absmax."""
    grid = (-(-len(absmax) // _BLOCKS),)
    _dequantize[grid](
        codes, absmax, nested, offset, values, scales, out, len(codes), len(absmax), out.numel(),
        out.stride(0), WIDTH=out.shape[1], BLOCKS=_BLOCKS, num_warps=4,
        enable_fp_fusion=False,
    )  # fmt: skip
