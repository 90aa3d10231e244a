"""AdamW is torch's, stops at what is not finite, and its rate rises and falls as set."""

import pytest
import torch
from torch import nn

from tests.tiny_models import attach_trained, hidden_of, random_documents, tiny_decoder
from thinktune.training.optimizer import AdapterOptimizer, OptimizerConfig, Schedule, learning_rate


def rates(num_steps: int, **settings: object) -> list[float]:
    config = OptimizerConfig.model_validate({"learning_rate": 1.0} | settings)
    return [learning_rate(step, num_steps, config) for step in range(num_steps)]


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("linear", [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]),
        ("constant", [0.5, 1.0, 1.0, 1.0, 1.0, 1.0]),
        ("cosine", [0.5, 1.0, 1.0, 0.853553, 0.5, 0.146447]),
    ],
)
def test_the_rate_warms_up_and_falls_as_its_schedule_says(
    schedule: str, expected: list[float]
) -> None:
    found = rates(6, warmup_steps=2, lr_scheduler_type=schedule)
    assert found == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("schedule", list(Schedule))
@pytest.mark.parametrize("warmup", [0, 1, 3, 7, 20])
@pytest.mark.parametrize("num_steps", [1, 2, 7])
def test_no_step_is_wasted_at_zero_and_none_is_above_the_peak(
    schedule: Schedule, warmup: int, num_steps: int
) -> None:
    found = rates(num_steps, warmup_steps=warmup, lr_scheduler_type=schedule)
    assert all(0 < rate <= 1 for rate in found)
    assert max(found) == pytest.approx(min(1.0, num_steps / warmup) if warmup else 1.0)


def test_without_warm_up_the_first_step_has_the_peak_rate() -> None:
    assert rates(4, warmup_steps=0) == [1.0, 0.75, 0.5, 0.25]


@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
def test_adamw_takes_the_steps_of_torchs_unfused_one(weight_decay: float) -> None:
    config = OptimizerConfig(
        learning_rate=0.05,
        weight_decay=weight_decay,
        adam_betas=(0.8, 0.97),
    )
    generator = torch.Generator().manual_seed(0)
    ours = nn.Parameter(torch.randn(23, generator=generator))
    theirs = [nn.Parameter(part.clone()) for part in ours.detach().split((15, 7, 1))]
    fused = AdapterOptimizer(ours, config)
    plain = torch.optim.AdamW(
        theirs, lr=0.05, betas=(0.8, 0.97), weight_decay=weight_decay, fused=False
    )
    for step in range(5):
        ours.grad = torch.randn(ours.shape, generator=generator)
        for parameter, gradient in zip(theirs, ours.grad.split((15, 7, 1)), strict=True):
            parameter.grad = gradient.clone()
        for optimizer in (fused, plain):
            optimizer.param_groups[0]["lr"] = 0.05 / (step + 1)
            optimizer.step()
    torch.testing.assert_close(ours.detach(), torch.cat(theirs).detach(), rtol=1e-6, atol=1e-7)


def _one_step(optimizer: AdapterOptimizer, weights: nn.Parameter, numbers: list[float]) -> None:
    weights.grad = torch.full_like(weights, 0.5)
    optimizer.look(torch.tensor(numbers, dtype=torch.float64))
    optimizer.step()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("steps_before", [0, 2])
def test_from_the_first_number_that_is_not_finite_on_nothing_changes(
    bad: float, steps_before: int
) -> None:
    weights = nn.Parameter(torch.linspace(-1, 1, 7))
    optimizer = AdapterOptimizer(weights, OptimizerConfig(weight_decay=0.1))
    for _ in range(steps_before):
        _one_step(optimizer, weights, [1.0, 2.0])
    before = [x.clone() for x in (weights.detach(), *optimizer.state[weights].values())]
    for numbers in ([1.0, bad], [1.0, 2.0], [bad, bad]):
        _one_step(optimizer, weights, numbers)
    assert torch.equal(weights.detach(), before[0])
    state = list(optimizer.state[weights].values())
    if steps_before:
        assert all(map(torch.equal, state, before[1:]))
    assert not any(bool(x.any()) for x in state) or steps_before


def test_a_finite_number_however_large_does_not_stop_the_updates() -> None:
    weights = nn.Parameter(torch.linspace(-1, 1, 7))
    optimizer = AdapterOptimizer(weights, OptimizerConfig())
    before = weights.detach().clone()
    _one_step(optimizer, weights, [1e300, -1e300])
    assert (weights.detach() != before).all()


def test_an_update_is_seen_by_whoever_watches_the_version_of_the_weights() -> None:
    weights = nn.Parameter(torch.linspace(-1, 1, 7))
    optimizer = AdapterOptimizer(weights, OptimizerConfig())
    before = weights._version
    _one_step(optimizer, weights, [1.0])
    assert weights._version > before


def test_an_update_changes_what_the_next_forward_computes():
    decoder = tiny_decoder("llama")
    attach_trained(decoder)
    assert decoder.adapter is not None
    optimizer = AdapterOptimizer(decoder.adapter.weights, OptimizerConfig(learning_rate=0.1))
    with torch.no_grad():
        before = hidden_of(decoder, random_documents((9,)))
        decoder.adapter.gradient.fill_(1.0)
        optimizer.step()
        after = hidden_of(decoder, random_documents((9,)))
    assert not torch.equal(before, after)
