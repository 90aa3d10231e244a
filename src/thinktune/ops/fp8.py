"""Frozen weights in eight bits (E4M3), and products with rows that are quantised on the way.

A weight ``W`` (out, in) is held as ``codes * scales[:, None]``, and a row of activations or of
gradients has a scale of its own (arXiv:2209.05433, where the format is defined). Both scales
come after the sum, so a product costs what one of the codes alone costs:

    y = x W^T  = (x8 codes^T) * sx[:, None] * scales[None, :]
    dx = dy W  = (g8 codes) * sg[:, None],  with  dy * scales[None, :] ~ g8 * sg[:, None]

The second sum runs over W's rows, so their scales go into the gradient before it is quantised.
These are numbers of bfloat16, cut to it from float32, so that reading those of 28,672 columns
beside each row costs half as much. The quotients rise to 451.5, whose nearest code is still 448.
"""

from functools import lru_cache
from typing import NamedTuple

import torch
from jaxtyping import Float, Float8e4m3fn
from torch import Tensor

from thinktune.kernels import fp8 as kernel
from thinktune.kernels.language import FP8_FROM, capability, runs_fused
from thinktune.ops.rms_norm import add_rms_norm, rms_norm_backward, rms_norm_forward
from thinktune.ops.update import Update, add_in_place

_CODES = torch.float8_e4m3fn
_SLICE = 1 << 24
"""Elements of a weight that are quantised at a time."""
_STEP = 16
"""Tensor cores take products whose sizes are multiples of it."""


class FP8Rows(NamedTuple):
    """Rows in eight bits: ``codes * scales[:, None]``."""

    codes: Tensor
    """(T, K), float8_e4m3fn, contiguous."""
    scales: Tensor
    """(T,), float32: a row's largest magnitude over 448, the largest code; 1 for a row of zeros."""


def runs_fp8(device: torch.device) -> bool:
    """Whether tensor cores there multiply E4M3: Ada, Hopper and later."""
    return device.type == "cuda" and capability(device) >= FP8_FROM


def quantize_fp8_weight(
    weight: Float[Tensor, "out in"],
) -> tuple[Float8e4m3fn[Tensor, "out in"], Float[Tensor, " out"]]:
    """Codes and scales of a weight in any floating type, on its device.

    Takes 64 MiB beside the result where no kernel runs: never a float32 copy of the whole.

    Returns:
        Codes (out, in), and scales (out,) in float32, which bfloat16 holds too.
    """
    codes = torch.empty(weight.shape, dtype=_CODES, device=weight.device)
    scales = torch.empty(len(weight), dtype=torch.float32, device=weight.device)
    step = max(1, _SLICE // weight.shape[1])
    for first in range(0, len(weight), step):
        rows = slice(first, first + step)
        codes[rows], scales[rows] = quantize_rows(weight[rows], short=True)
    return codes, scales


def quantize_rows(
    x_TK: Float[Tensor, "T K"], columns: Float[Tensor, " K"] | None = None, *, short: bool = False
) -> FP8Rows:
    """Each row of ``x * columns`` rounded to the nearest code, ties to even, at its own scale.

    The kernel and the plain path give the same bits. A row with an infinity or a NaN has a
    scale that is neither finite nor silent: every product with it is NaN.

    Args:
        x_TK: rows, which may lie apart.
        columns: a gradient is multiplied by the scales of the weight that it meets, which
            bfloat16 holds.
        short: whether the scales are cut to what bfloat16 holds.
    """
    x_TK = x_TK if x_TK.stride(1) == 1 else x_TK.contiguous()
    if not _runs_kernel(x_TK):
        return _plain_rows(x_TK, columns, short=short)
    rows = _room(x_TK)
    kernel.quantize_rows(x_TK, columns, *rows, short=short)
    return rows


def fp8_product(
    rows: FP8Rows,
    codes_NK: Float8e4m3fn[Tensor, "N K"],
    scales: Float[Tensor, " N"] | None,
    dtype: torch.dtype,
    out: Float[Tensor, "T N"] | None = None,
) -> Float[Tensor, "T N"]:
    """``(rows.codes @ codes^T) * rows.scales[:, None] * scales[None, :]``.

    In bfloat16 on a device that `runs_fp8`, with N and K multiples of 16, this is one product
    of tensor cores with fast accumulation, whose sums keep about 14 bits (arXiv:2412.19437,
    section 3.3.2). Elsewhere it is emulated: the codes are widened to float32 (float64 if
    ``dtype`` is), which takes memory for all of them, and multiplied.

    Args:
        rows: the left side.
        codes_NK: the right side, contiguous along the dimension that is summed over.
        scales: of the right side's rows; None for ones.
        dtype: of the result.
        out: contiguous memory for it; None for new memory.
    """
    sizes = codes_NK.shape
    if dtype == torch.bfloat16 and runs_fp8(codes_NK.device) and not any(n % _STEP for n in sizes):
        right = _ones(len(codes_NK), codes_NK.device) if scales is None else scales
        sides = rows.codes, codes_NK.T, rows.scales[:, None], right[None, :]
        made = (*sides, None, None, dtype, True)  # no bias, no scale of the result
        product = torch.ops.aten._scaled_mm
        return product.default(*made) if out is None else product.out(*made, out=out)
    wide = torch.promote_types(dtype, torch.float32)
    product = rows.codes.to(wide) @ codes_NK.to(wide).T
    product.mul_(rows.scales[:, None])
    if scales is not None:
        product.mul_(scales)
    return product.to(dtype) if out is None else out.copy_(product)


def rms_norm_rows(
    x_TD: Float[Tensor, "T D"], weight: Float[Tensor, " D"], eps: float, *, wanted: bool
) -> tuple[Float[Tensor, "T D"], Float[Tensor, " T"], FP8Rows | None]:
    """`rms_norm_forward`, and if ``wanted`` its rows in eight bits without reading them again."""
    if not (wanted and _norms_rows(x_TD, weight)):
        h_TD, rrms_T = rms_norm_forward(x_TD, weight, eps)
        return h_TD, rrms_T, quantize_rows(h_TD) if wanted else None
    return _norm_rows(x_TD, None, weight, eps)


def add_rms_norm_rows(
    x_TD: Float[Tensor, "T D"],
    base_TD: Float[Tensor, "T D"],
    update: Update | None,
    weight: Float[Tensor, " D"],
    eps: float,
    *,
    wanted: bool,
) -> tuple[Float[Tensor, "T D"], Float[Tensor, "T D"], Float[Tensor, " T"], FP8Rows | None]:
    """`add_rms_norm`, and if ``wanted`` the normalised rows in eight bits from the same read."""
    if not (wanted and _norms_rows(x_TD, weight)):
        out_TD, h_TD, rrms_T = add_rms_norm(x_TD, base_TD, update, weight, eps)
        return out_TD, h_TD, rrms_T, quantize_rows(h_TD) if wanted else None
    if update is not None:
        add_in_place(base_TD, update)
    return base_TD, *_norm_rows(x_TD, base_TD, weight, eps)


def rms_norm_backward_rows(
    grad_TD: Float[Tensor, "T D"],
    update: tuple[Tensor, Tensor] | None,
    x_TD: Float[Tensor, "T D"],
    weight: Float[Tensor, " D"],
    rrms_T: Float[Tensor, " T"],
    residual_TD: Float[Tensor, "T D"],
    columns: Float[Tensor, " D"] | None,
) -> tuple[Float[Tensor, "T D"], Float[Tensor, "T D"], FP8Rows | None]:
    """`rms_norm_backward`, and the gradient times ``columns`` in eight bits.

    Args:
        grad_TD: as there, as all others.
        update: as there.
        x_TD: as there.
        weight: as there.
        rrms_T: as there.
        residual_TD: as there.
        columns: scales of the weight whose product reads the gradient next; None where that
            takes it as it is.
    """
    if columns is None or not _norms_rows(x_TD, weight):
        args = grad_TD, update, x_TD, weight, rrms_T, residual_TD
        grad_TD, h_TD = rms_norm_backward(*args)
        if columns is None:
            return grad_TD, h_TD, None
        return grad_TD, h_TD, quantize_rows(grad_TD.to(weight.dtype), columns)
    if update is not None:
        grad_TD.addmm_(*update)
    rows = _room(x_TD)
    kernel.norm_backward_rows(grad_TD, x_TD, weight, rrms_T, residual_TD, columns, *rows)
    return residual_TD, grad_TD, rows


def _runs_kernel(x: Tensor) -> bool:
    """Whether kernels make rows in eight bits from ``x``."""
    held = x.shape[1] <= kernel.MOST_COLUMNS
    return held and runs_fused(x) and (runs_fp8(x.device) or not x.is_cuda)


def _norms_rows(x_TD: Tensor, weight: Tensor) -> bool:
    """Whether a norm's kernel does: not from a stream that is wider than products."""
    return x_TD.dtype == weight.dtype and _runs_kernel(x_TD)


def _room(x_TK: Tensor) -> FP8Rows:
    codes = torch.empty(x_TK.shape, dtype=_CODES, device=x_TK.device)
    return FP8Rows(codes, torch.empty(len(x_TK), dtype=torch.float32, device=x_TK.device))


def _norm_rows(
    x_TD: Tensor, base_TD: Tensor | None, weight: Tensor, eps: float
) -> tuple[Tensor, Tensor, FP8Rows]:
    h_TD, rows = torch.empty_like(x_TD), _room(x_TD)
    rrms_T = torch.empty_like(rows.scales)
    kernel.norm_rows(x_TD, base_TD, weight, h_TD, rrms_T, *rows, eps)
    return h_TD, rrms_T, rows


def _plain_rows(x_TK: Tensor, columns: Tensor | None, *, short: bool = False) -> FP8Rows:
    wide = x_TK.float()
    if columns is not None:
        wide = wide * columns
    least, most = wide.aminmax(dim=1)
    scales = torch.maximum(most, -least) * (1 / kernel.LARGEST)
    # Nothing so small has a reciprocal; such a row is zero.
    scales.masked_fill_(scales < torch.finfo(torch.float32).tiny, 1.0)
    if short:
        scales.view(torch.int32).bitwise_and_(-65536)
    return FP8Rows((wide * scales.reciprocal()[:, None]).to(_CODES), scales)


@lru_cache
def _ones(number: int, device: torch.device) -> Tensor:
    """What a product takes for scales where there are none: with one side only it is refused."""
    return torch.ones(number, dtype=torch.float32, device=device)
