"""The working copies of B, all written in one launch."""

# pyright: reportInvalidTypeForm=false
from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from thinktune.kernels.language import jit, power_of_two, tl


@jit
def _scaled_copies(TABLE: tl.tensor, PLACE: tl.tensor, MASTER: tl.tensor, scale: tl.tensor,
                   rank: tl.constexpr, BLOCK_ROWS: tl.constexpr,
                   BLOCK_R: tl.constexpr):  # fmt: skip
    """``PLACE`` and ``MASTER`` tell types; where each block lies is in the table."""
    entry = TABLE + tl.program_id(0) * 4
    place = tl.load(entry).to(PLACE.dtype)
    master = tl.load(entry + 1).to(MASTER.dtype)
    place_row, num_rows = tl.load(entry + 2), tl.load(entry + 3)
    rows = tl.program_id(1) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    r = tl.arange(0, BLOCK_R)
    mask = (rows < num_rows)[:, None] & (r < rank)[None, :]
    value = tl.load(master + rows[:, None] * rank + r[None, :], mask=mask, other=0.0) * scale
    at = rows.to(tl.int64)[:, None] * place_row + r[None, :]
    tl.store(place + at, value.to(PLACE.dtype.element_ty), mask=mask)


def table(blocks: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Addresses, row stride and rows of every (copy, master), on their device."""
    rows = [(a.data_ptr(), b.data_ptr(), a.stride(0), len(a)) for a, b in blocks]
    return torch.tensor(rows, dtype=torch.int64, device=blocks[0][0].device)


def scaled_copies(table: Tensor, blocks: Sequence[tuple[Tensor, Tensor]], scale: float) -> None:
    """``copy = scale * master`` (rows, R) for each block of the `table`; ranks are alike."""
    place, master = blocks[0]
    rank = master.shape[1]
    block_r = power_of_two(rank)
    block_rows = max(1, 4096 // block_r)
    programs = -(-max(len(copy) for copy, _ in blocks) // block_rows)
    _scaled_copies[(len(blocks), programs)](
        table, place, master, scale, rank=rank, BLOCK_ROWS=block_rows, BLOCK_R=block_r
    )
