"""Rows to examples and back."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from thinktune.data.columns import TRAINING, find_columns, require_columns, settle_form
from thinktune.data.conversations import (
    Conversation,
    RowError,
    as_text,
    check_history,
    merge_reasoning,
    read_messages,
    read_turns,
)
from thinktune.data.example import Example, Turn
from thinktune.data.formats import MAX_COLUMNS, Row
from thinktune.data.naming import name_columns, name_numbers, name_reasons
from thinktune.data.patterns import NO_PATTERNS, Pattern
from thinktune.errors import DataError


class ExampleReader:
    """Makes examples of the rows of one source, one at a time.

    Columns are recognised from the rows it is shown first; a later row with other columns makes it
    look again.
    """

    def __init__(
        self,
        first: Sequence[Row],
        mapping: Mapping[str, str],
        patterns: Mapping[str, Pattern] = NO_PATTERNS,
        *,
        required: Sequence[str] = TRAINING,
    ) -> None:
        """Recognise the columns of the ``first`` rows, of which there is at least one.

        Args:
            first: the first rows of the source, or all of them.
            mapping: the user's own choices, field to column.
            patterns: columns that hold several fields.
            required: fields that must not be empty; held-out questions need less than training.

        Raises:
            ConfigError: an unknown field in ``mapping``.
            DataError: a column is missing, or could be two fields.
        """
        if not first:
            raise DataError("the source holds no rows")
        self._label = first[0].label
        self._mapping, self._patterns, self._required = mapping, patterns, required
        self._names = dict.fromkeys(name for row in first for name in row.cells)
        missing = sorted(set(patterns) - set(self._names))
        if missing:
            raise DataError(
                f"{self._label}: data.patterns.{missing[0]}, but there is no such column; "
                f"found: {name_columns(self._names)}"
            )
        self._columns = self._find()
        require_columns(first, self._columns, required, list(self._names))

    def read(self, row: Row) -> Example:
        """Make an example of a row.

        Raises:
            RowError: the row cannot be used; its arguments are the reasons.
            DataError: a column that was not there before could be two fields.
        """
        if not row.cells.keys() <= self._names.keys():
            self._names.update(dict.fromkeys(row.cells))
            self._columns = self._find()
        for name, pattern in self._patterns.items():
            row = Row(row.label, row.number, pattern.apply(row.cells, name))
        return _to_example(row, self._columns, self._required)

    def _find(self) -> dict[str, str]:
        if len(self._names) > MAX_COLUMNS:
            raise DataError(
                f"{self._label}: more than {MAX_COLUMNS:,} different columns; are values used as "
                "keys? Put them under one key"
            )
        mapping, names = dict(self._mapping), self._names
        if self._patterns:
            made = [field for pattern in self._patterns.values() for field in pattern.fields]
            mapping |= {field: field for field in made}
            names = [n for n in names if n not in self._patterns and n not in made] + made
        columns = find_columns(names, mapping, self._label)
        settle_form(columns, mapping)
        return columns


def to_examples(
    rows: Sequence[Row],
    mapping: Mapping[str, str],
    patterns: Mapping[str, Pattern] = NO_PATTERNS,
    *,
    required: Sequence[str] = TRAINING,
) -> list[Example]:
    """Make an example of every row, or refuse them all; arguments as for ``ExampleReader``.

    Raises:
        ConfigError: an unknown field in ``mapping``.
        DataError: a column is missing, or rows cannot be used; it names every such row.
    """
    reader = ExampleReader(rows, mapping, patterns, required=required)
    examples: list[Example] = []
    problems: dict[str, dict[str, list[int]]] = {}
    for row in rows:
        try:
            examples.append(reader.read(row))
        except RowError as error:
            for reason in error.args:
                problems.setdefault(reason, {}).setdefault(row.label, []).append(row.number)
    if problems:
        raise DataError(
            name_reasons(
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
    question = _text(row, columns, "question")
    if "input" in columns:
        parts = (question, _text(row, columns, "input"))
        question = "\n\n".join(part for part in parts if part.strip())
    reasoning, answer = merge_reasoning(
        _text(row, columns, "reasoning"), _text(row, columns, "answer")
    )
    history: tuple[Turn, ...] = ()
    if "history" in columns:
        history = read_turns(row.cells.get(columns["history"]), "history")
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
    taken = columns.values()
    held = {name: value for name, value in row.cells.items() if name not in taken}
    for field in ("id", "metadata"):
        if columns.get(field) in row.cells:
            held[columns[field]] = row.cells[columns[field]]
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
