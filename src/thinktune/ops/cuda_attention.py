"""PyTorch's own CUDA kernels for causal attention inside each document of a packed row.

Each comes with the backward that belongs to it, called directly: no graph is built.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

_aten = torch.ops.aten
_CAUSAL = 1
"""Of the memory-efficient kernel's masks: causal, counted from the first query and key."""
_ALIGNED = 32
"""Its log-sum-exps come in rows of a multiple of so many."""


class Documents(NamedTuple):
    """Where the documents of a packed row lie, on the device; made once a row for all layers."""

    ends: Int[Tensor, " B+1"]
    """0, and behind which token each document ends."""
    longest: int
    document_T: Int[Tensor, " T"]
    """Which document each token is in."""
    place_T: Int[Tensor, " T"]
    """Its place there."""


def documents(lengths: Sequence[int], device: torch.device) -> Documents:
    """Send the lengths of a row's documents, in order, to the device, without waiting for it."""
    ends = torch.tensor((0, *lengths), dtype=torch.int32).cumsum(0, dtype=torch.int32)
    document_T = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    place_T = torch.arange(len(document_T)) - ends[document_T]
    ends, document_T, place_T = (
        x.pin_memory().to(device, non_blocking=True) for x in (ends, document_T, place_T)
    )
    return Documents(ends, max(lengths), document_T, place_T)


def flash(q: Tensor, k: Tensor, v: Tensor, where: Documents) -> tuple[Tensor, Any]:
    """FlashAttention-2's variable-length kernel (arXiv:2307.08691); from Ampere on.

    Returns:
        What was attended to (T, N, H), and what its backward wants back.
    """
    ends, longest = where.ends, where.longest
    out, lse, rng_state, unused, _ = _aten._flash_attention_forward(
        q, k, v, ends, ends, longest, longest, 0.0, True, False
    )
    return out, (lse, rng_state, unused)


def flash_backward(
    grad: Tensor, qkv: tuple[Tensor, Tensor, Tensor], out: Tensor, saved: Any, where: Documents
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of query, key and value."""
    (lse, rng_state, unused), ends, longest = saved, where.ends, where.longest
    return _aten._flash_attention_backward(
        grad, *qkv, out, lse, ends, ends, longest, longest, 0.0, True, rng_state, unused
    )


def even_runs(lengths: Sequence[int]) -> list[list[int]]:
    """Neighbouring documents together as long as, each padded to the longest, they fill a row.

    The memory-efficient kernel takes memory by documents times longest; so it never takes more
    than for one document as long as the row.

    >>> even_runs([5, 5, 5, 900, 80])
    [[5, 5, 5], [900], [80]]
    """
    tokens, runs = sum(lengths), [[]]
    for length in lengths:
        if runs[-1] and (len(runs[-1]) + 1) * max(*runs[-1], length) > tokens:
            runs.append([])
        runs[-1].append(length)
    return runs


def efficient(
    q: Float[Tensor, "T N H"],
    k: Float[Tensor, "T K H"],
    v: Float[Tensor, "T K H"],
    runs: Sequence[Documents],
) -> tuple[Float[Tensor, "T N H"], Any]:
    """The memory-efficient kernel (arXiv:2112.05682): on every card, heads of every width.

    One launch for each of the `even_runs`. It has no groups of heads: keys and values are
    repeated for the time of the call. Its log-sum-exps come padded to the longest document,
    (B, N, longest); (T, N) of them are kept.

    Returns:
        What was attended to, and what its backward wants back.
    """
    groups, outs, saved = q.shape[1] // k.shape[1], [], []
    for where, *part in _pieces(runs, q, k, v):
        ends, longest = where.ends, where.longest
        k, v = (x.repeat_interleave(groups, 1)[None] for x in part[1:])
        out, lse_BNL, *random, _, _ = _aten._efficient_attention_forward(
            part[0][None], k, v, None, ends, ends, longest, longest, 0.0, _CAUSAL, True
        )
        outs.append(out[0])
        saved.append((lse_BNL[where.document_T, :, where.place_T], *random))
    return _joined(outs), saved


def efficient_backward(
    grad: Float[Tensor, "T N H"],
    qkv: tuple[Tensor, Tensor, Tensor],
    out: Float[Tensor, "T N H"],
    saved: Sequence[Any],
    runs: Sequence[Documents],
) -> list[Tensor]:
    """Gradients of query, key and value; those of a group's heads are added up."""
    pieces = zip(_pieces(runs, grad, *qkv, out), saved, strict=True)
    grads = [_efficient_backward(piece, kept) for piece, kept in pieces]
    return [_joined(parts) for parts in zip(*grads, strict=True)]


def _efficient_backward(piece: tuple, saved: Any) -> tuple[Tensor, Tensor, Tensor]:
    (where, grad, q, k, v, out), (lse_TN, *random) = piece, saved
    ends, longest, kv_heads = where.ends, where.longest, k.shape[1]
    groups = q.shape[1] // kv_heads
    padded = -(-longest // _ALIGNED) * _ALIGNED
    # Where there is no token the kernel counts on infinity, which makes a weight of zero.
    lse_BNL = lse_TN.new_full((len(ends) - 1, q.shape[1], padded), float("inf"))
    lse_BNL[where.document_T, :, where.place_T] = lse_TN
    k, v = (x.repeat_interleave(groups, 1)[None] for x in (k, v))
    grad_q, *grads, _ = _aten._efficient_attention_backward(
        grad[None], q[None], k, v, None, out[None], ends, ends, longest, longest, lse_BNL, 0.0,
        *random, _CAUSAL, False,
    )  # fmt: skip
    grad_k, grad_v = (x[0].unflatten(1, (kv_heads, groups)).sum(2) for x in grads)
    return grad_q[0], grad_k, grad_v


def _pieces(runs: Sequence[Documents], *xs: Tensor) -> Iterator[tuple]:
    """What belongs to each run."""
    sizes = [len(run.place_T) for run in runs]
    return zip(runs, *(x.split(sizes) for x in xs), strict=True)


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return torch.cat(list(parts)) if len(parts) > 1 else parts[0]


def _as_batch(x_LNH: Tensor) -> Tensor:
    return x_LNH.transpose(0, 1)[None]


def single(q: Tensor, k: Tensor, v: Tensor, lengths: Sequence[int]) -> tuple[Tensor, Any]:
    """One document after the other through cuDNN.

    Returns:
        What was attended to (T, N, H), and what its backward wants back.
    """
    out_TNH, saved = torch.empty_like(q, memory_format=torch.contiguous_format), []
    for *part, to in zip(*(x.split(list(lengths)) for x in (q, k, v, out_TNH)), strict=True):
        result = _aten._scaled_dot_product_cudnn_attention(
            *map(_as_batch, part), None, True, 0.0, True, False
        )
        to.copy_(result[0][0].transpose(0, 1))
        saved.append(result[1:8])
    return out_TNH, saved


def single_backward(
    grad: Tensor,
    qkv: tuple[Tensor, Tensor, Tensor],
    out: Tensor,
    saved: Any,
    lengths: Sequence[int],
) -> list[Tensor]:
    """Gradients of query, key and value."""
    grads = []
    pieces = zip(*(x.split(list(lengths)) for x in (grad, *qkv, out)), saved, strict=True)
    for *part, (lse, ends_q, ends_k, max_q, max_k, seed, offset) in pieces:
        results = _aten._scaled_dot_product_cudnn_attention_backward(
            *map(_as_batch, part), lse, seed, offset, None, ends_q, ends_k, max_q, max_k, 0.0, True
        )
        grads.append([x[0].transpose(0, 1) for x in results])
    return [torch.cat(parts) for parts in zip(*grads, strict=True)]
