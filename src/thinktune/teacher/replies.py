"""A teacher's reply: read from the endpoint's JSON, and parted into reasoning and answer."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from thinktune.data.conversations import THINK_TAG

REASONING_FIELDS = ("reasoning_content", "reasoning")
"""DeepSeek's and older vLLM's name; OpenRouter's and newer vLLM's."""

_FINISHED = (None, "", "stop", "eos", "end_turn", "stop_sequence")


class ReplyError(Exception):
    """A response that holds no completion; asking again may help."""


class SampleError(Exception):
    """A sample that cannot become a row; its text says why."""


@dataclass(frozen=True, slots=True)
class Reply:
    """One completion, as the endpoint gave it."""

    content: str
    reasoning: str
    """The reasoning field; empty where the endpoint has none."""
    finish: str | None
    model: str
    """As the endpoint names it."""
    endpoint: str
    """Host and port."""
    at: str
    """When it came, in UTC."""
    input_tokens: int
    output_tokens: int
    is_estimated: bool = False
    """The endpoint gave no usage, and the tokens are the most that it can have been."""


def read_reply(text: str, *, endpoint: str, bound: tuple[int, int]) -> Reply:
    """Read the JSON of a chat completion.

    Args:
        text: the body of the response.
        endpoint: host and port it came from.
        bound: prompt and completion tokens to assume where ``usage`` is missing.

    Raises:
        ReplyError: it is not JSON, reports an error, or holds no message.
    """
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        raise ReplyError("malformed JSON") from None
    if not isinstance(body, dict):
        raise ReplyError("JSON that is no object")
    if body.get("error"):
        raise ReplyError(f"an error in the reply: {error_text(body)}")
    choices = body.get("choices")
    if not isinstance(choices, list) or not choices:
        raise ReplyError("no choices in the reply")
    message = choices[0].get("message") if isinstance(choices[0], dict) else None
    if not isinstance(message, dict):
        raise ReplyError("no message in the reply")
    content = message.get("content")
    if content is not None and not isinstance(content, str):
        raise ReplyError("content that is no text")
    own = (message.get(field) for field in REASONING_FIELDS)
    usage = _usage(body.get("usage"))
    tokens = usage or bound
    return Reply(
        content=content or "",
        reasoning=next((text for text in own if isinstance(text, str) and text.strip()), ""),
        finish=None if (finish := choices[0].get("finish_reason")) is None else str(finish),
        model=str(body.get("model") or ""),
        endpoint=endpoint,
        at=datetime.now(UTC).isoformat(timespec="seconds"),
        input_tokens=tokens[0],
        output_tokens=tokens[1],
        is_estimated=usage is None,
    )


def split_reply(reply: Reply) -> tuple[str, str]:
    """Part a reply into reasoning and answer, without think tags.

    The opening tag may be missing, for templates often write it into the prompt.

    Raises:
        SampleError: cut, withheld, unclosed, wrong tags, or one of the two is empty.
    """
    if reply.finish == "length":
        raise SampleError("truncated at the token limit")
    if reply.finish == "content_filter":
        raise SampleError("withheld by the endpoint's filter")
    if reply.finish not in _FINISHED:
        raise SampleError(f"ended by {reply.finish}")
    tags = THINK_TAG.findall(reply.content)
    if reply.reasoning:
        if tags or THINK_TAG.search(reply.reasoning):
            raise SampleError("think tags beside a reasoning field")
        reasoning, answer = reply.reasoning, reply.content
    elif tags == ["<think>"]:
        raise SampleError("reasoning never closed")
    elif tags in (["</think>"], ["<think>", "</think>"]):
        *before, reasoning, answer = THINK_TAG.split(reply.content)
        if any(text.strip() for text in before):
            raise SampleError("text before the think tag")
    elif tags:
        raise SampleError("wrong or nested think tags")
    else:
        reasoning, answer = "", reply.content
    if not reasoning.strip():
        raise SampleError("no reasoning")
    if not answer.strip():
        raise SampleError("no answer after the reasoning")
    try:
        (reasoning + answer).encode()
    except UnicodeEncodeError:
        raise SampleError("half a character (a lone surrogate)") from None
    return reasoning.strip(), answer.strip()


def error_text(body: object) -> str:
    """An endpoint's own words about an error, on one line."""
    if isinstance(body, Mapping):
        error: Any = body.get("error", body)
        if isinstance(error, Mapping):
            error = error.get("message") or error
        body = error
    return " ".join(str(body).split())[:300]


def _usage(usage: object) -> tuple[int, int] | None:
    if not isinstance(usage, Mapping):
        return None
    counts = (usage.get("prompt_tokens"), usage.get("completion_tokens"))
    match counts:
        case (int(asked), int(written)) if asked >= 0 and written >= 0:
            return asked, written
        case _:
            return None
