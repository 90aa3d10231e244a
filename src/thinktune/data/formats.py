"""The rows of one file: JSON Lines, JSON, CSV, TSV and Parquet in, JSON Lines out."""

import csv
import json
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from thinktune.atomic import text_aside
from thinktune.data.opening import format_of, open_text
from thinktune.errors import ConfigError, DataError

NAMED_ROWS = 20
"""Messages name at most this many rows; the count is always there."""

PARQUET_BATCH_ROWS = 1024


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
            if any(value != value for value in record.values()):  # NaN, as Parquet has it
                record = {name: _none_if_nan(value) for name, value in record.items()}
            yield Row(label, number, record)
        else:
            wrong.append(number)
    if wrong:
        raise DataError(f"{label}: not an object in {name_numbers(wrong)}; each row must be one")


def name_numbers(numbers: Sequence[int]) -> str:
    """Count rows and name the first of them.

    >>> name_numbers([2, 5])
    '2 rows: 2, 5'
    """
    named = ", ".join(str(number) for number in numbers[:NAMED_ROWS])
    more = ", ..." if len(numbers) > NAMED_ROWS else ""
    return f"{len(numbers)} {'row' if len(numbers) == 1 else 'rows'}: {named}{more}"


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
    except (TypeError, ValueError) as error:
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
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice!r} is there twice in one object")
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
        yield from _parse_lines(text, label)


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


def _json(path: Path, label: str) -> Iterator[object]:
    with open_text(path, label) as file:
        text = file.read()
    if not text.strip():
        raise DataError(f"{label} is empty")
    try:
        whole = _parse(text, label)
    except DataError as error:
        try:  # JSON Lines under the name .json, as some exporters write it
            json.loads(text.lstrip().split("\n", 1)[0])
        except ValueError:
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


def _delimited(delimiter: str) -> Callable[[Path, str], Iterator[object]]:
    def read(path: Path, label: str) -> Iterator[object]:
        with open_text(path, label, newline="") as text:
            table = _table(text, delimiter, label)
            header = next((cells for cells in table if any(map(str.strip, cells))), None)
            if header is None:
                raise DataError(f"{label} is empty")
            doubled = sorted({name for name in header if header.count(name) > 1})
            if doubled:
                raise DataError(f"{label}: two columns are called {doubled[0]!r}; rename one")
            yield from _records(table, header, delimiter, label)

    return read


def _table(text: Iterable[str], delimiter: str, label: str) -> Iterator[list[str]]:
    """Rows of cells; a long reasoning passes csv's limit of 131,072, which is the process's."""
    reader = csv.reader(text, delimiter=delimiter, strict=True)
    while True:
        limit = csv.field_size_limit(sys.maxsize)
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise DataError(f"{label}: broken quoting or fields: {error}") from error
        finally:
            csv.field_size_limit(limit)
        if cells is None:
            return
        yield cells


def _records(
    table: Iterable[list[str]], header: list[str], delimiter: str, label: str
) -> Iterator[object]:
    uneven: list[int] = []
    last = 0
    for number, cells in enumerate(table, start=1):
        if len(cells) == len(header):
            yield dict(zip(header, cells, strict=True))
        else:
            uneven.append(number)
        if cells:
            last = number
    if uneven := [number for number in uneven if number <= last]:  # blank lines may end a file
        raise DataError(
            f"{label}: not the header's {len(header)} fields in {name_numbers(uneven)}; "
            f"quote cells that hold {delimiter!r} or a line break"
        )


def _parquet(path: Path, label: str) -> Iterator[object]:
    try:
        import pyarrow  # noqa: PLC0415 - an optional extra
        import pyarrow.parquet  # noqa: PLC0415 - an optional extra
    except ImportError as error:
        raise ConfigError(
            f"{label}: reading Parquet needs pyarrow: pip install thinktune[datasets]"
        ) from error
    if path.stat().st_size == 0:
        raise DataError(f"{label} is empty")
    if format_of(path) != path.suffix.lower():
        raise DataError(f"{label}: Parquet is compressed inside; unpack the {path.suffix} first")
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            # One thread: pyarrow's pool aborts the interpreter at exit on a loaded machine.
            for batch in file.iter_batches(PARQUET_BATCH_ROWS, use_threads=False):
                yield from batch.to_pylist()
    except pyarrow.ArrowException as error:
        raise DataError(f"{label}: broken Parquet: {' '.join(str(error).split())}") from error


READERS: dict[str, Callable[[Path, str], Iterator[object]]] = {
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".json": _json,
    ".csv": _delimited(","),
    ".tsv": _delimited("\t"),
    ".parquet": _parquet,
}
"""Formats by the end of a file's name, before ``.gz`` or ``.zst``."""
