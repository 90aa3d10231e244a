"""Rotary position embedding: the tables, and the turning of query and key in their buffer."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from thinktune.kernels import rope as kernel
from thinktune.kernels.language import runs_fused
from thinktune.kernels.low_rank import can_add_up
from thinktune.ops.rms_norm import rms_norm_backward, rms_norm_forward
from thinktune.ops.update import GradB, Update


@dataclass(frozen=True, slots=True)
class Llama3Scaling:
    """Llama 3's stretching of long wavelengths (``rope_type: llama3`` on the Hub)."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int
    attention_factor: float = 1.0


@dataclass(frozen=True, slots=True)
class YarnScaling:
    """YaRN's stretching by parts (arXiv:2309.00071; ``rope_type: yarn``)."""

    factor: float
    original_max_position_embeddings: int
    attention_factor: float
    """Cosines and sines are multiplied by it."""
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True


RopeScaling = Llama3Scaling | YarnScaling
Rotation = tuple[Tensor, Tensor]
"""Cosine and sine of every token's position, (T, H / 2) each."""


@dataclass(frozen=True, slots=True)
class Heads:
    """How the fused query, key and value buffer (T, (N + 2 K) H) is divided."""

    num_q: int
    num_k: int
    width: int
    norms: tuple[Tensor, Tensor] | None = None
    """Weights of the per-head norms of query and key, where the model has them (Qwen3)."""
    eps: float = 0.0

    def split(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Query (T, N, H), key and value (T, K, H), as views."""
        heads = qkv.unflatten(1, (-1, self.width))
        q, k, v = heads.split((self.num_q, self.num_k, self.num_k), dim=1)
        return q, k, v


def inverse_frequencies(
    width: int, theta: float, scaling: RopeScaling | None = None
) -> Float[Tensor, " P"]:
    """Angle per position of each pair of a head ``width`` wide, in radians."""
    frequencies = theta ** -(torch.arange(0, width, 2, dtype=torch.int64).float() / width)
    if scaling is None:
        return frequencies
    if isinstance(scaling, Llama3Scaling):
        wavelengths = 2 * math.pi / frequencies
        turns = scaling.original_max_position_embeddings / wavelengths
        low, high = scaling.low_freq_factor, scaling.high_freq_factor
        kept = ((turns - low) / (high - low)).clamp(0, 1)
    else:
        kept = _kept_by_yarn(width, theta, scaling)
    return frequencies * (kept + (1 - kept) / scaling.factor)


def _kept_by_yarn(width: int, theta: float, scaling: YarnScaling) -> Float[Tensor, " P"]:
    """Share of each frequency that is not stretched: 1 for many turns in the old context."""

    def pair_with(turns: float) -> float:
        context = scaling.original_max_position_embeddings
        return width * math.log(context / (turns * 2 * math.pi)) / (2 * math.log(theta))

    first, last = pair_with(scaling.beta_fast), pair_with(scaling.beta_slow)
    if scaling.truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, width - 1)
    last = last + 0.001 if first == last else last
    return 1 - ((torch.arange(width // 2).float() - first) / (last - first)).clamp(0, 1)


def rope_tables(
    positions_T: Int[Tensor, " T"],
    frequencies: Float[Tensor, " P"],
    dtype: torch.dtype,
    attention_factor: float = 1.0,
) -> tuple[Float[Tensor, "T P"], Float[Tensor, "T P"]]:
    """Cosine and sine for each position and pair, made in float32."""
    angles = positions_T[:, None].to(frequencies.dtype) * frequencies
    cos, sin = angles.cos() * attention_factor, angles.sin() * attention_factor
    return cos.to(dtype), sin.to(dtype)


def _turn(x_TNH: Tensor, cos_TP: Tensor, sin_TP: Tensor, sign: int, out_TNH: Tensor) -> None:
    cos, sin = cos_TP[:, None], sin_TP[:, None]
    first, second = x_TNH.chunk(2, dim=-1)
    turned_first = (first * cos).addcmul_(second, sin, value=-sign)
    turned_second = (second * cos).addcmul_(first, sin, value=sign)
    to_first, to_second = out_TNH.chunk(2, dim=-1)
    to_first.copy_(turned_first)
    to_second.copy_(turned_second)


def rope_forward(
    qkv: Float[Tensor, "T W"], heads: Heads, rotation: Rotation, update: Update | None = None
) -> tuple[Float[Tensor, "T N H"], Float[Tensor, "T K H"], Float[Tensor, "T K H"]]:
    """Rotate each query and key head by its position (arXiv:2104.09864), halves paired.

    Args:
        qkv: base products; ``update`` is added in place. Without per-head norms query and key
            are turned in place too; with them, which need their input again in backward, they
            go into new memory.
        heads: how the buffer is divided.
        rotation: from `rope_tables`.
        update: what is to be added first; only a device with fused kernels is given one.

    Returns:
        Query, key and value.
    """
    num_turned = (heads.num_q + heads.num_k) * heads.width
    out = qkv if heads.norms is None else qkv.new_empty(len(qkv), num_turned)
    if runs_fused(qkv):
        pair = update and (update.left, update.right)
        columns, rank = (update.columns, update.rank) if update else ((None, None, None), 0)
        sizes = (heads.num_q, heads.num_k), heads.width
        kernel.rope(qkv, *sizes, rotation, pair, columns, rank, heads.norms, heads.eps, out)
    else:
        to = out[:, :num_turned].unflatten(1, (-1, heads.width))
        q, k, _ = heads.split(qkv)
        if heads.norms is not None:
            q, k = (_normed(x, w, heads.eps) for x, w in zip((q, k), heads.norms, strict=True))
        _turn(q, *rotation, 1, to[:, : heads.num_q])
        _turn(k, *rotation, 1, to[:, heads.num_q :])
    turned = out[:, :num_turned].unflatten(1, (-1, heads.width))
    q, k = turned.split((heads.num_q, heads.num_k), dim=1)
    return q, k, heads.split(qkv)[2]


def rope_backward(
    grads: Sequence[Float[Tensor, "T _ H"]],
    qkv: Float[Tensor, "T W"],
    heads: Heads,
    rotation: Rotation,
    out: Float[Tensor, "T W"],
    grad_b: GradB | None = None,
) -> None:
    """Turn the gradients of query and key back, and through their norms.

    Args:
        grads: gradients of turned query, turned key and value; may be parts of ``out``.
        qkv: what `rope_forward` was given, update added; read only where there are norms.
        heads: how it is divided.
        rotation: as in the forward pass.
        out: where the gradient of ``qkv`` goes.
        grad_b: where the gradients of the B of query, key and value are added up.
    """
    if runs_fused(out):
        sizes = (heads.num_q, heads.num_k), heads.width
        sums = None
        if grad_b is not None and can_add_up(grad_b.rank):
            sums = grad_b.right, grad_b.columns, grad_b.totals, grad_b.rank
        dense = [x if x.stride(-1) == 1 else x.contiguous() for x in grads]
        kernel.rope_backward(dense, qkv, *sizes, rotation, heads.norms, heads.eps, sums, out)
        if grad_b is not None and sums is None:
            grad_b.add(out)
        return
    for to, grad in zip(heads.split(out), grads, strict=True):
        if to.data_ptr() != grad.data_ptr():
            to.copy_(grad)
    _plain_backward(out, qkv, heads, rotation)
    if grad_b is not None:
        grad_b.add(out)


def _plain_backward(grad: Tensor, qkv: Tensor, heads: Heads, rotation: Rotation) -> None:
    for place in (0, 1):
        part = heads.split(grad)[place]
        _turn(part, *rotation, -1, part)
        if heads.norms is not None:
            x, weight = heads.split(qkv)[place].flatten(0, 1), heads.norms[place]
            _, rrms = rms_norm_forward(x, weight, heads.eps)
            flat = part.flatten(0, 1).clone()
            grad_x, _ = rms_norm_backward(flat, None, x, weight, rrms, torch.zeros_like(flat))
            part.copy_(grad_x.view_as(part))


def _normed(x_TNH: Tensor, weight: Tensor, eps: float) -> Tensor:
    return rms_norm_forward(x_TNH.flatten(0, 1), weight, eps)[0].view(x_TNH.shape)
