"""A dropout mask that is computed again from its seed wherever it is needed."""

# pyright: reportInvalidTypeForm=false
from __future__ import annotations

from torch import Tensor

from thinktune.kernels.language import jit, tl


@jit
def _drop(X: tl.tensor, OUT: tl.tensor, seed: tl.tensor, share: tl.tensor,
          size: tl.tensor, BLOCK: tl.constexpr, AROUND: tl.constexpr):  # fmt: skip
    # Counters have 32 bits; past them the seed is another.
    block, around = tl.program_id(0) % AROUND, tl.program_id(0) // AROUND
    kept = tl.rand(seed + around * 1_000_003, block * BLOCK + tl.arange(0, BLOCK)) >= share
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(X + at, mask=at < size, other=0.0).to(tl.float32)
    out = tl.where(kept, x / (1 - share), 0.0)
    tl.store(OUT + at, out.to(OUT.dtype.element_ty), mask=at < size)


def dropout(x: Tensor, share: float, seed: int, out: Tensor) -> None:
    """``out = x * mask / (1 - share)``; ``x`` is contiguous."""
    blocks = -(-x.numel() // 1024)
    _drop[(blocks,)](x, out, seed, share, x.numel(), BLOCK=1024, AROUND=2**31 // 1024)
