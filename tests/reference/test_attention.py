"""Attention over packed documents and over a cache, against one dense mask."""

from itertools import accumulate, pairwise

import pytest
import torch
from torch import Tensor

from tests.op_cases import randn
from tests.tiny_models import relative_error
from thinktune.ops import reference
from thinktune.ops.attention import (
    Kernel,
    PackedAttention,
    cached_attention,
    packed_attention,
)

# Largest relative Frobenius error in float64, of value or gradient.
TOLERANCE = {
    "packed": 1e-14,  # measured 7.9e-16
    "cached": 1e-14,  # measured 2.2e-16
}
# In bf16 ours may be this much further from the float64 truth than its twin, plus one rounding.
BF16_SLACK = 1.5  # measured 1.4 without the rounding

# Heads, key heads, width of a head, length of the prefix, lengths of the documents.
CASES = {
    "one token": (1, 1, 1, 0, (1,)),
    "one document": (4, 4, 7, 0, (19,)),
    "one-token documents": (6, 2, 5, 0, (1, 1, 1, 1, 1)),
    "many documents": (6, 2, 8, 0, (5, 1, 17, 2, 1, 11, 3)),
    "one key head": (3, 1, 14, 0, (7, 23)),
    "both sides of the switch to the fused kernel": (2, 1, 4, 0, (512, 513)),
    "behind a prefix": (6, 2, 4, 17, (5, 1, 7)),
    "a prefix of one token": (2, 2, 3, 1, (1, 3)),
    "behind a prefix, through the fused kernel": (6, 2, 4, 17, (511, 3)),
}
BY_NAME = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
Shape = tuple[int, int, int, int, tuple[int, ...]]


def _buffer(case: Shape, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Query, key and value side by side, as the layer has them."""
    heads, kv_heads, width, prefix, lengths = case
    generator = torch.Generator().manual_seed(seed)
    rows = prefix + sum(lengths)
    return randn(rows, (heads + 2 * kv_heads) * width, generator=generator).to(dtype)


def _split(buffer: Tensor, case: Shape) -> tuple[Tensor, Tensor, Tensor]:
    heads, kv_heads, width, *_ = case
    q, k, v = buffer.unflatten(1, (-1, width)).split((heads, kv_heads, kv_heads), dim=1)
    return q, k, v


def _plain(case: Shape, qkv: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    leaf = qkv.clone().requires_grad_()
    out = reference.packed_attention(*_split(leaf, case), case[4], case[3])
    return out.detach(), torch.autograd.grad(out, leaf, grad.to(out.dtype))[0]


def _ours(case: Shape, qkv: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    attend = PackedAttention(case[4], case[3])
    parts = _split(qkv, case)
    before = qkv.clone(), grad.clone()
    with torch.no_grad():  # as inside the layer's autograd function
        out, saved = attend.forward(0, *parts)
    assert attend.kernel(parts[0]) is Kernel.TRACED
    assert not out.requires_grad
    value, room = out.clone(), torch.full_like(qkv, float("nan"))
    found = attend.backward(grad, parts, out, saved, _split(room, case)[0])
    grads = torch.cat([x.flatten(1) for x in found], 1)
    assert torch.equal(before[0], qkv)
    assert torch.equal(before[1], grad)
    return value, grads


@BY_NAME
def test_attention_and_its_gradients_equal_the_plain_twin(case: Shape):
    qkv = _buffer(case, 0)
    grad = _split(_buffer(case, 1), case)[0]
    for mine, plain in zip(_ours(case, qkv, grad), _plain(case, qkv, grad), strict=True):
        assert mine.shape == plain.shape
        assert mine.dtype == plain.dtype
        assert relative_error(mine, plain) <= TOLERANCE["packed"]


@BY_NAME
def test_in_bf16_attention_is_as_near_the_truth_as_its_twin(case: Shape):
    low = torch.bfloat16
    qkv = _buffer(case, 0, low)
    grad = _split(_buffer(case, 1, low), case)[0]
    truth = _plain(case, qkv.double(), grad)
    three = zip(truth, _ours(case, qkv, grad), _plain(case, qkv, grad), strict=True)
    for true, mine, plain in three:
        assert mine.dtype == plain.dtype
        assert relative_error(mine, true) <= BF16_SLACK * relative_error(plain, true) + 2**-7


@pytest.mark.parametrize("place", range(3), ids=["q", "k", "v"])
def test_a_document_has_no_part_in_another_not_even_a_rounding(place: int):
    case = (6, 2, 8, 0, (5, 1, 17, 2))
    ends = list(accumulate((0, *case[4])))
    qkv = _buffer(case, 0)
    grad = _split(_buffer(case, 1), case)[0]
    before = _ours(case, qkv, grad)
    changed = qkv.clone()
    _split(changed, case)[place][ends[2] : ends[3]] = 1e30
    after = _ours(case, changed, grad)
    for first, last in [span for span in pairwise(ends) if span != (ends[2], ends[3])]:
        assert all(
            torch.equal(a[first:last], b[first:last]) for a, b in zip(before, after, strict=True)
        )
    assert not torch.equal(before[1][ends[2] : ends[3]], after[1][ends[2] : ends[3]])


def test_attention_with_no_backward_to_come_is_the_same_and_builds_no_graph():
    case = CASES["many documents"]
    parts = _split(_buffer(case, 0), case)
    attend = PackedAttention(case[4])
    with torch.no_grad():
        out, saved = attend(0, *parts)
    assert saved is None
    assert out.grad_fn is None
    assert torch.equal(out, packed_attention(*parts, case[4]))
    assert torch.equal(out, attend.forward(0, *parts)[0])


def test_a_new_token_sees_its_cache_as_packed_attention_sees_its_document():
    lengths, heads, kv_heads, width = (1, 13, 2, 7), 6, 2, 5
    case = (heads, kv_heads, width, 0, lengths)
    q, k, v = _split(_buffer(case, 0), case)
    packed = reference.packed_attention(q, k, v, lengths)
    ends = torch.tensor(lengths).cumsum(0)
    # Places beyond a row's length hold rubbish that must not be read.
    keys = torch.full((4, kv_heads, width, 17), 1e30).double()
    values = keys.mT.clone()
    for row, (end, length) in enumerate(zip(ends.tolist(), lengths, strict=True)):
        keys[row, ..., :length] = k[end - length : end].permute(1, 2, 0)
        values[row, :, :length] = v[end - length : end].transpose(0, 1)
    seen = torch.arange(17) < torch.tensor(lengths)[:, None]
    ours = cached_attention(q[ends - 1], keys, values, seen)
    assert relative_error(ours, packed[ends - 1]) <= TOLERANCE["cached"]
    twin = reference.cached_attention(q[ends - 1], keys, values, seen)
    assert relative_error(ours, twin) <= TOLERANCE["cached"]
