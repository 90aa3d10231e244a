"""How a run's training went, by its records."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from thinktune.training.step import Losses


@dataclass(frozen=True, slots=True)
class TrainingSummary:
    """How a run's training went, whichever processes took its steps."""

    num_steps: int
    first: Losses
    last: Losses
    heldout: Losses | None
    num_tokens: int
    train_seconds: float
    """Time in steps alone."""


def summary_of(records: Sequence[Mapping[str, Any]]) -> TrainingSummary:
    """Sum up the records of a run that took a step at least."""
    steps = [record for record in records if "train/loss" in record]
    measured = [record for record in records if "heldout/loss" in record]
    return TrainingSummary(
        num_steps=steps[-1]["step"],
        first=_losses(steps[0], "train"),
        last=_losses(steps[-1], "train"),
        heldout=_losses(measured[-1], "heldout") if measured else None,
        num_tokens=sum(record["train/num_tokens"] for record in steps),
        train_seconds=sum(record["train/step_seconds"] for record in steps),
    )


def _losses(record: Mapping[str, Any], prefix: str) -> Losses:
    return Losses(
        record[f"{prefix}/loss"],
        record.get(f"{prefix}/loss_reasoning"),
        record.get(f"{prefix}/loss_answer"),
        record[f"{prefix}/num_targets"],
    )
