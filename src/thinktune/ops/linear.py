"""The product of some rows with a frozen weight, where no gradient is wanted."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

_FEW = 128
"""Rows up to which oneDNN is faster on a CPU than MKL; measured 1.3 to 1.9 times."""


def linear(
    x: Float[Tensor, "T in"], weight: Float[Tensor, "out in"], bias: Float[Tensor, " out"] | None
) -> Float[Tensor, "T out"]:
    """``x W^T + bias``; few rows in float32 on a CPU go through oneDNN, as the weight lies."""
    few = x.device.type == "cpu" and x.dtype == torch.float32 and len(x) <= _FEW
    wanted = torch.is_grad_enabled() and x.requires_grad
    if few and not wanted and torch.backends.mkldnn.is_available() and weight.is_contiguous():
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return F.linear(x, weight, bias)
