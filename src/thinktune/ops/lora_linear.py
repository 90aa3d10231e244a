"""A frozen linear layer and its low-rank adapter as one operation."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


class _LoRALinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        lora_A: Tensor,
        lora_B: Tensor,
        scale: float,
        dropped: Tensor | None,
    ) -> Tensor:
        """Compute, and keep what backward needs."""
        seen = x if dropped is None else dropped
        A, B = lora_A.to(x.dtype), lora_B.to(x.dtype)
        S = F.linear(seen, A)
        out = F.linear(x, weight, bias).addmm_(S, B.T, alpha=scale)
        ctx.save_for_backward(seen, weight, A, B, S)
        ctx.scale, ctx.has_dropout = scale, dropped is not None
        ctx.types = lora_A.dtype, lora_B.dtype
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of what needs one."""
        seen, weight, A, B, S = ctx.saved_tensors
        grad = grads[0]
        grad_S = (grad @ B).mul_(ctx.scale)
        type_A, type_B = ctx.types
        grad_A = (grad_S.T @ seen).to(type_A)
        grad_B = (S.T @ grad).T.to(type_B).mul_(ctx.scale)
        grad_x = grad_dropped = None
        if ctx.needs_input_grad[0]:
            grad_x = grad @ weight
            if ctx.has_dropout:
                grad_dropped = grad_S @ A
            else:
                grad_x.addmm_(grad_S, A)
        return grad_x, None, None, grad_A, grad_B, None, grad_dropped


def lora_linear(
    x: Float[Tensor, "T in"],
    weight: Float[Tensor, "out in"],
    bias: Float[Tensor, " out"] | None,
    lora_A: Float[Tensor, "R in"],
    lora_B: Float[Tensor, "out R"],
    scale: float,
    dropped: Float[Tensor, "T in"] | None = None,
) -> Float[Tensor, "T out"]:
    """``x W^T + bias + scale (x A^T) B^T`` (arXiv:2106.09685), added in place.

    Keeps ``x`` and ``x A^T`` for backward; the frozen weight and bias get no gradient. The
    adapter may be float32 over a bf16 base: it is used in ``x``'s type, its gradients are
    returned in its own.

    Args:
        x: input rows.
        weight: frozen base weight.
        bias: frozen base bias.
        lora_A: first adapter matrix.
        lora_B: second adapter matrix.
        scale: alpha / rank.
        dropped: ``x`` after dropout, which only the adapter sees; None for no dropout.
    """
    return _LoRALinear.apply(x, weight, bias, lora_A, lora_B, scale, dropped)
