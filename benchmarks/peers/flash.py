"""FlashAttention-2 as torch bundles it, under the name ``flash_attn`` that peers look for.

The package itself comes only as source and takes an hour to build. Its kernels are in torch:
peers that know how to use it should not be timed without.
"""

from pathlib import Path

import torch
from torch import Tensor

STAND_IN = {
    "flash_attn/__init__.py": "from benchmarks.peers.flash import (\n"
    "    flash_attn_func, flash_attn_varlen_func, flash_attn_with_kvcache\n)\n"
    '__version__ = "2.8.3+torch"\n',
    "flash_attn/bert_padding.py": "from transformers.modeling_flash_attention_utils import (\n"
    "    _pad_input as pad_input, _unpad_input as unpad_input\n)\n",
    "flash_attn-2.8.3+torch.dist-info/METADATA": "Metadata-Version: 2.1\n"
    "Name: flash-attn\nVersion: 2.8.3+torch\n",
    "flash_attn-2.8.3+torch.dist-info/top_level.txt": "flash_attn\n",
}
"""Files of a package that forwards here."""


def write_stand_in(folder: Path) -> Path:
    """Write the package; with ``folder`` on its path a process finds ``flash_attn`` installed."""
    for name, text in STAND_IN.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


class _Flash(torch.autograd.Function):
    @staticmethod
    def forward(ctx, query, key, value, ends_q, ends_k, longest_q, longest_k, scale, causal):
        out, lse, seed, offset, _ = torch.ops.aten._flash_attention_forward(
            query, key, value, ends_q, ends_k, longest_q, longest_k, 0.0, causal, False, scale=scale
        )
        ctx.save_for_backward(query, key, value, out, lse, ends_q, ends_k, seed, offset)
        ctx.options = longest_q, longest_k, scale, causal
        return out

    @staticmethod
    def backward(ctx, grad):
        query, key, value, out, lse, ends_q, ends_k, seed, offset = ctx.saved_tensors
        longest_q, longest_k, scale, causal = ctx.options
        grads = torch.ops.aten._flash_attention_backward(
            grad.contiguous(),
            query,
            key,
            value,
            out,
            lse,
            ends_q,
            ends_k,
            longest_q,
            longest_k,
            0.0,
            causal,
            seed,
            offset,
            scale=scale,
        )
        return *grads, None, None, None, None, None, None


def flash_attn_varlen_func(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    deterministic: bool = False,
) -> Tensor:
    """Attention of documents laid one after the other, (T, N, H); key heads may be fewer."""
    assert dropout_p == 0, "torch's kernel is called without dropout here"
    assert not deterministic, "torch's kernel is not deterministic"
    ends = cu_seqlens_q, cu_seqlens_k, int(max_seqlen_q), int(max_seqlen_k)
    return _Flash.apply(q, k, v, *ends, softmax_scale, causal)


def flash_attn_func(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    deterministic: bool = False,
) -> Tensor:
    """Attention of equally long rows, (B, T, N, H)."""
    num_rows, length = q.shape[:2]
    ends = torch.arange(0, (num_rows + 1) * length, length, dtype=torch.int32, device=q.device)
    query, key, value = (tensor.flatten(0, 1) for tensor in (q, k, v))
    options = dropout_p, softmax_scale, causal, deterministic
    out = flash_attn_varlen_func(query, key, value, ends, ends, length, length, *options)
    return out.unflatten(0, (num_rows, length))


def flash_attn_with_kvcache(*_: object, **__: object) -> Tensor:
    """Part of the package, not of training.

    Raises:
        NotImplementedError: always.
    """
    raise NotImplementedError("torch bundles no attention over a cache")
