"""Every operation forward and backward, as a layer runs it and as one writes it down, with inputs.

Shared by the tests of the plain PyTorch paths and those of the Triton kernels.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from thinktune.kernels.language import runs_fused
from thinktune.ops import reference
from thinktune.ops.linear_cross_entropy import linear_cross_entropy
from thinktune.ops.rms_norm import (
    add_rms_norm,
    residual_add,
    rms_norm,
    rms_norm_backward,
    rms_norm_forward,
)
from thinktune.ops.rope import Heads, rope_backward, rope_forward
from thinktune.ops.swiglu import swiglu_backward, swiglu_forward
from thinktune.ops.update import GradA, GradB, Update, add_in_place

EPS = 1e-2
Tensors = tuple[Tensor, ...]
Inputs = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """Inputs of one call, by name; those that are ``differentiable`` get a gradient."""

    op: str
    inputs: Inputs
    differentiable: tuple[str, ...] = ()
    low_rank: tuple[Tensor, Tensor] | None = None
    """What backward adds to the first incoming gradient while it passes over it: left @ right."""


@dataclass(frozen=True)
class Operation:
    """What ``plain`` writes down, ``ours`` computes; both give the values of the inputs.

    Without a ``backward`` written by hand, ours is part of a graph like any other.
    """

    plain: Callable[..., Tensors]
    ours: Callable[..., Tensors]
    backward: Callable[[Inputs, Tensors, Tensors, Any], Tensors] | None = None
    """(inputs, values, their gradients, low rank) -> gradients of the inputs."""
    overwritten: tuple[str, ...] = ()
    """Inputs that forward may write to."""


_GENERATOR = torch.Generator().manual_seed(0)


def randn(*shape: int, generator: torch.Generator = _GENERATOR) -> Tensor:
    """Normal numbers in float64."""
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def make_update(tokens: int, rank: int, *widths: int, without: tuple[int, ...] = ()) -> Update:
    """What `LinearStack.update` hands over; members ``without`` an adapter have no block."""
    adapted = [place for place in range(len(widths)) if place not in without]
    columns = tuple(
        adapted.index(place) * rank if place in adapted else None for place in range(len(widths))
    )
    right = torch.zeros(sum(widths), len(adapted) * rank, dtype=torch.float64)
    rows = torch.tensor((0, *widths)).cumsum(0).tolist()
    for (first, last), column in zip(pairwise(rows), columns, strict=True):
        if column is not None:
            right[first:last, column : column + rank] = randn(last - first, rank)
    return Update(randn(tokens, len(adapted) * rank), right, columns, widths, rank)


def _with_update(y: Tensor, update: Update | None) -> Tensor:
    return y if update is None else y + update.left @ update.right.T


def _pending(y: Tensor, update: Update | None) -> Update | None:
    """The update as `LinearStack.project` leaves it: added already, but for a fused kernel."""
    if update is None or runs_fused(y):
        return update
    add_in_place(y, update)
    return None


def _norm(x: Tensor, weight: Tensor) -> Tensors:
    return rms_norm_forward(x, weight, EPS)[0], x


def _norm_backward(inputs: Inputs, values: Tensors, grads: Tensors, low_rank: Any) -> Tensors:
    x, weight = inputs["x"], inputs["weight"]
    rrms = rms_norm_forward(x, weight, EPS)[1]
    grad, residual = (grad.clone() for grad in grads)
    grad_x, again = rms_norm_backward(grad, low_rank, x, weight, rrms, residual)
    assert grad_x.data_ptr() == residual.data_ptr(), "not in place"
    assert torch.equal(again, values[0]), "other rows than forward's"
    return (grad_x,)


def _plain_norm(x: Tensor, weight: Tensor) -> Tensors:
    return reference.rms_norm(x, weight, EPS), x


def _add_norm(x: Tensor, base: Tensor, update: Update | None, weight: Tensor) -> Tensors:
    out, h, rrms = add_rms_norm(x, base, update, weight, EPS)
    assert out.data_ptr() == base.data_ptr(), "not in place"
    return out, h, rrms


def _plain_add_norm(x: Tensor, base: Tensor, update: Update | None, weight: Tensor) -> Tensors:
    out = x + _with_update(base, update)
    wide = out.to(torch.promote_types(out.dtype, torch.float32))
    return out, reference.rms_norm(out, weight, EPS), (wide.pow(2).mean(-1) + EPS).rsqrt()


def _heads(sizes: tuple[int, int, int], norms: Tensors | None) -> Heads:
    return Heads(*sizes, None if norms is None else (norms[0], norms[1]), EPS)


def _rope(
    qkv: Tensor, sizes: Any, rotation: Any, norms: Tensors | None, update: Update | None
) -> Tensors:
    before = qkv.clone()
    q, k, v = rope_forward(qkv, _heads(sizes, norms), rotation, _pending(qkv, update))
    if norms is None:
        assert q.data_ptr() == qkv.data_ptr(), "not in place"
    else:
        assert update is not None or torch.equal(qkv, before), "backward needs it as it was"
    return q, k, v


def _rope_backward(inputs: Inputs, values: Tensors, grads: Tensors, _: Any) -> Tensors:
    heads, update = _heads(inputs["sizes"], inputs["norms"]), inputs["update"]
    grad = torch.full_like(inputs["qkv"], torch.nan)
    heads.split(grad)[0].copy_(grads[0])  # the query's stands where it goes
    apart = [grads[1].transpose(0, 1).contiguous().transpose(0, 1), grads[2]]
    rope_backward((heads.split(grad)[0], *apart), inputs["qkv"], heads, inputs["rotation"], grad)
    if update is not None:
        grad_b = _grad_b(update)
        expected = _grad_b(update)
        again = torch.full_like(grad, torch.nan)
        rope_backward(grads, inputs["qkv"], heads, inputs["rotation"], again, grad_b)
        assert torch.equal(again, grad)
        expected.add(grad)
        _require_close(grad_b.totals, expected.totals)
    return (grad,)


def _grad_b(update: Update) -> GradB:
    """Totals that hold something already."""
    sizes = zip(update.widths, update.columns, strict=True)
    given = torch.Generator().manual_seed(3)
    totals = tuple(
        None if column is None else randn(n, update.rank, generator=given).to(update.left.dtype)
        for n, column in sizes
    )
    return GradB(update.left, totals, update.columns, update.widths, update.rank)


def _require_close(ours: Sequence[Tensor | None], exact: Sequence[Tensor | None]) -> None:
    for mine, true in zip(ours, exact, strict=True):
        assert (mine is None) == (true is None)
        if mine is not None and true is not None:
            # Sums over 2,100 rows in float32, in another order: measured up to 1.4e-6.
            error = (mine - true).norm() / true.norm()
            assert error <= 4e-6, f"{error:.1e}"


def _plain_rope(
    qkv: Tensor, sizes: Any, rotation: Any, norms: Tensors | None, update: Update | None
) -> Tensors:
    cos, sin = (torch.cat((table, table), -1) for table in rotation)
    q, k, v = _heads(sizes, norms).split(_with_update(qkv, update))
    if norms is not None:
        q, k = (reference.rms_norm(x, w, EPS) for x, w in zip((q, k), norms, strict=True))
    return reference.rope(q, cos, sin), reference.rope(k, cos, sin), v


def _swiglu(gate_up: Tensor, update: Update | None) -> Tensors:
    return (swiglu_forward(gate_up, _pending(gate_up, update)),)


def _swiglu_backward(inputs: Inputs, values: Tensors, grads: Tensors, low_rank: Any) -> Tensors:
    grad, gate_up = grads[0].clone(), inputs["gate_up"]
    update = inputs["update"] if runs_fused(gate_up) else None
    summed = gate_up.clone()
    grad_gate_up, again = swiglu_backward(grad, low_rank, gate_up, update)
    assert grad_gate_up.data_ptr() == gate_up.data_ptr(), "not in place"
    # A fused kernel adds the update in tiles of another size than in forward.
    slack = 1e-6 if update is not None else 0.0
    torch.testing.assert_close(again, values[0], rtol=slack, atol=10 * slack)
    _require_swiglu_sums(inputs, grads[0].clone(), low_rank, (grad_gate_up, values[0], summed))
    return (grad_gate_up,)


def _require_swiglu_sums(inputs: Inputs, grad: Tensor, low_rank: Any, given: Tensors) -> None:
    """The same gradients once more, and those of the adapter added up beside them."""
    (grad_gate_up, act, gate_up), update, exact_a = given, inputs["update"], None
    grad_a, grad_b, exact_b = None, None, None
    if low_rank is not None:
        total = torch.ones_like(low_rank[1])
        grad_a, exact_a = (GradA(low_rank[0], total.clone()) for _ in range(2))
        exact_a.add(act)
    if update is not None:
        grad_b, exact_b = _grad_b(update), _grad_b(update)
        exact_b.add(grad_gate_up)
    pending = update if runs_fused(gate_up) else None
    found, again = swiglu_backward(grad, low_rank, gate_up, pending, grad_a, grad_b)
    torch.testing.assert_close(found, grad_gate_up, rtol=1e-5, atol=1e-5)
    assert (again is None) == (grad_a is not None), "the activation is not wanted, or is"
    if grad_a is not None and exact_a is not None:
        _require_close([grad_a.total], [exact_a.total])
    if grad_b is not None and exact_b is not None:
        _require_close(grad_b.totals, exact_b.totals)


def _plain_swiglu(gate_up: Tensor, update: Update | None) -> Tensors:
    return (reference.swiglu(*_with_update(gate_up, update).chunk(2, dim=1)),)


def _add_in_place(y: Tensor, update: Update) -> Tensors:
    add_in_place(y, update)
    return (y,)


OPERATIONS = {
    "rms_norm": Operation(
        lambda x, weight: (reference.rms_norm(x, weight, EPS),),
        lambda x, weight: (rms_norm(x, weight, EPS),),
    ),
    "norm and residual": Operation(_plain_norm, _norm, _norm_backward),
    "add_rms_norm": Operation(_plain_add_norm, _add_norm, overwritten=("base",)),
    "residual_add": Operation(
        lambda x, base, update: (x + _with_update(base, update),),
        lambda x, base, update: (residual_add(x, base, update),),
        overwritten=("base",),
    ),
    "rope": Operation(_plain_rope, _rope, _rope_backward, overwritten=("qkv",)),
    "swiglu": Operation(_plain_swiglu, _swiglu, _swiglu_backward, overwritten=("gate_up",)),
    "add_in_place": Operation(
        lambda y, update: (_with_update(y, update),), _add_in_place, overwritten=("y",)
    ),
    "linear_cross_entropy": Operation(reference.linear_cross_entropy, linear_cross_entropy),
}


def _low_rank(tokens: int, rank: int, width: int) -> tuple[Tensor, Tensor] | None:
    return (randn(tokens, rank), randn(rank, width)) if rank else None


def norm_case(op: str, tokens: int, width: int, rank: int = 0) -> Case:
    """With a rank, a low-rank part of the incoming gradient."""
    inputs = {"x": randn(tokens, width), "weight": 1 + randn(width)}
    return Case(op, inputs, ("x",), _low_rank(tokens, rank, width))


def add_case(op: str, tokens: int, width: int, rank: int = 0) -> Case:
    """With a rank, a low-rank part of the sum."""
    update = make_update(tokens, rank, width) if rank else None
    inputs = {"x": randn(tokens, width), "base": randn(tokens, width), "update": update}
    return Case(op, inputs | ({"weight": 1 + randn(width)} if op == "add_rms_norm" else {}))


def rope_case(
    tokens: int,
    num_q: int,
    num_k: int,
    width: int,
    *,
    norms: bool = False,
    rank: int = 0,
    without: tuple[int, ...] = (),
) -> Case:
    """With ``norms`` per head, with a rank an update of the members that are not ``without``."""
    angles = torch.arange(tokens)[:, None] * randn(1, width // 2)
    widths = (num_q * width, num_k * width, num_k * width)
    inputs = {
        "qkv": randn(tokens, sum(widths)),
        "sizes": (num_q, num_k, width),
        "rotation": (angles.cos(), angles.sin()),
        "norms": (1 + randn(width), 1 + randn(width)) if norms else None,
        "update": make_update(tokens, rank, *widths, without=without) if rank else None,
    }
    return Case("rope", inputs, ("qkv",))


def swiglu_case(
    tokens: int, width: int, rank: int = 0, *, without: tuple[int, ...] = (), grad_rank: int = 0
) -> Case:
    """With a rank an update of gate and up, with another a low-rank part of the gradient."""
    update = make_update(tokens, rank, width, width, without=without) if rank else None
    inputs = {"gate_up": randn(tokens, 2 * width) * 3, "update": update}
    return Case("swiglu", inputs, ("gate_up",), _low_rank(tokens, grad_rank, width))


def entropy_case(targets: int, width: int, vocabulary: int) -> Case:
    """Random targets with random positive weights."""
    inputs = {
        "hidden_CD": randn(targets, width),
        "weight_VD": randn(vocabulary, width),
        "targets_C": torch.randint(vocabulary, (targets,), generator=_GENERATOR),
        "weights_C": randn(targets).abs(),
    }
    return Case("linear_cross_entropy", inputs, ("hidden_CD",))


def update_case(tokens: int, rank: int, *widths: int, without: tuple[int, ...] = ()) -> Case:
    """An update of some of the layers that stand side by side."""
    update = make_update(tokens, rank, *widths, without=without)
    return Case("add_in_place", {"y": randn(tokens, sum(widths)), "update": update})


def map_tensors(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Change every floating-point tensor of an input, also inside tuples."""
    if isinstance(value, Tensor):
        return change(value) if value.is_floating_point() else value
    if isinstance(value, Update):
        return value._replace(left=change(value.left), right=change(value.right))
    if isinstance(value, tuple):
        return tuple(map_tensors(part, change) for part in value)
    return value


def rounded(case: Case, dtype: torch.dtype) -> Case:
    """The same case with inputs that the type can hold."""

    def change(tensor: Tensor) -> Tensor:
        return tensor.to(dtype).double()

    inputs = {name: map_tensors(x, change) for name, x in case.inputs.items()}
    return replace(case, inputs=inputs, low_rank=map_tensors(case.low_rank, change))


def _gradients_of(values: Tensors) -> Tensors:
    given = torch.Generator().manual_seed(1)
    return tuple(randn(*x.shape, 1, generator=given).squeeze(-1).to(x.dtype) for x in values)


def _autograd(values: Tensors, leaves: list[Tensor], grads: Sequence[Tensor]) -> Tensors:
    """Gradients of the leaves; a value that none of them reaches has no part in it."""
    reached = [(x, grad) for x, grad in zip(values, grads, strict=True) if x.requires_grad]
    if not leaves:
        return ()
    return torch.autograd.grad([x for x, _ in reached], leaves, [grad for _, grad in reached])


def run_plain(case: Case, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """The twin's values, then the gradients that autograd makes of it."""
    inputs = {
        name: map_tensors(x, lambda t: t.to(dtype).clone()) for name, x in case.inputs.items()
    }
    leaves = [inputs[name].requires_grad_() for name in case.differentiable]
    values = OPERATIONS[case.op].plain(**inputs)
    grads = list(_gradients_of(values))
    if case.low_rank is not None:
        left, right = (x.to(dtype) for x in case.low_rank)
        grads[0] = grads[0] + left @ right
    return [*(value.detach() for value in values), *_autograd(values, leaves, grads)]


def run_ours(
    case: Case,
    dtype: torch.dtype = torch.float64,
    layout: Callable[[Tensor], Tensor] = torch.clone,
) -> list[Tensor]:
    """Our values and gradients; no input is written to but those that may be."""
    op = OPERATIONS[case.op]
    inputs = {
        name: map_tensors(x, lambda t: layout(t.to(dtype))) for name, x in case.inputs.items()
    }
    before = {name: map_tensors(x, torch.clone) for name, x in inputs.items()}
    leaves = [inputs[name] for name in case.differentiable]
    if op.backward is None:
        leaves = [leaf.requires_grad_() for leaf in leaves]
    values = op.ours(**inputs)
    given = [value.detach().clone() for value in values]
    _require_same(before, inputs, op.overwritten)
    grads = _gradients_of(values)
    unchanged = [grad.clone() for grad in grads]
    if op.backward is not None:
        low_rank = case.low_rank and tuple(x.to(dtype) for x in case.low_rank)
        found = op.backward(inputs, tuple(given), grads, low_rank)
    else:
        found = _autograd(values, leaves, grads)
        _require_same(before, inputs, op.overwritten)
    assert all(map(torch.equal, unchanged, grads)), "wrote to an incoming gradient"
    return [*given, *found]


def _require_same(before: Inputs, after: Inputs, but: tuple[str, ...]) -> None:
    for name, value in before.items():
        if isinstance(value, Tensor) and name not in but:
            assert torch.equal(value, after[name].detach()), f"wrote to {name}"
