"""What is drawn: how a completion is sampled, what it is, and why it ended."""

from dataclasses import dataclass
from enum import StrEnum

from pydantic import Field, NonNegativeFloat, PositiveInt

from thinktune.settings import Settings


class GenerationConfig(Settings):
    """How a completion is drawn; the defaults are those recommended for R1 distills."""

    max_new_tokens: PositiveInt = 2048
    """Most tokens of a completion, reasoning included."""
    temperature: NonNegativeFloat = 0.6
    """Softmax temperature; 0 takes the likeliest token each time (greedy)."""
    top_p: float = Field(default=0.95, gt=0, le=1)
    """Draw from the smallest set of tokens that holds this much probability."""


class Stop(StrEnum):
    """Why a completion ended."""

    END_OF_TURN = "end_of_turn"
    TOKEN_LIMIT = "token_limit"


@dataclass(frozen=True, slots=True)
class Completion:
    """What the model wrote after one prompt."""

    tokens: tuple[int, ...]
    """Token ids, the one that ended the turn left out."""
    text: str
    stop: Stop
