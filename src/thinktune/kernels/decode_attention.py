"""One new token a row attends to what its row has cached in a shared arena."""

# pyright: reportInvalidTypeForm=false
from __future__ import annotations

import torch
from torch import Tensor

from thinktune.kernels.language import capability, jit, power_of_two, tl

_CHUNK = 512
"""Tokens that one program attends to; a longer row is shared by several."""
_LOG2_E = 1.4426950408889634


@jit
def _store(NEW_K: tl.tensor, NEW_V: tl.tensor, KEYS: tl.tensor, VALUES: tl.tensor,
           STARTS: tl.tensor, LENGTHS: tl.tensor, k_row: tl.tensor, v_row: tl.tensor,
           places: tl.tensor, num_k: tl.constexpr, WIDTH: tl.constexpr,
           BLOCK: tl.constexpr):  # fmt: skip
    """Put one row's new key and value of every head behind what the row has."""
    row = tl.program_id(0)
    length = tl.load(LENGTHS + row)
    at = tl.arange(0, BLOCK)
    mask = (at < num_k * WIDTH) & (length >= 0)
    place = tl.load(STARTS + row) + length
    to = (at // WIDTH).to(tl.int64) * places * WIDTH + place * WIDTH + at % WIDTH
    tl.store(KEYS + to, tl.load(NEW_K + row * k_row + at, mask=mask, other=0.0), mask=mask)
    tl.store(VALUES + to, tl.load(NEW_V + row * v_row + at, mask=mask, other=0.0), mask=mask)


@jit
def _attend(Q: tl.tensor, KEYS: tl.tensor, VALUES: tl.tensor, STARTS: tl.tensor,
            LENGTHS: tl.tensor, PARTS: tl.tensor, WEIGHTS: tl.tensor, q_row: tl.tensor,
            places: tl.tensor, scale: tl.tensor, num_k: tl.tensor, splits: tl.tensor,
            GROUP: tl.constexpr, WIDTH: tl.constexpr, BLOCK_G: tl.constexpr,
            BLOCK_H: tl.constexpr, BLOCK_L: tl.constexpr, CHUNK: tl.constexpr):  # fmt: skip
    """The queries of one key head of one row, over one chunk of what the row has cached."""
    row, head, split = tl.program_id(0) // num_k, tl.program_id(0) % num_k, tl.program_id(1)
    length = tl.load(LENGTHS + row) + 1  # the new token sees itself; a row at rest is -1 long
    first = split * CHUNK
    if first < length:
        g, h = tl.arange(0, BLOCK_G), tl.arange(0, BLOCK_H)
        q_mask = (g < GROUP)[:, None] & (h < WIDTH)[None, :]
        heads = head * GROUP + g
        q = tl.load(Q + row * q_row + heads[:, None] * WIDTH + h[None, :], mask=q_mask, other=0.0)
        below = head.to(tl.int64) * places * WIDTH + tl.load(STARTS + row) * WIDTH
        largest = tl.full((BLOCK_G,), float("-inf"), tl.float32)
        total = tl.zeros((BLOCK_G,), tl.float32)
        out = tl.zeros((BLOCK_G, BLOCK_H), tl.float32)
        for step in range(0, CHUNK, BLOCK_L):
            at = first + step + tl.arange(0, BLOCK_L)
            mask = (at < length)[:, None] & (h < WIDTH)[None, :]
            where = below + at.to(tl.int64)[:, None] * WIDTH + h[None, :]
            k = tl.load(KEYS + where, mask=mask, other=0.0)
            v = tl.load(VALUES + where, mask=mask, other=0.0)
            scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
            scores = tl.where((at < length)[None, :], scores, float("-inf"))
            larger = tl.maximum(largest, tl.max(scores, axis=1))
            shrink = tl.exp2(largest - larger)
            p = tl.exp2(scores - larger[:, None])
            total = total * shrink + tl.sum(p, axis=1)
            out = tl.dot(p.to(v.dtype), v, out * shrink[:, None], input_precision="ieee")
            largest = larger
        to = (row * num_k * GROUP + heads) * splits + split
        tl.store(PARTS + to[:, None] * WIDTH + h[None, :], out / total[:, None], mask=q_mask)
        tl.store(WEIGHTS + to, largest + tl.log2(total), mask=g < GROUP)


@jit
def _join(PARTS: tl.tensor, WEIGHTS: tl.tensor, LENGTHS: tl.tensor, OUT: tl.tensor,
          num_heads: tl.tensor, splits: tl.tensor, WIDTH: tl.constexpr, BLOCK_S: tl.constexpr,
          BLOCK_H: tl.constexpr, CHUNK: tl.constexpr):  # fmt: skip
    """One head of one row: its chunks, weighted by their share of the whole sum."""
    place = tl.program_id(0)
    length = tl.load(LENGTHS + place // num_heads) + 1
    s, h = tl.arange(0, BLOCK_S), tl.arange(0, BLOCK_H)
    filled = s * CHUNK < length
    at = place.to(tl.int64) * splits + s
    weights = tl.load(WEIGHTS + at, mask=filled, other=float("-inf"))
    weights = tl.where(filled, tl.exp2(weights - tl.max(weights, axis=0)), 0.0)
    mask = filled[:, None] & (h < WIDTH)[None, :]
    parts = tl.load(PARTS + at[:, None] * WIDTH + h[None, :], mask=mask, other=0.0)
    whole = tl.sum(parts * weights[:, None], axis=0) / tl.maximum(tl.sum(weights, axis=0), 1e-30)
    tl.store(OUT + place.to(tl.int64) * WIDTH + h, whole.to(OUT.dtype.element_ty), mask=h < WIDTH)


def decode_attention(
    q: Tensor,
    new: tuple[Tensor, Tensor],
    cached: tuple[Tensor, Tensor],
    starts: Tensor,
    lengths: Tensor,
    longest: int,
    out: Tensor,
) -> None:
    """Store the new keys and values, then attend; see `thinktune.ops.decode_attention`."""
    rows, num_q, width = q.shape
    (keys, values), (k, v) = cached, new
    num_k, places = keys.shape[:2]
    splits = -(-longest // _CHUNK)
    parts = torch.empty(rows, num_q, splits, width, dtype=torch.float32, device=q.device)
    weights = torch.empty(rows, num_q, splits, dtype=torch.float32, device=q.device)
    block_h = power_of_two(width)
    _store[(rows,)](
        k, v, keys, values, starts, lengths, k.stride(0), v.stride(0), places, num_k=num_k,
        WIDTH=width, BLOCK=power_of_two(num_k * width), num_warps=4,
    )  # fmt: skip
    _attend[(rows * num_k, splits)](
        q, keys, values, starts, lengths, parts, weights, q.stride(0), places,
        width**-0.5 * _LOG2_E, num_k, splits, GROUP=num_q // num_k, WIDTH=width,
        BLOCK_G=power_of_two(num_q // num_k), BLOCK_H=block_h,
        BLOCK_L=32 if capability(q.device)[0] == 7 else 64, CHUNK=_CHUNK,
        num_warps=4, num_stages=3,
    )  # fmt: skip
    _join[(rows * num_q,)](
        parts, weights, lengths, out, num_q, splits, WIDTH=width,
        BLOCK_S=power_of_two(splits, least=1), BLOCK_H=block_h, CHUNK=_CHUNK, num_warps=1,
    )  # fmt: skip
