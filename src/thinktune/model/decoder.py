"""The decoder: Llama, Qwen2 and Qwen3 in one file, with the Hub's parameter names.

Tokens come packed: T of them in one dimension, whatever documents or rows they belong to.
Who may see whom is not decided here but by ``attend``, which training, prefill and decoding
each bring.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from thinktune.model.base_weights import BaseLinear
from thinktune.model.shape import DecoderShape
from thinktune.ops.attention import packed_attention
from thinktune.ops.rms_norm import rms_norm
from thinktune.ops.rope import inverse_frequencies, rope, rope_tables
from thinktune.ops.swiglu import swiglu

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""(layer, q_TNH, k_TKH, v_TKH) -> out_TNH."""

Rotation = tuple[Tensor, Tensor]
"""Cosine and sine of every token's position, (T, H) each."""


def attend_within(lengths: Sequence[int], prefix_length: int = 0) -> Attend:
    """Attention of a packed row: each document sees itself alone, and the prefix all share."""

    def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return packed_attention(q, k, v, lengths, prefix_length)

    return attend


class RMSNorm(nn.Module):
    """A frozen normalisation weight."""

    def __init__(self, width: int, eps: float) -> None:
        """Make room for ``width`` weights."""
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width), requires_grad=False)
        self.eps = eps

    def forward(self, x: Float[Tensor, "*S D"]) -> Float[Tensor, "*S D"]:
        """Normalise the last dimension."""
        return rms_norm(x, self.weight, self.eps)


class Attention(nn.Module):
    """Grouped-query attention with rotary positions."""

    def __init__(self, shape: DecoderShape, layer: int) -> None:
        """Make room for the projections of one layer."""
        super().__init__()
        self.layer, self.head_dim = layer, shape.head_dim
        q_width = shape.num_attention_heads * shape.head_dim
        kv_width = shape.num_key_value_heads * shape.head_dim
        self.q_proj = BaseLinear(shape.hidden_size, q_width, shape.qkv_bias)
        self.k_proj = BaseLinear(shape.hidden_size, kv_width, shape.qkv_bias)
        self.v_proj = BaseLinear(shape.hidden_size, kv_width, shape.qkv_bias)
        self.o_proj = BaseLinear(q_width, shape.hidden_size, shape.o_bias)
        norm = partial(RMSNorm, shape.head_dim, shape.rms_norm_eps)
        self.q_norm = norm() if shape.qk_norm else nn.Identity()
        self.k_norm = norm() if shape.qk_norm else nn.Identity()

    def forward(
        self, x_TD: Float[Tensor, "T D"], rotation: Rotation, attend: Attend
    ) -> Float[Tensor, "T D"]:
        """Project, rotate, attend, project back."""
        q_TNH = self.q_norm(self.q_proj(x_TD).unflatten(-1, (-1, self.head_dim)))
        k_TKH = self.k_norm(self.k_proj(x_TD).unflatten(-1, (-1, self.head_dim)))
        v_TKH = self.v_proj(x_TD).unflatten(-1, (-1, self.head_dim))
        out_TNH = attend(self.layer, rope(q_TNH, *rotation), rope(k_TKH, *rotation), v_TKH)
        return self.o_proj(out_TNH.flatten(1))


class MLP(nn.Module):
    """The gated feed-forward block."""

    def __init__(self, shape: DecoderShape) -> None:
        """Make room for the projections of one layer."""
        super().__init__()
        self.gate_proj = BaseLinear(shape.hidden_size, shape.intermediate_size, shape.mlp_bias)
        self.up_proj = BaseLinear(shape.hidden_size, shape.intermediate_size, shape.mlp_bias)
        self.down_proj = BaseLinear(shape.intermediate_size, shape.hidden_size, shape.mlp_bias)

    def forward(self, x_TD: Float[Tensor, "T D"]) -> Float[Tensor, "T D"]:
        """Widen, gate, narrow."""
        return self.down_proj(swiglu(self.gate_proj(x_TD), self.up_proj(x_TD)))


class Layer(nn.Module):
    """One decoder layer: attention and feed-forward, each added to the residual stream."""

    def __init__(self, shape: DecoderShape, layer: int) -> None:
        """Make room for one layer's weights."""
        super().__init__()
        self.self_attn = Attention(shape, layer)
        self.mlp = MLP(shape)
        self.input_layernorm = RMSNorm(shape.hidden_size, shape.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(shape.hidden_size, shape.rms_norm_eps)

    def forward(
        self, x_TD: Float[Tensor, "T D"], rotation: Rotation, attend: Attend
    ) -> Float[Tensor, "T D"]:
        """Update the residual stream."""
        x_TD = x_TD + self.self_attn(self.input_layernorm(x_TD), rotation, attend)
        return x_TD + self.mlp(self.post_attention_layernorm(x_TD))


class DecoderBody(nn.Module):
    """Everything below the head; named ``model`` on the Hub."""

    def __init__(self, shape: DecoderShape) -> None:
        """Make room for embeddings, layers and the last norm."""
        super().__init__()
        self.embed_tokens = nn.Embedding(shape.vocab_size, shape.hidden_size)
        self.layers = nn.ModuleList(Layer(shape, layer) for layer in range(shape.num_hidden_layers))
        self.norm = RMSNorm(shape.hidden_size, shape.rms_norm_eps)


class Decoder(nn.Module):
    """A frozen base model whose linear layers can carry an adapter.

    Build it through `thinktune.model.checkpoint_io.load_decoder`, which fills the weights.
    """

    def __init__(self, shape: DecoderShape) -> None:
        """Make room for the weights; nothing has a value yet."""
        super().__init__()
        self.shape = shape
        self.model = DecoderBody(shape)
        self.lm_head = BaseLinear(shape.hidden_size, shape.vocab_size, bias=False)
        if shape.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight
        self.requires_grad_(False)
        self._frequencies: Tensor | None = None

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.norm.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Type of the base weights and of the residual stream."""
        return self.model.norm.weight.dtype

    def forward(
        self, tokens_T: Int[Tensor, " T"], positions_T: Int[Tensor, " T"], attend: Attend
    ) -> Float[Tensor, "T D"]:
        """Hidden states after the last norm, ready for the head.

        Args:
            tokens_T: token ids, documents one after the other.
            positions_T: each token's place in its own document.
            attend: how the tokens see each other, such as `attend_within`.
        """
        scaling = self.shape.rope_scaling
        if self._frequencies is None or self._frequencies.device != self.device:
            frequencies = inverse_frequencies(self.shape.head_dim, self.shape.rope_theta, scaling)
            self._frequencies = frequencies.to(self.device)
        factor = 1.0 if scaling is None else scaling.attention_factor
        rotation = rope_tables(positions_T, self._frequencies, self.dtype, factor)
        x_TD = self.model.embed_tokens(tokens_T)
        for layer in self.model.layers:
            x_TD = layer(x_TD, rotation, attend)
        return self.model.norm(x_TD)

    def logits(self, hidden_CD: Float[Tensor, "C D"]) -> Float[Tensor, "C V"]:
        """Scores of the next token for the given states; never call it on a whole sequence."""
        return F.linear(hidden_CD, self.lm_head.weight)
