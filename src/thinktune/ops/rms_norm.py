"""Root-mean-square normalisation, and the residual additions that stand before it.

Normalised rows have the weight's type. That of the residual stream may be wider: where products
are made in fp16, whose largest number is 65504, the stream is in float32 (`Decoder.stream_dtype`).
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from thinktune.kernels import norm as kernel
from thinktune.kernels.language import runs_fused
from thinktune.ops.update import Update, add_in_place


def rms_norm_forward(
    x_TD: Float[Tensor, "T D"], weight: Float[Tensor, " D"], eps: float
) -> tuple[Float[Tensor, "T D"], Float[Tensor, " T"]]:
    """Each row at unit root mean square, times ``weight`` (arXiv:1910.07467).

    Returns:
        The normalised rows, and one over each row's root mean square, in float32 at least.
    """
    if runs_fused(x_TD):
        h_TD, rrms_T = torch.empty_like(x_TD, dtype=weight.dtype), _statistic(x_TD)
        kernel.norm(x_TD, weight, h_TD, rrms_T, eps)
        return h_TD, rrms_T
    wide = x_TD.to(torch.promote_types(x_TD.dtype, torch.float32))
    rrms = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
    rrms = rrms.square_().div_(x_TD.shape[-1]).add_(eps).rsqrt_()
    return (wide * rrms).to(weight.dtype).mul_(weight), rrms.squeeze(1)


def rms_norm_again(
    x_TD: Float[Tensor, "T D"], weight: Float[Tensor, " D"], rrms_T: Float[Tensor, " T"]
) -> Float[Tensor, "T D"]:
    """The normalised rows once more, bit for bit, from what the forward pass measured."""
    if runs_fused(x_TD):
        h_TD = torch.empty_like(x_TD, dtype=weight.dtype)
        kernel.norm(x_TD, weight, h_TD, rrms_T, 0.0, has_rrms=True)
        return h_TD
    return (x_TD.to(rrms_T.dtype) * rrms_T[:, None]).to(weight.dtype).mul_(weight)


def add_rms_norm(
    x_TD: Float[Tensor, "T D"],
    base_TD: Float[Tensor, "T D"],
    update: Update | None,
    weight: Float[Tensor, " D"],
    eps: float,
) -> tuple[Float[Tensor, "T D"], Float[Tensor, "T D"], Float[Tensor, " T"]]:
    """``out = x + base + update``, as `residual_add` makes it, and its norm.

    Returns:
        ``out``, its normalised rows, and one over each row's root mean square.
    """
    if runs_fused(x_TD):
        # Two passes of which each holds its rows whole; one that adds the update in tiles would
        # have to read them again for the norm, and was as fast.
        if update is not None:
            add_in_place(base_TD, update)
        out_TD = _room_for_sum(x_TD, base_TD)
        h_TD, rrms_T = torch.empty_like(base_TD, dtype=weight.dtype), _statistic(x_TD)
        kernel.add_and_norm(x_TD, base_TD, out_TD, weight, h_TD, rrms_T, eps)
        return out_TD, h_TD, rrms_T
    out_TD = residual_add(x_TD, base_TD, update)
    return out_TD, *rms_norm_forward(out_TD, weight, eps)


def residual_add(
    x_TD: Float[Tensor, "T D"], base_TD: Float[Tensor, "T D"], update: Update | None
) -> Float[Tensor, "T D"]:
    """``x + base + update`` in the type of ``x``; in place of ``base``, if that can hold it."""
    out_TD = _room_for_sum(x_TD, base_TD)
    if update is not None and runs_fused(x_TD):
        kernel.add(x_TD, base_TD, (update.left, update.right), out_TD)
        return out_TD
    if update is not None:
        add_in_place(base_TD, update)
    return torch.add(base_TD, x_TD, out=out_TD)


def _room_for_sum(x_TD: Tensor, base_TD: Tensor) -> Tensor:
    return base_TD if base_TD.dtype == x_TD.dtype else torch.empty_like(x_TD)


def rms_norm_backward(
    grad_TD: Float[Tensor, "T D"],
    update: tuple[Tensor, Tensor] | None,
    x_TD: Float[Tensor, "T D"],
    weight: Float[Tensor, " D"],
    rrms_T: Float[Tensor, " T"],
    residual_TD: Float[Tensor, "T D"],
) -> tuple[Float[Tensor, "T D"], Float[Tensor, "T D"]]:
    """Gradient through the norm, added to the residual's, in place of the latter.

    Args:
        grad_TD: gradient of the normalised rows; overwritten.
        update: low-rank part of it that is still to be added, (T, R) @ (R, D).
        x_TD: what was normalised.
        weight: frozen; gets no gradient.
        rrms_T: from the forward pass.
        residual_TD: gradient that reaches ``x`` past the norm; overwritten.

    Returns:
        The gradient of ``x``, and the normalised rows once more.
    """
    if update is not None:
        grad_TD.addmm_(*update)
    if runs_fused(x_TD):
        kernel.norm_backward(grad_TD, x_TD, weight, rrms_T, residual_TD)
        return residual_TD, grad_TD
    rrms = rrms_T[:, None]
    scaled = (grad_TD * weight).to(rrms.dtype)
    unit = x_TD.to(rrms.dtype) * rrms
    along = (scaled * unit).mean(-1, keepdim=True)
    grad_x = scaled.addcmul_(unit, along, value=-1).mul_(rrms).to(x_TD.dtype)
    return residual_TD.add_(grad_x), unit.to(weight.dtype).mul_(weight)


def _statistic(x_TD: Tensor) -> Tensor:
    return torch.empty(len(x_TD), dtype=torch.float32, device=x_TD.device)


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """Compute, and keep what backward needs."""
        h, rrms = rms_norm_forward(x, weight, eps)
        ctx.save_for_backward(x, weight, rrms)
        return h

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        """Gradients of what needs one."""
        x, weight, rrms = ctx.saved_tensors
        grad_x, _ = rms_norm_backward(grads[0].clone(), None, x, weight, rrms, torch.zeros_like(x))
        return grad_x, None, None


def rms_norm(
    x_TD: Float[Tensor, "T D"], weight: Float[Tensor, " D"], eps: float
) -> Float[Tensor, "T D"]:
    """`rms_norm_forward` with a gradient; keeps its input and one number a row for backward."""
    return _RMSNorm.apply(x_TD, weight, eps)
