"""Rows rounded to eight bits (E4M3), alone or by the kernel that makes them: a row a program.

The same arithmetic everywhere, so that a row has the same codes whoever rounds it. The largest
magnitude of a row is sought among bits, as integers: their order is that of the numbers, a NaN
lies above infinity, and no order of comparing changes the result.
"""

# What is bound in one constant branch is read in another of the same condition.
# pyright: reportInvalidTypeForm=false, reportPossiblyUnboundVariable=false
from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from thinktune.kernels.language import jit, power_of_two, tl
from thinktune.kernels.low_rank import Pair, left_tile, rank_block, right_tile

LARGEST = 448.0
"""The largest number of E4M3."""
MOST_COLUMNS = 32768
"""Wider rows would not stay in registers."""


@jit
def _largest(y: tl.tensor):
    """Bits of the largest magnitude along the last axis."""
    return tl.max(y.to(tl.int32, bitcast=True) & 0x7FFFFFFF, axis=len(y.shape) - 1)


@jit
def _store(y: tl.tensor, bits: tl.tensor, CODES: tl.tensor, SCALES: tl.tensor, row: tl.tensor,
           at: tl.tensor, mask: tl.tensor, VIA_HALF: tl.constexpr):  # fmt: skip
    """Scale and codes of a row ``y`` in float32, whose largest magnitude has these bits."""
    scale = bits.to(tl.float32, bitcast=True) * (1 / 448)
    scale = tl.where(scale < 1.1754943508222875e-38, 1.0, scale)
    tl.store(SCALES + row, scale)
    y *= tl.div_rn(1.0, scale)
    if VIA_HALF:
        # The 13 bits that half precision cuts off leave a trace in the last one it keeps: a
        # number just above the middle of two codes does not become the middle.
        y_bits = y.to(tl.int32, bitcast=True)
        y = (y_bits | (((y_bits & 0x1FFF) + 0x1FFF) & 0x2000)).to(tl.float32, bitcast=True)
    tl.store(CODES + at, y.to(tl.float8e4nv), mask=mask)


@jit
def _rows(X: tl.tensor, COLUMNS: tl.tensor, LARGEST: tl.tensor, CODES: tl.tensor,
          SCALES: tl.tensor, x_row: tl.tensor, D: tl.constexpr, HAS_COLUMNS: tl.constexpr,
          HAS_LARGEST: tl.constexpr, BLOCK_D: tl.constexpr, VIA_HALF: tl.constexpr):  # fmt: skip
    row = tl.program_id(0)
    cols = tl.arange(0, BLOCK_D)
    mask, at = cols < D, row.to(tl.int64) * D + cols
    y = tl.load(X + row.to(tl.int64) * x_row + cols, mask=mask, other=0.0).to(tl.float32)
    if HAS_COLUMNS:
        y *= tl.load(COLUMNS + cols, mask=mask, other=0.0)
    bits = tl.load(LARGEST + row) if HAS_LARGEST else _largest(y)
    _store(y, bits, CODES, SCALES, row, at, mask, VIA_HALF)


@jit
def _norm_rows(X: tl.tensor, BASE: tl.tensor, WEIGHT: tl.tensor, H: tl.tensor, RRMS: tl.tensor,
               CODES: tl.tensor, SCALES: tl.tensor, eps: tl.tensor, D: tl.constexpr,
               HAS_BASE: tl.constexpr, BLOCK_D: tl.constexpr, VIA_HALF: tl.constexpr):  # fmt: skip
    """As `norm._norm`, or `norm._add_and_norm`; what it stores in ``H`` is quantised too."""
    row = tl.program_id(0)
    cols = tl.arange(0, BLOCK_D)
    mask, at = cols < D, row.to(tl.int64) * D + cols
    x = tl.load(X + at, mask=mask, other=0.0).to(tl.float32)
    if HAS_BASE:
        x += tl.load(BASE + at, mask=mask, other=0.0).to(tl.float32)
        kept = x.to(BASE.dtype.element_ty)
        tl.store(BASE + at, kept, mask=mask)
        x = kept.to(tl.float32)
    rrms = tl.rsqrt(tl.sum(x * x, axis=0) / D + eps)
    tl.store(RRMS + row, rrms)
    weight = tl.load(WEIGHT + cols, mask=mask, other=0.0).to(tl.float32)
    h = (x * rrms * weight).to(H.dtype.element_ty)
    tl.store(H + at, h, mask=mask)
    y = h.to(tl.float32)
    _store(y, _largest(y), CODES, SCALES, row, at, mask, VIA_HALF)


@jit
def _norm_backward_rows(GRAD: tl.tensor, X: tl.tensor, WEIGHT: tl.tensor, RRMS: tl.tensor,
                        RESIDUAL: tl.tensor, COLUMNS: tl.tensor, CODES: tl.tensor,
                        SCALES: tl.tensor, grad_row: tl.tensor, D: tl.constexpr,
                        BLOCK_D: tl.constexpr, VIA_HALF: tl.constexpr):  # fmt: skip
    """As `norm._backward`; what it stores in ``RESIDUAL``, times ``COLUMNS``, is quantised too."""
    row = tl.program_id(0)
    cols = tl.arange(0, BLOCK_D)
    mask, at = cols < D, row.to(tl.int64) * D + cols
    grad_at = row.to(tl.int64) * grad_row + cols
    rrms = tl.load(RRMS + row)
    grad = tl.load(GRAD + grad_at, mask=mask, other=0.0).to(tl.float32)
    x = tl.load(X + at, mask=mask, other=0.0).to(tl.float32)
    weight = tl.load(WEIGHT + cols, mask=mask, other=0.0).to(tl.float32)
    residual = tl.load(RESIDUAL + at, mask=mask, other=0.0).to(tl.float32)
    scaled = grad * weight
    along = tl.sum(scaled * x, axis=0) * rrms * rrms / D
    out = (residual + rrms * (scaled - x * along)).to(RESIDUAL.dtype.element_ty)
    tl.store(RESIDUAL + at, out, mask=mask)
    tl.store(GRAD + grad_at, (x * rrms * weight).to(GRAD.dtype.element_ty), mask=mask)
    y = out.to(tl.float32) * tl.load(COLUMNS + cols, mask=mask, other=0.0)
    _store(y, _largest(y), CODES, SCALES, row, at, mask, VIA_HALF)


@jit
def _swiglu(GATE_UP: tl.tensor, LEFT: tl.tensor, RIGHT: tl.tensor, OUT: tl.tensor,
            LARGEST: tl.tensor, T: tl.tensor, left_row: tl.tensor, right_row: tl.tensor,
            F: tl.constexpr, rank: tl.constexpr, gate_at: tl.constexpr, up_at: tl.constexpr,
            ROWS: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_F: tl.constexpr,
            BLOCK_R: tl.constexpr, STAGES: tl.constexpr):  # fmt: skip
    """As `swiglu._forward` for a rank of one block; each row's largest magnitude is found too."""
    cols = tl.program_id(0) * BLOCK_F + tl.arange(0, BLOCK_F)
    col_mask = cols < F
    if gate_at >= 0:
        gate_right = right_tile(RIGHT + gate_at, cols, col_mask, right_row, 1, rank, BLOCK_R)
    if up_at >= 0:
        up_right = right_tile(RIGHT + up_at, F + cols, col_mask, right_row, 1, rank, BLOCK_R)
    for start in tl.range(0, ROWS, BLOCK_T, num_stages=STAGES):
        rows = tl.program_id(1) * ROWS + start + tl.arange(0, BLOCK_T)
        row_mask = rows < T
        mask = row_mask[:, None] & col_mask[None, :]
        wide = rows.to(tl.int64)[:, None] * (2 * F) + cols[None, :]
        gate = tl.load(GATE_UP + wide, mask=mask, other=0.0).to(tl.float32)
        up = tl.load(GATE_UP + wide + F, mask=mask, other=0.0).to(tl.float32)
        if gate_at >= 0:
            left = left_tile(LEFT + gate_at, rows, row_mask, left_row, rank, BLOCK_R)
            gate = tl.dot(left, gate_right, gate, input_precision="ieee")
        if up_at >= 0:
            left = left_tile(LEFT + up_at, rows, row_mask, left_row, rank, BLOCK_R)
            up = tl.dot(left, up_right, up, input_precision="ieee")
        out = (gate * tl.sigmoid(gate) * up).to(OUT.dtype.element_ty)
        tl.store(OUT + rows.to(tl.int64)[:, None] * F + cols[None, :], out, mask=mask)
        bits = _largest(out.to(tl.float32))
        tl.atomic_max(LARGEST + rows, bits, mask=row_mask, sem="relaxed")


def _row(x: Tensor) -> dict[str, Any]:
    """A whole row in registers, as in `thinktune.kernels.norm`: sums come out the same."""
    width = x.shape[1]
    block = power_of_two(width)
    held = {"D": width, "BLOCK_D": block, "num_warps": min(16, max(1, block // 512))}
    # Before Hopper triton rounds to eight bits from halves, and cuts to those.
    return held | {"VIA_HALF": not x.is_cuda or torch.cuda.get_device_capability(x.device)[0] < 9}


def quantize_rows(x: Tensor, columns: Tensor | None, codes: Tensor, scales: Tensor) -> None:
    """Fill ``codes`` and ``scales`` with the rows of ``x * columns``; ``x``'s may lie apart."""
    _rows[(len(x),)](
        x, x if columns is None else columns, x, codes, scales, x.stride(0),
        HAS_COLUMNS=columns is not None, HAS_LARGEST=False, **_row(x),
    )  # fmt: skip


def norm_rows(
    x: Tensor,
    base: Tensor | None,
    weight: Tensor,
    h: Tensor,
    rrms: Tensor,
    codes: Tensor,
    scales: Tensor,
    eps: float,
) -> None:
    """``base = x + base`` where there is one; the rest is filled with the norm of ``base`` or x."""
    _norm_rows[(len(x),)](
        x, x if base is None else base, weight, h, rrms, codes, scales, eps,
        HAS_BASE=base is not None, **_row(x),
    )  # fmt: skip


def norm_backward_rows(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    rrms: Tensor,
    residual: Tensor,
    columns: Tensor,
    codes: Tensor,
    scales: Tensor,
) -> None:
    """`norm.norm_backward`; ``codes`` and ``scales`` are filled with ``residual * columns``."""
    _norm_backward_rows[(len(x),)](
        grad, x, weight, rrms, residual, columns, codes, scales, grad.stride(0),
        **_row(x),
    )  # fmt: skip


def swiglu_rows(
    gate_up: Tensor,
    update: Pair | None,
    columns: tuple[int | None, ...],
    rank: int,
    out: Tensor,
    largest: Tensor,
    codes: Tensor,
    scales: Tensor,
) -> None:
    """`swiglu.swiglu`, and ``out`` in eight bits; ``largest`` is int32, and zero at first."""
    tokens, width = out.shape
    left, right = update or (gate_up, gate_up)
    gate_at, up_at = (-1 if place is None or update is None else place for place in columns)
    block_f, rows = min(128, power_of_two(width)), min(512, power_of_two(tokens, 32))
    _swiglu[(-(-width // block_f), -(-tokens // rows))](
        gate_up, left, right, out, largest, tokens, left.stride(0), right.stride(0), F=width,
        rank=rank, gate_at=gate_at, up_at=up_at, ROWS=rows, BLOCK_T=32, BLOCK_F=block_f,
        BLOCK_R=rank_block(rank), STAGES=3, num_warps=8,
    )  # fmt: skip
    _rows[(tokens,)](
        out, out, largest, codes, scales, width, HAS_COLUMNS=False, HAS_LARGEST=True,
        **_row(out),
    )  # fmt: skip
