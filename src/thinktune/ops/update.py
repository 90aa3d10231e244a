"""A low-rank product that is still to be added to a base product, and how it is added."""

from typing import NamedTuple

import torch
from torch import Tensor

from thinktune.kernels import dropout as kernel
from thinktune.kernels.language import runs_fused


class Update(NamedTuple):
    """``left @ right^T``, one block for each of the layers that stand side by side.

    A fused kernel adds it while it passes over the base product for another reason, so that
    the adapter costs no pass of its own (arXiv:2106.09685 has the mathematics).
    """

    left: Tensor
    """(T, M R): ``x A^T`` of M adapted layers."""
    right: Tensor
    """(N, M R): their B, scaled, block-diagonal."""
    columns: tuple[int | None, ...]
    """Where the block of each layer begins; None for a layer without an adapter."""
    widths: tuple[int, ...]
    """Output width of each layer; they sum to N."""
    rank: int


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
