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
    prefix_length: int = 0,
) -> Float[Tensor, "T N H"]:
    """Causal attention inside each document of a packed row, one document at a time.

    No token of another document is read, so a leak is impossible rather than masked away.
    Memory is linear in T, but for short documents on a CPU, whose scores are written out, and
    for documents behind a prefix.

    Args:
        q_TNH: queries.
        k_TKH: keys; N is a multiple of K (grouped-query attention, arXiv:2305.13245).
        v_TKH: values.
        lengths: tokens in each document, in order; with the prefix they sum to T.
        prefix_length: first tokens of the row, which stand before every document.
    """
    sizes = [prefix_length, *lengths]
    (q_prefix, *qs), (k_prefix, *ks), (v_prefix, *vs) = (
        x.split(sizes) for x in (q_TNH, k_TKH, v_TKH)
    )
    if not prefix_length:
        return torch.cat([_causal(q, k, v) for q, k, v in zip(qs, ks, vs, strict=True)])
    out = [_causal(q_prefix, k_prefix, v_prefix)]
    for q, k, v in zip(qs, ks, vs, strict=True):
        out.append(_causal(q, torch.cat((k_prefix, k)), torch.cat((v_prefix, v))))
    return torch.cat(out)


def _causal(q_LNH: Tensor, k_SKH: Tensor, v_SKH: Tensor) -> Tensor:
    """The last L of S tokens see themselves and all that stands before them."""
    short = q_LNH.device.type == "cpu" and len(k_SKH) <= _SHORT
    return (_written_out if short else _fused)(q_LNH, k_SKH, v_SKH)


def _written_out(q_LNH: Tensor, k_SKH: Tensor, v_SKH: Tensor) -> Tensor:
    """Scores written out: on a CPU twice as fast as the fused kernel in bf16, even in float32.

    The queries of a group stand under each other before their key head; no key is repeated.
    """
    length, heads, width = q_LNH.shape
    seen, kv_heads = k_SKH.shape[:2]
    groups = heads // kv_heads
    q_KGH = q_LNH.unflatten(1, (kv_heads, groups)).permute(1, 2, 0, 3).flatten(1, 2)
    later_LS = torch.full((length, seen), float("-inf"), dtype=q_LNH.dtype)
    later_LS = later_LS.triu(1 + seen - length)
    scores_KGS = torch.baddbmm(
        later_LS.repeat(groups, 1).expand(kv_heads, -1, -1),
        q_KGH,
        k_SKH.permute(1, 2, 0),
        alpha=width**-0.5,
    )
    out_KGH = torch.bmm(scores_KGS.softmax(-1), v_SKH.transpose(0, 1))
    return out_KGH.unflatten(1, (groups, length)).permute(2, 0, 1, 3).flatten(1, 2)


def _fused(q_LNH: Tensor, k_SKH: Tensor, v_SKH: Tensor) -> Tensor:
    """PyTorch's fused kernel; with a prefix it needs a mask."""
    length, heads = q_LNH.shape[:2]
    seen, kv_heads = k_SKH.shape[:2]
    q_1NLH = q_LNH.transpose(0, 1)[None]
    k_1NSH, v_1NSH = (
        x.transpose(0, 1).repeat_interleave(heads // kv_heads, 0)[None] for x in (k_SKH, v_SKH)
    )
    mask_LS = None
    if seen > length:
        mask_LS = torch.ones(length, seen, dtype=torch.bool, device=q_LNH.device)
        mask_LS = mask_LS.tril(seen - length)
    out = F.scaled_dot_product_attention(
        q_1NLH, k_1NSH, v_1NSH, attn_mask=mask_LS, is_causal=mask_LS is None
    )
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
