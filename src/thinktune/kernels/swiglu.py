"""The gated activation, forward and backward, with the low-rank updates of gate and up."""

# pyright: reportInvalidTypeForm=false
from __future__ import annotations

from typing import Any

from torch import Tensor

from thinktune.kernels.language import jit, power_of_two, tl
from thinktune.kernels.low_rank import Pair, added, rank_block


@jit
def _gate_and_up(GATE_UP: tl.tensor, LEFT: tl.tensor, RIGHT: tl.tensor,
                 rows: tl.tensor, row_mask: tl.tensor, cols: tl.tensor,
                 col_mask: tl.tensor, F: tl.tensor, left_row: tl.tensor,
                 right_row: tl.tensor, rank: tl.constexpr, gate_at: tl.constexpr,
                 up_at: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_F: tl.constexpr,
                 BLOCK_R: tl.constexpr):  # fmt: skip
    """Both inputs, updates added; a column offset of -1 says that one has none."""
    mask = row_mask[:, None] & col_mask[None, :]
    at = rows.to(tl.int64)[:, None] * (2 * F) + cols[None, :]
    gate = tl.load(GATE_UP + at, mask=mask, other=0.0).to(tl.float32)
    up = tl.load(GATE_UP + at + F, mask=mask, other=0.0).to(tl.float32)
    if gate_at >= 0:
        gate = added(gate, LEFT + gate_at, RIGHT + gate_at, rows, row_mask, cols, col_mask,
                         left_row, right_row, 1, rank, BLOCK_R)  # fmt: skip
    if up_at >= 0:
        below = RIGHT + up_at + F * right_row
        up = added(up, LEFT + up_at, below, rows, row_mask, cols, col_mask, left_row,
                       right_row, 1, rank, BLOCK_R)  # fmt: skip
    return gate, up


@jit
def _forward(GATE_UP: tl.tensor, LEFT: tl.tensor, RIGHT: tl.tensor, OUT: tl.tensor,
             T: tl.tensor, left_row: tl.tensor, right_row: tl.tensor,
             F: tl.constexpr, rank: tl.constexpr, gate_at: tl.constexpr,
             up_at: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_F: tl.constexpr,
             BLOCK_R: tl.constexpr):  # fmt: skip
    rows = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    cols = tl.program_id(1) * BLOCK_F + tl.arange(0, BLOCK_F)
    row_mask, col_mask = rows < T, cols < F
    gate, up = _gate_and_up(GATE_UP, LEFT, RIGHT, rows, row_mask, cols, col_mask, F, left_row,
                            right_row, rank, gate_at, up_at, BLOCK_T, BLOCK_F,
                            BLOCK_R)  # fmt: skip
    out = gate * tl.sigmoid(gate) * up
    at = rows.to(tl.int64)[:, None] * F + cols[None, :]
    tl.store(OUT + at, out.to(OUT.dtype.element_ty), mask=row_mask[:, None] & col_mask[None, :])


@jit
def _backward(GATE_UP: tl.tensor, LEFT: tl.tensor, RIGHT: tl.tensor,
              GRAD: tl.tensor, GRAD_LEFT: tl.tensor, GRAD_RIGHT: tl.tensor,
              T: tl.tensor, left_row: tl.tensor, right_row: tl.tensor,
              grad_left_row: tl.tensor, grad_right_row: tl.tensor, F: tl.constexpr,
              rank: tl.constexpr, grad_rank: tl.constexpr, gate_at: tl.constexpr,
              up_at: tl.constexpr, HAS_GRAD_UPDATE: tl.constexpr,
              BLOCK_T: tl.constexpr, BLOCK_F: tl.constexpr, BLOCK_R: tl.constexpr):  # fmt: skip
    rows = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    cols = tl.program_id(1) * BLOCK_F + tl.arange(0, BLOCK_F)
    row_mask, col_mask = rows < T, cols < F
    mask = row_mask[:, None] & col_mask[None, :]
    gate, up = _gate_and_up(GATE_UP, LEFT, RIGHT, rows, row_mask, cols, col_mask, F, left_row,
                            right_row, rank, gate_at, up_at, BLOCK_T, BLOCK_F,
                            BLOCK_R)  # fmt: skip
    at = rows.to(tl.int64)[:, None] * F + cols[None, :]
    grad = tl.load(GRAD + at, mask=mask, other=0.0).to(tl.float32)
    if HAS_GRAD_UPDATE:
        grad = added(grad, GRAD_LEFT, GRAD_RIGHT, rows, row_mask, cols, col_mask,
                         grad_left_row, 1, grad_right_row, grad_rank, BLOCK_R)  # fmt: skip
    share = tl.sigmoid(gate)
    silu = gate * share
    grad_up = grad * silu
    grad_gate = grad * up * share * (1 + gate * (1 - share))
    kind = GRAD.dtype.element_ty
    tl.store(GRAD + at, (silu * up).to(kind), mask=mask)
    wide = rows.to(tl.int64)[:, None] * (2 * F) + cols[None, :]
    tl.store(GATE_UP + wide, grad_gate.to(kind), mask=mask)
    tl.store(GATE_UP + wide + F, grad_up.to(kind), mask=mask)


def _blocks(width: int, rank: int, columns: int, num_warps: int) -> dict[str, Any]:
    """Tile sizes; those asked for were fastest on an H100 (docs/log.md)."""
    block_r, block_f = rank_block(rank), min(columns, power_of_two(width))
    return {"BLOCK_T": 32, "BLOCK_F": block_f, "BLOCK_R": block_r, "num_warps": num_warps}


def _places(columns: tuple[int | None, ...]) -> dict[str, int]:
    gate, up = (-1 if place is None else place for place in columns)
    return {"gate_at": gate, "up_at": up}


def swiglu(
    gate_up: Tensor, update: Pair | None, columns: tuple[int | None, ...], rank: int, out: Tensor
) -> None:
    """``out = silu(gate) * up``; both stand side by side in ``gate_up``."""
    tokens, width = out.shape
    left, right = update or (gate_up, gate_up)
    blocks = _blocks(width, rank, 128, 4)
    grid = (-(-tokens // blocks["BLOCK_T"]), -(-width // blocks["BLOCK_F"]))
    _forward[grid](
        gate_up, left, right, out, tokens, left.stride(0), right.stride(0), F=width, rank=rank,
        **_places(columns if update else (None, None)), **blocks,
    )  # fmt: skip


def swiglu_backward(
    gate_up: Tensor,
    update: Pair | None,
    columns: tuple[int | None, ...],
    rank: int,
    grad: Tensor,
    grad_update: Pair | None,
) -> None:
    """Gradients in place of ``gate_up``, the activation once more in place of ``grad``."""
    tokens, width = grad.shape
    left, right = update or (gate_up, gate_up)
    grad_left, grad_right = grad_update or (grad, grad)
    grad_rank = grad_left.shape[1] if grad_update else 0
    rank_held = max(rank, grad_rank)
    blocks = _blocks(width, rank_held, 64 if rank_held <= 16 else 128, 8)
    grid = (-(-tokens // blocks["BLOCK_T"]), -(-width // blocks["BLOCK_F"]))
    _backward[grid](
        gate_up, left, right, grad, grad_left, grad_right, tokens, left.stride(0),
        right.stride(0), grad_left.stride(0), grad_right.stride(0), F=width, rank=rank,
        grad_rank=grad_rank,
        **_places(columns if update else (None, None)), HAS_GRAD_UPDATE=grad_update is not None,
        **blocks,
    )  # fmt: skip
