"""A spike is found on the device, in either number; what happens in every run is none."""

import math

import pytest
import torch
from torch import Tensor, nn

from thinktune.training.optimizer import AdapterOptimizer, OptimizerConfig
from thinktune.training.schedule import OnSpike
from thinktune.training.spikes import LEAST, LEVEL, SpikeWatch

CPU = torch.device("cpu")


def curve(
    num_steps: int, seed: int, *, start: float = 4.0, end: float = 1.2, noise: float = 0.1
) -> Tensor:
    """Loss that falls within 15 steps and gradient norm, with lognormal noise."""
    generator = torch.Generator().manual_seed(seed)
    draws = torch.randn(2, num_steps, generator=generator) * noise
    loss = end + (start - end) * torch.exp(-torch.arange(num_steps) / 15)
    return torch.stack((loss, 0.5 + 0.3 / loss)).mul(draws.exp()).T


def spikes_in(curve: Tensor) -> list[tuple[int, list[float]]]:
    watch = SpikeWatch(CPU, OnSpike.WARN)
    looks = [watch.look(numbers) for numbers in curve]
    return [(step, times.tolist()) for step, times in enumerate(looks) if times.any()]


@pytest.mark.parametrize("noise", [0.05, 0.1, 0.2])
def test_a_run_without_a_spike_gives_at_most_one_false_alarm_in_a_thousand_steps(
    noise: float,
) -> None:
    found = [spikes_in(curve(250, seed, noise=noise)) for seed in range(4)]
    assert sum(map(len, found)) <= 1


@pytest.mark.parametrize(("which", "times"), [(0, 10.0), (1, 5.0)])
@pytest.mark.parametrize("at", [LEAST, LEAST + 9, 100])
def test_ten_times_the_loss_and_five_times_the_gradient_are_found_and_measured(
    which: int, times: float, at: int
) -> None:
    for seed in range(5):
        numbers = curve(120, seed)
        numbers[at, which] *= times
        ((step, found),) = spikes_in(numbers)
        assert step == at
        # The usual lags behind a loss that falls.
        assert 0.4 * times < found[which] < 1.6 * times
        assert found[1 - which] == 0


def test_a_fall_however_deep_is_no_spike() -> None:
    numbers = curve(80, 0)
    numbers[40:] /= 20
    assert spikes_in(numbers) == []


def test_nothing_is_judged_before_enough_was_seen() -> None:
    numbers = curve(LEAST, 0)
    numbers[LEAST - 1] *= 100
    assert spikes_in(numbers) == []


def test_a_lasting_new_level_is_usual_after_half_of_what_says_so() -> None:
    numbers = curve(200, 0)
    numbers[100:, 0] *= 10
    steps = [step for step, _ in spikes_in(numbers)]
    assert steps == list(range(100, 101 + LEVEL // 2))


def test_numbers_that_are_not_finite_or_zero_are_neither_spikes_nor_remembered() -> None:
    watch, apart = SpikeWatch(CPU, OnSpike.WARN), SpikeWatch(CPU, OnSpike.WARN)
    for step, numbers in enumerate(curve(60, 0)):
        for bad in (math.nan, math.inf, 0.0):
            odd = numbers.clone()
            odd[step % 2] = bad
            assert not apart.look(odd).any()
        assert torch.equal(watch.look(numbers), apart.look(numbers))
    for name, value in watch.state.items():
        assert torch.equal(value, apart.state[name]), name


def test_a_watch_that_is_restored_judges_as_the_one_that_went_on() -> None:
    whole, numbers = SpikeWatch(CPU, OnSpike.SKIP), curve(90, 3, noise=0.5)
    for step in numbers[:45]:
        whole.look(step)
    again = SpikeWatch(CPU, OnSpike.SKIP)
    for name, value in again.state.items():
        value.copy_(whole.state[name])
    for step in numbers[45:] * torch.linspace(1, 9, 45)[:, None]:
        assert torch.equal(whole.look(step), again.look(step))


def stepped(on_spike: OnSpike | None, at: int) -> tuple[AdapterOptimizer, list[list[Tensor]]]:
    """Twenty-five steps with a spike at one; weights and means after each."""
    weights = nn.Parameter(torch.linspace(-1, 1, 7))
    optimizer = AdapterOptimizer(weights, OptimizerConfig(weight_decay=0.1), on_spike=on_spike)
    states = []
    for step, (loss, norm) in enumerate(curve(25, 1)):
        times = 12.0 if step == at else 1.0
        weights.grad = torch.full_like(weights, 0.5)
        optimizer.look(torch.stack((loss * times, norm)).double())
        optimizer.step()
        states.append(
            [weights.detach().clone(), *map(torch.clone, optimizer.state[weights].values())]
        )
    return optimizer, states


def moved(before: list[Tensor], after: list[Tensor]) -> bool:
    return not all(map(torch.equal, before, after))


@pytest.mark.parametrize(
    ("on_spike", "moves_at", "moves_after", "num_updates"),
    [
        (None, True, True, 25),
        (OnSpike.WARN, True, True, 25),
        (OnSpike.SKIP, False, True, 24),
        (OnSpike.STOP, False, False, 20),
    ],
)
def test_each_policy_leaves_weights_means_and_count_as_it_says(
    on_spike: OnSpike | None, moves_at: bool, moves_after: bool, num_updates: int
) -> None:
    optimizer, states = stepped(on_spike, at=20)
    assert moved(states[18], states[19])
    assert moved(states[19], states[20]) is moves_at
    assert moved(states[20], states[21]) is moves_after
    assert optimizer.num_updates() == num_updates
    assert optimizer.num_steps() == (25 if on_spike is not OnSpike.STOP else 20)


def test_a_gradient_of_exactly_zero_stops_the_updates() -> None:
    weights = nn.Parameter(torch.linspace(-1, 1, 7))
    optimizer = AdapterOptimizer(weights, OptimizerConfig(weight_decay=0.1))
    before = weights.detach().clone()
    weights.grad = torch.zeros_like(weights)
    optimizer.look(torch.tensor([1.0, 0.0], dtype=torch.float64))
    optimizer.step()
    assert torch.equal(weights.detach(), before)
