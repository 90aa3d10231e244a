"""The questions of a run, each once, and the requests that they become."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from thinktune.data.example import Example, Role
from thinktune.errors import DataError
from thinktune.teacher.client import Request, fingerprint
from thinktune.teacher.config import TeacherConfig
from thinktune.teacher.verification import judge_prompt


@dataclass(frozen=True, slots=True)
class Question:
    """A question, and the requests that it becomes."""

    example: Example
    messages: tuple[dict[str, str], ...]
    name: str
    """Fingerprint of the messages."""

    def samples(self, config: TeacherConfig) -> Iterator[Request]:
        """The requests for its samples."""
        ends = f"{self.name}-{fingerprint(config.parameters)}"
        for place in range(config.samples):
            seed = None if config.seed is None else config.seed + place
            body = _body(config, config.model, self.messages, config.max_tokens) | {
                name: value
                for name, value in (
                    ("temperature", config.temperature),
                    ("top_p", config.top_p),
                    ("seed", seed),
                )
                if value is not None
            }
            key = f"sample-{place}-{ends}"
            yield Request(body | config.extra_body, config.max_tokens, key, self.example.where)

    def judgement(self, place: int, answer: str, config: TeacherConfig) -> Request:
        """The request for a judge's word on the answer of one sample."""
        messages = ({"role": "user", "content": judge_prompt(self.example, answer)},)
        limit = config.judge_max_tokens
        body = _body(config, config.judge_model or config.model, messages, limit)
        key = f"judge-{place}-{self.name}-{fingerprint(body)}"
        if config.temperature is not None:
            body["temperature"] = 0.0
        return Request(body, limit, key, self.example.where)


def distinct_questions(
    questions: Sequence[Example], config: TeacherConfig
) -> tuple[list[Question], int]:
    """Give every question once, for it is asked once; and how many came again.

    Raises:
        DataError: no question, or one with two references.
    """
    found: dict[str, Question] = {}
    for example in questions:
        messages = _messages(example, config)
        name = fingerprint(messages)
        first = found.setdefault(name, Question(example, messages, name))
        if first.example.reference != example.reference:
            raise DataError(
                f"{first.example.where} and {example.where}: the same question with two "
                f"references, {first.example.reference!r} and {example.reference!r}; keep one"
            )
    if not found:
        raise DataError("no question to ask")
    return list(found.values()), len(questions) - len(found)


def _messages(example: Example, config: TeacherConfig) -> tuple[dict[str, str], ...]:
    """System prompt, earlier turns without their reasoning, question."""
    system = [{"role": "system", "content": example.system}] if example.system else []
    turns = [
        {"role": "user" if turn.role is Role.USER else "assistant", "content": turn.content}
        for turn in example.history
    ]
    asked = "\n\n".join(part for part in (example.question, config.instruction) if part)
    return (*system, *turns, {"role": "user", "content": asked})


def _body(
    config: TeacherConfig, model: str, messages: Sequence[Mapping[str, str]], limit: int
) -> dict[str, Any]:
    return {"model": model, "messages": list(messages), config.max_tokens_field.value: limit}
