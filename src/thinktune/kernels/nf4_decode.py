"""Products of few rows with NF4 weights, whose codes are read once and never written out."""

# pyright: reportInvalidTypeForm=false
from __future__ import annotations

import torch
from torch import Tensor

from thinktune.kernels.language import jit, power_of_two, tl
from thinktune.kernels.nf4 import block_absmax

STEP = 128
"""Weights of a row a step: 64 bytes of codes, 16 for each of four threads."""
_ROWS = 32
"""Outputs a program, eight a warp."""
_PROGRAMS = 1024
"""What fills the largest GPU; the sum is split where the outputs alone give fewer."""


@jit
def _turned(values: tl.tensor, absmax: tl.tensor, like: tl.tensor,
            ROWS: tl.constexpr):  # fmt: skip
    """Weights of a step (ROWS, 64), in the order of `_in_turn`."""
    values = (values.reshape(ROWS * 2, 32) * absmax[:, None]).to(like.dtype)
    return values.reshape(ROWS, 4, 4, 4).permute(0, 2, 1, 3).reshape(ROWS, 64).trans()


@jit
def _multiply(X: tl.tensor, CODES: tl.tensor, ABSMAX: tl.tensor, NESTED: tl.tensor,
              OFFSET: tl.tensor, VALUES: tl.tensor, SCALES: tl.tensor, OUT: tl.tensor,
              T: tl.tensor, num_rows: tl.tensor, WIDTH: tl.constexpr, STEPS: tl.constexpr,
              ROWS: tl.constexpr, BLOCK_T: tl.constexpr):  # fmt: skip
    """``OUT[split] = X W^T`` over STEPS steps; X is (2, T, WIDTH / 2), from `_in_turn`."""
    first_row, split = tl.program_id(0) * ROWS, tl.program_id(1)
    in_step = tl.arange(0, ROWS * 64)  # bytes, in one dimension: see kernels/nf4.py
    code_row, code_col = first_row + in_step // 64, in_step % 64
    pairs = tl.arange(0, ROWS * 2)  # of a row and a block
    pair_row = first_row + pairs // 2
    tokens, rows = tl.arange(0, BLOCK_T), first_row + tl.arange(0, ROWS)
    sums = tl.zeros((BLOCK_T, ROWS), tl.float32)
    for number in range(STEPS):
        step = split * STEPS + number
        inside = step < WIDTH // 128
        at = code_row.to(tl.int64) * (WIDTH // 2) + step * 64 + code_col
        mask = (code_row < num_rows) & inside
        codes = tl.load(CODES + at, mask=mask, other=0).to(tl.int32)
        block = pair_row * (WIDTH // 64) + step * 2 + pairs % 2
        mask = (pair_row < num_rows) & inside
        absmax = block_absmax(block, mask, ABSMAX, NESTED, OFFSET, SCALES)
        x_at = tokens[:, None] * (WIDTH // 2) + step * 64 + tl.arange(0, 64)[None, :]
        mask = (tokens < T)[:, None] & inside
        even = tl.load(X + x_at, mask=mask, other=0.0)
        odd = tl.load(X + T * (WIDTH // 2) + x_at, mask=mask, other=0.0)
        upper = _turned(tl.load(VALUES + (codes >> 4)), absmax, even, ROWS)
        lower = _turned(tl.load(VALUES + (codes & 15)), absmax, odd, ROWS)
        sums = tl.dot(even, upper, sums, input_precision="ieee")
        sums = tl.dot(odd, lower, sums, input_precision="ieee")
    at = (split * T + tokens)[:, None] * num_rows + rows[None, :]
    tl.store(OUT + at, sums, mask=(tokens < T)[:, None] & (rows < num_rows)[None, :])


def _in_turn(x: Tensor) -> Tensor:
    """(2, T, in / 2): even and odd columns, as a tensor core's threads hold them in a step.

    A thread loads 16 bytes of codes in a row and multiplies four at a time, four threads beside
    each other; the sum over a step may be in any order, so the columns of x are moved instead.
    """
    tokens, width = x.shape
    turned = x.reshape(tokens, width // STEP, 4, 4, 4, 2).permute(5, 0, 1, 3, 2, 4)
    return turned.reshape(2, tokens, width // 2)


def multiply(
    x: Tensor, codes: Tensor, absmax: Tensor, nested: Tensor, offset: Tensor,
    values: Tensor, scales: Tensor, out: Tensor,
) -> None:  # fmt: skip
    """``out = x W^T`` for at most 16 rows of x, (T, in) with in a multiple of `STEP`.

    The parts of a split sum are added in float32 and in one order: the same bits every time.
    """
    (tokens, width), num_rows = x.shape, out.shape[1]
    steps, tiles = width // STEP, -(-num_rows // _ROWS)
    each = -(-steps // max(1, min(steps, _PROGRAMS // tiles)))
    splits = -(-steps // each)
    parts = torch.empty(splits, tokens, num_rows, dtype=torch.float32, device=x.device)
    _multiply[tiles, splits](
        _in_turn(x), codes, absmax, nested, offset, values, scales, parts, tokens, num_rows,
        WIDTH=width, STEPS=each, ROWS=_ROWS, BLOCK_T=power_of_two(tokens), num_warps=4,
        num_stages=1, enable_fp_fusion=False,
    )  # fmt: skip
    out.copy_(parts.sum(0) if splits > 1 else parts[0])
