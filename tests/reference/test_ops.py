"""Every operation, forward and backward, against its plain twin: values and every gradient."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.op_cases import (
    EPS,
    OPERATIONS,
    Case,
    add_case,
    entropy_case,
    norm_case,
    randn,
    rope_case,
    rounded,
    run_ours,
    run_plain,
    swiglu_case,
    update_case,
)
from tests.tiny_models import relative_error
from thinktune.ops import reference
from thinktune.ops.linear import linear
from thinktune.ops.linear_cross_entropy import linear_cross_entropy
from thinktune.ops.rms_norm import rms_norm_again, rms_norm_forward
from thinktune.ops.update import dropout

# Largest relative Frobenius error in float64, of value or gradient.
TOLERANCE = {
    "rms_norm": 1e-13,  # measured 1.6e-14: the gradient of a single number cancels
    "norm and residual": 1e-14,  # measured 2.4e-16
    "add_rms_norm": 1e-14,  # measured 1.8e-16
    "residual_add": 1e-15,  # measured 6.8e-17
    "rope": 1e-15,  # measured 1.6e-16
    "swiglu": 1e-15,  # measured 1.7e-16
    "add_in_place": 1e-15,  # measured 9.5e-17
    "linear_cross_entropy": 1e-14,  # measured 3.5e-16
    "difference quotient": 1e-8,  # measured 4.5e-10
}
# In bf16 an op may be this much further from the float64 truth than its twin, plus one
# rounding (2**-7), which is all there is in tensors of one number.
BF16_SLACK = 1.5  # measured 1.24 without the rounding
# Share of values that dropout keeps, and their mean, over 2**17 values: five standard errors.
DROPOUT_SLACK = 0.007  # measured 0.003

CASES = {
    "rms_norm of one number": norm_case("rms_norm", 1, 1),
    "rms_norm of rows": norm_case("rms_norm", 13, 31),
    "norm and residual of one number": norm_case("norm and residual", 1, 1),
    "norm and residual": norm_case("norm and residual", 13, 31),
    "norm and residual with an update": norm_case("norm and residual", 13, 31, rank=3),
    "norm and residual with an update of rank 1": norm_case("norm and residual", 1, 7, rank=1),
    "add_rms_norm of one number": add_case("add_rms_norm", 1, 1, rank=1),
    "add_rms_norm": add_case("add_rms_norm", 11, 29),
    "add_rms_norm with an update": add_case("add_rms_norm", 11, 29, rank=5),
    "residual_add": add_case("residual_add", 7, 13),
    "residual_add with an update": add_case("residual_add", 7, 13, rank=3),
    "rope of one token": rope_case(1, 1, 1, 2),
    "rope of rows": rope_case(17, 6, 2, 14),
    "rope with an update": rope_case(17, 6, 2, 14, rank=3),
    "rope of one token with norms": rope_case(1, 1, 1, 2, norms=True),
    "rope of rows with norms": rope_case(17, 3, 1, 22, norms=True),
    "rope with norms and an update": rope_case(17, 3, 1, 22, norms=True, rank=3, without=(1,)),
    "swiglu of one number": swiglu_case(1, 1),
    "swiglu of rows": swiglu_case(11, 29),
    "swiglu with an update": swiglu_case(11, 29, rank=3, grad_rank=5),
    "swiglu with an update of up alone": swiglu_case(11, 29, rank=3, without=(0,)),
    "add_in_place of one number": update_case(1, 1, 1),
    "add_in_place of three members": update_case(13, 3, 17, 5, 7),
    "add_in_place without the first": update_case(13, 2, 17, 5, 7, without=(0,)),
    "add_in_place of the middle alone": update_case(13, 2, 17, 5, 7, without=(0, 2)),
    "linear_cross_entropy of one target": entropy_case(1, 1, 1),
    "linear_cross_entropy": entropy_case(11, 13, 37),
    "linear_cross_entropy of no target": entropy_case(0, 5, 7),
    "linear_cross_entropy over many chunks": entropy_case(601, 3, 5),
}
AUTOGRAD = ("rms_norm", "linear_cross_entropy")
"""What brings its own autograd function."""
BY_NAME = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def _contiguous(tensor: Tensor) -> Tensor:
    return tensor.clone()


def _strided(tensor: Tensor) -> Tensor:
    """The same values, every other element of a larger tensor with turned axes."""
    room = tensor.new_full([2 * size for size in reversed(tensor.shape)], -1)
    view = room[(slice(None, None, 2),) * tensor.ndim].permute(*reversed(range(tensor.ndim)))
    return view.copy_(tensor)


@BY_NAME
@pytest.mark.parametrize("layout", [_contiguous, _strided])
def test_an_op_and_its_gradients_equal_the_plain_twin(case: Case, layout):
    ours, theirs = run_ours(case, layout=layout), run_plain(case)
    assert len(ours) == len(theirs)
    for mine, plain in zip(ours, theirs, strict=True):
        assert mine.shape == plain.shape
        assert mine.dtype == plain.dtype
        assert relative_error(mine, plain) <= TOLERANCE[case.op]


@BY_NAME
def test_in_bf16_an_op_is_as_near_the_truth_as_its_twin(case: Case):
    low = torch.bfloat16
    case = rounded(case, low)
    three = zip(run_plain(case), run_ours(case, low), run_plain(case, low), strict=True)
    for true, mine, plain in three:
        assert mine.dtype == plain.dtype
        assert relative_error(mine, true) <= BF16_SLACK * relative_error(plain, true) + 2**-7


@pytest.mark.parametrize("name", [n for n, c in CASES.items() if c.op in AUTOGRAD])
def test_a_gradient_equals_the_difference_quotient(name: str):
    case = CASES[name]
    if not case.inputs[case.differentiable[0]].numel():
        pytest.skip("no input to vary")

    def value(leaf: Tensor) -> Tensor:
        out = OPERATIONS[case.op].ours(**case.inputs | {case.differentiable[0]: leaf})[0]
        return (out * (1 + torch.arange(out.numel()).view(out.shape))).mean()

    leaf = case.inputs[case.differentiable[0]].clone().requires_grad_()
    (grad,) = torch.autograd.grad(value(leaf), leaf)
    for seed in range(5):
        along = randn(*leaf.shape, generator=torch.Generator().manual_seed(seed))
        step = 1e-5 / along.norm()
        with torch.no_grad():
            quotient = (value(leaf + step * along) - value(leaf - step * along)) / (2 * step)
        allowed = TOLERANCE["difference quotient"] * grad.norm() * along.norm()
        assert (quotient - (grad * along).sum()).abs() <= allowed


def test_asking_twice_for_the_gradient_of_the_loss_is_refused():
    hidden, *others = (x.clone() for x in entropy_case(3, 5, 7).inputs.values())
    loss, _ = linear_cross_entropy(hidden.requires_grad_(), *others)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError):
        loss.backward()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("width", [1, 31])
def test_normalised_rows_made_again_are_the_same_bit_for_bit(width: int, dtype: torch.dtype):
    x, weight = randn(13, width).to(dtype), (1 + randn(width)).to(dtype)
    h, rrms = rms_norm_forward(x, weight, EPS)
    assert torch.equal(rms_norm_again(x, weight, rrms), h)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_dropout_zeroes_its_share_and_keeps_the_mean(share: float, dtype: torch.dtype):
    dropped = dropout(torch.ones(257, 510, dtype=dtype), share, seed=7)
    assert dropped.dtype == dtype
    assert dropped.unique().tolist() == pytest.approx([0.0, 1 / (1 - share)], rel=2**-8)
    zeroed = (dropped == 0).double().mean().item()
    assert abs(zeroed - share) <= DROPOUT_SLACK
    assert abs(dropped.double().mean().item() - 1) <= (DROPOUT_SLACK + 2**-8) / (1 - share)
    for rows in (dropped, dropped.T):  # no row or column has a mask of its own
        assert (rows.double().mean(1) - 1).abs().max() <= 6 * (share / (1 - share) / 257) ** 0.5


def test_the_seed_and_the_shape_are_the_mask():
    x = 1 + randn(13, 17).abs()
    first, again, other = (dropout(x, 0.5, seed) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert 0.3 < ((first == 0) != (other == 0)).double().mean() < 0.7
    # The gradient's mask is made again, from another tensor of the shape and in another type.
    mask = dropout(torch.ones_like(x), 0.5, 3)
    assert torch.equal(first, x * mask)
    assert torch.equal(dropout(torch.ones(13, 17), 0.5, 3).double(), mask)


def test_dropout_leaves_the_global_random_state_alone():
    before = torch.get_rng_state()
    dropout(randn(3, 5), 0.5, 1)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("chunk_tokens", [1, 7, 11, 13, 1000])
def test_the_loss_does_not_depend_on_the_chunk_size(chunk_tokens: int):
    case = CASES["linear_cross_entropy"]
    hidden, *others = (x.clone() for x in case.inputs.values())
    loss, nll = linear_cross_entropy(hidden.requires_grad_(), *others, chunk_tokens=chunk_tokens)
    twin, twin_nll = reference.linear_cross_entropy(hidden, *others)
    assert relative_error(nll, twin_nll) <= TOLERANCE[case.op]
    grads = [torch.autograd.grad(value, hidden)[0] for value in (loss, twin)]
    assert relative_error(*grads) <= TOLERANCE[case.op]


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
    hidden, head, targets, weights = (x.clone() for x in entropy_case(11, 13, 37).inputs.values())
    weights[4] = 0
    hidden.requires_grad_()
    loss, nll = linear_cross_entropy(hidden, head, targets, weights)
    loss.backward()
    assert hidden.grad is not None
    assert not hidden.grad[4].any()
    assert nll[4] > 0


def test_a_loss_without_a_gradient_makes_none():
    inputs = entropy_case(11, 13, 37).inputs.values()
    loss, nll = linear_cross_entropy(*inputs)
    assert not loss.requires_grad
    assert not nll.requires_grad


@pytest.mark.parametrize("rows", [1, 3, 128, 131])
def test_a_product_of_few_rows_equals_that_of_float64(rows: int):
    x, weight, bias = randn(rows, 61), randn(47, 61), randn(47)
    truth = F.linear(x, weight, bias)
    with torch.inference_mode():
        ours = linear(x.float(), weight.float(), bias.float())
        bare = linear(x.float(), weight.float(), None)
    assert relative_error(ours, truth) < 1e-6
    assert relative_error(bare, F.linear(x, weight)) < 1e-6
