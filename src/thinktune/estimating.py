"""What a recipe will need on a GPU, said before anything is loaded."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from thinktune.config import RunConfig
from thinktune.data.template import Template
from thinktune.errors import ConfigError
from thinktune.loading import load_data
from thinktune.model.checkpoint_io import (
    BaseDtype,
    find_checkpoint,
    load_tokenizer,
    read_config,
    resolve_dtype,
)
from thinktune.model.shape import DecoderShape, shape_from_config
from thinktune.tracking import Silence
from thinktune.training.fitting import free_bytes
from thinktune.training.memory_plan import MemoryPlan, Workload, plan_memory
from thinktune.training.progress import longest_row

_GIB = 2**30
CARDS_GIB = (16, 24, 40, 48, 80)
"""Cards a plan is made for where there is no GPU and none was named."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """What one recipe needs."""

    shape: DecoderShape
    max_tokens: int
    """Of the longest packed row."""
    num_examples: int
    plans: list[tuple[float, MemoryPlan | str]]
    """Budget in GiB, and the plan for it, or why there is none."""


def estimate(config: RunConfig, memory_gib: float | None = None) -> Estimate:
    """Read and render the rows, and plan the memory of a step; no weights are read.

    Args:
        config: the recipe.
        memory_gib: most GPU memory a step may take; None for training.memory_budget_gib, else
            what is free on the GPU here, else a choice of cards.

    Raises:
        CheckpointError: the base model's configuration or tokenizer cannot be read.
        DataError: the rows cannot be read or used.
    """
    folder = find_checkpoint(config.base_model, config.revision, tokenizer_only=True)
    shape = shape_from_config(read_config(folder), str(folder / "config.json"))
    template = Template.from_tokenizer(load_tokenizer(folder), config.template)
    data = load_data(config, template, shape.max_position_embeddings, Silence())
    rows, held = (
        [len(row.tokens) for row in part.rows] for part in (data.train_rows, data.heldout_rows)
    )
    max_tokens = longest_row(rows, held, config.training.batch_size, config.packing.max_tokens)
    work = Workload(shape, config.lora, max_tokens, _dtype(config.base_dtype), ragged=True)
    return Estimate(
        shape,
        max_tokens,
        len(rows),
        [(budget, _plan(work, budget)) for budget in _budgets(config, memory_gib)],
    )


def _dtype(base_dtype: BaseDtype) -> torch.dtype:
    """What a GPU would load the base in."""
    if base_dtype is BaseDtype.AUTO:
        return torch.bfloat16
    return resolve_dtype(base_dtype, torch.device("cuda"))


def _budgets(config: RunConfig, memory_gib: float | None) -> Sequence[float]:
    asked = memory_gib or config.training.memory_budget_gib
    if asked:
        return (asked,)
    if torch.cuda.is_available():
        return (free_bytes(torch.device("cuda")) / _GIB,)
    return CARDS_GIB


def _plan(work: Workload, budget_gib: float) -> MemoryPlan | str:
    try:
        return plan_memory(work, int(budget_gib * _GIB))
    except ConfigError as error:
        return str(error)
