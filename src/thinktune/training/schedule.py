"""How long a run is, what is due along the way, and what it may take."""

import math
from enum import StrEnum

from pydantic import PositiveFloat, PositiveInt

from thinktune.settings import Settings


class OnSpike(StrEnum):
    """What is done about a spike."""

    WARN = "warn"
    """Said and written down; the update is made."""
    SKIP = "skip"
    """Said and written down; adapter and optimizer stay as they were."""
    STOP = "stop"
    """The run ends; adapter and optimizer stay as they were."""


class TrainingConfig(Settings):
    """How long to train, and what to do along the way."""

    batch_size: PositiveInt = 8
    """Examples of one step; how many micro-batches they make follows from packing.max_tokens."""
    num_train_epochs: PositiveFloat = 3.0
    """Times each example is seen; max_steps, if given, decides instead."""
    max_steps: PositiveInt | None = None
    """Steps to take; none to let num_train_epochs decide."""
    eval_steps: PositiveInt | None = 50
    """Steps between two measurements of the held-out loss; none for the end only."""
    save_steps: PositiveInt | None = 100
    """Steps between two checkpoints; none for the end only."""
    save_total_limit: PositiveInt = 2
    """How many of the newest checkpoints stay."""
    memory_budget_gib: PositiveFloat | None = None
    """Most GPU memory a step may take; none for what is free. `thinktune estimate` says more."""
    sample_steps: PositiveInt | None = None
    """Steps between two looks at what the model writes; none for no looks."""
    on_spike: OnSpike = OnSpike.WARN
    """What to do where loss or gradient stands out from the steps before: warn, skip or stop."""


def plan_steps(config: TrainingConfig, num_examples: int) -> int:
    """Steps of the whole run."""
    if config.max_steps is not None:
        return config.max_steps
    return max(1, math.ceil(config.num_train_epochs * num_examples / config.batch_size))


def is_due(steps_done: int, num_steps: int, every: int | None) -> bool:
    """Whether something that happens every so many steps, and at the end, happens now."""
    return steps_done == num_steps or (every is not None and steps_done % every == 0)
