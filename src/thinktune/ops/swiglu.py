"""The gated activation of the feed-forward block; gate and up stand side by side."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from thinktune.kernels import swiglu as kernel
from thinktune.kernels.language import runs_fused
from thinktune.kernels.low_rank import can_add_up
from thinktune.ops.update import GradA, GradB, Update


def swiglu_forward(
    gate_up_TG: Float[Tensor, "T G"], update: Update | None = None
) -> Float[Tensor, "T F"]:
    """``silu(gate) * up`` (arXiv:2002.05202).

    Args:
        gate_up_TG: base products; left as they are.
        update: what is to be added to them first. Only a device with fused kernels is given
            one (`LinearStack.project` sees to it).
    """
    if runs_fused(gate_up_TG):
        tokens, both = gate_up_TG.shape
        out_TF = gate_up_TG.new_empty(tokens, both // 2)
        kernel.swiglu(gate_up_TG, *_parts(update), out_TF)
        return out_TF
    gate, up = gate_up_TG.chunk(2, dim=1)
    return F.silu(gate).mul_(up)


def swiglu_backward(
    grad_TF: Float[Tensor, "T F"],
    grad_update: tuple[Tensor, Tensor] | None,
    gate_up_TG: Float[Tensor, "T G"],
    update: Update | None = None,
    grad_a: GradA | None = None,
    grad_b: GradB | None = None,
) -> tuple[Float[Tensor, "T G"], Float[Tensor, "T F"] | None]:
    """Gradients in place of ``gate_up``, and the activation once more if it is still wanted.

    Args:
        grad_TF: gradient of the activation; overwritten.
        grad_update: low-rank part of it that is still to be added, (T, R) @ (R, F).
        gate_up_TG: base products; overwritten.
        update: as in the forward pass.
        grad_a: where the gradient of the A that saw the activation is added up; its left is that
            of ``grad_update``. None gives back the activation, in place of ``grad``.
        grad_b: where the gradients of gate's and up's B are added up.
    """
    if not runs_fused(grad_TF):
        if grad_update is not None:
            grad_TF.addmm_(*grad_update)
        act_TF = _plain_backward(grad_TF, gate_up_TG)
    else:
        rank = max(grad_b.rank if grad_b else 0, len(grad_a.total) if grad_a else 0)
        parts = _parts(update)
        if (grad_a or grad_b) and can_add_up(rank):
            totals = (grad_a and grad_a.total, *(grad_b.totals if grad_b else ()))
            both = gate_up_TG, *parts, grad_TF, grad_update, totals
            kernel.swiglu_backward_summed(*both)
            return gate_up_TG, None if grad_a else grad_TF
        kernel.swiglu_backward(gate_up_TG, *parts, grad_TF, grad_update)
        act_TF = grad_TF
    if grad_b is not None:
        grad_b.add(gate_up_TG)
    if grad_a is None:
        return gate_up_TG, act_TF
    grad_a.add(act_TF)
    return gate_up_TG, None


def _plain_backward(grad_TF: Tensor, gate_up_TG: Tensor) -> Tensor:
    gate, up = gate_up_TG.chunk(2, dim=1)
    silu = F.silu(gate)
    act_TF = silu * up
    grad_gate = torch.ops.aten.silu_backward(grad_TF * up, gate)
    torch.mul(grad_TF, silu, out=up)
    gate.copy_(grad_gate)
    return act_TF


def _parts(
    update: Update | None,
) -> tuple[tuple[Tensor, Tensor] | None, tuple[int | None, ...], int]:
    if update is None:
        return None, (None, None), 0
    return (update.left, update.right), update.columns, update.rank
