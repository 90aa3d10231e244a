"""Rows of an embedding that lies in pinned host memory, read from there by the GPU itself."""

# pyright: reportInvalidTypeForm=false
from __future__ import annotations

from torch import Tensor

from thinktune.kernels.language import jit, power_of_two, tl


@jit
def _gather(WEIGHT: tl.tensor, TOKENS: tl.tensor, OUT: tl.tensor, D: tl.constexpr,
            BLOCK_D: tl.constexpr):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    cols = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    token = tl.load(TOKENS + row).to(tl.int64)
    x = tl.load(WEIGHT + token * D + cols, mask=cols < D, other=0.0)
    tl.store(OUT + row * D + cols, x.to(OUT.dtype.element_ty), mask=cols < D)


def gather(weight: Tensor, tokens: Tensor, out: Tensor) -> None:
    """``out = weight[tokens]`` in ``out``'s type; nobody waits for the device.

    Args:
        weight: (V, D), in pinned host memory or on the device.
        tokens: (T,), on the device.
        out: (T, D), on the device.
    """
    width = weight.shape[1]
    block = min(1024, power_of_two(width))
    _gather[(len(tokens), -(-width // block))](weight, tokens, out, D=width, BLOCK_D=block)
