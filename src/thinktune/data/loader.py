"""Which examples a step sees, and the packed rows they become."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Float, Int
from pydantic import NonNegativeFloat
from torch import Tensor

from thinktune.data.packing import plan_rows, shared_prefix
from thinktune.data.segments import Rendered, Segment
from thinktune.settings import Settings

REASONING_SEGMENTS = (Segment.THINK_OPEN, Segment.REASONING, Segment.THINK_CLOSE)
ANSWER_SEGMENTS = (Segment.ANSWER, Segment.EOS)


class SegmentConfig(Settings):
    """What a part of the completion counts."""

    loss_weight: NonNegativeFloat = 1.0
    """Weight of each of its tokens in the loss; 0 leaves them out."""


@dataclass(frozen=True, slots=True)
class PackedRow:
    """Documents one after the other in a single dimension of T tokens; C of them are targets."""

    tokens_T: Int[Tensor, " T"]
    positions_T: Int[Tensor, " T"]
    """Place of each token in its own document."""
    lengths: tuple[int, ...]
    """Tokens of each document, those of the shared prefix not counted."""
    prefix_length: int
    """First tokens of the row that every document begins with; they are held and computed once."""
    predictors_C: Int[Tensor, " C"]
    """Where in the row stands the token whose hidden state predicts each target."""
    targets_C: Int[Tensor, " C"]
    weights_C: Float[Tensor, " C"]
    is_reasoning_C: Float[Tensor, " C"]
    """1 for targets of the reasoning, think tags included; 0 for the answer and its EOS."""
    total_weight: float
    """Sum of the weights."""
    total_reasoning: float
    """Number of the targets that belong to the reasoning."""
    where: tuple[str, ...]
    """Where each document comes from, for messages."""

    @property
    def num_tokens(self) -> int:
        """Tokens of all documents, each whole; a packed row has no padding."""
        return sum(self.lengths) + len(self.lengths) * self.prefix_length

    @property
    def num_targets(self) -> int:
        """Tokens that carry loss."""
        return len(self.targets_C)

    def to(self, device: torch.device) -> "PackedRow":
        """The same row with its tensors on ``device``; a CUDA device is not waited for."""
        moved = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Tensor):
                value = value.pin_memory() if device.type == "cuda" else value
                moved[field.name] = value.to(device, non_blocking=True)
        return replace(self, **moved)


def pack_row(
    examples: Sequence[Rendered], weights: dict[Segment, float], *, share_prefix: bool = False
) -> PackedRow:
    """Lay examples one after the other; each target is predicted inside its own document.

    Args:
        examples: what the row holds, in order.
        weights: loss weight of each segment; a segment that is absent or 0 has no targets.
        share_prefix: hold a beginning that all prompts have in common (a system prompt) once.
            Loss and gradients are the same; do not use it with dropout, whose masks would be
            shared too.
    """
    prefix = 0
    if share_prefix:
        limit = min(example.prompt_length for example in examples) - 1
        prefix = shared_prefix([example.tokens for example in examples], limit)
    tokens = list(examples[0].tokens[:prefix])
    predictors: list[int] = []
    targets: list[int] = []
    counts: list[float] = []
    reasoning: list[float] = []
    for example in examples:
        start = len(tokens) - prefix
        tokens.extend(example.tokens[prefix:])
        # An opening think tag that the prompt holds is given, not generated: no target.
        for place in range(max(1, example.prompt_length), len(example.tokens)):
            segment = example.segments[place]
            if weights.get(segment, 0.0) > 0:
                predictors.append(start + place - 1)
                targets.append(example.tokens[place])
                counts.append(weights[segment])
                reasoning.append(float(segment in REASONING_SEGMENTS))
    lengths = tuple(len(example.tokens) - prefix for example in examples)
    positions = [torch.arange(prefix), *(torch.arange(prefix, prefix + n) for n in lengths)]
    return PackedRow(
        torch.tensor(tokens),
        torch.cat(positions),
        lengths,
        prefix,
        torch.tensor(predictors, dtype=torch.long),
        torch.tensor(targets, dtype=torch.long),
        torch.tensor(counts, dtype=torch.float32),
        torch.tensor(reasoning, dtype=torch.float32),
        float(sum(counts)),
        float(sum(reasoning)),
        tuple(example.where for example in examples),
    )


def segment_weights(reasoning: SegmentConfig, answer: SegmentConfig) -> dict[Segment, float]:
    """Loss weight of every segment; the prompt has none."""
    weights: dict[Segment, float] = {}
    weights |= dict.fromkeys(REASONING_SEGMENTS, reasoning.loss_weight)
    weights |= dict.fromkeys(ANSWER_SEGMENTS, answer.loss_weight)
    return weights


def pack(
    examples: Sequence[Rendered],
    weights: dict[Segment, float],
    max_tokens: int,
    *,
    share_prefix: bool = False,
) -> list[PackedRow]:
    """Pack examples into as few rows as best-fit finds; each example is in exactly one."""
    plan = plan_rows([len(example.tokens) for example in examples], max_tokens)
    return [
        pack_row([examples[index] for index in row], weights, share_prefix=share_prefix)
        for row in plan
    ]


def examples_of_step(step: int, *, num_examples: int, batch_size: int, seed: int) -> list[int]:
    """Indices of the examples that step ``step`` (from 0) sees.

    The order is an endless run of shuffled epochs cut into batches, so a batch may span two
    epochs, and none is short. It is a function of the arguments alone: a resumed run needs no
    saved position.
    """
    first = step * batch_size
    epochs: dict[int, list[int]] = {}
    chosen: list[int] = []
    for place in range(first, first + batch_size):
        epoch, offset = divmod(place, num_examples)
        if epoch not in epochs:
            generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
            epochs[epoch] = torch.randperm(num_examples, generator=generator).tolist()
        chosen.append(epochs[epoch][offset])
    return chosen
