"""Low-rank products that other kernels add, or add up, while they pass over memory.

A kernel that adds up gradients of A and B owns some columns and passes over many rows; what each
stretch of rows comes to is written apart and summed in a fixed order, so that a gradient has the
same bits each time.
"""

# pyright: reportInvalidTypeForm=false
from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from thinktune.kernels.language import jit, power_of_two, tl

Pair = tuple[Tensor, Tensor]
"""Left (T, R) and right, (N, R) or (R, N)."""
MOST_RANK = 64
"""Sums of a larger rank would not stay in registers."""


@jit
def added(tile: tl.tensor, LEFT: tl.tensor, RIGHT: tl.tensor, rows: tl.tensor,
          row_mask: tl.tensor, cols: tl.tensor, col_mask: tl.tensor,
          left_row: tl.tensor, right_col: tl.tensor, right_rank: tl.tensor,
          rank: tl.constexpr, BLOCK_R: tl.constexpr):  # fmt: skip
    """``tile + LEFT[rows] @ RIGHT``, over the rank in blocks."""
    for start in range(0, rank, BLOCK_R):
        r = start + tl.arange(0, BLOCK_R)
        left = tl.load(
            LEFT + rows[:, None] * left_row + r[None, :],
            mask=row_mask[:, None] & (r < rank)[None, :],
            other=0.0,
        )
        right = tl.load(
            RIGHT + r[:, None] * right_rank + cols[None, :] * right_col,
            mask=(r < rank)[:, None] & col_mask[None, :],
            other=0.0,
        )
        tile = tl.dot(left, right, tile, input_precision="ieee")  # VARIANT
    return tile


@jit
def right_tile(RIGHT: tl.tensor, cols: tl.tensor, col_mask: tl.tensor, right_col: tl.tensor,
               right_rank: tl.tensor, rank: tl.constexpr, BLOCK_R: tl.constexpr):  # fmt: skip
    """(R, columns) of the right side, for a program that passes over many rows."""
    r = tl.arange(0, BLOCK_R)
    at = r[:, None] * right_rank + cols[None, :] * right_col
    return tl.load(RIGHT + at, mask=(r < rank)[:, None] & col_mask[None, :], other=0.0)


@jit
def left_tile(LEFT: tl.tensor, rows: tl.tensor, row_mask: tl.tensor, left_row: tl.tensor,
              rank: tl.constexpr, BLOCK_R: tl.constexpr):  # fmt: skip
    """(rows, R) of the left side."""
    r = tl.arange(0, BLOCK_R)
    at = rows[:, None] * left_row + r[None, :]
    return tl.load(LEFT + at, mask=row_mask[:, None] & (r < rank)[None, :], other=0.0)


@jit
def _add_up(PARTS: tl.tensor, FIRST: tl.tensor, SECOND: tl.tensor, THIRD: tl.tensor,
            num_parts: tl.tensor, size: tl.tensor, size_1: tl.tensor, size_2: tl.tensor,
            size_3: tl.tensor, PARTS_AT_MOST: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    which = tl.program_id(1)
    to, length, before = FIRST, size_1, 0
    if which == 1:
        to, length, before = SECOND, size_2, size_1
    if which == 2:
        to, length, before = THIRD, size_3, size_1 + size_2
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    total = tl.load(to + at, mask=at < length, other=0.0)
    for part in range(PARTS_AT_MOST):
        there = PARTS + part * size.to(tl.int64) + before + at
        total += tl.load(there, mask=(at < length) & (part < num_parts), other=0.0)
    tl.store(to + at, total, mask=at < length)


def can_add_up(rank: int) -> bool:
    """Whether kernels add up gradients of that rank."""
    return rank <= MOST_RANK


def room_for_parts(tokens: int, rows: int, totals: Sequence[Tensor | None], like: Tensor) -> Tensor:
    """Where each stretch of ``rows`` rows writes its sums, those of ``totals`` in order."""
    size = sum(total.numel() for total in totals if total is not None)
    return torch.empty(-(-tokens // rows), size, dtype=torch.float32, device=like.device)


def add_up(parts: Tensor, totals: Sequence[Tensor | None]) -> None:
    """Add the sums of all stretches to up to three totals, which are contiguous."""
    sizes = [0 if total is None else total.numel() for total in totals]
    sizes += [0] * (3 - len(sizes))
    to = [parts if total is None else total for total in totals]
    to += [parts] * (3 - len(to))
    _add_up[(-(-max(sizes) // 1024), 3)](
        parts, *to, len(parts), parts.shape[1], *sizes,
        PARTS_AT_MOST=power_of_two(len(parts), 1), BLOCK=1024,
    )  # fmt: skip


def rank_block(rank: int) -> int:
    """How much of the rank is multiplied at a time."""
    return min(MOST_RANK, power_of_two(rank))
