"""Residual additions and RMSNorm, forward and backward: a row of the stream at a time."""

# pyright: reportInvalidTypeForm=false
from __future__ import annotations

from typing import Any

from torch import Tensor

from thinktune.kernels.language import capability, jit, power_of_two, tl
from thinktune.kernels.low_rank import Pair, added, rank_block


@jit
def _norm(X: tl.tensor, WEIGHT: tl.tensor, H: tl.tensor, RRMS: tl.tensor,
          eps: tl.tensor, D: tl.constexpr, HAS_RRMS: tl.constexpr,
          BLOCK_D: tl.constexpr):  # fmt: skip
    row = tl.program_id(0)
    cols = tl.arange(0, BLOCK_D)
    mask, at = cols < D, row.to(tl.int64) * D + cols
    x = tl.load(X + at, mask=mask, other=0.0).to(tl.float32)
    weight = tl.load(WEIGHT + cols, mask=mask, other=0.0).to(tl.float32)
    if HAS_RRMS:
        rrms = tl.load(RRMS + row)
    else:
        rrms = tl.rsqrt(tl.sum(x * x, axis=0) / D + eps)
        tl.store(RRMS + row, rrms)
    tl.store(H + at, (x * rrms * weight).to(H.dtype.element_ty), mask=mask)


@jit
def _add(X: tl.tensor, BASE: tl.tensor, LEFT: tl.tensor, RIGHT: tl.tensor,
         OUT: tl.tensor, T: tl.tensor, left_row: tl.tensor, right_row: tl.tensor,
         D: tl.constexpr, rank: tl.constexpr, BLOCK_T: tl.constexpr,
         BLOCK_D: tl.constexpr, BLOCK_R: tl.constexpr):  # fmt: skip
    """``OUT = X + BASE + LEFT @ RIGHT^T``, in tiles; ``OUT`` may be ``BASE``."""
    rows = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    cols = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    row_mask, col_mask = rows < T, cols < D
    mask = row_mask[:, None] & col_mask[None, :]
    at = rows.to(tl.int64)[:, None] * D + cols[None, :]
    x = tl.load(X + at, mask=mask, other=0.0).to(tl.float32)
    x += tl.load(BASE + at, mask=mask, other=0.0).to(tl.float32)
    x = added(x, LEFT, RIGHT, rows, row_mask, cols, col_mask, left_row, right_row, 1, rank,
              BLOCK_R)  # fmt: skip
    tl.store(OUT + at, x.to(OUT.dtype.element_ty), mask=mask)


@jit
def _add_and_norm(X: tl.tensor, BASE: tl.tensor, OUT: tl.tensor, WEIGHT: tl.tensor,
                  H: tl.tensor, RRMS: tl.tensor, eps: tl.tensor, D: tl.constexpr,
                  BLOCK_D: tl.constexpr):  # fmt: skip
    """``OUT = X + BASE``, which may be the same memory, and its norm."""
    row = tl.program_id(0)
    cols = tl.arange(0, BLOCK_D)
    mask, at = cols < D, row.to(tl.int64) * D + cols
    x = tl.load(X + at, mask=mask, other=0.0).to(tl.float32)
    x += tl.load(BASE + at, mask=mask, other=0.0).to(tl.float32)
    kept = x.to(OUT.dtype.element_ty)
    tl.store(OUT + at, kept, mask=mask)
    x = kept.to(tl.float32)
    rrms = tl.rsqrt(tl.sum(x * x, axis=0) / D + eps)
    tl.store(RRMS + row, rrms)
    weight = tl.load(WEIGHT + cols, mask=mask, other=0.0).to(tl.float32)
    tl.store(H + at, (x * rrms * weight).to(H.dtype.element_ty), mask=mask)


@jit
def _backward(GRAD: tl.tensor, X: tl.tensor, WEIGHT: tl.tensor, RRMS: tl.tensor,
              RESIDUAL: tl.tensor, grad_row: tl.tensor, D: tl.constexpr,
              BLOCK_D: tl.constexpr):  # fmt: skip
    """``RESIDUAL += d norm(GRAD)``, and the normalised row once more in place of ``GRAD``."""
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
    out = residual + rrms * (scaled - x * along)
    tl.store(RESIDUAL + at, out.to(RESIDUAL.dtype.element_ty), mask=mask)
    tl.store(GRAD + grad_at, (x * rrms * weight).to(GRAD.dtype.element_ty), mask=mask)


def _row(width: int) -> dict[str, Any]:
    """A whole row in registers: 16 values of each tensor in a thread."""
    block = power_of_two(width)
    return {"D": width, "BLOCK_D": block, "num_warps": min(16, max(1, block // 512))}


def norm(
    x: Tensor, weight: Tensor, h: Tensor, rrms: Tensor, eps: float, *, has_rrms: bool = False
) -> None:
    """Fill ``h`` with the norm of ``x``; ``rrms`` is filled too, or given."""
    _norm[(len(x),)](x, weight, h, rrms, eps, HAS_RRMS=has_rrms, **_row(x.shape[1]))


def add(x: Tensor, base: Tensor, update: Pair, out: Tensor) -> None:
    """``out = x + base + left @ right^T``; ``out`` may be ``base``."""
    (tokens, width), (left, right) = x.shape, update
    # Turing's products have no tensor cores in Triton, and its accumulators would not fit.
    block = min(128 if capability(x.device)[0] == 7 else 256, power_of_two(width))
    _add[(-(-tokens // 32), -(-width // block))](
        x, base, left, right, out, tokens, left.stride(0), right.stride(0), D=width,
        rank=left.shape[1], BLOCK_T=32, BLOCK_D=block, BLOCK_R=rank_block(left.shape[1]),
        num_warps=4,
    )  # fmt: skip


def add_and_norm(
    x: Tensor, base: Tensor, out: Tensor, weight: Tensor, h: Tensor, rrms: Tensor, eps: float
) -> None:
    """``out = x + base``, which may be ``base``; ``h`` and ``rrms`` are filled with its norm."""
    _add_and_norm[(len(x),)](x, base, out, weight, h, rrms, eps, **_row(x.shape[1]))


def norm_backward(grad: Tensor, x: Tensor, weight: Tensor, rrms: Tensor, residual: Tensor) -> None:
    """``residual += d norm(grad)``; ``grad``, whose rows may lie apart, the normalised rows."""
    _backward[(len(x),)](grad, x, weight, rrms, residual, grad.stride(0), **_row(x.shape[1]))
