"""Steps whose loss or gradient stands out from those before: found on the device, in time."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from thinktune.training.schedule import OnSpike

WINDOW = 64
"""Steps that say how much a step differs from the one before."""
LEVEL = 32
"""The newest of them, which say what is usual. Half as many of another level, and that is usual."""
LEAST = 16
"""Steps to have seen before any is judged."""
_DEVIATIONS = 5.0
"""Deviations above the usual that a spike is at least."""
_TIMES = (2.5, 3.0)
"""Times the usual that a spike of the loss, and of the gradient's norm, is at least."""
_OF_NORMAL = 1.4826 / math.sqrt(2)
"""Standard deviation of a normal distribution over the median absolute difference of two draws."""


class SpikeWatch:
    """What is usual for a run's loss and gradient norm, and which steps are not.

    A spike is a value whose logarithm is above the median of the last `LEVEL` by `_DEVIATIONS`
    deviations and by the logarithm of `_TIMES`; a deviation comes from the median absolute
    difference of neighbours among the last `WINDOW`. It is the rule of arXiv:2504.02507 (z-scores
    of the gradient's norm) for both numbers, one-sided, with medians in place of running means,
    which a spike does not move, and with differences, which do not grow while the loss falls.
    Leaving the update out is arXiv:2204.02311's remedy (section 5.1), without going back. Spikes
    count as seen too: a lasting new level stands out for `LEVEL` / 2 + 1 steps, so no run skips
    forever.

    All of it is on the device and nobody waits for it.
    """

    def __init__(self, device: torch.device, on_spike: OnSpike) -> None:
        """Start with nothing seen."""
        self.on_spike = on_spike
        self.skipped = torch.zeros((), dtype=torch.float32, device=device)
        """Steps of the run left out so far."""
        self._seen = torch.full((2, WINDOW), math.inf, dtype=torch.float32, device=device)
        self._least = torch.tensor(_TIMES, dtype=torch.float32, device=device).log()

    @property
    def state(self) -> dict[str, Tensor]:
        """What a resumed run needs, by name; write into the tensors to restore it."""
        return {"spikes_seen": self._seen, "spikes_skipped": self.skipped}

    def look(self, numbers: Float[Tensor, " 2"]) -> Float[Tensor, " 2"]:
        """Compare a step's loss and gradient norm with those before, and remember them.

        Returns:
            How many times the usual each is if it is a spike, else 0.
        """
        logs = numbers.float().log()
        sound = logs.isfinite().all()
        above = logs - _median(self._seen[:, -LEVEL:])
        deviation = _median(self._seen.diff(dim=1).abs()) * _OF_NORMAL
        room = torch.maximum(deviation * _DEVIATIONS, self._least)
        spiked = (above > room) & self._judges() & sound
        newer = torch.cat((self._seen[:, 1:], logs[:, None]), 1)
        self._seen.copy_(torch.where(sound, newer, self._seen))
        return torch.where(spiked, above.exp(), 0.0)

    def _judges(self) -> Bool[Tensor, ""]:
        return self._seen[0].isfinite().sum() >= LEAST


def _median(values: Float[Tensor, "2 W"]) -> Float[Tensor, " 2"]:
    """Lower median of each row's finite values; torch's own is not deterministic on a GPU."""
    ordered, num = values.sort(dim=1).values, values.isfinite().sum(1, keepdim=True)
    return ordered.gather(1, (num - 1).clamp_min(0) // 2).squeeze(1)
