"""The product of some rows with a frozen weight."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

_FEW = range(4, 129)
"""Rows for which MKL is faster with the weight on the left; measured 1.2 to 1.7 times."""


def linear(
    x: Float[Tensor, "T in"], weight: Float[Tensor, "out in"], bias: Float[Tensor, " out"] | None
) -> Float[Tensor, "T out"]:
    """``x W^T + bias``; in inference mode on a CPU, few rows are computed as ``(W x^T)^T``.

    Training is left alone: it promises the same bits whatever its layers keep.
    """
    few = x.device.type == "cpu" and x.dtype == torch.float32 and len(x) in _FEW
    if few and torch.is_inference_mode_enabled():
        product = torch.mm(weight, x.t()).t().contiguous()
        return product if bias is None else product.add_(bias)
    return F.linear(x, weight, bias)
