"""Attention over packed documents that never see each other, and over a key-value cache.

Which kernel attends is chosen by device and shape: cuDNN's ragged kernel where its wheel is
installed, a document at a time through cuDNN where documents are long, FlashAttention-2's
variable-length kernel, PyTorch's memory-efficient one on cards before Ampere, and elsewhere
PyTorch's own choice for each document alone.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from enum import StrEnum
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from thinktune.kernels.language import capability
from thinktune.ops import cuda_attention as cuda
from thinktune.ops import ragged_attention as ragged

_SHORT = 512
_LONG = 4096
"""Documents of this mean length are faster through cuDNN one by one than FlashAttention-2."""
_AMPERE = (8, 0)


class Kernel(StrEnum):
    """What computes the attention of a packed row."""

    RAGGED = "cudnn ragged"
    """All documents in one call of cuDNN (wheel nvidia-cudnn-frontend)."""
    SINGLE = "cudnn, one document at a time"
    FLASH = "flash attention 2, variable length"
    EFFICIENT = "memory-efficient"
    """Before Ampere, and for heads wider than 128; a key is repeated for each head of its group."""
    TRACED = "pytorch, one document at a time"
    """Anywhere, in any type; its backward is PyTorch's."""


class PackedAttention:
    """Causal attention inside each document of a packed row, with its own backward."""

    def __init__(
        self, lengths: Sequence[int], prefix_length: int = 0, *, kernel: Kernel | None = None
    ) -> None:
        """Say where the documents lie.

        Args:
            lengths: tokens in each document, in order; with the prefix they sum to T.
            prefix_length: first tokens of the row, which stand before every document.
            kernel: what to use; None to choose by device and shape.
        """
        self.lengths, self.prefix_length = tuple(lengths), prefix_length
        self._kernel = kernel
        self._places: Any = None

    def kernel(self, q_TNH: Tensor) -> Kernel:
        """What will attend to such queries."""
        if self._kernel is not None:
            return self._kernel
        half = q_TNH.dtype in (torch.bfloat16, torch.float16)
        if not q_TNH.is_cuda or not half or self.prefix_length or q_TNH.shape[2] % 8:
            return Kernel.TRACED
        card = capability(q_TNH.device)
        if card < _AMPERE or q_TNH.shape[2] > 128:
            return Kernel.EFFICIENT
        if torch.are_deterministic_algorithms_enabled():
            return Kernel.FLASH
        if ragged.is_available(q_TNH.device, q_TNH.dtype, q_TNH.shape[2]):
            return Kernel.RAGGED
        mean = sum(self.lengths) / len(self.lengths)
        return Kernel.SINGLE if card >= (9, 0) and mean >= _LONG else Kernel.FLASH

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, None]:
        """Attend where no backward will follow; every layer alike."""
        if self.kernel(q) is Kernel.TRACED:
            return packed_attention(q, k, v, self.lengths, self.prefix_length), None
        return self.forward(layer, q, k, v)[0], None

    def forward(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Any]:
        """Attend, with a backward to come; every layer alike.

        Returns:
            What was attended to (T, N, H), and what `backward` wants back.
        """
        kernel = self.kernel(q)
        if kernel is Kernel.RAGGED:
            return ragged.ragged_attention(q, k, v, self._ragged(q.device))
        if kernel is Kernel.SINGLE:
            return cuda.single(q, k, v, self.lengths)
        if kernel is Kernel.FLASH:
            return cuda.flash(q, k, v, self._documents(q.device))
        if kernel is Kernel.EFFICIENT:
            return cuda.efficient(q, k, v, self._runs(q.device))
        q, k, v = (x.detach().requires_grad_() for x in (q, k, v))
        with torch.enable_grad():
            out = packed_attention(q, k, v, self.lengths, self.prefix_length)
        return out.detach(), (out, (q, k, v))

    def backward(
        self,
        grad: Float[Tensor, "T N H"],
        qkv: tuple[Tensor, Tensor, Tensor],
        out: Float[Tensor, "T N H"],
        saved: Any,
        grad_q: Float[Tensor, "T N H"],
    ) -> Sequence[Tensor]:
        """Give the gradients of query, key and value.

        Args:
            grad: gradient of what was attended to.
            qkv: query, key and value of the forward pass.
            out: what the forward pass gave first.
            saved: what it gave second.
            grad_q: memory that the query's gradient may be written into.
        """
        kernel = self.kernel(grad)
        if kernel is Kernel.RAGGED:
            documents = self._ragged(grad.device)
            return ragged.ragged_attention_backward(grad, *qkv, out, saved, documents, grad_q)
        if kernel is Kernel.SINGLE:
            return cuda.single_backward(grad, qkv, out, saved, self.lengths)
        if kernel is Kernel.FLASH:
            return cuda.flash_backward(grad, qkv, out, saved, self._documents(grad.device))
        if kernel is Kernel.EFFICIENT:
            return cuda.efficient_backward(grad, qkv, out, saved, self._runs(grad.device))
        graph, leaves = saved
        return torch.autograd.grad(graph, leaves, grad)

    def _ragged(self, device: torch.device) -> ragged.RaggedDocuments:
        if self._places is None:
            self._places = ragged.ragged_documents(self.lengths, device)
        return self._places

    def _documents(self, device: torch.device) -> cuda.Documents:
        if self._places is None:
            self._places = cuda.documents(self.lengths, device)
        return self._places

    def _runs(self, device: torch.device) -> list[cuda.Documents]:
        if self._places is None:
            runs = cuda.even_runs(self.lengths)
            self._places = [cuda.documents(run, device) for run in runs]
        return self._places


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
    short = q_LNH.device.type == "cpu" and len(k_SKH) <= _SHORT and _may_write_scores(q_LNH)
    return (_written_out if short else _fused)(q_LNH, k_SKH, v_SKH)


def _may_write_scores(q: Tensor) -> bool:
    """Whether scores fit their type; in fp16 they stay inside a kernel, in float32."""
    return q.dtype != torch.float16


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
    with _chooser(q_LNH.device):
        out = F.scaled_dot_product_attention(
            q_1NLH, k_1NSH, v_1NSH, attn_mask=mask_LS, is_causal=mask_LS is None
        )
    return out[0].transpose(0, 1)


def _chooser(device: torch.device) -> Any:
    """Keeps PyTorch from a kernel that a card before Ampere, or one that plays it, lacks."""
    if device.type != "cuda" or capability(device) >= _AMPERE:
        return nullcontext()
    return sdpa_kernel([SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH])


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
    if q_BNH.device.type == "cpu" and _may_write_scores(q_BNH):
        hidden_BL = torch.zeros(seen_BL.shape, dtype=q_BNH.dtype).masked_fill_(~seen_BL, -torch.inf)
        q, k, v = (x.flatten(0, 1) for x in (q_BKGH, k_BKHL, v_BKLH))
        bias = hidden_BL[:, None, None].expand(rows, kv_heads, q_BKGH.shape[2], places)
        scores = torch.baddbmm(bias.flatten(0, 1), q, k, alpha=width**-0.5)
        return torch.bmm(scores.softmax(-1), v).view(rows, heads, width)
    with _chooser(q_BNH.device):
        out_BKGH = F.scaled_dot_product_attention(
            q_BKGH, k_BKHL.transpose(2, 3), v_BKLH, attn_mask=seen_BL[:, None, None]
        )
    return out_BKGH.reshape(rows, heads, width)
