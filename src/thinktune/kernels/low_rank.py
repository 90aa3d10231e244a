"""The low-rank product that other kernels add while they pass over its target."""

# pyright: reportInvalidTypeForm=false
from __future__ import annotations

from torch import Tensor

from thinktune.kernels.language import jit, power_of_two, tl

Pair = tuple[Tensor, Tensor]
"""Left (T, R) and right, (N, R) or (R, N)."""


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


def rank_block(rank: int) -> int:
    """How much of the rank is multiplied at a time."""
    return min(64, power_of_two(rank))
