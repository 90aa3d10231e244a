"""Which column is the question, the reasoning and the answer, and a row's way to an example."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from thinktune.data.conversations import (
    THINK_TAG,
    Conversation,
    RowError,
    as_text,
    check_history,
    merge_reasoning,
    read_messages,
    read_turns,
)
from thinktune.data.example import Example
from thinktune.data.formats import Row, name_numbers
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
                f"found: {', '.join(names)}"
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
                f"{label}: {field} could be any of {', '.join(matches)}; "
                f"say which: data.columns.{field}=NAME"
            )
    return found


def to_examples(
    rows: Sequence[Row], mapping: Mapping[str, str], *, required: Sequence[str] = TRAINING
) -> list[Example]:
    """Recognise the columns of ``rows`` and make an example of every row, or refuse them all.

    Args:
        rows: rows of one source, not empty.
        mapping: the user's own choices, field to column.
        required: fields that must not be empty; held-out questions need less than training.

    Raises:
        ConfigError: an unknown field in ``mapping``.
        DataError: a column is missing, or rows cannot be used; it names every such row.
    """
    label = rows[0].label
    names = list(dict.fromkeys(name for row in rows for name in row.cells))
    columns = find_columns(names, mapping, label)
    _settle_form(columns, mapping)
    _require_columns(rows, columns, required, names)
    examples: list[Example] = []
    problems: dict[str, dict[str, list[int]]] = {}
    for row in rows:
        try:
            examples.append(_to_example(row, columns, required))
        except RowError as error:
            for reason in error.args:
                problems.setdefault(reason, {}).setdefault(row.label, []).append(row.number)
    if problems:
        raise DataError(
            "; ".join(
                f"{place}: {reason} in {name_numbers(numbers)}"
                for reason, places in problems.items()
                for place, numbers in places.items()
            )
        )
    return examples


def to_row(example: Example) -> dict[str, object]:
    """Write an example in our own fields; ``to_examples`` reads them back, all but ``where``."""
    row: dict[str, object] = {
        "question": example.question,
        "reasoning": example.reasoning,
        "answer": example.answer,
    }
    if example.reference is not None:
        row["reference"] = example.reference
    if example.system:
        row["system"] = example.system
    if example.history:
        row["history"] = [
            {"role": turn.role.value, "content": turn.content}
            | ({"reasoning_content": turn.reasoning} if turn.reasoning else {})
            for turn in example.history
        ]
    if example.metadata:
        row["metadata"] = dict(example.metadata)
    return row


def _plain(name: str) -> str:
    """A column's name without what people spell differently."""
    return re.sub(r"[\s_-]+", "", name).casefold()


def _settle_form(columns: dict[str, str], mapping: Mapping[str, str]) -> None:
    """Read a row from its three columns or from its messages, never from both."""
    if "messages" not in columns:
        return
    if "messages" not in mapping and all(field in columns for field in TRAINING):
        del columns["messages"]
    else:
        for field in ("question", "input", "answer", "history"):
            columns.pop(field, None)


def _require_columns(
    rows: Sequence[Row], columns: Mapping[str, str], required: Sequence[str], names: Sequence[str]
) -> None:
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
            f"{rows[0].label}: no column for {' and '.join(missing)}; found: {', '.join(names)}; "
            f"accepted for {accepted}; or name yours: {hint}"
        )


def _to_example(row: Row, columns: Mapping[str, str], required: Sequence[str]) -> Example:
    if "messages" in columns:
        texts = _from_messages(row, columns, answered="answer" in required)
    else:
        texts = _from_columns(row, columns)
    empty = [f"empty {field}" for field in required if not getattr(texts, field).strip()]
    if empty:
        raise RowError(*empty)
    reference = _text(row, columns, "reference")
    return Example(
        question=texts.question,
        reasoning=texts.reasoning,
        answer=texts.answer,
        reference=reference if reference.strip() else None,
        system=texts.system,
        history=texts.history,
        metadata=_metadata(row, columns),
        where=row.where,
    )


def _from_columns(row: Row, columns: Mapping[str, str]) -> Conversation:
    parts = (_text(row, columns, field) for field in ("question", "input"))
    question = "\n\n".join(part for part in parts if part.strip())
    reasoning, answer = merge_reasoning(
        _text(row, columns, "reasoning"), _text(row, columns, "answer")
    )
    history = read_turns(row.cells.get(columns.get("history", "")), "history")
    check_history(history)
    return Conversation(question, reasoning, answer, _text(row, columns, "system"), history)


def _from_messages(row: Row, columns: Mapping[str, str], *, answered: bool) -> Conversation:
    read = read_messages(row.cells.get(columns["messages"]), answered=answered)
    own, system = _text(row, columns, "reasoning"), _text(row, columns, "system")
    if own.strip() and read.reasoning and own.strip() != read.reasoning.strip():
        raise RowError("one reasoning in its own column and another in the messages")
    if system.strip() and read.system.strip() and system.strip() != read.system.strip():
        raise RowError("one system prompt in its own column and another in the messages")
    return replace(read, reasoning=read.reasoning or own, system=read.system or system)


def _text(row: Row, columns: Mapping[str, str], field: str) -> str:
    return as_text(row.cells.get(columns[field]), field) if field in columns else ""


def _metadata(row: Row, columns: Mapping[str, str]) -> dict[str, object]:
    """Everything that no field took; a plain ``metadata`` object is not nested again."""
    taken = {name for field, name in columns.items() if field not in ("id", "metadata")}
    held = {name: value for name, value in row.cells.items() if name not in taken}
    if "id" in columns and columns["id"] in held:
        held["id"] = held.pop(columns["id"])
    nested = held.get(columns.get("metadata", ""))
    if not isinstance(nested, Mapping):
        return held
    del held[columns["metadata"]]
    unequal = [name for name in nested if name in held and held[name] != nested[name]]
    if unequal:
        raise RowError(f"{unequal[0]} that differs between its own column and metadata")
    return {**held, **nested}
