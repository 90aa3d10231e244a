"""What is asked of a teacher, what counts as right, and how much it may take."""

from enum import StrEnum
from typing import Any
from urllib.parse import urlsplit

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from thinktune.endpoints import base_url, is_loopback
from thinktune.settings import Settings

_OWN_FIELDS = ("model", "messages", "temperature", "top_p", "seed", "stream", "n")


class Verify(StrEnum):
    """How a sample's answer is held against the reference."""

    AUTO = "auto"
    LABEL = "label"
    NUMBER = "number"
    CHOICE = "choice"
    MATHS = "maths"
    TEXT = "text"
    JUDGE = "judge"


class Keep(StrEnum):
    """Which of the right samples of a question becomes a row."""

    SHORTEST = "shortest"
    LONGEST = "longest"
    FIRST = "first"
    ALL = "all"


class TokenField(StrEnum):
    """What an endpoint calls the limit of a completion."""

    MAX_TOKENS = "max_tokens"
    MAX_COMPLETION_TOKENS = "max_completion_tokens"


class TeacherConfig(Settings):
    """A teacher, how it is sampled, how samples are verified, and the limits of all that."""

    url: str
    """Base URL of an OpenAI-compatible endpoint, usually ending in /v1."""
    model: str = Field(min_length=1)
    """The teacher's name there."""
    samples: PositiveInt = 4
    """Reasonings asked for each question."""
    temperature: NonNegativeFloat | None = 0.6
    """Null leaves it to the endpoint."""
    top_p: float | None = Field(default=0.95, gt=0, le=1)
    """Null leaves it to the endpoint."""
    max_tokens: PositiveInt = 8192
    """Limit of a completion, reasoning included; what meets it is rejected."""
    max_tokens_field: TokenField = TokenField.MAX_TOKENS
    """The name the endpoint has for that limit."""
    seed: NonNegativeInt | None = 0
    """Seed of the first sample, one more for each further; null sends none."""
    instruction: str = ""
    """Put under each question for the teacher alone; rows keep the bare question."""
    extra_body: dict[str, Any] = Field(default_factory=dict)
    """Further fields of the request, such as chat_template_kwargs."""
    verify: Verify = Verify.AUTO
    """How answers are compared; ``auto`` decides from the references, else from the answers."""
    labels: dict[str, list[str]] = Field(default_factory=dict)
    """Every possible label with its aliases; empty: the distinct references."""
    lenient: bool = False
    """For labels and texts: right if the reference is named first, or is contained."""
    judge_model: str | None = None
    """Who judges, at the same endpoint; null: the teacher itself."""
    judge_max_tokens: PositiveInt = 2048
    """Limit of a judgement, reasoning included."""
    min_agreement: float = Field(default=0.5, ge=0, le=1)
    """Share of a question's samples that must agree where there is no reference."""
    keep: Keep = Keep.SHORTEST
    """Which right sample is kept, by words of reasoning."""
    concurrency: PositiveInt = 8
    """Requests under way at a time."""
    requests_per_minute: PositiveFloat | None = None
    """Requests begun in a minute, repeated ones included, evenly spaced; null: no limit."""
    max_retries: NonNegativeInt = 6
    """Repetitions of a failed request before it is set aside."""
    timeout_seconds: PositiveFloat = 600
    """Limit of one attempt."""
    backoff_seconds: PositiveFloat = 1
    """Wait before the first repetition; doubles with each, up to a minute."""
    max_tokens_total: PositiveInt | None = None
    """Prompt and completion tokens of all requests, of earlier starts too."""
    max_cost: PositiveFloat | None = None
    """The same as money, in the currency of the prices."""
    price_input: NonNegativeFloat | None = None
    """Price of a million prompt tokens."""
    price_output: NonNegativeFloat | None = None
    """Price of a million completion tokens."""
    api_key_env: str | None = None
    """Environment variable with the key; null: OPENAI_API_KEY, for https endpoints only."""

    @field_validator("url")
    @classmethod
    def _plain_url(cls, url: str) -> str:
        return base_url(url, "/chat/completions")

    @model_validator(mode="after")
    def _refuse_settings_without_effect(self) -> "TeacherConfig":
        if self.samples > 1 and self.temperature == 0:
            raise ValueError("at temperature 0 all samples are the same; ask for one, or raise it")
        if self.judge_model is not None and self.verify is not Verify.JUDGE:
            raise ValueError("judge_model has no effect without verify=judge")
        if self.labels and self.verify not in (Verify.AUTO, Verify.LABEL):
            raise ValueError(f"labels have no effect with verify={self.verify}")
        if (self.price_input is None) != (self.price_output is None):
            raise ValueError("give price_input and price_output together")
        if self.max_cost is not None and self.price_input is None:
            raise ValueError("max_cost needs price_input and price_output")
        taken = [name for name in self.extra_body if name in (*_OWN_FIELDS, *TokenField)]
        if taken:
            raise ValueError(f"extra_body holds {taken[0]}, which has a setting or meaning here")
        return self

    @property
    def host(self) -> str:
        """Host and port of the endpoint, for provenance."""
        return urlsplit(self.url).netloc

    @property
    def is_loopback(self) -> bool:
        """Whether the endpoint is on this machine."""
        return is_loopback(self.url)

    @property
    def parameters(self) -> dict[str, Any]:
        """What a sample depends on beside its question; a journal is of one such set."""
        return {
            "model": self.model,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "max_tokens": self.max_tokens,
            "seed": self.seed,
            "instruction": self.instruction,
            "extra_body": self.extra_body,
        }
