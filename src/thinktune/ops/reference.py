"""Every fused operation in plain, differentiable PyTorch; what the fast ones are tested against."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F


def rms_norm(x: Float[Tensor, "*S D"], weight: Float[Tensor, " D"], eps: float) -> Tensor:
    """Scale each row to unit root mean square, then by ``weight`` (arXiv:1910.07467).

    Statistics are taken in float32 at least, and rounded to ``x``'s type before ``weight``.
    """
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    rrms = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    return weight * (wide * rrms).to(x.dtype)


def rope(
    x_TNH: Float[Tensor, "T N H"], cos_TH: Float[Tensor, "T H"], sin_TH: Float[Tensor, "T H"]
) -> Float[Tensor, "T N H"]:
    """Rotate each head by its position (arXiv:2104.09864), halves paired as on the Hub."""
    first, second = x_TNH.chunk(2, dim=-1)
    turned_TNH = torch.cat((-second, first), dim=-1)
    return x_TNH * cos_TH[:, None] + turned_TNH * sin_TH[:, None]


def swiglu(gate: Float[Tensor, "T F"], up: Float[Tensor, "T F"]) -> Float[Tensor, "T F"]:
    """``silu(gate) * up`` (arXiv:2002.05202)."""
    return F.silu(gate) * up


def lora_linear(
    x: Float[Tensor, "T in"],
    weight: Float[Tensor, "out in"],
    bias: Float[Tensor, " out"] | None,
    lora_A: Float[Tensor, "R in"],
    lora_B: Float[Tensor, "out R"],
    scale: float,
    dropped: Float[Tensor, "T in"] | None = None,
) -> Float[Tensor, "T out"]:
    """``x W^T + bias + scale (x A^T) B^T`` (arXiv:2106.09685).

    Args:
        x: input rows.
        weight: frozen base weight.
        bias: frozen base bias.
        lora_A: first adapter matrix.
        lora_B: second adapter matrix.
        scale: alpha / rank.
        dropped: ``x`` after dropout, which only the adapter sees; None for no dropout.
    """
    seen = x if dropped is None else dropped
    update = (seen @ lora_A.to(x.dtype).T) @ lora_B.to(x.dtype).T
    return F.linear(x, weight, bias) + scale * update


def packed_attention(
    q_TNH: Float[Tensor, "T N H"],
    k_TKH: Float[Tensor, "T K H"],
    v_TKH: Float[Tensor, "T K H"],
    lengths: Sequence[int],
    prefix_length: int = 0,
) -> Float[Tensor, "T N H"]:
    """Causal attention inside each document of a packed row, through one dense mask.

    Args:
        q_TNH: queries.
        k_TKH: keys; N is a multiple of K (grouped-query attention, arXiv:2305.13245).
        v_TKH: values.
        lengths: tokens in each document, in order; with the prefix they sum to T.
        prefix_length: first tokens of the row, which stand before every document.
    """
    num_tokens, num_heads, width = q_TNH.shape
    groups = num_heads // k_TKH.shape[1]
    sizes = torch.tensor([prefix_length, *lengths])
    document_T = torch.repeat_interleave(torch.arange(len(sizes)), sizes).to(q_TNH.device)
    order_T = torch.arange(num_tokens, device=q_TNH.device)
    same_TT = (document_T[:, None] == document_T) | (document_T == 0)
    seen_TT = same_TT & (order_T[:, None] >= order_T)
    scores_NTT = torch.einsum("tnh,snh->nts", q_TNH, k_TKH.repeat_interleave(groups, 1))
    scores_NTT = (scores_NTT * width**-0.5).masked_fill(~seen_TT, float("-inf"))
    weights_NTT = scores_NTT.softmax(-1)
    return torch.einsum("nts,snh->tnh", weights_NTT, v_TKH.repeat_interleave(groups, 1))


def cached_attention(
    q_BNH: Float[Tensor, "B N H"],
    k_BKHL: Float[Tensor, "B K H L"],
    v_BKLH: Float[Tensor, "B K L H"],
    seen_BL: Bool[Tensor, "B L"],
) -> Float[Tensor, "B N H"]:
    """One new token a row attends to the filled places of its row's cache."""
    groups = q_BNH.shape[1] // v_BKLH.shape[1]
    k_BNHL, v_BNLH = (x.repeat_interleave(groups, 1) for x in (k_BKHL, v_BKLH))
    scores_BNL = torch.einsum("bnh,bnhl->bnl", q_BNH, k_BNHL) * q_BNH.shape[-1] ** -0.5
    weights_BNL = scores_BNL.masked_fill(~seen_BL[:, None], float("-inf")).softmax(-1)
    return torch.einsum("bnl,bnlh->bnh", weights_BNL, v_BNLH)


def linear_cross_entropy(
    hidden_CD: Float[Tensor, "C D"],
    weight_VD: Float[Tensor, "V D"],
    targets_C: Int[Tensor, " C"],
    weights_C: Float[Tensor, " C"],
) -> tuple[Float[Tensor, ""], Float[Tensor, " C"]]:
    """Weighted sum of each target's negative log-likelihood, and the unweighted ones (nats)."""
    logits_CV = F.linear(hidden_CD, weight_VD)
    logits_CV = logits_CV.to(torch.promote_types(logits_CV.dtype, torch.float32))
    nll_C = F.cross_entropy(logits_CV, targets_C, reduction="none")
    return (nll_C * weights_C).sum(), nll_C.detach()
