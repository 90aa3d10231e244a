"""The NF4 kernels run step by step on the CPU, against the plain paths.

usage: TRITON_INTERPRET=1 python -m tests.interpreted_nf4

Prints a line a check. In float32 and float16: the interpreter cuts bfloat16 instead of rounding.
"""

import sys
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from thinktune.kernels.language import INTERPRETED, runs_fused
from thinktune.ops.nf4 import FEW, NF4Weight, dequantize_nf4, nf4_linear, quantize_nf4

SHAPES = ((1, 1), (3, 5), (64, 64), (48, 67), (33, 128), (17, 192))

LINEAR = ((1, 1, 4096), (1, 33, 128), (3, 70, 640), (FEW, 32, 1024), (FEW + 1, 5, 128), (2, 5, 64))
"""Split sums, one row, rows and columns beyond a tile, and what no kernel takes."""


def _weight(rows: int, columns: int) -> Tensor:
    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(rows)) * 0.02
    weight[rows // 2] = 0
    return weight


def _parts(weight: NF4Weight) -> list[Tensor]:
    return [weight.codes, weight.absmax, weight.nested_absmax, weight.offset]


def _quantize(rows: int, columns: int, dtype: torch.dtype) -> bool:
    weight = _weight(rows, columns).to(dtype)
    plain = quantize_nf4(weight.double())  # no kernel takes 64 bits
    return all(map(torch.equal, _parts(quantize_nf4(weight)), _parts(plain)))


def _dequantize(rows: int, columns: int, dtype: torch.dtype) -> bool:
    weight = quantize_nf4(_weight(rows, columns).double())
    plain = torch.empty(rows, columns, dtype=torch.float64)
    dequantize_nf4(weight, plain)
    wide = torch.full((rows, columns + 7), 9.0, dtype=dtype)
    dequantize_nf4(weight, wide[:, :columns])
    return torch.equal(wide[:, :columns], plain.to(dtype)) and bool((wide[:, columns:] == 9).all())


def _linear(tokens: int, rows: int, columns: int) -> bool:
    """Not to the bit: the sum is in another order. Columns as large as their number tell them."""
    weight = quantize_nf4(_weight(rows, columns).double())
    x = torch.randn(tokens, columns, generator=torch.Generator().manual_seed(1))
    x *= torch.arange(columns) / columns
    true = nf4_linear(x.double(), weight)
    out = torch.empty(tokens, rows)
    assert nf4_linear(x, weight, out) is out
    return bool((out - true).norm() <= 1e-6 * true.norm())  # measured 2e-7


CHECKS: dict[str, Callable[[], bool]] = {
    f"{check.__name__[1:]} {rows} x {columns} in {dtype}": partial(check, rows, columns, dtype)
    for check in (_quantize, _dequantize)
    for rows, columns in SHAPES
    for dtype in (torch.float32, torch.float16)
} | {
    f"linear of {tokens} by {rows} x {columns}": partial(_linear, tokens, rows, columns)
    for tokens, rows, columns in LINEAR
}


def main() -> None:
    """Run every check and print what came of it."""
    if not (INTERPRETED and runs_fused(torch.ones(1))):
        sys.exit("set TRITON_INTERPRET=1, and install triton")
    for name, check in CHECKS.items():
        print(f"{name}: {'equal' if check() else 'not equal'}")


if __name__ == "__main__":
    main()
