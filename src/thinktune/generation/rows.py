"""A completion in the making, and what its tokens are drawn by."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from thinktune.generation.completion import GenerationConfig, Stop


@dataclass(slots=True)
class Row:
    """A prompt and what has been written after it."""

    index: int
    """Place among the prompts."""
    prompt: tuple[int, ...]
    limit: int
    """Most tokens it may write."""
    number: int
    """Decides its draws."""
    tokens: list[int] = field(default_factory=list)
    stop: Stop | None = None

    def add(self, token: int, stops: frozenset[int]) -> None:
        """Take the next token, or end by it."""
        if token in stops:
            self.stop = Stop.END_OF_TURN
            return
        self.tokens.append(token)
        if len(self.tokens) == self.limit:
            self.stop = Stop.TOKEN_LIMIT


@dataclass(frozen=True, slots=True)
class Rules:
    """What holds for all rows of one call."""

    config: GenerationConfig
    stops: frozenset[int]
    """Tokens that end a completion."""
    seed: int

    def draws(self, row: Row) -> Tensor:
        """One uniform number for each token a row may write, so that no row depends on another."""
        if self.config.temperature == 0:
            return torch.zeros(row.limit)
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + row.number)
        return torch.rand(row.limit, generator=generator)


def by_prompt(rows: Sequence[Row]) -> dict[tuple[int, ...], list[int]]:
    """Places of the rows that begin alike, by prompt: each prompt is computed once."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for place, row in enumerate(rows):
        groups.setdefault(row.prompt, []).append(place)
    return groups
