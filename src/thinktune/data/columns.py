"""Which column is the question, which the reasoning and which the answer."""

import re
from collections.abc import Iterable, Mapping, Sequence

from thinktune.data.conversations import THINK_TAG
from thinktune.data.formats import Row
from thinktune.data.naming import name_columns
from thinktune.errors import ConfigError, DataError

SPELLINGS: dict[str, tuple[str, ...]] = {
    "messages": ("messages", "conversations", "conversation"),
    "question": ("question", "instruction", "prompt", "input", "query", "problem"),
    "reasoning": (
        "reasoning",
        "complex_cot",
        "cot",
        "chain_of_thought",
        "thought",
        "thoughts",
        "rationale",
        "reasoning_content",
        "thinking",
    ),
    "answer": ("answer", "response", "output", "solution", "completion"),
    "reference": ("reference", "label", "ground_truth", "final_answer", "expected"),
    "system": ("system", "system_prompt"),
    "id": ("id",),
    "history": ("history",),
    "metadata": ("metadata",),
}
"""Our fields and the column names they are taken from; case, spaces and - _ do not matter."""

MAPPABLE = ("question", "reasoning", "answer", "reference", "system", "id", "messages")
"""Fields that ``data.columns`` can name a column for."""

TRAINING = ("question", "reasoning", "answer")
"""Fields that no training example can do without."""


def find_columns(names: Iterable[str], mapping: Mapping[str, str], label: str) -> dict[str, str]:
    """Say which column each of our fields comes from.

    A column with our own name for a field is preferred to its other spellings; among two other
    spellings the choice is the user's. The exception is Alpaca's ``instruction`` with ``input``:
    both are the question, and ``input`` is then in the result beside it.

    Args:
        names: the source's columns.
        mapping: the user's own choices, field to column; they come first.
        label: the source, for messages.

    Raises:
        ConfigError: an unknown field in ``mapping``.
        DataError: a mapped column does not exist, or two columns could be the same field.
    """
    names = list(names)
    unknown = sorted(set(mapping) - set(MAPPABLE))
    if unknown:
        raise ConfigError(
            f"unknown setting data.columns.{unknown[0]}; known: {', '.join(MAPPABLE)}"
        )
    for field, name in mapping.items():
        if name not in names:
            raise DataError(
                f"{label}: data.columns.{field}={name}, but there is no such column; "
                f"found: {name_columns(names)}"
            )
    found = dict(mapping)
    free = [name for name in names if name not in mapping.values()]
    for field, spellings in SPELLINGS.items():
        if field in found:
            continue
        matches = [name for name in free if _plain(name) in map(_plain, spellings)]
        own = [name for name in matches if _plain(name) == field]
        if len(own or matches) == 1:
            found[field] = (own or matches)[0]
        elif sorted(map(_plain, matches)) == ["input", "instruction"]:
            found["input"], found["question"] = sorted(matches, key=_plain)
        elif matches and not ("messages" in found and field in ("question", "answer")):
            raise DataError(
                f"{label}: {field} could be any of {name_columns(matches)}; "
                f"say which: data.columns.{field}=NAME"
            )
    return found


def _plain(name: str) -> str:
    """A column's name without what people spell differently."""
    return re.sub(r"[\s_-]+", "", name).casefold()


def settle_form(columns: dict[str, str], mapping: Mapping[str, str]) -> None:
    """Read a row from its three columns or from its messages, never from both."""
    if "messages" not in columns:
        return
    if "messages" not in mapping and all(field in columns for field in TRAINING):
        del columns["messages"]
    else:
        for field in ("question", "input", "answer", "history"):
            columns.pop(field, None)


def require_columns(
    rows: Sequence[Row], columns: Mapping[str, str], required: Sequence[str], names: Sequence[str]
) -> None:
    """Refuse rows that have no column for a field they cannot do without."""
    if "messages" in columns:
        return
    missing = [field for field in required if field not in columns]
    if missing == ["reasoning"]:  # it may be in the answer, between think tags
        answers = (row.cells.get(columns["answer"]) for row in rows if "answer" in columns)
        if any(isinstance(answer, str) and THINK_TAG.search(answer) for answer in answers):
            return
    if missing:
        accepted = "; ".join(f"{field}: {', '.join(SPELLINGS[field])}" for field in missing)
        hint = " ".join(f"data.columns.{field}=NAME" for field in missing)
        raise DataError(
            f"{rows[0].label}: no column for {' and '.join(missing)}; found: "
            f"{name_columns(names)}; accepted for {accepted}; or name yours: {hint}"
        )
