"""Attention over packed documents that never see each other, and over a key-value cache."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

_SHORT = 512


def packed_attention(
    q_TNH: Float[Tensor, "T N H"],
    k_TKH: Float[Tensor, "T K H"],
    v_TKH: Float[Tensor, "T K H"],
    lengths: Sequence[int],
) -> Float[Tensor, "T N H"]:
    """Causal attention inside each document of a packed row, one document at a time.

    No mask is built and no token of another document is read, so a leak is impossible
    rather than masked away. Memory is linear in T, but for short documents on a CPU, whose
    scores are written out.

    Args:
        q_TNH: queries.
        k_TKH: keys; N is a multiple of K (grouped-query attention, arXiv:2305.13245).
        v_TKH: values.
        lengths: tokens in each document, in order; they sum to T.
    """
    sizes = list(lengths)
    documents = zip(*(x.split(sizes) for x in (q_TNH, k_TKH, v_TKH)), strict=True)
    on_cpu = q_TNH.device.type == "cpu"
    return torch.cat(
        [
            _short_document(q, k, v) if on_cpu and len(q) <= _SHORT else _long_document(q, k, v)
            for q, k, v in documents
        ]
    )


def _short_document(q_LNH: Tensor, k_LKH: Tensor, v_LKH: Tensor) -> Tensor:
    """Scores written out: on a CPU twice as fast as the fused kernel in bf16, even in float32.

    The queries of a group stand under each other before their key head; no key is repeated.
    """
    length, heads, width = q_LNH.shape
    kv_heads = k_LKH.shape[1]
    groups = heads // kv_heads
    q_KSH = q_LNH.unflatten(1, (kv_heads, groups)).permute(1, 2, 0, 3).flatten(1, 2)
    later_LL = torch.full((length, length), float("-inf"), dtype=q_LNH.dtype).triu(1)
    scores_KSL = torch.baddbmm(
        later_LL.repeat(groups, 1).expand(kv_heads, -1, -1),
        q_KSH,
        k_LKH.permute(1, 2, 0),
        alpha=width**-0.5,
    )
    out_KSH = torch.bmm(scores_KSL.softmax(-1), v_LKH.transpose(0, 1))
    return out_KSH.unflatten(1, (groups, length)).permute(2, 0, 1, 3).flatten(1, 2)


def _long_document(q_LNH: Tensor, k_LKH: Tensor, v_LKH: Tensor) -> Tensor:
    """PyTorch's fused kernel, memory linear in the length."""
    groups = q_LNH.shape[1] // k_LKH.shape[1]
    q_NLH, k_NLH, v_NLH = (
        x.transpose(0, 1) if x is q_LNH else x.transpose(0, 1).repeat_interleave(groups, 0)
        for x in (q_LNH, k_LKH, v_LKH)
    )
    out = F.scaled_dot_product_attention(q_NLH[None], k_NLH[None], v_NLH[None], is_causal=True)
    return out[0].transpose(0, 1)


def cached_attention(
    q_BNH: Float[Tensor, "B N H"],
    k_BKHL: Float[Tensor, "B K H L"],
    v_BKLH: Float[Tensor, "B K L H"],
    seen_BL: Bool[Tensor, "B L"],
) -> Float[Tensor, "B N H"]:
    """One new token a row attends to what its row has cached.

    Args:
        q_BNH: the new token's queries.
        k_BKHL: cached keys, the new token's included; places last, as the product reads them.
        v_BKLH: cached values.
        seen_BL: which of the L places of each row are filled.
    """
    rows, heads, width = q_BNH.shape
    kv_heads, places = v_BKLH.shape[1:3]
    # The heads of a group stand as queries of one key head: nothing cached is repeated.
    q_BKGH = q_BNH.view(rows, kv_heads, heads // kv_heads, width)
    # On a CPU two batched products take a third of the fused kernel's time.
    if q_BNH.device.type == "cpu":
        hidden_BL = torch.zeros(seen_BL.shape, dtype=q_BNH.dtype).masked_fill_(~seen_BL, -torch.inf)
        q, k, v = (x.flatten(0, 1) for x in (q_BKGH, k_BKHL, v_BKLH))
        bias = hidden_BL[:, None, None].expand(rows, kv_heads, q_BKGH.shape[2], places)
        scores = torch.baddbmm(bias.flatten(0, 1), q, k, alpha=width**-0.5)
        return torch.bmm(scores.softmax(-1), v).view(rows, heads, width)
    out_BKGH = F.scaled_dot_product_attention(
        q_BKGH, k_BKHL.transpose(2, 3), v_BKLH, attn_mask=seen_BL[:, None, None]
    )
    return out_BKGH.reshape(rows, heads, width)
