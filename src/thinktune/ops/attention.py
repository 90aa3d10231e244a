"""Attention over packed documents that never see each other, and over a key-value cache."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F


def packed_attention(
    q_TNH: Float[Tensor, "T N H"],
    k_TKH: Float[Tensor, "T K H"],
    v_TKH: Float[Tensor, "T K H"],
    lengths: Sequence[int],
) -> Float[Tensor, "T N H"]:
    """Causal attention inside each document of a packed row, one document at a time.

    No mask is built and no token of another document is read, so a leak is impossible
    rather than masked away. Memory is linear in T where PyTorch's fused kernels run.

    Args:
        q_TNH: queries.
        k_TKH: keys; N is a multiple of K (grouped-query attention, arXiv:2305.13245).
        v_TKH: values.
        lengths: tokens in each document, in order; they sum to T.
    """
    groups = q_TNH.shape[1] // k_TKH.shape[1]
    q_NTH = q_TNH.transpose(0, 1)
    # Repeating keys is what PyTorch's CPU kernel needs; one that groups by itself falls back
    # to materialised scores there.
    k_NTH, v_NTH = (x.transpose(0, 1).repeat_interleave(groups, 0) for x in (k_TKH, v_TKH))
    sizes = list(lengths)
    documents = zip(*(x.split(sizes, dim=1) for x in (q_NTH, k_NTH, v_NTH)), strict=True)
    out = [
        F.scaled_dot_product_attention(q[None], k[None], v[None], is_causal=True)[0]
        for q, k, v in documents
    ]
    return torch.cat(out, dim=1).transpose(0, 1)


def cached_attention(
    q_BNH: Float[Tensor, "B N H"],
    k_BKLH: Float[Tensor, "B K L H"],
    v_BKLH: Float[Tensor, "B K L H"],
    seen_BL: Bool[Tensor, "B L"],
) -> Float[Tensor, "B N H"]:
    """One new token a row attends to what its row has cached.

    Args:
        q_BNH: the new token's queries.
        k_BKLH: cached keys, the new token's included.
        v_BKLH: cached values.
        seen_BL: which of the L places of each row are filled.
    """
    rows, heads, width = q_BNH.shape
    kv_heads = k_BKLH.shape[1]
    # The heads of a group stand as queries of one key head: nothing cached is repeated.
    q_BKGH = q_BNH.view(rows, kv_heads, heads // kv_heads, width)
    out_BKGH = F.scaled_dot_product_attention(
        q_BKGH, k_BKLH, v_BKLH, attn_mask=seen_BL[:, None, None]
    )
    return out_BKGH.reshape(rows, heads, width)
