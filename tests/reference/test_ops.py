"""Every fused operation against its plain twin: values and every gradient."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.tiny_models import relative_error
from thinktune.ops import reference
from thinktune.ops.attention import cached_attention, packed_attention
from thinktune.ops.linear_cross_entropy import linear_cross_entropy
from thinktune.ops.lora_linear import lora_linear
from thinktune.ops.rms_norm import rms_norm
from thinktune.ops.rope import rope
from thinktune.ops.swiglu import swiglu

# Largest relative Frobenius error in float64, of value or gradient.
TOLERANCE = {
    "rms_norm": 1e-13,  # measured 1.6e-14: the gradient of a single number cancels
    "rope": 1e-15,  # measured 6.6e-17
    "swiglu": 1e-15,  # measured 1.5e-18
    "lora_linear": 1e-14,  # measured 3.5e-16
    "packed_attention": 1e-14,  # measured 5.1e-16
    "linear_cross_entropy": 1e-14,  # measured 3.4e-16
    "cached_attention": 1e-14,  # measured 0
}
# In bf16 a fused op may be this much further from the float64 truth than its twin, plus one
# rounding (2**-7), which is all there is in tensors of one number.
BF16_SLACK = 1.5  # measured 1.15 without the rounding, of one number 4.5

FAST: dict[str, Callable] = {
    "rms_norm": rms_norm,
    "rope": rope,
    "swiglu": swiglu,
    "lora_linear": lora_linear,
    "packed_attention": packed_attention,
    "linear_cross_entropy": linear_cross_entropy,
}


@dataclass(frozen=True)
class Case:
    """Inputs of one call: those that get a gradient, then the others, in the op's order."""

    op: str
    inputs: tuple[Any, ...]
    differentiable: tuple[int, ...]


_INPUTS = torch.Generator().manual_seed(0)


def _randn(*shape: int, generator: torch.Generator = _INPUTS) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def _angles(tokens: int, width: int) -> tuple[Tensor, Tensor]:
    angles = torch.arange(tokens)[:, None] * _randn(1, width // 2)
    angles = torch.cat((angles, angles), -1)
    return angles.cos(), angles.sin()


def _norm(*shape: int) -> Case:
    return Case("rms_norm", (_randn(*shape), 1 + _randn(shape[-1]), 1e-2), (0,))


def _rope(tokens: int, heads: int, width: int) -> Case:
    return Case("rope", (_randn(tokens, heads, width), *_angles(tokens, width)), (0,))


def _swiglu(tokens: int, width: int) -> Case:
    return Case("swiglu", (_randn(tokens, width) * 3, _randn(tokens, width)), (0, 1))


def _lora(tokens: int, wide_in: int, wide_out: int, rank: int, bias: bool, dropout: bool) -> Case:
    x = _randn(tokens, wide_in)
    dropped = x * (_randn(tokens, wide_in) > 0) / 0.5 if dropout else None
    parts = (x, _randn(wide_out, wide_in), _randn(wide_out) if bias else None)
    adapter = (_randn(rank, wide_in), _randn(wide_out, rank), 0.7)
    return Case("lora_linear", (*parts, *adapter, dropped), (0, 3, 4) + (6,) * dropout)


def _attention(heads: int, kv_heads: int, width: int, *lengths: int) -> Case:
    tokens = sum(lengths)
    q, k, v = (_randn(tokens, n, width) for n in (heads, kv_heads, kv_heads))
    return Case("packed_attention", (q, k, v, lengths), (0, 1, 2))


def _entropy(targets: int, width: int, vocabulary: int) -> Case:
    wanted = torch.randint(vocabulary, (targets,), generator=_INPUTS)
    inputs = (_randn(targets, width), _randn(vocabulary, width), wanted, _randn(targets).abs())
    return Case("linear_cross_entropy", inputs, (0,))


CASES = {
    "rms_norm of one number": _norm(1, 1),
    "rms_norm of rows": _norm(13, 31),
    "rms_norm of heads": _norm(7, 3, 6),
    "rope of one token": _rope(1, 1, 2),
    "rope of rows": _rope(17, 3, 14),
    "swiglu of one number": _swiglu(1, 1),
    "swiglu of rows": _swiglu(11, 29),
    "lora_linear of size one": _lora(1, 1, 1, 1, bias=True, dropout=False),
    "lora_linear": _lora(13, 17, 23, 3, bias=False, dropout=False),
    "lora_linear with bias": _lora(13, 23, 17, 5, bias=True, dropout=False),
    "lora_linear with dropout": _lora(13, 17, 23, 3, bias=True, dropout=True),
    "attention of one token": _attention(1, 1, 1, 1),
    "attention of one document": _attention(4, 4, 7, 19),
    "attention of one-token documents": _attention(6, 2, 5, 1, 1, 1, 1, 1),
    "attention of many documents": _attention(6, 2, 8, 5, 1, 17, 2, 1, 11, 3),
    "attention of one key head": _attention(3, 1, 14, 7, 23),
    "linear_cross_entropy of one target": _entropy(1, 1, 1),
    "linear_cross_entropy": _entropy(11, 13, 37),
    "linear_cross_entropy of no target": _entropy(0, 5, 7),
    "linear_cross_entropy over many chunks": _entropy(601, 3, 5),
}
BY_NAME = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def _contiguous(tensor: Tensor) -> Tensor:
    return tensor.clone()


def _strided(tensor: Tensor) -> Tensor:
    """The same values, every other element of a larger tensor with turned axes."""
    room = tensor.new_full([2 * size for size in reversed(tensor.shape)], -1)
    view = room[(slice(None, None, 2),) * tensor.ndim].permute(*reversed(range(tensor.ndim)))
    return view.copy_(tensor)


def _run(
    call: Callable, case: Case, layout: Callable = _contiguous, dtype: torch.dtype | None = None
) -> list[Tensor]:
    """The result, then the gradient of every differentiable input."""
    inputs = [layout(x) if isinstance(x, Tensor) else x for x in case.inputs]
    if dtype is not None:
        inputs = [
            x.to(dtype) if isinstance(x, Tensor) and x.is_floating_point() else x for x in inputs
        ]
    leaves = [inputs[place].requires_grad_() for place in case.differentiable]
    before = [leaf.detach().clone() for leaf in leaves]
    out = call(*inputs)
    value, *others = out if isinstance(out, tuple) else (out,)
    given = torch.Generator().manual_seed(1)
    cotangent = _randn(*value.shape, 1, generator=given).squeeze(-1).to(value.dtype)
    unchanged = cotangent.clone()
    grads = torch.autograd.grad(value, leaves, cotangent)
    assert all(map(torch.equal, before, [leaf.detach() for leaf in leaves])), "wrote to an input"
    assert torch.equal(unchanged, cotangent), "wrote to the incoming gradient"
    return [value.detach(), *(x.detach() for x in others), *grads]


@BY_NAME
@pytest.mark.parametrize("layout", [_contiguous, _strided])
def test_a_fused_op_and_its_gradients_equal_the_plain_twin(case: Case, layout: Callable):
    ours = _run(FAST[case.op], case, layout)
    theirs = _run(getattr(reference, case.op), case)
    assert len(ours) == len(theirs)
    for mine, plain in zip(ours, theirs, strict=True):
        assert mine.shape == plain.shape
        assert mine.dtype == plain.dtype
        assert relative_error(mine, plain) <= TOLERANCE[case.op]


@BY_NAME
def test_a_gradient_equals_the_difference_quotient(case: Case):
    if sum(x.numel() for x in case.inputs if isinstance(x, Tensor)) > 1500:
        case = Case(case.op, tuple(_first(x) for x in case.inputs), case.differentiable)
    inputs = [x.clone() if isinstance(x, Tensor) else x for x in case.inputs]
    for place in case.differentiable:
        inputs[place].requires_grad_()

    def value(*leaves: Tensor) -> Tensor:
        for place, leaf in zip(case.differentiable, leaves, strict=True):
            inputs[place] = leaf
        out = FAST[case.op](*inputs)
        return out[0] if isinstance(out, tuple) else out

    leaves = tuple(inputs[place] for place in case.differentiable)
    if case.op == "linear_cross_entropy" and not len(leaves[0]):
        pytest.skip("no input to vary")
    # The gradient is made in the forward pass, so asking for it twice must give the same.
    assert torch.autograd.gradcheck(value, leaves, fast_mode=sum(x.numel() for x in leaves) > 300)


def _first(x: Any) -> Any:
    """Fewer rows of what has hundreds."""
    return x[:7] if isinstance(x, Tensor) and len(x) > 100 else x


@pytest.mark.parametrize("chunk_tokens", [1, 7, 11, 13, 1000])
def test_the_loss_does_not_depend_on_the_chunk_size(chunk_tokens: int):
    case = CASES["linear_cross_entropy"]

    def chunked(*inputs: Any) -> Any:
        return linear_cross_entropy(*inputs, chunk_tokens=chunk_tokens)

    for mine, plain in zip(
        _run(chunked, case), _run(reference.linear_cross_entropy, case), strict=True
    ):
        assert relative_error(mine, plain) <= TOLERANCE[case.op]


@pytest.mark.parametrize("size", [1e4, -1e4])
def test_the_loss_of_huge_logits_is_finite(size: float):
    hidden = torch.tensor([[size]], requires_grad=True)
    loss, nll = linear_cross_entropy(
        hidden, torch.tensor([[1.0], [-1.0]]), torch.tensor([0]), torch.ones(1)
    )
    loss.backward()
    assert nll.item() == pytest.approx(max(0.0, -2 * size))
    assert hidden.grad is not None
    assert hidden.grad.isfinite().all()


def test_a_weight_of_zero_silences_a_target_exactly():
    hidden, head, targets, weights = CASES["linear_cross_entropy"].inputs
    weights = weights.clone()
    weights[4] = 0
    hidden = hidden.clone().requires_grad_()
    loss, nll = linear_cross_entropy(hidden, head, targets, weights)
    loss.backward()
    assert hidden.grad is not None
    assert not hidden.grad[4].any()
    assert nll[4] > 0


@BY_NAME
def test_in_bf16_a_fused_op_is_as_near_the_truth_as_its_twin(case: Case):
    wide = tuple(
        x.bfloat16().double() if isinstance(x, Tensor) and x.is_floating_point() else x
        for x in case.inputs
    )
    exact = Case(case.op, wide, case.differentiable)
    truth = _run(getattr(reference, case.op), exact)
    ours = _run(FAST[case.op], exact, dtype=torch.bfloat16)
    theirs = _run(getattr(reference, case.op), exact, dtype=torch.bfloat16)
    for true, mine, plain in zip(truth, ours, theirs, strict=True):
        assert mine.dtype == plain.dtype
        allowed = BF16_SLACK * relative_error(plain, true) + 2**-7
        assert relative_error(mine, true) <= allowed


def test_an_adapter_in_float32_over_a_bf16_base_gets_float32_gradients():
    x, weight, bias, first, second, scale, _ = CASES["lora_linear with bias"].inputs
    first, second = (m.float().requires_grad_() for m in (first, second))
    low = (x.bfloat16(), weight.bfloat16(), bias.bfloat16())
    out = lora_linear(*low, first, second, scale)
    out.sum().backward()  # the incoming gradient is one number, expanded
    assert out.dtype == torch.bfloat16
    assert first.grad is not None
    assert second.grad is not None
    assert first.grad.dtype == second.grad.dtype == torch.float32


def test_attention_is_the_same_on_both_sides_of_the_switch_to_the_fused_kernel():
    case = _attention(2, 1, 4, 512, 513)
    ours, twin = (_run(op, case) for op in (packed_attention, reference.packed_attention))
    for mine, plain in zip(ours, twin, strict=True):
        assert relative_error(mine, plain) <= TOLERANCE["packed_attention"]


@pytest.mark.parametrize("lengths", [(5, 1, 7), (511, 3)], ids=str)
def test_documents_behind_a_prefix_see_it_and_themselves(lengths: tuple[int, ...]):
    prefix = 17
    case = _attention(6, 2, 4, prefix, *lengths)
    case = Case(case.op, (*case.inputs[:3], lengths, prefix), case.differentiable)
    ours, twin = (_run(op, case) for op in (packed_attention, reference.packed_attention))
    for mine, plain in zip(ours, twin, strict=True):
        assert relative_error(mine, plain) <= TOLERANCE["packed_attention"]


def test_a_new_token_sees_its_cache_as_packed_attention_sees_its_document():
    lengths, heads, kv_heads, width = (1, 13, 2, 7), 6, 2, 5
    q, k, v, _ = _attention(heads, kv_heads, width, *lengths).inputs
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
    assert relative_error(ours, packed[ends - 1]) <= TOLERANCE["cached_attention"]
    twin = reference.cached_attention(q[ends - 1], keys, values, seen)
    assert relative_error(ours, twin) <= TOLERANCE["cached_attention"]
