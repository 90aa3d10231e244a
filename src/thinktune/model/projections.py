"""The weights of a decoder layer, under the Hub's names."""

from functools import partial

import torch
from torch import nn

from thinktune.model.base_weights import BaseLinear
from thinktune.model.shape import DecoderShape


class RMSNorm(nn.Module):
    """A frozen normalisation weight."""

    def __init__(self, width: int, eps: float) -> None:
        """Make room for ``width`` weights."""
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width), requires_grad=False)
        self.eps = eps


class Attention(nn.Module):
    """The projections of grouped-query attention."""

    def __init__(self, shape: DecoderShape) -> None:
        """Make room for the weights of one layer."""
        super().__init__()
        q_width = shape.num_attention_heads * shape.head_dim
        kv_width = shape.num_key_value_heads * shape.head_dim
        self.q_proj = BaseLinear(shape.hidden_size, q_width, shape.qkv_bias)
        self.k_proj = BaseLinear(shape.hidden_size, kv_width, shape.qkv_bias)
        self.v_proj = BaseLinear(shape.hidden_size, kv_width, shape.qkv_bias)
        self.o_proj = BaseLinear(q_width, shape.hidden_size, shape.o_bias)
        norm = partial(RMSNorm, shape.head_dim, shape.rms_norm_eps)
        self.q_norm = norm() if shape.qk_norm else None
        self.k_norm = norm() if shape.qk_norm else None


class MLP(nn.Module):
    """The projections of the gated feed-forward block."""

    def __init__(self, shape: DecoderShape) -> None:
        """Make room for the weights of one layer."""
        super().__init__()
        self.gate_proj = BaseLinear(shape.hidden_size, shape.intermediate_size, shape.mlp_bias)
        self.up_proj = BaseLinear(shape.hidden_size, shape.intermediate_size, shape.mlp_bias)
        self.down_proj = BaseLinear(shape.intermediate_size, shape.hidden_size, shape.mlp_bias)
