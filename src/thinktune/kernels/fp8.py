"""Rows rounded to eight bits (E4M3), alone or by the kernel that makes or multiplies them.

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

LARGEST = 448.0
"""The largest number of E4M3."""
MOST_COLUMNS = 32768
"""Wider rows would not stay in registers."""


@jit
def magnitude(y: tl.tensor):
    """Bits of float32 numbers without their signs."""
    return y.to(tl.int32, bitcast=True) & 0x7FFFFFFF


@jit
def _scale(bits: tl.tensor, SHORT: tl.constexpr):
    """Of rows whose largest magnitudes have these bits; ``SHORT`` keeps what bfloat16 does."""
    scale = bits.to(tl.float32, bitcast=True) * (1 / 448)
    scale = tl.where(scale < 1.1754943508222875e-38, 1.0, scale)
    if SHORT:
        scale = (scale.to(tl.int32, bitcast=True) & -65536).to(tl.float32, bitcast=True)
    return scale


@jit
def _code(y: tl.tensor, VIA_HALF: tl.constexpr):
    """The nearest codes; what is a little above 448 becomes 448."""
    if VIA_HALF:
        # The 13 bits that half precision cuts off leave a trace in the last one it keeps: a
        # number just above the middle of two codes does not become the middle.
        bits = y.to(tl.int32, bitcast=True)
        y = (bits | (((bits & 0x1FFF) + 0x1FFF) & 0x2000)).to(tl.float32, bitcast=True)
    return y.to(tl.float8e4nv)


@jit
def _store(y: tl.tensor, CODES: tl.tensor, SCALES: tl.tensor, row: tl.tensor, at: tl.tensor,
           mask: tl.tensor, SHORT: tl.constexpr, VIA_HALF: tl.constexpr):  # fmt: skip
    """Scale and codes of a row ``y`` in float32."""
    scale = _scale(tl.max(magnitude(y), axis=0), SHORT)
    tl.store(SCALES + row, scale)
    tl.store(CODES + at, _code(y * tl.div_rn(1.0, scale), VIA_HALF), mask=mask)


@jit
def _rows(X: tl.tensor, COLUMNS: tl.tensor, CODES: tl.tensor, SCALES: tl.tensor,
          x_row: tl.tensor, D: tl.constexpr, HAS_COLUMNS: tl.constexpr, SHORT: tl.constexpr,
          BLOCK_D: tl.constexpr, VIA_HALF: tl.constexpr):  # fmt: skip
    row = tl.program_id(0)
    cols = tl.arange(0, BLOCK_D)
    mask, at = cols < D, row.to(tl.int64) * D + cols
    y = tl.load(X + row.to(tl.int64) * x_row + cols, mask=mask, other=0.0).to(tl.float32)
    if HAS_COLUMNS:
        y *= tl.load(COLUMNS + cols, mask=mask, other=0.0).to(tl.float32)
    _store(y, CODES, SCALES, row, at, mask, SHORT, VIA_HALF)


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
    _store(y, CODES, SCALES, row, at, mask, False, VIA_HALF)


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
    y = out.to(tl.float32) * tl.load(COLUMNS + cols, mask=mask, other=0.0).to(tl.float32)
    _store(y, CODES, SCALES, row, at, mask, False, VIA_HALF)


def _row(x: Tensor) -> dict[str, Any]:
    """A whole row in registers, as in `thinktune.kernels.norm`: sums come out the same."""
    width = x.shape[1]
    block = power_of_two(width)
    held = {"D": width, "BLOCK_D": block, "num_warps": min(16, max(1, block // 512))}
    return held | {"VIA_HALF": _via_half(x)}


def _via_half(x: Tensor) -> bool:
    """Before Hopper triton rounds to eight bits from halves, and cuts to those."""
    return not x.is_cuda or torch.cuda.get_device_capability(x.device)[0] < 9


def quantize_rows(
    x: Tensor, columns: Tensor | None, codes: Tensor, scales: Tensor, *, short: bool
) -> None:
    """Fill ``codes`` and ``scales`` with the rows of ``x * columns``; ``x``'s may lie apart.

    ``short`` cuts the scales to what bfloat16 keeps.
    """
    _rows[(len(x),)](
        x, x if columns is None else columns, codes, scales, x.stride(0),
        HAS_COLUMNS=columns is not None, SHORT=short, **_row(x),
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
