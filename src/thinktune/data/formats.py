"""The rows of one file: JSON Lines, JSON, CSV, TSV and Parquet in, JSON Lines out."""

import csv
import io
import json
import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from thinktune.atomic import write_text
from thinktune.errors import ConfigError, DataError

NAMED_ROWS = 20
"""Messages name at most this many rows; the count is always there."""

BOM = "\ufeff"


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


def read_rows(path: Path, label: str) -> list[Row]:
    """Read every row of a file, in the format that its name ends in.

    Args:
        path: the file.
        label: what messages and ``Row.where`` call it.

    Returns:
        At least one row; a missing value (None, or NaN as Parquet has it) is None.

    Raises:
        DataError: unknown format; empty; not UTF-8; broken; or rows that are not objects.
        ConfigError: a Parquet file without pyarrow.
    """
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        known = ", ".join(READERS)
        raise DataError(f"{label}: cannot tell the format from {path.suffix!r}; known: {known}")
    try:
        records = reader(path, label)
    except OSError as error:
        raise DataError(f"{label}: cannot be read: {error.strerror or error}") from error
    if not records:
        raise DataError(f"{label} holds no rows")
    return as_rows(records, label)


def as_rows(records: Iterable[object], label: str) -> list[Row]:
    """Number the records of one source from 1; a record that is no object is a DataError."""
    rows: list[Row] = []
    wrong: list[int] = []
    for number, record in enumerate(records, start=1):
        if isinstance(record, Mapping):
            cells = {str(name): _none_if_nan(value) for name, value in record.items()}
            rows.append(Row(label, number, cells))
        else:
            wrong.append(number)
    if wrong:
        raise DataError(f"{label}: not an object in {name_numbers(wrong)}; each row must be one")
    return rows


def name_numbers(numbers: Sequence[int]) -> str:
    """Count rows and name the first of them.

    >>> name_numbers([2, 5])
    '2 rows: 2, 5'
    """
    named = ", ".join(str(number) for number in numbers[:NAMED_ROWS])
    more = ", ..." if len(numbers) > NAMED_ROWS else ""
    return f"{len(numbers)} {'row' if len(numbers) == 1 else 'rows'}: {named}{more}"


def write_rows(path: Path, rows: Iterable[Mapping[str, object]]) -> None:
    """Write JSON Lines; the file is there whole or, after an error, as it was before.

    Raises:
        DataError: a value that JSON cannot hold.
    """
    lines = (_json_line(row, f"{path.name} row {n}") for n, row in enumerate(rows, start=1))
    write_text(path, "".join(lines))


def _json_line(row: Mapping[str, object], where: str) -> str:
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


def _read_text(path: Path, label: str) -> str:
    raw = path.read_bytes()
    try:
        text = raw.decode().removeprefix(BOM)
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{label}: not UTF-8 at byte {error.start} (line {line}); save it as UTF-8, "
            f"for example: iconv -f BIG5 -t UTF-8 {path.name}"
        ) from error
    if not text.strip():
        raise DataError(f"{label} is empty")
    return text


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    cells = dict(pairs)
    if len(cells) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice!r} is there twice in one object")
    return cells


def _parse(text: str, label: str, line: int | None = None) -> object:
    try:
        return json.loads(text, object_pairs_hook=_unique)
    except json.JSONDecodeError as error:
        at = f"line {line or error.lineno} column {error.colno}"
        raise DataError(f"{label} {at}: broken JSON: {error.msg}") from error
    except (ValueError, RecursionError) as error:
        at = f" line {line}" if line else ""
        raise DataError(f"{label}{at}: broken JSON: {error}") from error


def _json_lines(path: Path, label: str) -> list[object]:
    # Not str.splitlines: it also cuts at U+2028 and others, which JSON strings may hold.
    lines = _read_text(path, label).rstrip().split("\n")
    blank = [number for number, line in enumerate(lines, start=1) if not line.strip()]
    if blank:
        raise DataError(f"{label}: nothing in {name_numbers(blank)}; remove the blank lines")
    return [_parse(line, label, number) for number, line in enumerate(lines, start=1)]


def _json(path: Path, label: str) -> list[object]:
    text = _read_text(path, label)
    try:
        whole = _parse(text, label)
    except DataError as error:
        try:  # JSON Lines under the name .json, as some exporters write it
            json.loads(text.lstrip().split("\n", 1)[0])
        except ValueError:
            raise error from None
        return _json_lines(path, label)
    if isinstance(whole, list):
        return whole
    lists = (
        {name: value for name, value in whole.items() if isinstance(value, list)}
        if isinstance(whole, dict)
        else {}
    )
    if len(lists) != 1:
        held = f"an object with {len(lists)} lists" if isinstance(whole, dict) else "a single value"
        raise DataError(f"{label} holds {held}; a list of rows, or an object with one, is read")
    return next(iter(lists.values()))


def _delimited(delimiter: str) -> Callable[[Path, str], list[object]]:
    def read(path: Path, label: str) -> list[object]:
        text = _read_text(path, label)
        limit = csv.field_size_limit(sys.maxsize)  # a long reasoning passes the default 131,072
        try:
            table = list(
                csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
            )
        except csv.Error as error:
            raise DataError(f"{label}: broken quoting or fields: {error}") from error
        finally:
            csv.field_size_limit(limit)
        while table and not table[-1]:
            table.pop()
        header, *records = table
        doubled = sorted({name for name in header if header.count(name) > 1})
        if doubled:
            raise DataError(f"{label}: two columns are called {doubled[0]!r}; rename one")
        uneven = [n for n, cells in enumerate(records, start=1) if len(cells) != len(header)]
        if uneven:
            raise DataError(
                f"{label}: not the header's {len(header)} fields in {name_numbers(uneven)}; "
                f"quote cells that hold {delimiter!r} or a line break"
            )
        return [dict(zip(header, cells, strict=True)) for cells in records]

    return read


def _parquet(path: Path, label: str) -> list[object]:
    try:
        import pyarrow  # noqa: PLC0415 - an optional extra
        import pyarrow.parquet  # noqa: PLC0415 - an optional extra
    except ImportError as error:
        raise ConfigError(
            f"{label}: reading Parquet needs pyarrow: pip install thinktune[datasets]"
        ) from error
    if path.stat().st_size == 0:
        raise DataError(f"{label} is empty")
    try:
        # One thread: pyarrow's pool aborts the interpreter at exit on a loaded machine.
        return pyarrow.parquet.ParquetFile(path).read(use_threads=False).to_pylist()
    except pyarrow.ArrowException as error:
        raise DataError(f"{label}: broken Parquet: {' '.join(str(error).split())}") from error


READERS: dict[str, Callable[[Path, str], list[object]]] = {
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".json": _json,
    ".csv": _delimited(","),
    ".tsv": _delimited("\t"),
    ".parquet": _parquet,
}
"""Formats by the end of a file's name."""
