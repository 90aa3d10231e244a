"""Low-rank products that are still to be added to a base product, and the adapter's gradients.

Both are made by kernels that pass over the same memory for another reason, so that the adapter
costs no pass of its own (arXiv:2106.09685 has the mathematics).
"""

from typing import NamedTuple

import torch
from torch import Tensor

from thinktune.kernels import dropout as kernel
from thinktune.kernels.language import runs_fused


class Update(NamedTuple):
    """``left @ right^T``, one block for each of the layers that stand side by side."""

    left: Tensor
    """(T, M R): ``x A^T`` of M adapted layers."""
    right: Tensor
    """(N, M R): their B, scaled, block-diagonal."""
    columns: tuple[int | None, ...]
    """Where the block of each layer begins; None for a layer without an adapter."""
    widths: tuple[int, ...]
    """Output width of each layer; they sum to N."""
    rank: int


class GradA(NamedTuple):
    """Where the gradient of an A is added up: ``total += left^T x``."""

    left: Tensor
    """(T, R): gradient of ``x A^T``."""
    total: Tensor
    """(R, N)."""

    def add(self, x: Tensor) -> None:
        """Add what ``x`` (T, N) comes to."""
        add_product(self.total, self.left, x)


class GradB(NamedTuple):
    """Where the gradients of side-by-side B are added up: ``total += grad^T right``."""

    right: Tensor
    """(T, M R): ``x A^T`` of M adapted layers."""
    totals: tuple[Tensor | None, ...]
    """(width, R) each; None for a layer without an adapter."""
    columns: tuple[int | None, ...]
    """Where the block of each layer begins in ``right``."""
    widths: tuple[int, ...]
    rank: int

    def add(self, grad: Tensor) -> None:
        """Add what the gradient of the layers' product (T, N) comes to."""
        first = 0
        for total, column, width in zip(self.totals, self.columns, self.widths, strict=True):
            if total is not None and column is not None:
                block = self.right[:, column : column + self.rank]
                add_product(total, grad[:, first : first + width], block)
            first += width


def add_product(total: Tensor, a_TM: Tensor, b_TN: Tensor) -> None:
    """``total += a^T b`` in ``total``'s type, not rounded to 16 bits where that can be avoided."""
    if a_TM.dtype == total.dtype:
        total.addmm_(a_TM.T, b_TN)
    elif a_TM.is_cuda:
        torch.ops.aten.addmm.dtype_out(total, a_TM.T, b_TN, total.dtype, out=total)
    else:
        total.add_(a_TM.T @ b_TN)


def add_in_place(y: Tensor, update: Update) -> None:
    """Add the update to ``y`` (T, N) at once."""
    first = 0
    for column, width in zip(update.columns, update.widths, strict=True):
        if column is not None:
            block = slice(column, column + update.rank)
            rows = slice(first, first + width)
            y[:, rows].addmm_(update.left[:, block], update.right[rows, block].T)
        first += width


def dropout(x: Tensor, share: float, seed: int) -> Tensor:
    """``x`` with a share of its values zeroed and the others scaled up; the seed is the mask.

    The same seed and shape give the same mask again, so none is kept for backward.
    """
    if runs_fused(x):
        x = x.contiguous()
        out = torch.empty_like(x)
        kernel.dropout(x, share, seed, out)
        return out
    generator = torch.Generator(x.device).manual_seed(seed)
    kept = torch.rand(x.shape, generator=generator, device=x.device) >= share
    return x * kept / (1 - share)
