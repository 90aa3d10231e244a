"""Negative log-likelihood of each row of logits, and the logits' gradient in their place."""

# pyright: reportInvalidTypeForm=false
from __future__ import annotations

from torch import Tensor

from thinktune.kernels.language import jit, power_of_two, tl


@jit
def _rows(LOGITS: tl.tensor, TARGETS: tl.tensor, WEIGHTS: tl.tensor,
          NLL: tl.tensor, V: tl.constexpr, HAS_GRAD: tl.constexpr,
          BLOCK_V: tl.constexpr):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    logits = LOGITS + row * V
    target = tl.load(TARGETS + row)
    at_target = tl.load(logits + target).to(tl.float32)
    highest = tl.full([BLOCK_V], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_V], dtype=tl.float32)
    for start in range(0, V, BLOCK_V):  # each lane keeps its own running maximum and sum
        cols = start + tl.arange(0, BLOCK_V)
        x = tl.load(logits + cols, mask=cols < V, other=float("-inf")).to(tl.float32)
        higher = tl.maximum(highest, x)
        # A lane that has seen nothing but -inf keeps a sum of zero.
        safe = tl.where(higher == float("-inf"), 0.0, higher)
        total = total * tl.exp(highest - safe) + tl.exp(x - safe)
        highest = higher
    peak = tl.max(highest, axis=0)
    total = tl.sum(total * tl.exp(highest - peak), axis=0)
    tl.store(NLL + row, tl.log(total) + peak - at_target)
    if HAS_GRAD:
        weight = tl.load(WEIGHTS + row)
        tl.debug_barrier()
        for start in range(0, V, BLOCK_V):
            cols = start + tl.arange(0, BLOCK_V)
            x = tl.load(logits + cols, mask=cols < V, other=float("-inf")).to(tl.float32)
            share = tl.exp(x - peak) / total
            grad = weight * (share - tl.where(cols == target, 1.0, 0.0))
            tl.store(logits + cols, grad.to(LOGITS.dtype.element_ty), mask=cols < V)


def cross_entropy(
    logits: Tensor, targets: Tensor, weights: Tensor, nll: Tensor, *, wants_grad: bool
) -> None:
    """Fill ``nll``; with ``wants_grad`` the gradient of ``sum(weights * nll)`` replaces logits."""
    rows, vocabulary = logits.shape
    block = min(4096, power_of_two(vocabulary))
    _rows[(rows,)](
        logits, targets, weights, nll, V=vocabulary, HAS_GRAD=wants_grad, BLOCK_V=block,
        num_warps=8 if block == 4096 else 4,
    )  # fmt: skip
