"""Turns of a conversation, and reasoning parted from the answer it was written together with."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from thinktune.data.example import Role, Turn

ROLES: dict[str, Role] = {
    "user": Role.USER,
    "human": Role.USER,
    "assistant": Role.ASSISTANT,
    "gpt": Role.ASSISTANT,
    "model": Role.ASSISTANT,
}
"""Names of the speakers, as OpenAI's and ShareGPT's messages have them."""

SYSTEM_ROLES = ("system", "developer")

THINK_TAG = re.compile(r"</?think>")


class RowError(Exception):
    """A row that cannot become an example; each argument is a reason."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """A row's text fields, whether they came from columns or from messages."""

    question: str
    reasoning: str
    answer: str
    system: str
    history: tuple[Turn, ...]


def split_think(text: str, field: str) -> tuple[str, str]:
    r"""Part ``<think>R</think>A`` into R and A; text without tags is all A.

    Only a whole, single pair at the start is read; anything else would be a guess.

    Raises:
        RowError: unbalanced, nested or repeated tags, or text before them.

    >>> split_think("<think>\nfever, so flu\n</think>\n\nInfluenza", "answer")
    ('fever, so flu', 'Influenza')
    """
    tags = THINK_TAG.findall(text)
    if not tags:
        return "", text
    depth = 0
    for tag in tags:
        depth += 1 if tag == "<think>" else -1
        if depth < 0:
            break
    if depth != 0:
        raise RowError(f"unbalanced think tags in the {field}")
    if len(tags) > 2:
        raise RowError(f"nested or repeated think tags in the {field}")
    before, reasoning, answer = THINK_TAG.split(text)
    if before.strip():
        raise RowError(f"text before the think tag of the {field}")
    return reasoning.strip(), answer.strip()


def merge_reasoning(reasoning: str, answer: str) -> tuple[str, str]:
    """Take the reasoning from its own field, or from the think tags of the answer.

    Raises:
        RowError: the two fields hold different reasoning, or the tags are not one pair.
    """
    if "think>" not in reasoning and "think>" not in answer:
        return reasoning, answer
    if THINK_TAG.search(reasoning):
        reasoning, after = split_think(reasoning, "reasoning")
        if after:
            raise RowError("text after the think tags of the reasoning")
    inline, answer = split_think(answer, "answer")
    if inline and reasoning.strip() and inline != reasoning.strip():
        raise RowError("one reasoning in its own field and another in the answer")
    return (reasoning if reasoning.strip() else inline), answer


def read_messages(cell: object, *, answered: bool) -> Conversation:
    """Read OpenAI's ``role``/``content`` or ShareGPT's ``from``/``value`` messages.

    Args:
        cell: a list of messages, or its JSON text as a CSV file holds it.
        answered: whether the last message must be the assistant's; if not, it may be the question.

    Raises:
        RowError: the messages are not a system prompt, if any, then user and assistant by turns.
    """
    messages = _as_list(cell, "messages")
    system = ""
    if messages and isinstance(messages[0], Mapping) and _role(messages[0]) in SYSTEM_ROLES:
        system = _content(messages[0])
        messages = messages[1:]
    turns = read_turns(messages, "messages")
    if turns and turns[-1].role is Role.ASSISTANT:
        *turns, answer = turns
    elif answered:
        raise RowError("no answer of the assistant at the end of the messages")
    else:
        answer = Turn(Role.ASSISTANT, "")
    if not turns or turns[-1].role is not Role.USER:
        raise RowError("no question of the user before the answer in the messages")
    *history, question = turns
    check_history(history)
    return Conversation(question.content, answer.reasoning, answer.content, system, tuple(history))


def read_turns(cell: object, field: str) -> tuple[Turn, ...]:
    """Read a list of messages, or its JSON text, without system prompts; None is no turns."""
    return tuple(_turn(message, field) for message in _as_list(cell, field))


def check_history(history: Sequence[Turn]) -> None:
    """Refuse earlier turns that are not user and assistant by turns, or that are empty."""
    if not history:
        return
    roles = [turn.role for turn in history]
    if len(roles) % 2 or roles != [Role.USER, Role.ASSISTANT] * (len(roles) // 2):
        raise RowError("earlier turns that are not user and assistant by turns")
    if not all(turn.content.strip() for turn in history):
        raise RowError("an empty earlier turn")


def as_text(value: object, field: str) -> str:
    """Turn a cell into text: None is empty and numbers are written out.

    Raises:
        RowError: a list, an object or other non-text, or text that UTF-8 cannot carry.
    """
    if value is None:
        return ""
    if isinstance(value, str) and value.isascii():
        return value
    if isinstance(value, bool | int | float):
        return str(value)
    if not isinstance(value, str):
        kind = {list: "a list", dict: "an object"}.get(type(value), f"a {type(value).__name__}")
        raise RowError(f"{field} is {kind}, not text,")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise RowError(f"half a character (a lone surrogate) in the {field}") from error
    return value


def _as_list(cell: object, field: str) -> list[object]:
    if isinstance(cell, str) and cell.strip():
        try:
            cell = json.loads(cell)
        except (ValueError, RecursionError) as error:
            raise RowError(f"neither a list nor its JSON text as {field}") from error
    if cell is None or cell == "":
        return []
    if not isinstance(cell, list):
        raise RowError(f"neither a list nor its JSON text as {field}")
    return cell


def _role(message: Mapping[str, object]) -> str:
    role = message.get("role") or message.get("from")
    return role.strip().casefold() if isinstance(role, str) else ""


def _content(message: Mapping[str, object]) -> str:
    content = message.get("content", message.get("value"))
    if isinstance(content, list):
        parts = [part if isinstance(part, Mapping) else {} for part in content]
        if any(part.get("type") != "text" for part in parts):
            raise RowError("a message with parts that are not text")
        return "".join(as_text(part.get("text"), "message") for part in parts)
    return as_text(content, "message")


def _turn(message: object, field: str) -> Turn:
    if not isinstance(message, Mapping):
        raise RowError(f"{field} that are not all objects with role and content")
    role = ROLES.get(_role(message))
    if role is None:
        known = ", ".join((*ROLES, "and a system prompt first"))
        raise RowError(f"a message by {_role(message)!r:.40} (known: {known})")
    if message.get("tool_calls"):
        raise RowError("a message that calls tools; only text is read,")
    content = _content(message)
    if role is Role.USER:
        return Turn(role, content)
    own = message.get("reasoning_content") or message.get("reasoning") or message.get("thinking")
    reasoning, content = merge_reasoning(as_text(own, "reasoning"), content)
    return Turn(role, content, reasoning)
