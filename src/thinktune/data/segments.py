"""An example as tokens, each knowing its segment; and a completion taken apart."""

from dataclasses import dataclass
from enum import IntEnum


class Segment(IntEnum):
    """Which part of an example a token belongs to."""

    PROMPT = 0
    THINK_OPEN = 1
    REASONING = 2
    THINK_CLOSE = 3
    ANSWER = 4
    EOS = 5


@dataclass(frozen=True, slots=True)
class Rendered:
    """An example as tokens, each knowing its segment."""

    tokens: tuple[int, ...]
    segments: tuple[Segment, ...]
    prompt_length: int
    """Leading tokens a model is given at inference; the others it generates."""
    where: str = ""
    """Where the example comes from, for messages."""
    removed_tokens: int = 0
    """Reasoning tokens that shortening took out."""


@dataclass(frozen=True, slots=True)
class RenderedSet:
    """Rows within a length limit, and the name of every row the limit touched."""

    rows: list[Rendered]
    dropped: list[tuple[str, str]]
    """Where, and why."""
    shortened: list[tuple[str, int]]
    """Where, and how many reasoning tokens are gone."""


@dataclass(frozen=True, slots=True)
class Parsed:
    """What a completion says."""

    reasoning: str
    answer: str
    closed: bool
    """Whether the reasoning ended; if not, the completion is unfinished and has no answer."""
