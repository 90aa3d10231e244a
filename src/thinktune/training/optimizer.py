"""AdamW over the adapter, and how the learning rate moves."""

import math
from enum import StrEnum

import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat
from torch import Tensor, nn

from thinktune.settings import Settings
from thinktune.training.loss_scale import LossScale


class Schedule(StrEnum):
    """How the learning rate falls after warm-up."""

    LINEAR = "linear"
    COSINE = "cosine"
    CONSTANT = "constant"


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
    adam_beta1: float = Field(default=0.9, ge=0.0, lt=1.0)
    """Decay of the gradient's running mean."""
    adam_beta2: float = Field(default=0.999, ge=0.0, lt=1.0)
    """Decay of the squared gradient's running mean."""
    adam_epsilon: PositiveFloat = 1e-8
    """Added to the denominator."""
    max_grad_norm: PositiveFloat = 1.0
    """Gradients with a larger L2 norm are scaled down to it."""


class AdapterOptimizer(torch.optim.AdamW):
    """AdamW over one vector of float32 weights, in one fused call.

    It remembers on the device, unseen by the host, whether any step so far was not finite; from
    then on it updates nothing. Only with a loss scale is a gradient that is not finite, of a loss
    that is, no reason to stop: that step alone changes nothing, and does not count.
    """

    def __init__(
        self, weights: nn.Parameter, config: OptimizerConfig, dtype: torch.dtype = torch.float32
    ) -> None:
        """Start with running means of zero.

        Args:
            weights: what is trained.
            config: AdamW.
            dtype: in which products are made (`Decoder.dtype`); float16 brings a `loss_scale`.
        """
        super().__init__(
            [weights],
            lr=config.learning_rate,
            betas=(config.adam_beta1, config.adam_beta2),
            eps=config.adam_epsilon,
            weight_decay=config.weight_decay,
            fused=True,
        )
        # The fused kernel reads this attribute and leaves everything as it is if it is 1.
        self.found_inf = torch.zeros((), dtype=torch.float32, device=weights.device)
        self._stopped = self.found_inf
        self.loss_scale: LossScale | None = None
        """What the loss is to be multiplied by before the backward pass; None: nothing."""
        if dtype == torch.float16:
            self._stopped = torch.zeros_like(self.found_inf)
            self.loss_scale = LossScale(weights.device)

    def step(self, closure: None = None) -> None:
        """Update the weights."""
        super().step(closure)
        # The fused call does not count as a change of its tensors; the working copy watches that.
        torch.autograd.graph.increment_version(self.param_groups[0]["params"])
        if self.loss_scale is not None:
            self.loss_scale.update(self.found_inf)

    def look(self, numbers: Tensor) -> None:
        """Take the numbers of one more step into account; the last is the gradient's norm."""
        fatal = numbers if self.loss_scale is None else numbers[:-1]
        torch.maximum(self._stopped, _not_finite(fatal), out=self._stopped)
        if self.loss_scale is not None:
            torch.maximum(self._stopped, _not_finite(numbers), out=self.found_inf)

    def num_steps(self) -> int:
        """Steps taken, those that were skipped too; waits for the device."""
        taken = max((int(state["step"]) for state in self.state.values()), default=0)
        return taken + (0 if self.loss_scale is None else int(self.loss_scale.skipped))


def _not_finite(numbers: Tensor) -> Tensor:
    return (~numbers.isfinite()).any().float()


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
