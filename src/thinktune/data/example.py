"""One record: a question, the reasoning that leads to its answer, and the answer."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Role(StrEnum):
    """Who speaks in a turn."""

    USER = "user"
    ASSISTANT = "assistant"


@dataclass(frozen=True, slots=True)
class Turn:
    """An earlier turn of a conversation."""

    role: Role
    content: str
    """What was said; for the assistant, the answer without its reasoning."""
    reasoning: str = ""
    """The assistant's reasoning in that turn, without think tags; empty if there was none."""


@dataclass(frozen=True, slots=True)
class Example:
    """One question with its reasoning and answer; the three stay apart until the template."""

    question: str
    reasoning: str
    """Text between the think tags, without the tags."""
    answer: str
    """Text after the closing think tag."""
    reference: str | None = None
    """The known truth the answer is graded against; None where there is none."""
    system: str = ""
    """System prompt of this record; empty for none."""
    history: tuple[Turn, ...] = ()
    """Earlier turns, oldest first; the question is the last user turn and not among them."""
    metadata: Mapping[str, object] = field(default_factory=dict)
    """Everything else the source row held."""
    where: str = ""
    """Where the record comes from, for messages: ``train.jsonl row 12`` (rows count from 1)."""


def spoken(example: Example) -> str:
    """The question after what was said before it: the text that near-duplicates are sought by."""
    return "\n".join((*(turn.content for turn in example.history), example.question))
