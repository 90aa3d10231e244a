"""Attention of one new token a row over an arena that all rows' keys and values share."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from thinktune.kernels import decode_attention as kernel
from thinktune.kernels.language import runs_fused


def decode_attention(
    q_BNH: Float[Tensor, "B N H"],
    k_BKH: Float[Tensor, "B K H"],
    v_BKH: Float[Tensor, "B K H"],
    keys_KAH: Float[Tensor, "K A H"],
    values_KAH: Float[Tensor, "K A H"],
    starts_B: Int[Tensor, " B"],
    lengths_B: Int[Tensor, " B"],
    *,
    longest: int,
) -> Float[Tensor, "B N H"]:
    """Put each row's new key and value behind its own, and attend to all of the row's.

    On a GPU nothing but what a row has is read, in chunks that are joined by their sums
    (flash decoding; arXiv:2205.14135 has the arithmetic), and no length is known to the host, so
    that the call can stand in a CUDA graph.

    Args:
        q_BNH: queries; N is a multiple of K.
        k_BKH: the new tokens' keys; heads and widths dense.
        v_BKH: their values.
        keys_KAH: the arena; the new keys are written into it.
        values_KAH: likewise.
        starts_B: where each row begins in the arena.
        lengths_B: tokens each row has before this one; -1 for a row at rest, which is neither
            stored nor, in the result, of any meaning.
        longest: no row is longer than this, the new token included.
    """
    if runs_fused(q_BNH):
        out_BNH = torch.empty(q_BNH.shape, dtype=q_BNH.dtype, device=q_BNH.device)
        kernel.decode_attention(
            q_BNH, (k_BKH, v_BKH), (keys_KAH, values_KAH), starts_B, lengths_B, longest, out_BNH
        )
        return out_BNH
    out_BNH = torch.zeros_like(q_BNH, memory_format=torch.contiguous_format)
    group = q_BNH.shape[1] // len(keys_KAH)
    for row, (start, length) in enumerate(zip(starts_B.tolist(), lengths_B.tolist(), strict=True)):
        if length < 0:
            continue
        keys_KAH[:, start + length], values_KAH[:, start + length] = k_BKH[row], v_BKH[row]
        seen = slice(start, start + length + 1)
        keys, values = (x[:, seen].repeat_interleave(group, 0) for x in (keys_KAH, values_KAH))
        scores_NL = torch.einsum("nh,nlh->nl", q_BNH[row], keys) * q_BNH.shape[2] ** -0.5
        out_BNH[row] = torch.einsum("nl,nlh->nh", scores_NL.softmax(-1), values)
    return out_BNH
