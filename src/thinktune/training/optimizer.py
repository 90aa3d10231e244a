"""AdamW over the adapter, and how the learning rate moves."""

import math
from enum import StrEnum
from typing import Annotated

import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat
from torch import Tensor, nn

from thinktune.settings import Settings
from thinktune.training.loss_scale import LossScale
from thinktune.training.schedule import OnSpike
from thinktune.training.spikes import SpikeWatch


class Schedule(StrEnum):
    """How the learning rate falls after warm-up."""

    LINEAR = "linear"
    COSINE = "cosine"
    CONSTANT = "constant"


Decay = Annotated[float, Field(ge=0.0, lt=1.0)]
"""How much of a running mean each step leaves."""


class OptimizerConfig(Settings):
    """AdamW and its learning rate."""

    learning_rate: PositiveFloat = 2e-4
    """Highest learning rate, reached at the end of warm-up."""
    lr_scheduler_type: Schedule = Schedule.LINEAR
    """How the learning rate falls after warm-up: linear or cosine to zero, or constant."""
    warmup_steps: NonNegativeInt = 5
    """Steps over which the learning rate rises linearly."""
    weight_decay: NonNegativeFloat = 0.01
    """Decoupled weight decay (arXiv:1711.05101)."""
    adam_betas: tuple[Decay, Decay] = (0.9, 0.999)
    """Decay of the running means of the gradient and of its square."""
    max_grad_norm: PositiveFloat = 1.0
    """Gradients with a larger L2 norm are scaled down to it."""


class AdapterOptimizer(torch.optim.AdamW):
    """AdamW over one vector of float32 weights, in one fused call.

    It remembers on the device, unseen by the host, whether any step so far was not finite, had a
    gradient of exactly zero, or was a spike that is to stop the run; from then on it updates
    nothing. A spike that is to be skipped, and with a loss scale a gradient that is not finite, of
    a loss that is, changes nothing in that step alone, which does not count.
    """

    def __init__(
        self,
        weights: nn.Parameter,
        config: OptimizerConfig,
        dtype: torch.dtype = torch.float32,
        on_spike: OnSpike | None = None,
    ) -> None:
        """Start with running means of zero.

        Args:
            weights: what is trained.
            config: AdamW.
            dtype: in which products are made (`Decoder.dtype`); float16 brings a `loss_scale`.
            on_spike: what to do about a spike; None to look for none.
        """
        super().__init__(
            [weights],
            lr=config.learning_rate,
            betas=config.adam_betas,
            weight_decay=config.weight_decay,
            fused=True,
        )
        nothing = torch.zeros((), dtype=torch.float32, device=weights.device)
        # The fused kernel reads this attribute and leaves everything as it is if it is 1.
        self.found_inf = nothing.clone()
        self._stopped, self._overflowed = nothing.clone(), nothing.clone()
        self.loss_scale = LossScale(weights.device) if dtype == torch.float16 else None
        """What the loss is to be multiplied by before the backward pass; None: nothing."""
        self.spikes = None if on_spike is None else SpikeWatch(weights.device, on_spike)

    def step(self, closure: None = None) -> None:
        """Update the weights."""
        super().step(closure)
        # The fused call does not count as a change of its tensors; the working copy watches that.
        torch.autograd.graph.increment_version(self.param_groups[0]["params"])
        if self.loss_scale is not None:
            self.loss_scale.update(self._overflowed)

    def look(self, numbers: Tensor) -> Tensor:
        """Take the numbers of one more step into account: the loss first, the gradient's norm last.

        Returns:
            Loss scale, steps skipped so far with this one, and how many times the usual the loss
            and the gradient's norm are; 0 where there is no scale, and where there is no spike.
        """
        scale = skipped = numbers.new_zeros(())
        times, ends = numbers.new_zeros(2), numbers[-1] == 0
        skips = torch.zeros_like(ends)
        if self.loss_scale is None:
            ends = ends | ~numbers.isfinite().all()
        else:
            ends, skips = ends | ~numbers[:-1].isfinite().all(), ~numbers[-1].isfinite()
            self._overflowed.copy_(skips)
            scale, skipped = self.loss_scale.value, self.loss_scale.skipped + self._overflowed
        if self.spikes is not None:
            times = self.spikes.look(torch.stack((numbers[0], numbers[-1])))
            if self.spikes.on_spike is OnSpike.STOP:
                ends = ends | times.any()
            elif self.spikes.on_spike is OnSpike.SKIP:
                skips = skips | times.any()
                self.spikes.skipped.add_(times.any())
            skipped = skipped + self.spikes.skipped
        torch.maximum(self._stopped, ends.float(), out=self._stopped)
        torch.maximum(self._stopped, skips.float(), out=self.found_inf)
        return torch.cat((torch.stack((scale.double(), skipped.double())), times.double()))

    @property
    def further_state(self) -> dict[str, Tensor]:
        """What a resumed run needs beside the running means; write into the tensors to restore."""
        parts = (self.loss_scale, self.spikes)
        return {name: t for part in parts if part is not None for name, t in part.state.items()}

    def num_updates(self) -> int:
        """Steps that changed the weights; waits for the device."""
        return max((int(state["step"]) for state in self.state.values()), default=0)

    def num_steps(self) -> int:
        """Steps taken, those that were skipped too; waits for the device."""
        parts = (self.loss_scale, self.spikes)
        skipped = sum(int(part.skipped) for part in parts if part is not None)
        return self.num_updates() + skipped


def learning_rate(step: int, num_steps: int, config: OptimizerConfig) -> float:
    """Learning rate of step ``step`` (from 0) out of ``num_steps``.

    No step is wasted at zero: warm-up starts at peak / warmup_steps, and the fall ends one
    step short of zero.
    """
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    done = (step - config.warmup_steps) / max(1, num_steps - config.warmup_steps)
    factor = {
        Schedule.LINEAR: 1 - done,
        Schedule.COSINE: (1 + math.cos(math.pi * done)) / 2,
        Schedule.CONSTANT: 1.0,
    }[config.lr_scheduler_type]
    return config.learning_rate * factor
