"""Loss from hidden states, without the logits of more than one chunk ever in memory."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from thinktune.kernels import cross_entropy as kernel
from thinktune.kernels.language import runs_fused

_CHUNK_BYTES = 2**29
"""Room for the logits of one chunk on a device with fused kernels."""
_FP16_LIFT = 2.0**10
"""Factor of the logits' gradient in fp16, and of the product made from it. fp16 rounds what is
below 6e-5, but most of a vocabulary of 150,000 has less probability; it overflows only where a
weight of the head, times a target's, is above 30."""


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
        fused = runs_fused(hidden_CD)
        ctx.lift = _FP16_LIFT if hidden_CD.dtype == torch.float16 else 1.0
        lifted_C = weights_C if ctx.lift == 1.0 else weights_C * ctx.lift
        for start in range(0, len(targets_C), chunk_tokens):
            part = slice(start, start + chunk_tokens)
            if fused:
                logits = F.linear(hidden_CD[part], weight_VD)
                weights = lifted_C[part]
                kernel.cross_entropy(
                    logits, targets_C[part], weights, nll_C[part], wants_grad=wants_grad
                )
                if grad_CD is not None:
                    torch.mm(logits, weight_VD, out=grad_CD[part])
                del logits  # or the next chunk's stand beside them
                continue
            logits = F.linear(hidden_CD[part], weight_VD).to(wide)
            targets = targets_C[part, None]
            highest = logits.amax(-1, keepdim=True)
            at_target = logits.gather(1, targets) - highest
            total = logits.sub_(highest).exp_().sum(-1, keepdim=True)
            nll_C[part] = (total.log() - at_target).squeeze(1)
            if grad_CD is not None:
                weights = lifted_C[part, None].to(wide)
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
        return grad_CD.mul_(grads[0] / ctx.lift), None, None, None, None


def chunk_of(vocabulary: int, dtype: torch.dtype, device: torch.device) -> int:
    """Rows whose logits exist at the same time: few on a CPU, to stay in its caches."""
    if device.type == "cpu":
        return 256
    rows = _CHUNK_BYTES // (vocabulary * dtype.itemsize)
    return max(256, 1 << max(rows, 1).bit_length() - 1)


def linear_cross_entropy(
    hidden_CD: Float[Tensor, "C D"],
    weight_VD: Float[Tensor, "V D"],
    targets_C: Int[Tensor, " C"],
    weights_C: Float[Tensor, " C"],
    *,
    chunk_tokens: int | None = None,
) -> tuple[Float[Tensor, ""], Float[Tensor, " C"]]:
    """Weighted sum of each target's negative log-likelihood, and the unweighted ones (nats).

    The gradient is made in the forward pass, chunk by chunk, while the logits are at hand;
    the head is frozen and gets none. Extra memory: ``chunk_tokens`` x V, in float32 off the GPU.

    Args:
        hidden_CD: hidden states that predict a target; leave all others out.
        weight_VD: the language-model head.
        targets_C: the token each state must predict.
        weights_C: what each target counts in the sum (segment weight / total of the step).
        chunk_tokens: rows whose logits exist at the same time; None for what `chunk_of` says.
    """
    if chunk_tokens is None:
        chunk_tokens = chunk_of(len(weight_VD), hidden_CD.dtype, hidden_CD.device)
    return _LinearCrossEntropy.apply(hidden_CD, weight_VD, targets_C, weights_C, chunk_tokens)
