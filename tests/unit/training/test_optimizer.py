"""AdamW is torch's, and the learning rate rises and falls as its settings say."""

import pytest
import torch
from torch import nn

from thinktune.training.optimizer import OptimizerConfig, Schedule, learning_rate, make_optimizer


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
        adam_beta1=0.8,
        adam_beta2=0.97,
        adam_epsilon=1e-6,
    )
    generator = torch.Generator().manual_seed(0)
    ours = [nn.Parameter(torch.randn(shape, generator=generator)) for shape in [(3, 5), (7, 1)]]
    theirs = [nn.Parameter(p.detach().clone()) for p in ours]
    fused = make_optimizer(ours, config)
    plain = torch.optim.AdamW(
        theirs, lr=0.05, betas=(0.8, 0.97), eps=1e-6, weight_decay=weight_decay, fused=False
    )
    for step in range(5):
        for a, b in zip(ours, theirs, strict=True):
            a.grad = torch.randn(a.shape, generator=generator)
            b.grad = a.grad.clone()
        for optimizer in (fused, plain):
            optimizer.param_groups[0]["lr"] = 0.05 / (step + 1)
            optimizer.step()
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)
