"""Attention of one layer, forward and backward, over packed rows on a CUDA device.

usage: python benchmarks/attention.py [--heads 32 8 128] [--repeats 20] [--only NAME ...]
"""

import argparse
import inspect
import statistics
from collections.abc import Callable, Sequence
from itertools import accumulate

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.varlen import varlen_attn

from thinktune.ops import ragged_attention as ragged

CUDA = torch.device("cuda")
ROWS = {
    "1x4096": [4096],
    "4x4096": [4096] * 4,
    "1x16384": [16384],
    "32x512": [512] * 32,
    "lognormal mix": [1500, 300, 5352, 1750, 465, 3100, 700, 2217, 1000],
}
Call = Callable[[], object]


def cudnn_ragged(qkv: list[Tensor], grad: Tensor, lengths: Sequence[int]) -> Call:
    """All documents in one call, gradients side by side in one buffer."""
    documents = ragged.ragged_documents(lengths, CUDA)
    sizes = [x.shape[1] for x in qkv]
    grads = grad.new_empty(len(grad), sum(sizes), grad.shape[2]).split(sizes, dim=1)

    def call() -> None:
        out, lse = ragged.ragged_attention(*qkv, documents)
        ragged.ragged_attention_backward(grad, *qkv, out, lse, documents, *grads)

    return call


def cudnn_each(qkv: list[Tensor], grad: Tensor, lengths: Sequence[int]) -> Call:
    """One document at a time through SDPA."""
    leaves = [x.detach().requires_grad_() for x in qkv]

    def call() -> None:
        outs = []
        with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
            for part in zip(*(x.split(list(lengths)) for x in leaves), strict=True):
                q, k, v = (x.transpose(0, 1)[None] for x in part)
                out = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
                outs.append(out[0].transpose(0, 1))
            torch.autograd.grad(torch.cat(outs), leaves, grad)

    return call


def flash_varlen(qkv: list[Tensor], grad: Tensor, lengths: Sequence[int]) -> Call:
    """All documents in one call of FlashAttention-2."""
    leaves = [x.detach().requires_grad_() for x in qkv]
    ends = torch.tensor(list(accumulate(lengths, initial=0)), dtype=torch.int32, device=CUDA)
    known = inspect.signature(varlen_attn).parameters  # they differ from version to version
    causal = {"window_size": (-1, 0)} if "window_size" in known else {"is_causal": True}
    options = causal | ({"enable_gqa": True} if "enable_gqa" in known else {})

    def call() -> None:
        out = varlen_attn(*leaves, ends, ends, max(lengths), max(lengths), **options)
        torch.autograd.grad(out, leaves, grad)

    return call


KINDS = {"cuDNN ragged": cudnn_ragged, "SDPA cuDNN, each": cudnn_each, "varlen FA2": flash_varlen}


def milliseconds(call: Call, repeats: int) -> float:
    """Median time of a call on the device."""
    for _ in range(5):
        call()
    marks = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(repeats)]
    for before, after in marks:
        before.record()
        call()
        after.record()
    torch.cuda.synchronize()
    return statistics.median(before.elapsed_time(after) for before, after in marks)


def main() -> None:
    """Time every kind of attention on every row, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--heads", type=int, nargs=3, default=(32, 8, 128))
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--only", nargs="*", choices=KINDS, default=list(KINDS))
    options = parser.parse_args()
    num_q, num_k, width = options.heads
    sizes = (num_q, num_k, num_k)
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, heads {options.heads}")
    print(f"ms (TFLOP/s)    | {' | '.join(f'{name:16}' for name in options.only)}")
    for row, lengths in ROWS.items():
        tokens = sum(lengths)
        qkv = torch.randn(tokens, sum(sizes), width, device=CUDA, dtype=torch.bfloat16)
        grad = torch.randn(tokens, num_q, width, device=CUDA, dtype=torch.bfloat16)
        # Causal: 2 products forward, 5 backward, on half of the square of each document.
        flop = 7 * num_q * width * sum(length**2 for length in lengths)
        cells = []
        for name in options.only:
            call = KINDS[name](list(qkv.split(sizes, dim=1)), grad, lengths)
            ms = milliseconds(call, options.repeats)
            cells.append(f"{ms:7.2f} ({flop / ms / 1e9:4.0f})  ")
        print(f"{row:15} | {' | '.join(cells)}", flush=True)


if __name__ == "__main__":
    main()
