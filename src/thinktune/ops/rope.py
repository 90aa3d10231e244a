"""Rotary position embedding: the tables, and a rotation whose backward is the turn back."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable


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
) -> tuple[Float[Tensor, "T 2*P"], Float[Tensor, "T 2*P"]]:
    """Cosine and sine for each position, both halves filled, made in float32."""
    angles = positions_T[:, None].to(frequencies.dtype) * frequencies
    angles = torch.cat((angles, angles), dim=-1)
    cos, sin = angles.cos() * attention_factor, angles.sin() * attention_factor
    return cos.to(dtype), sin.to(dtype)


def _turn(x_TNH: Tensor, cos_TH: Tensor, sin_TH: Tensor, sign: int) -> Tensor:
    half = x_TNH.shape[-1] // 2
    sin_T1H = sin_TH[:, None]
    out_TNH = x_TNH * cos_TH[:, None]
    out_TNH[..., :half].addcmul_(x_TNH[..., half:], sin_T1H[..., :half], value=-sign)
    out_TNH[..., half:].addcmul_(x_TNH[..., :half], sin_T1H[..., half:], value=sign)
    return out_TNH


class _Rope(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Compute, and keep what backward needs."""
        ctx.save_for_backward(cos, sin)
        return _turn(x, cos, sin, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        """Gradients of what needs one."""
        cos, sin = ctx.saved_tensors
        return _turn(grads[0], cos, sin, -1), None, None


def rope(
    x_TNH: Float[Tensor, "T N H"], cos_TH: Float[Tensor, "T H"], sin_TH: Float[Tensor, "T H"]
) -> Float[Tensor, "T N H"]:
    """Rotate each head by its position (arXiv:2104.09864), halves paired as on the Hub.

    Nothing but the tables is kept for backward.
    """
    return _Rope.apply(x_TNH, cos_TH, sin_TH)
