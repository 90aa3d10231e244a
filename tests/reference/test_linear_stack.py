"""Projections of one input joined in one product, against each layer of the adapter alone."""

from dataclasses import dataclass
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from tests.op_cases import randn
from tests.tiny_models import relative_error
from thinktune.model.adapter import Adapter
from thinktune.model.base_weights import BaseLinear, LinearStack
from thinktune.model.lora import LoRAConfig, place
from thinktune.ops import reference
from thinktune.ops.update import dropout

# Largest relative Frobenius error in float64, of value or gradient.
TOLERANCE = 1e-14  # measured 4.5e-16
# In bf16 ours may be this much further from the float64 truth than its twin, plus one rounding.
BF16_SLACK = 1.5  # measured 1.53 without the rounding
SEED = 5


@dataclass(frozen=True)
class Case:
    """A stack, and what its members have."""

    tokens: int
    width_in: int
    widths: tuple[int, ...]
    rank: int
    bias: bool = False
    without: tuple[int, ...] = ()
    """Members without an adapter."""
    dropout: float = 0.0
    alpha: float = 5.0


CASES = {
    "of size one": Case(1, 1, (1,), 1, bias=True),
    "one member": Case(13, 17, (23,), 3),
    "one member with bias and dropout": Case(13, 17, (23,), 3, bias=True, dropout=0.4),
    "query, key and value": Case(13, 23, (17, 5, 5), 3),
    "query, key and value with bias": Case(13, 23, (17, 5, 5), 5, bias=True),
    "query, key and value with dropout": Case(13, 23, (17, 5, 5), 3, dropout=0.4),
    "query and value adapted": Case(13, 23, (17, 5, 7), 3, without=(1,)),
    "key alone adapted, with bias and dropout": Case(
        13, 23, (17, 5, 7), 3, bias=True, without=(0, 2), dropout=0.4
    ),
    "gate and up of rank 1": Case(7, 11, (29, 29), 1),
    "up alone adapted": Case(7, 11, (29, 29), 2, without=(0,)),
    "a rank above every width": Case(7, 3, (5, 2), 31),
}
BY_NAME = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def _members(case: Case, dtype: torch.dtype) -> list[BaseLinear]:
    """Layers with random weights and adapters that both types can hold."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return randn(*shape, generator=generator).bfloat16()

    config = LoRAConfig(rank=case.rank, alpha=case.alpha, dropout=case.dropout)
    members = [BaseLinear(case.width_in, width, case.bias) for width in case.widths]
    for index, member in enumerate(members):
        width = case.widths[index]
        member.weight = nn.Parameter(draw(width, case.width_in).to(dtype), requires_grad=False)
        if case.bias:
            member.bias = nn.Parameter(draw(width).to(dtype), requires_grad=False)
        first, second = draw(case.rank, case.width_in), draw(width, case.rank)
        if index not in case.without:
            place(member, first.float(), second.float(), config)
    return members


def _stack(case: Case, dtype: torch.dtype) -> tuple[LinearStack, Adapter]:
    stack = LinearStack(*_members(case, dtype))
    adapter = Adapter([m for m in stack.members if m.lora_A is not None], [stack])
    adapter.refresh()
    return stack, adapter


def _x(case: Case, dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return randn(case.tokens, case.width_in, generator=generator).bfloat16().to(dtype)


def _grad(case: Case, dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    return randn(case.tokens, sum(case.widths), generator=generator).bfloat16().to(dtype)


def _ours(case: Case, dtype: torch.dtype = torch.float64, times: int = 1) -> list[Tensor]:
    """The product, the input's gradient, then those of every A and B."""
    stack, adapter = _stack(case, dtype)
    x, grad = _x(case, dtype), _grad(case, dtype)
    before = x.clone(), grad.clone()
    y = grad_x = x
    for _ in range(times):
        y, S, update = stack.project(x, SEED)
        assert update is None  # it is added already
        grad_b = stack.grad_b(S)
        if grad_b is not None:
            grad_b.add(grad)
        grad_x, grad_S = stack.backward_input(grad)
        low_rank = stack.through_a(grad_x, grad_S, SEED)
        if low_rank is not None:
            grad_x.addmm_(*low_rank)
        stack.add_grad_a(grad_S, x, SEED)
    assert torch.equal(before[0], x)
    assert torch.equal(before[1], grad)
    adapter.scale_gradient()
    return [y, grad_x, *(g.clone() for g in _gradients(stack))]


def _gradients(stack: LinearStack) -> list[Tensor]:
    matrices = [x for m in stack.members for x in (m.lora_A, m.lora_B) if x is not None]
    return [matrix.grad for matrix in matrices if matrix.grad is not None]


def _plain(case: Case, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """The same from each member alone."""
    members, x = _members(case, dtype), _x(case, dtype).requires_grad_()
    scale, wide = case.alpha / case.rank, torch.promote_types(dtype, torch.float32)
    seen, leaves, parts = None, [x], []
    if case.dropout:
        seen = x * dropout(torch.ones_like(x), case.dropout, SEED)
    for member in members:
        if member.lora_A is None or member.lora_B is None:
            parts.append(torch.nn.functional.linear(x, member.weight, member.bias))
            continue
        pair = [m.detach().to(wide).requires_grad_() for m in (member.lora_A, member.lora_B)]
        leaves += pair
        parts.append(reference.lora_linear(x, member.weight, member.bias, *pair, scale, seen))
    y = torch.cat(parts, 1)
    return [y.detach(), *torch.autograd.grad(y, leaves, _grad(case, dtype))]


@BY_NAME
def test_a_stack_and_its_gradients_equal_each_member_alone(case: Case):
    ours, theirs = _ours(case), _plain(case)
    assert len(ours) == len(theirs) == 2 + 2 * (len(case.widths) - len(case.without))
    for mine, plain in zip(ours, theirs, strict=True):
        assert mine.shape == plain.shape
        assert mine.dtype == plain.dtype
        assert relative_error(mine, plain) <= TOLERANCE


@BY_NAME
def test_in_bf16_a_stack_is_as_near_the_truth_as_its_members(case: Case):
    low = torch.bfloat16
    for true, mine, plain in zip(_plain(case), _ours(case, low), _plain(case, low), strict=True):
        assert mine.dtype == plain.dtype
        assert relative_error(mine, true) <= BF16_SLACK * relative_error(plain, true) + 2**-7


@BY_NAME
def test_gradients_add_up_over_passes(case: Case):
    once, thrice = _ours(case), _ours(case, times=3)
    for index, (first, last) in enumerate(zip(once, thrice, strict=True)):
        assert relative_error(last, first * (1 if index < 2 else 3)) <= TOLERANCE


@BY_NAME
def test_every_member_keeps_its_weight_as_a_view_of_the_joined_one(case: Case):
    alone, (stack, _) = _members(case, torch.float64), _stack(case, torch.float64)
    rows = torch.tensor((0, *case.widths)).cumsum(0).tolist()
    for before, member, (first, last) in zip(alone, stack.members, pairwise(rows), strict=True):
        assert torch.equal(member.weight, before.weight)
        assert member.weight.data_ptr() == stack.held.weight[first:last].data_ptr()
        if before.bias is not None and member.bias is not None and stack.bias is not None:
            assert torch.equal(member.bias, before.bias)
            assert member.bias.data_ptr() == stack.bias[first:last].data_ptr()


def test_joining_again_moves_nothing():
    stack, _ = _stack(CASES["query, key and value with bias"], torch.float64)
    assert stack.bias is not None
    before = stack.held.weight.data_ptr(), stack.bias.data_ptr()
    stack.join()
    assert before == (stack.held.weight.data_ptr(), stack.bias.data_ptr())


ROOM = torch.randn(12, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "parts",
    [
        (ROOM[4:8], ROOM[:4]),
        (ROOM[:4], ROOM[8:]),
        (ROOM[:4, :5], ROOM[2:6, :5]),  # the second begins where a whole first would end
        (ROOM[4:8], ROOM[8:].clone()),
        (ROOM.view(-1)[:30].view(3, 10), ROOM.view(-1)[20:40].view(2, 10)),
    ],
    ids=["turned", "with a gap", "not contiguous", "elsewhere", "overlapping"],
)
def test_neighbours_in_memory_that_do_not_follow_each_other_are_not_taken_for_one(
    parts: tuple[Tensor, Tensor],
):
    case = Case(3, parts[0].shape[1], (len(parts[0]), len(parts[1])), 1)
    members = _members(case, torch.float64)
    for member, part in zip(members, parts, strict=True):
        member.weight = nn.Parameter(part, requires_grad=False)
    assert torch.equal(LinearStack(*members).held.weight, torch.cat(parts))


def test_an_adapter_of_scale_zero_is_no_adapter():
    stack, adapter = _stack(CASES["query, key and value"], torch.float64)
    for member in stack.members:
        member.scale = 0.0
    x, grad = (f(CASES["query, key and value"], torch.float64) for f in (_x, _grad))
    y, S, update = stack.project(x, SEED)
    assert torch.equal(y, x @ stack.held.weight.T)
    assert S is None
    assert update is None
    assert stack.grad_b(S) is None
    assert stack.backward_input(grad)[1] is None
    assert not adapter.gradient.any()


def test_outside_training_nothing_is_dropped():
    case = CASES["query, key and value with dropout"]
    (dropping, _), (plain, _) = (
        _stack(c, torch.float64) for c in (case, CASES["query, key and value"])
    )
    x = _x(case, torch.float64)
    assert not torch.equal(dropping.project(x, SEED)[0], plain.project(x, SEED)[0])
    for member in dropping.members:
        member.eval()
    assert torch.equal(dropping.project(x, SEED)[0], plain.project(x, SEED)[0])


def test_a_change_of_one_matrix_is_seen_after_a_refresh():
    case = CASES["query, key and value"]
    stack, adapter = _stack(case, torch.float64)
    x = _x(case, torch.float64)
    before = stack.project(x, SEED)[0]
    assert stack.members[1].lora_B is not None
    with torch.no_grad():
        stack.members[1].lora_B.mul_(2)
    adapter.refresh()
    after = stack.project(x, SEED)[0]
    assert torch.equal(before[:, :17], after[:, :17])
    assert torch.equal(before[:, 22:], after[:, 22:])
    assert (before[:, 17:22] != after[:, 17:22]).all()
