"""A run as it will be fed, made without weights: its rows rendered, its first steps packed."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from thinktune.config import RunConfig
from thinktune.data.loader import examples_of_step, segment_weights
from thinktune.data.packing import plan_rows
from thinktune.data.segments import Rendered, Segment
from thinktune.data.template import Template
from thinktune.loading import load_data
from thinktune.model.checkpoint_io import find_checkpoint, load_tokenizer, read_config
from thinktune.model.shape import DecoderShape, shape_from_config
from thinktune.tracking import Silence
from thinktune.training.progress import longest_row
from thinktune.training.schedule import plan_steps

_SAMPLED_STEPS = 64
"""Steps that are packed; of a longer run they stand for the others."""


@dataclass(frozen=True)
class FedRun:
    """A recipe with its model's shape and its rows rendered."""

    config: RunConfig
    checkpoint: dict[str, Any]
    """The base model's config.json."""
    shape: DecoderShape
    train: Sequence[Rendered]
    heldout: Sequence[Rendered]

    @cached_property
    def num_steps(self) -> int:
        """Updates of the whole run."""
        return plan_steps(self.config.training, len(self.train))

    @cached_property
    def lengths(self) -> list[int]:
        """Tokens of each training row."""
        return [len(row.tokens) for row in self.train]

    @cached_property
    def longest(self) -> int:
        """Tokens of the longest row of all."""
        return max(*self.lengths, *(len(row.tokens) for row in self.heldout), 0)

    def max_tokens(self, limit: int) -> int:
        """Of the longest packed row, were packed rows to hold at most ``limit``."""
        train = [min(length, limit) for length in self.lengths]
        heldout = [min(len(row.tokens), limit) for row in self.heldout]
        return longest_row(train, heldout, self.config.training.batch_size, limit)

    def num_longer(self, limit: int) -> int:
        """Rows of more than ``limit`` tokens."""
        return sum(len(row.tokens) > limit for row in (*self.train, *self.heldout))

    @cached_property
    def sampled(self) -> list[list[list[tuple[int, int]]]]:
        """The first steps as the run packs them: steps, packed rows, (tokens, targets)."""
        config = self.config
        weights = segment_weights(config.reasoning, config.answer)
        counts = [(len(row.tokens), _num_targets(row, weights)) for row in self.train]
        steps = []
        for step in range(min(self.num_steps, _SAMPLED_STEPS)):
            chosen = examples_of_step(
                step,
                num_examples=len(counts),
                batch_size=config.training.batch_size,
                seed=config.seed,
            )
            rows = plan_rows([counts[i][0] for i in chosen], config.packing.max_tokens)
            steps.append([[counts[chosen[place]] for place in row] for row in rows])
        return steps

    @cached_property
    def tokens_a_step(self) -> float:
        """On average."""
        tokens = sum(tokens for step in self.sampled for row in step for tokens, _ in row)
        return tokens / len(self.sampled)


def read_fed_run(config: RunConfig) -> FedRun:
    """Read the base model's configuration and tokenizer, and render the rows.

    Raises:
        CheckpointError: the configuration or the tokenizer cannot be read.
        DataError: the rows cannot be read or used.
    """
    folder = find_checkpoint(config.base_model, config.revision, tokenizer_only=True)
    checkpoint = read_config(folder)
    shape = shape_from_config(checkpoint, str(folder / "config.json"))
    template = Template.from_tokenizer(load_tokenizer(folder), config.template)
    data = load_data(config, template, shape.max_position_embeddings, Silence())
    return FedRun(config, checkpoint, shape, data.train_rows.rows, data.heldout_rows.rows)


def _num_targets(row: Rendered, weights: dict[Segment, float]) -> int:
    completion = row.segments[max(1, row.prompt_length) :]
    return sum(weights.get(segment, 0.0) > 0 for segment in completion)
