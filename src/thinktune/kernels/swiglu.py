"""The gated activation, forward and backward, with the low-rank updates of gate and up."""

# What is bound in one constant branch is read in another of the same condition.
# pyright: reportInvalidTypeForm=false, reportPossiblyUnboundVariable=false
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from thinktune.kernels.language import capability, jit, power_of_two, tl
from thinktune.kernels.low_rank import (
    Pair,
    add_up,
    added,
    left_tile,
    rank_block,
    right_tile,
    room_for_parts,
)


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
             up_at: tl.constexpr, ROWS: tl.constexpr, BLOCK_T: tl.constexpr,
             BLOCK_F: tl.constexpr, BLOCK_R: tl.constexpr, STAGES: tl.constexpr):  # fmt: skip
    """Some columns of many rows; B's are read once where the rank is one block."""
    cols = tl.program_id(0) * BLOCK_F + tl.arange(0, BLOCK_F)
    col_mask = cols < F
    if rank <= BLOCK_R and gate_at >= 0:
        gate_right = right_tile(RIGHT + gate_at, cols, col_mask, right_row, 1, rank, BLOCK_R)
    if rank <= BLOCK_R and up_at >= 0:
        up_right = right_tile(RIGHT + up_at, F + cols, col_mask, right_row, 1, rank, BLOCK_R)
    for start in tl.range(0, ROWS, BLOCK_T, num_stages=STAGES):
        rows = tl.program_id(1) * ROWS + start + tl.arange(0, BLOCK_T)
        row_mask = rows < T
        if rank > BLOCK_R:
            gate, up = _gate_and_up(GATE_UP, LEFT, RIGHT, rows, row_mask, cols, col_mask, F,
                                    left_row, right_row, rank, gate_at, up_at, BLOCK_T, BLOCK_F,
                                    BLOCK_R)  # fmt: skip
        else:
            gate, up = _gate_and_up(GATE_UP, LEFT, RIGHT, rows, row_mask, cols, col_mask, F,
                                    left_row, right_row, rank, -1, -1, BLOCK_T, BLOCK_F,
                                    BLOCK_R)  # fmt: skip
            if gate_at >= 0:
                left = left_tile(LEFT + gate_at, rows, row_mask, left_row, rank, BLOCK_R)
                gate = tl.dot(left, gate_right, gate, input_precision="ieee")
            if up_at >= 0:
                left = left_tile(LEFT + up_at, rows, row_mask, left_row, rank, BLOCK_R)
                up = tl.dot(left, up_right, up, input_precision="ieee")
        out = gate * tl.sigmoid(gate) * up
        at = rows.to(tl.int64)[:, None] * F + cols[None, :]
        mask = row_mask[:, None] & col_mask[None, :]
        tl.store(OUT + at, out.to(OUT.dtype.element_ty), mask=mask)


@jit
def _gradients(gate: tl.tensor, up: tl.tensor, grad: tl.tensor, kind: tl.constexpr):
    """The activation, and the gradients of gate and up."""
    share = tl.sigmoid(gate)
    silu = gate * share
    grad_gate = grad * up * share * (1 + gate * (1 - share))
    return (silu * up).to(kind), grad_gate.to(kind), (grad * silu).to(kind)


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
    act, grad_gate, grad_up = _gradients(gate, up, grad, GRAD.dtype.element_ty)
    tl.store(GRAD + at, act, mask=mask)
    wide = rows.to(tl.int64)[:, None] * (2 * F) + cols[None, :]
    tl.store(GATE_UP + wide, grad_gate, mask=mask)
    tl.store(GATE_UP + wide + F, grad_up, mask=mask)


@jit
def _store_sum(TO: tl.tensor, total: tl.tensor, r: tl.tensor, r_step: tl.constexpr,
               cols: tl.tensor, col_step: tl.constexpr, mask: tl.tensor):  # fmt: skip
    tl.store(TO + r[:, None] * r_step + cols[None, :] * col_step, total, mask=mask)


@jit
def _backward_summed(GATE_UP: tl.tensor, LEFT: tl.tensor, RIGHT: tl.tensor,
                     GRAD: tl.tensor, GRAD_LEFT: tl.tensor, GRAD_RIGHT: tl.tensor,
                     PARTS: tl.tensor, T: tl.tensor, left_row: tl.tensor, right_row: tl.tensor,
                     grad_left_row: tl.tensor, grad_right_row: tl.tensor, size: tl.tensor,
                     F: tl.constexpr, rank: tl.constexpr, grad_rank: tl.constexpr,
                     gate_at: tl.constexpr, up_at: tl.constexpr, ROWS: tl.constexpr,
                     BLOCK_T: tl.constexpr, BLOCK_F: tl.constexpr, BLOCK_R: tl.constexpr,
                     STAGES: tl.constexpr):  # fmt: skip
    """`_backward` of some columns and many rows; A's and B's gradients are added up beside it."""
    cols = tl.program_id(0) * BLOCK_F + tl.arange(0, BLOCK_F)
    r, col_mask = tl.arange(0, BLOCK_R), cols < F
    if gate_at >= 0:
        gate_right = right_tile(RIGHT + gate_at, cols, col_mask, right_row, 1, rank, BLOCK_R)
        gate_sum = tl.zeros((BLOCK_R, BLOCK_F), tl.float32)
    if up_at >= 0:
        up_right = right_tile(RIGHT + up_at, F + cols, col_mask, right_row, 1, rank, BLOCK_R)
        up_sum = tl.zeros((BLOCK_R, BLOCK_F), tl.float32)
    if grad_rank > 0:
        grad_right = right_tile(GRAD_RIGHT, cols, col_mask, 1, grad_right_row, grad_rank, BLOCK_R)
        act_sum = tl.zeros((BLOCK_R, BLOCK_F), tl.float32)
    for start in tl.range(0, ROWS, BLOCK_T, num_stages=STAGES):
        rows = tl.program_id(1) * ROWS + start + tl.arange(0, BLOCK_T)
        row_mask = rows < T
        mask = row_mask[:, None] & col_mask[None, :]
        at = rows.to(tl.int64)[:, None] * F + cols[None, :]
        wide = rows.to(tl.int64)[:, None] * (2 * F) + cols[None, :]
        gate = tl.load(GATE_UP + wide, mask=mask, other=0.0).to(tl.float32)
        up = tl.load(GATE_UP + wide + F, mask=mask, other=0.0).to(tl.float32)
        grad = tl.load(GRAD + at, mask=mask, other=0.0).to(tl.float32)
        if gate_at >= 0:
            gate_left = left_tile(LEFT + gate_at, rows, row_mask, left_row, rank, BLOCK_R)
            gate = tl.dot(gate_left, gate_right, gate, input_precision="ieee")
        if up_at >= 0:
            up_left = left_tile(LEFT + up_at, rows, row_mask, left_row, rank, BLOCK_R)
            up = tl.dot(up_left, up_right, up, input_precision="ieee")
        if grad_rank > 0:
            grad_left = left_tile(GRAD_LEFT, rows, row_mask, grad_left_row, grad_rank, BLOCK_R)
            grad = tl.dot(grad_left, grad_right, grad, input_precision="ieee")
        act, grad_gate, grad_up = _gradients(gate, up, grad, GRAD.dtype.element_ty)
        tl.store(GATE_UP + wide, grad_gate, mask=mask)
        tl.store(GATE_UP + wide + F, grad_up, mask=mask)
        if grad_rank > 0:
            act_sum = tl.dot(tl.trans(grad_left), act, act_sum, input_precision="ieee")
        if grad_rank == 0:
            tl.store(GRAD + at, act, mask=mask)
        if gate_at >= 0:
            gate_sum = tl.dot(tl.trans(gate_left), grad_gate, gate_sum, input_precision="ieee")
        if up_at >= 0:
            up_sum = tl.dot(tl.trans(up_left), grad_up, up_sum, input_precision="ieee")
    to = PARTS + tl.program_id(1) * size.to(tl.int64)
    if grad_rank > 0:
        _store_sum(to, act_sum, r, F, cols, 1, (r < grad_rank)[:, None] & col_mask[None, :])
        to += grad_rank * F
    if gate_at >= 0:
        _store_sum(to, gate_sum, r, 1, cols, rank, (r < rank)[:, None] & col_mask[None, :])
        to += rank * F
    if up_at >= 0:
        _store_sum(to, up_sum, r, 1, cols, rank, (r < rank)[:, None] & col_mask[None, :])


def sizes_summed(major: int, rank: int) -> dict[str, Any]:
    """Tile sizes of `swiglu_backward_summed`; those of Hopper were fastest there."""
    if major == 9 and rank <= 16:
        return {"BLOCK_T": 16, "BLOCK_F": 64, "BLOCK_R": 16, "STAGES": 3, "num_warps": 4}
    if major == 9:
        return {"BLOCK_T": 32, "BLOCK_F": 64, "BLOCK_R": 64, "STAGES": 3, "num_warps": 4}
    columns = 64 if rank <= 16 else 32
    rows = 16 if major == 7 and rank > 16 else 32
    sizes = {"BLOCK_T": rows, "BLOCK_F": columns, "BLOCK_R": rank_block(rank)}
    return sizes | {"STAGES": 2, "num_warps": 8}


def rows_summed(tokens: int) -> int:
    """How many rows a program adds up; each such stretch has its own sums."""
    return min(2048, power_of_two(tokens, 32))


def _places(columns: tuple[int | None, ...]) -> dict[str, int]:
    gate, up = (-1 if place is None else place for place in columns)
    return {"gate_at": gate, "up_at": up}


def swiglu(
    gate_up: Tensor, update: Pair | None, columns: tuple[int | None, ...], rank: int, out: Tensor
) -> None:
    """``out = silu(gate) * up``; both stand side by side in ``gate_up``."""
    tokens, width = out.shape
    left, right = update or (gate_up, gate_up)
    block_f, rows = min(128, power_of_two(width)), min(512, power_of_two(tokens, 32))
    _forward[(-(-width // block_f), -(-tokens // rows))](
        gate_up, left, right, out, tokens, left.stride(0), right.stride(0), F=width, rank=rank,
        **_places(columns if update else (None, None)), ROWS=rows, BLOCK_T=32, BLOCK_F=block_f,
        BLOCK_R=rank_block(rank), STAGES=3, num_warps=8,
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
    block_r = rank_block(max(rank, grad_rank))
    block_f = min(64 if block_r <= 16 else 128, power_of_two(width))
    _backward[(-(-tokens // 32), -(-width // block_f))](
        gate_up, left, right, grad, grad_left, grad_right, tokens, left.stride(0),
        right.stride(0), grad_left.stride(0), grad_right.stride(0), F=width, rank=rank,
        grad_rank=grad_rank,
        **_places(columns if update else (None, None)), HAS_GRAD_UPDATE=grad_update is not None,
        BLOCK_T=32, BLOCK_F=block_f, BLOCK_R=block_r, num_warps=8,
    )  # fmt: skip


def swiglu_backward_summed(
    gate_up: Tensor,
    update: Pair | None,
    columns: tuple[int | None, ...],
    rank: int,
    grad: Tensor,
    grad_update: Pair | None,
    totals: Sequence[Tensor | None],
) -> None:
    """`swiglu_backward`, and the gradients of down's A, gate's B and up's B added to ``totals``.

    With a ``grad_update`` down's A has a total, and ``grad`` is left as it is: the activation is
    not made again. Gate and up have a total where they have a column.
    """
    tokens, width = grad.shape
    left, right = update or (gate_up, gate_up)
    grad_left, grad_right = grad_update or (grad, grad)
    grad_rank = grad_left.shape[1] if grad_update else 0
    rows = rows_summed(tokens)
    parts = room_for_parts(tokens, rows, totals, grad)
    sizes = sizes_summed(capability(grad.device)[0], max(rank, grad_rank))
    _backward_summed[(-(-width // sizes["BLOCK_F"]), len(parts))](
        gate_up, left, right, grad, grad_left, grad_right, parts, tokens, left.stride(0),
        right.stride(0), grad_left.stride(0), grad_right.stride(0), parts.shape[1], F=width,
        rank=rank, grad_rank=grad_rank, **_places(columns if update else (None, None)),
        ROWS=rows, **sizes,
    )  # fmt: skip
    add_up(parts, totals)
