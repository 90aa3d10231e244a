"""The decoder in plain, differentiable PyTorch: what the hand-written layer is tested against.

It reads the weights and the adapter of a decoder and nothing else of it; every operation is the
one of `thinktune.ops.reference`, each layer of the adapter on its own.
"""

import torch
from torch import Tensor

from thinktune.model.base_weights import BaseLinear
from thinktune.model.decoder import Decoder
from thinktune.model.layer import Layer
from thinktune.ops import reference
from thinktune.ops.rope import inverse_frequencies


def plain_hidden(decoder: Decoder, documents: list[Tensor]) -> Tensor:
    """Hidden states of packed documents, part of a graph that reaches every adapter matrix."""
    shape, body = decoder.shape, decoder.model
    lengths = [len(document) for document in documents]
    positions = torch.cat([torch.arange(n, device=decoder.device) for n in lengths])
    frequencies = inverse_frequencies(shape.head_dim, shape.rope_theta, shape.rope_scaling)
    angles = positions[:, None].float() * frequencies.to(decoder.device)
    factor = shape.rope_scaling.attention_factor if shape.rope_scaling else 1.0
    wide = torch.cat((angles, angles), -1)
    tables = [(table * factor).to(decoder.dtype) for table in (wide.cos(), wide.sin())]
    x = body.embed_tokens(torch.cat(documents))
    for layer in body.layers:
        assert isinstance(layer, Layer)
        x = x + _attention(layer, _norm(layer.input_layernorm, x), tables, lengths)
        h = _norm(layer.post_attention_layernorm, x)
        mlp = layer.mlp
        x = x + _linear(
            mlp.down_proj, reference.swiglu(_linear(mlp.gate_proj, h), _linear(mlp.up_proj, h))
        )
    return _norm(body.norm, x)


def plain_logits(decoder: Decoder, documents: list[Tensor]) -> Tensor:
    """Logits at every token."""
    return plain_hidden(decoder, documents) @ decoder.lm_head.weight.T


def _attention(layer: Layer, h: Tensor, tables: list[Tensor], lengths: list[int]) -> Tensor:
    part, width = layer.self_attn, layer.heads.width
    q, k, v = (
        _linear(linear, h).unflatten(1, (-1, width))
        for linear in (part.q_proj, part.k_proj, part.v_proj)
    )
    if part.q_norm is not None and part.k_norm is not None:
        q, k = _norm(part.q_norm, q), _norm(part.k_norm, k)
    q, k = reference.rope(q, *tables), reference.rope(k, *tables)
    return _linear(part.o_proj, reference.packed_attention(q, k, v, lengths).flatten(1))


def _norm(norm: torch.nn.Module, x: Tensor) -> Tensor:
    return reference.rms_norm(x, norm.weight, norm.eps)


def _linear(layer: BaseLinear, x: Tensor) -> Tensor:
    if layer.lora_A is None or layer.lora_B is None:
        return torch.nn.functional.linear(x, layer.weight, layer.bias)
    return reference.lora_linear(
        x, layer.weight, layer.bias, layer.lora_A, layer.lora_B, layer.scale
    )
