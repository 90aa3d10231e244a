"""Loss from hidden states, without the logits of more than one chunk ever in memory."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_CD: Tensor,
        weight_VD: Tensor,
        targets_C: Tensor,
        weights_C: Tensor,
        chunk_tokens: int,
    ) -> tuple[Tensor, Tensor]:
        """Compute, and keep what backward needs."""
        wants_grad = ctx.needs_input_grad[0]
        grad_CD = torch.empty_like(hidden_CD) if wants_grad else None
        wide = torch.promote_types(hidden_CD.dtype, torch.float32)
        nll_C = hidden_CD.new_empty(targets_C.shape, dtype=wide)
        for start in range(0, len(targets_C), chunk_tokens):
            part = slice(start, start + chunk_tokens)
            logits = F.linear(hidden_CD[part], weight_VD).to(wide)
            targets = targets_C[part, None]
            highest = logits.amax(-1, keepdim=True)
            at_target = logits.gather(1, targets) - highest
            total = logits.sub_(highest).exp_().sum(-1, keepdim=True)
            nll_C[part] = (total.log() - at_target).squeeze(1)
            if grad_CD is not None:
                weights = weights_C[part, None].to(wide)
                logits.mul_(weights / total)  # now the weighted probabilities
                logits.scatter_add_(1, targets, -weights)
                torch.mm(logits.to(weight_VD.dtype), weight_VD, out=grad_CD[part])
        ctx.save_for_backward(grad_CD)
        ctx.mark_non_differentiable(nll_C)
        return (nll_C * weights_C).sum(), nll_C

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of what needs one."""
        (grad_CD,) = ctx.saved_tensors
        return grad_CD * grads[0], None, None, None, None


def linear_cross_entropy(
    hidden_CD: Float[Tensor, "C D"],
    weight_VD: Float[Tensor, "V D"],
    targets_C: Int[Tensor, " C"],
    weights_C: Float[Tensor, " C"],
    *,
    chunk_tokens: int = 256,
) -> tuple[Float[Tensor, ""], Float[Tensor, " C"]]:
    """Weighted sum of each target's negative log-likelihood, and the unweighted ones (nats).

    The gradient is made in the forward pass, chunk by chunk, while the logits are at hand;
    the head is frozen and gets none. Extra memory: ``chunk_tokens`` x V in float32.

    Args:
        hidden_CD: hidden states that predict a target; leave all others out.
        weight_VD: the language-model head.
        targets_C: the token each state must predict.
        weights_C: what each target counts in the sum (segment weight / total of the step).
        chunk_tokens: rows whose logits exist at the same time.
    """
    return _LinearCrossEntropy.apply(hidden_CD, weight_VD, targets_C, weights_C, chunk_tokens)
