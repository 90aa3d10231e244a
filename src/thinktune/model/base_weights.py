"""A frozen linear layer of the base model, and the place its adapter stands in."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from thinktune.ops.lora_linear import lora_linear


class BaseLinear(nn.Module):
    """``x W^T + bias``, plus ``scale (x A^T) B^T`` once an adapter is attached.

    The base weight never gets a gradient. ``lora_A`` and ``lora_B`` are None until
    `thinktune.model.lora.attach` puts them there.
    """

    weight: Tensor
    bias: Tensor | None
    lora_A: nn.Parameter | None
    lora_B: nn.Parameter | None

    def __init__(self, in_features: int, out_features: int, bias: bool) -> None:
        """Make room for the weight; its values come from a checkpoint."""
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_features, in_features), requires_grad=False)
        self.bias = nn.Parameter(torch.empty(out_features), requires_grad=False) if bias else None
        self.register_parameter("lora_A", None)
        self.register_parameter("lora_B", None)
        self.scale = 0.0
        self.dropout = 0.0

    def forward(self, x: Float[Tensor, "T in"]) -> Float[Tensor, "T out"]:
        """Apply the layer to each row; scale 0 is exactly the base model."""
        if self.lora_A is None or self.lora_B is None or self.scale == 0.0:
            return F.linear(x, self.weight, self.bias)
        dropped = F.dropout(x, self.dropout) if self.dropout and self.training else None
        return lora_linear(x, self.weight, self.bias, self.lora_A, self.lora_B, self.scale, dropped)
