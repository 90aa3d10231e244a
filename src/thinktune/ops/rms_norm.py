"""Root-mean-square normalisation that keeps its input and one number a row for backward."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """Compute, and keep what backward needs."""
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        rrms = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
        rrms = rrms.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, rrms)
        return (wide * rrms).to(x.dtype).mul_(weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        """Gradients of what needs one."""
        x, weight, rrms = ctx.saved_tensors
        scaled = (grads[0] * weight).to(rrms.dtype)
        unit = x.to(rrms.dtype) * rrms
        along = (scaled * unit).mean(-1, keepdim=True)
        return scaled.addcmul_(unit, along, value=-1).mul_(rrms).to(x.dtype), None, None


def rms_norm(
    x: Float[Tensor, "*S D"], weight: Float[Tensor, " D"], eps: float
) -> Float[Tensor, "*S D"]:
    """Scale each row to unit root mean square, then by ``weight`` (arXiv:1910.07467).

    ``weight`` is frozen and gets no gradient. Statistics are taken in float32 at least.
    """
    return _RMSNorm.apply(x, weight, eps)
