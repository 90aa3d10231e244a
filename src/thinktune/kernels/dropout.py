"""A dropout mask that is computed again from its seed wherever it is needed."""

# pyright: reportInvalidTypeForm=false
from __future__ import annotations

from torch import Tensor

from thinktune.kernels.language import jit, tl


@jit
def _drop(X: tl.tensor, OUT: tl.tensor, seed: tl.tensor, share: tl.tensor,
          size: tl.tensor, BLOCK: tl.constexpr):  # fmt: skip
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    kept = tl.rand(seed, at) >= share
    x = tl.load(X + at, mask=at < size, other=0.0).to(tl.float32)
    out = tl.where(kept, x / (1 - share), 0.0)
    tl.store(OUT + at, out.to(OUT.dtype.element_ty), mask=at < size)


def dropout(x: Tensor, share: float, seed: int, out: Tensor) -> None:
    """``out = x * mask / (1 - share)``; ``x`` is contiguous."""
    _drop[(-(-x.numel() // 1024),)](x, out, seed, share, x.numel(), BLOCK=1024)
