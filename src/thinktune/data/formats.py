"""The rows of one file: JSON Lines, JSON, CSV, TSV and Parquet in, JSON Lines out."""

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from thinktune.atomic import text_aside
from thinktune.data.naming import name_numbers
from thinktune.data.opening import format_of, lines_of, open_text
from thinktune.data.tables import delimited, parquet
from thinktune.errors import DataError

MAX_COLUMNS = 1000
"""Different columns of a source: beyond them somebody wrote values as keys."""

MAX_DEPTH = 64
"""Lists in lists of a cell; deeper ones can be read, but not written again."""

_MAX_WHOLE, _PIECE = 1 << 29, 1 << 20
"""Characters of a .json file, which is held in memory whole."""


@dataclass(frozen=True, slots=True)
class Row:
    """One record as its file holds it, before its columns are recognised."""

    label: str
    """The file or data set, for messages."""
    number: int
    """Place in that file, counted from 1; a CSV header does not count."""
    cells: Mapping[str, object]

    @property
    def where(self) -> str:
        """``train.jsonl row 12``."""
        return f"{self.label} row {self.number}"


def read_rows(path: Path, label: str) -> Iterator[Row]:
    """Read a file row by row, in the format that its name ends in, ``.gz`` or ``.zst`` or not.

    Only a ``.json`` file is held in memory whole. Rows that are no objects, blank lines and uneven
    rows are collected, and refused together after the last row.

    Args:
        path: the file.
        label: what messages and ``Row.where`` call it.

    Yields:
        At least one row; a missing value (None, or NaN as Parquet has it) is None.

    Raises:
        DataError: unknown format; empty; not UTF-8; broken; or rows that are not objects.
        ConfigError: Parquet without pyarrow, or .zst without zstandard.
    """
    reader = READERS.get(format_of(path))
    if reader is None:
        known = ", ".join(READERS)
        raise DataError(
            f"{label}: cannot tell the format from {path.suffix!r}; known: {known}, "
            "each also with .gz or .zst"
        )
    row = None
    try:
        if not path.is_file():
            raise DataError(f"{label} is no regular file, so it cannot be read twice")
        for row in as_rows(reader(path, label), label):
            yield row
    except OSError as error:
        raise DataError(f"{label}: cannot be read: {error.strerror or error}") from error
    if row is None:
        raise DataError(f"{label} holds no rows")


def as_rows(records: Iterable[object], label: str) -> Iterator[Row]:
    """Number the records of one source from 1; records that are no objects are a DataError."""
    wrong: list[int] = []
    for number, record in enumerate(records, start=1):
        if isinstance(record, Mapping):
            _require_plain(record, f"{label} row {number}")
            if any(value != value for value in record.values()):  # NaN, as Parquet has it
                record = {name: _none_if_nan(value) for name, value in record.items()}
            yield Row(label, number, record)
        else:
            wrong.append(number)
    if wrong:
        raise DataError(f"{label}: not an object in {name_numbers(wrong)}; each row must be one")


def _require_plain(record: Mapping[str, object], where: str) -> None:
    """Refuse what no row of texts is, before anything walks through it."""
    if len(record) > MAX_COLUMNS:
        raise DataError(
            f"{where} has {len(record):,} columns, and {MAX_COLUMNS:,} are read; are values used "
            "as keys? Put them under one key"
        )
    inner: list[list[object] | dict[str, object]] = [
        cell for cell in record.values() if isinstance(cell, list | dict)
    ]
    for _ in range(MAX_DEPTH):
        if not inner:
            return
        held = [x.values() if isinstance(x, dict) else x for x in inner]
        inner = [cell for cells in held for cell in cells if isinstance(cell, list | dict)]
    raise DataError(f"{where}: nested more than {MAX_DEPTH} deep; flatten it")


def write_rows(path: Path, rows: Iterable[Mapping[str, object]]) -> None:
    """Write JSON Lines as they come; the file is there whole or, after an error, as it was.

    Raises:
        DataError: a value that JSON cannot hold.
    """
    with text_aside(path) as file:
        for number, row in enumerate(rows, start=1):
            file.write(json_line(row, f"{path.name} row {number}"))


def json_line(row: Mapping[str, object], where: str) -> str:
    """Write a row as one line; ``where`` names it where JSON cannot hold a value."""
    try:
        line = json.dumps(row, ensure_ascii=False, allow_nan=False, default=_plain)
        line.encode()  # half a surrogate pair is no text that a file could hold
        return line + "\n"
    except (TypeError, ValueError, RecursionError) as error:
        raise DataError(f"{where}: cannot be written as JSON: {error}") from error


def _plain(value: object) -> object:
    """What JSON lacks and Parquet has: dates, exact decimals, read-only mappings."""
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Decimal):
        return str(value)
    isoformat = getattr(value, "isoformat", None)
    if isoformat is not None:
        return isoformat()
    raise TypeError(f"metadata holds a {type(value).__name__}")


def _none_if_nan(value: object) -> object:
    return None if isinstance(value, float) and math.isnan(value) else value


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    cells = dict(pairs)
    if len(cells) < len(pairs):
        [(twice, _)] = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"{twice!r:.60} is there twice in one object")
    return cells


_DECODER = json.JSONDecoder(object_pairs_hook=_unique)


def _parse(text: str, label: str, line: int | None = None) -> object:
    try:
        return _DECODER.decode(text)
    except json.JSONDecodeError as error:
        at = f"line {line or error.lineno} column {error.colno}"
        raise DataError(f"{label} {at}: broken JSON: {error.msg}") from error
    except (ValueError, RecursionError) as error:
        at = f" line {line}" if line else ""
        raise DataError(f"{label}{at}: broken JSON: {error}") from error


def _json_lines(path: Path, label: str) -> Iterator[object]:
    # Not str.splitlines: it also cuts at U+2028 and others, which JSON strings may hold.
    with open_text(path, label) as text:
        yield from _parse_lines(lines_of(text, label), label)


def _parse_lines(lines: Iterable[str], label: str) -> Iterator[object]:
    blank: list[int] = []
    last = 0
    for number, line in enumerate(lines, start=1):
        if line.isspace():
            blank.append(number)
            continue
        last = number
        yield _parse(line, label, number)
    if not last:
        raise DataError(f"{label} is empty")
    if inner := [number for number in blank if number < last]:
        raise DataError(f"{label}: nothing in {name_numbers(inner)}; remove the blank lines")


def _whole(path: Path, label: str) -> str:
    pieces, size = list[str](), 0
    with open_text(path, label) as file:
        while piece := file.read(_PIECE):  # of all at once, the room is taken before it is filled
            pieces.append(piece)
            size += len(piece)
            if size > _MAX_WHOLE:
                raise DataError(
                    f"{label}: a .json file is read whole, and this one is longer than "
                    f"{_MAX_WHOLE:,} characters; write it as JSON Lines (.jsonl), which is read "
                    "row by row"
                )
    return "".join(pieces)


def _json(path: Path, label: str) -> Iterator[object]:
    text = _whole(path, label)
    if not text.strip():
        raise DataError(f"{label} is empty")
    try:
        whole = _parse(text, label)
    except DataError as error:
        try:  # JSON Lines under the name .json, as some exporters write it
            json.loads(text.lstrip().split("\n", 1)[0])
        except (ValueError, RecursionError):
            raise error from None
        return _parse_lines(text.rstrip().split("\n"), label)
    if isinstance(whole, list):
        return iter(whole)
    lists = (
        {name: value for name, value in whole.items() if isinstance(value, list)}
        if isinstance(whole, dict)
        else {}
    )
    if len(lists) != 1:
        held = f"an object with {len(lists)} lists" if isinstance(whole, dict) else "a single value"
        raise DataError(f"{label} holds {held}; a list of rows, or an object with one, is read")
    return iter(next(iter(lists.values())))


READERS: dict[str, Callable[[Path, str], Iterator[object]]] = {
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".json": _json,
    ".csv": delimited(","),
    ".tsv": delimited("\t"),
    ".parquet": parquet,
}
"""Formats by the end of a file's name, before ``.gz`` or ``.zst``."""
