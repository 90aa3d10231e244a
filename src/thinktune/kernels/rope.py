"""Rotary positions on the fused query, key and value buffer, forward and backward.

Forward adds the low-rank updates first and, where the model has them, the per-head norms of
query and key; backward undoes both.
"""

# What is bound in one constant branch is read in another of the same condition.
# pyright: reportInvalidTypeForm=false, reportPossiblyUnboundVariable=false
from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from torch import Tensor

from thinktune.kernels.language import jit, power_of_two, tl
from thinktune.kernels.low_rank import (
    Pair,
    add_up,
    added,
    left_tile,
    rank_block,
    right_tile,
    room_for_parts,
)

_BLOCK_T = 32


@jit
def _norm_weight(NORM_Q: tl.tensor, NORM_K: tl.tensor, at: tl.tensor,
                 mask: tl.tensor, is_query: tl.tensor):  # fmt: skip
    of_query = tl.load(NORM_Q + at, mask=mask, other=0.0).to(tl.float32)
    of_key = tl.load(NORM_K + at, mask=mask, other=0.0).to(tl.float32)
    return tl.where(is_query, of_query, of_key)


@jit
def _forward(QKV: tl.tensor, OUT: tl.tensor, COS: tl.tensor, SIN: tl.tensor,
             LEFT: tl.tensor, RIGHT: tl.tensor, NORM_Q: tl.tensor,
             NORM_K: tl.tensor, T: tl.tensor, qkv_row: tl.tensor,
             out_row: tl.tensor, left_row: tl.tensor, right_row: tl.tensor,
             eps: tl.tensor, q_at: tl.tensor, k_at: tl.tensor, v_at: tl.tensor,
             num_q: tl.tensor, num_k: tl.tensor, rank: tl.constexpr,
             HALF: tl.constexpr, HAS_UPDATE: tl.constexpr, HAS_NORM: tl.constexpr,
             ROWS: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_H: tl.constexpr,
             BLOCK_R: tl.constexpr):  # fmt: skip
    """One head of many rows; B's are read once where the rank is one block."""
    head = tl.program_id(0)
    half = tl.arange(0, BLOCK_H)
    half_mask = half < HALF
    kind = QKV.dtype.element_ty
    if HAS_UPDATE:
        column = tl.where(head < num_q, q_at, tl.where(head < num_q + num_k, k_at, v_at))
        below = RIGHT + (head * 2 * HALF) * right_row + column
        if rank <= BLOCK_R:
            held = half_mask & (column >= 0)
            first_right = right_tile(below, half, held, right_row, 1, rank, BLOCK_R)
            second_right = right_tile(below, HALF + half, held, right_row, 1, rank, BLOCK_R)
    for start in range(0, ROWS, BLOCK_T):
        rows = tl.program_id(1) * ROWS + start + tl.arange(0, BLOCK_T)
        row_mask = rows < T
        mask = row_mask[:, None] & half_mask[None, :]
        at = rows.to(tl.int64)[:, None] * qkv_row + head * 2 * HALF + half[None, :]
        first = tl.load(QKV + at, mask=mask, other=0.0).to(tl.float32)
        second = tl.load(QKV + at + HALF, mask=mask, other=0.0).to(tl.float32)
        if HAS_UPDATE:
            wanted = row_mask & (column >= 0)
            if rank <= BLOCK_R:
                left = left_tile(LEFT + column, rows, wanted, left_row, rank, BLOCK_R)
                first = tl.dot(left, first_right, first, input_precision="ieee")
                second = tl.dot(left, second_right, second, input_precision="ieee")
            else:
                first = added(first, LEFT + column, below, rows, wanted, half, half_mask,
                              left_row, right_row, 1, rank, BLOCK_R)  # fmt: skip
                second = added(second, LEFT + column, below + HALF * right_row, rows, wanted,
                               half, half_mask, left_row, right_row, 1, rank,
                               BLOCK_R)  # fmt: skip
            first, second = first.to(kind).to(tl.float32), second.to(kind).to(tl.float32)
            to_stay = mask & ((head >= num_q + num_k) | HAS_NORM)
            tl.store(QKV + at, first.to(kind), mask=to_stay)
            tl.store(QKV + at + HALF, second.to(kind), mask=to_stay)
        if head < num_q + num_k:
            if HAS_NORM:
                squares = tl.sum(first * first, axis=1) + tl.sum(second * second, axis=1)
                rrms = tl.rsqrt(squares / (2 * HALF) + eps)
                first_weight = _norm_weight(NORM_Q, NORM_K, half, half_mask, head < num_q)
                second_weight = _norm_weight(NORM_Q, NORM_K, HALF + half, half_mask, head < num_q)
                first = (first * rrms[:, None] * first_weight[None, :]).to(kind).to(tl.float32)
                second = (second * rrms[:, None] * second_weight[None, :]).to(kind).to(tl.float32)
            turn = rows.to(tl.int64)[:, None] * HALF + half[None, :]
            cos = tl.load(COS + turn, mask=mask, other=0.0).to(tl.float32)
            sin = tl.load(SIN + turn, mask=mask, other=0.0).to(tl.float32)
            to = rows.to(tl.int64)[:, None] * out_row + head * 2 * HALF + half[None, :]
            tl.store(OUT + to, (first * cos - second * sin).to(kind), mask=mask)
            tl.store(OUT + to + HALF, (second * cos + first * sin).to(kind), mask=mask)


@jit
def _turn_back(turned_first: tl.tensor, turned_second: tl.tensor, QKV: tl.tensor,
               COS: tl.tensor, SIN: tl.tensor, NORM_Q: tl.tensor, NORM_K: tl.tensor,
               rows: tl.tensor, mask: tl.tensor, half: tl.tensor, half_mask: tl.tensor,
               head: tl.tensor, qkv_row: tl.tensor, eps: tl.tensor, num_q: tl.tensor,
               HALF: tl.constexpr, HAS_NORM: tl.constexpr):  # fmt: skip
    """Both halves of the gradient of one query or key head before it was turned."""
    turned_first, turned_second = turned_first.to(tl.float32), turned_second.to(tl.float32)
    turn = rows.to(tl.int64)[:, None] * HALF + half[None, :]
    cos = tl.load(COS + turn, mask=mask, other=0.0).to(tl.float32)
    sin = tl.load(SIN + turn, mask=mask, other=0.0).to(tl.float32)
    first = turned_first * cos + turned_second * sin
    second = turned_second * cos - turned_first * sin
    if HAS_NORM:
        from_at = rows.to(tl.int64)[:, None] * qkv_row + head * 2 * HALF + half[None, :]
        x_first = tl.load(QKV + from_at, mask=mask, other=0.0).to(tl.float32)
        x_second = tl.load(QKV + from_at + HALF, mask=mask, other=0.0).to(tl.float32)
        squares = tl.sum(x_first * x_first, axis=1) + tl.sum(x_second * x_second, axis=1)
        rrms = tl.rsqrt(squares / (2 * HALF) + eps)[:, None]
        first_weight = _norm_weight(NORM_Q, NORM_K, half, half_mask, head < num_q)
        second_weight = _norm_weight(NORM_Q, NORM_K, HALF + half, half_mask, head < num_q)
        first *= first_weight[None, :]
        second *= second_weight[None, :]
        along = tl.sum(first * x_first, axis=1) + tl.sum(second * x_second, axis=1)
        along = along[:, None] * rrms * rrms / (2 * HALF)
        first = rrms * (first - x_first * along)
        second = rrms * (second - x_second * along)
    return first.to(QKV.dtype.element_ty), second.to(QKV.dtype.element_ty)


@jit
def _backward(GRAD_Q: tl.tensor, GRAD_K: tl.tensor, GRAD_V: tl.tensor, OUT: tl.tensor,
              QKV: tl.tensor, COS: tl.tensor, SIN: tl.tensor, NORM_Q: tl.tensor,
              NORM_K: tl.tensor, RIGHT: tl.tensor, PARTS: tl.tensor, T: tl.tensor,
              q_row: tl.tensor, q_head: tl.tensor, k_row: tl.tensor, k_head: tl.tensor,
              v_row: tl.tensor, v_head: tl.tensor, qkv_row: tl.tensor, right_row: tl.tensor,
              size: tl.tensor, eps: tl.tensor, num_q: tl.tensor, num_k: tl.tensor,
              q_at: tl.tensor, k_at: tl.tensor, v_at: tl.tensor, q_to: tl.tensor,
              k_to: tl.tensor, v_to: tl.tensor, rank: tl.constexpr, HALF: tl.constexpr,
              HAS_NORM: tl.constexpr, HAS_SUMS: tl.constexpr, ROWS: tl.constexpr,
              BLOCK_T: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_R: tl.constexpr):  # fmt: skip
    """One head, turned back, and B's gradient of its columns added up where there is one."""
    head = tl.program_id(0)
    half, r = tl.arange(0, BLOCK_H), tl.arange(0, BLOCK_R)
    half_mask = half < HALF
    turns = head < num_q + num_k
    column = tl.where(head < num_q, q_at, tl.where(turns, k_at, v_at))
    GRAD, grad_row = GRAD_Q + head * q_head, q_row
    if head >= num_q:
        GRAD, grad_row = GRAD_K + (head - num_q) * k_head, k_row
    if not turns:
        GRAD, grad_row = GRAD_V + (head - num_q - num_k) * v_head, v_row
    first_sum = tl.zeros((BLOCK_R, BLOCK_H), tl.float32)
    second_sum = tl.zeros((BLOCK_R, BLOCK_H), tl.float32)
    for start in range(0, ROWS, BLOCK_T):
        rows = tl.program_id(1) * ROWS + start + tl.arange(0, BLOCK_T)
        mask = (rows < T)[:, None] & half_mask[None, :]
        at = rows.to(tl.int64)[:, None] * grad_row + half[None, :]
        first = tl.load(GRAD + at, mask=mask, other=0.0)
        second = tl.load(GRAD + at + HALF, mask=mask, other=0.0)
        if turns:
            first, second = _turn_back(first, second, QKV, COS, SIN, NORM_Q, NORM_K, rows, mask,
                                       half, half_mask, head, qkv_row, eps, num_q, HALF,
                                       HAS_NORM)  # fmt: skip
        to = rows.to(tl.int64)[:, None] * qkv_row + head * 2 * HALF + half[None, :]
        tl.store(OUT + to, first, mask=mask)
        tl.store(OUT + to + HALF, second, mask=mask)
        if HAS_SUMS:
            wanted = (rows < T) & (column >= 0)
            right = right_tile(RIGHT + column, rows, wanted, right_row, 1, rank, BLOCK_R)
            first_sum = tl.dot(right, first, first_sum, input_precision="ieee")
            second_sum = tl.dot(right, second, second_sum, input_precision="ieee")
    if HAS_SUMS:
        # Heads of query, key and value, each from its own place on.
        to = tl.where(head < num_q, q_to + head * 2 * HALF * rank, tl.where(
            turns, k_to + (head - num_q) * 2 * HALF * rank,
            v_to + (head - num_q - num_k) * 2 * HALF * rank))  # fmt: skip
        to_mask = half_mask[:, None] & (r < rank)[None, :] & (column >= 0)
        place = (
            PARTS + tl.program_id(1) * size.to(tl.int64) + to + half[:, None] * rank + r[None, :]
        )
        tl.store(place, tl.trans(first_sum), mask=to_mask)
        tl.store(place + HALF * rank, tl.trans(second_sum), mask=to_mask)


def rope(
    qkv: Tensor,
    heads: tuple[int, int],
    head_dim: int,
    tables: tuple[Tensor, Tensor],
    update: Pair | None,
    columns: tuple[int | None, ...],
    rank: int,
    norms: tuple[Tensor, Tensor] | None,
    eps: float,
    out: Tensor,
) -> None:
    """Add the updates to ``qkv`` (T, (N + 2K) H); ``out`` gets query and key, turned.

    ``out`` may be ``qkv`` itself where there are no norms.
    """
    tokens, (num_q, num_k) = len(qkv), heads
    left, right = update or (qkv, qkv)
    norm_q, norm_k = norms or (qkv, qkv)
    rows, block_h = max(_BLOCK_T, power_of_two(tokens) // 16), power_of_two(head_dim // 2)
    q_at, k_at, v_at = (-1 if place is None else place for place in columns)
    _forward[(num_q + 2 * num_k, -(-tokens // rows))](
        qkv, out, *tables, left, right, norm_q, norm_k, tokens, qkv.stride(0), out.stride(0),
        left.stride(0), right.stride(0), eps, q_at, k_at, v_at, num_q, num_k, rank=rank,
        HALF=head_dim // 2, HAS_UPDATE=update is not None, HAS_NORM=norms is not None,
        ROWS=rows, BLOCK_T=_BLOCK_T, BLOCK_H=block_h, BLOCK_R=rank_block(rank), num_warps=4,
    )  # fmt: skip


def rope_backward(
    grads: Sequence[Tensor],
    qkv: Tensor,
    heads: tuple[int, int],
    head_dim: int,
    tables: tuple[Tensor, Tensor],
    norms: tuple[Tensor, Tensor] | None,
    eps: float,
    sums: tuple[Tensor, tuple[int | None, ...], Sequence[Tensor | None], int] | None,
    out: Tensor,
) -> None:
    """Turn query's and key's gradients back, and through their norms; all three go to ``out``.

    ``grads`` are (T, heads, width) each, in any layout but that widths are dense; query's may be
    where it goes. With ``sums`` (right, columns, totals, rank) those of B are added to the totals.
    """
    tokens, (num_q, num_k) = len(out), heads
    norm_q, norm_k = norms or (out, out)
    right, columns, totals, rank = sums or (out, (None, None, None), (None, None, None), 1)
    rows = max(_BLOCK_T, power_of_two(tokens) // 16) if sums else _BLOCK_T
    parts = room_for_parts(tokens, rows, totals, out)
    places = list(accumulate((0 if x is None else x.numel() for x in totals), initial=0))[:3]
    at = (-1 if place is None else place for place in columns)
    strides = (stride for x in grads for stride in x.stride()[:2])
    _backward[(num_q + 2 * num_k, -(-tokens // rows))](
        *grads, out, qkv, *tables, norm_q, norm_k, right, parts, tokens, *strides, out.stride(0),
        right.stride(0), parts.shape[1], eps, num_q, num_k, *at, *places, rank=rank,
        HALF=head_dim // 2, HAS_NORM=norms is not None, HAS_SUMS=sums is not None, ROWS=rows,
        BLOCK_T=_BLOCK_T, BLOCK_H=power_of_two(head_dim // 2), BLOCK_R=rank_block(rank),
        num_warps=4,
    )  # fmt: skip
    if sums:
        add_up(parts, totals)
