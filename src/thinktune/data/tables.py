"""The records of a table: CSV, TSV and Parquet."""

import csv
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from io import TextIOWrapper
from pathlib import Path

from thinktune.data.naming import name_numbers
from thinktune.data.opening import MAX_LINE, UnpackLimit, format_of, lines_of, open_text
from thinktune.errors import ConfigError, DataError

_PARQUET_ROWS = 64
"""Rows decoded at a time: a few, for one long value may stand in all of them."""


def delimited(delimiter: str) -> Callable[[Path, str], Iterator[object]]:
    """Give the reader of a table whose cells a delimiter parts; its first row names the columns."""

    def read(path: Path, label: str) -> Iterator[object]:
        with open_text(path, label, newline="") as text:
            table = _table(text, delimiter, label)
            header = next((cells for cells in table if any(map(str.strip, cells))), None)
            if header is None:
                raise DataError(f"{label} is empty")
            _require_distinct(header, label)
            yield from _records(table, header, delimiter, label)

    return read


def _require_distinct(names: Sequence[str], label: str) -> None:
    doubled = sorted(name for name, count in Counter(names).items() if count > 1)
    if doubled:
        raise DataError(f"{label}: two columns are called {doubled[0]!r:.60}; rename one")


def _table(text: TextIOWrapper, delimiter: str, label: str) -> Iterator[list[str]]:
    """Rows of cells; a long reasoning passes csv's limit of 131,072, which is the process's."""
    size = 0

    def counted() -> Iterator[str]:
        nonlocal size
        for line in lines_of(text, label):
            size += len(line)
            if size > MAX_LINE:
                raise DataError(
                    f"{label}: a row longer than {MAX_LINE:,} characters; is a quote left open?"
                )
            yield line

    reader = csv.reader(counted(), delimiter=delimiter, strict=True)
    while True:
        size = 0
        limit = csv.field_size_limit(MAX_LINE)
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


def parquet(path: Path, label: str) -> Iterator[object]:
    """Read the records of a Parquet file, a few rows in memory at a time."""
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
    limit = UnpackLimit(path, label)
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            _require_distinct(file.schema_arrow.names, label)
            if file.metadata.num_rows > path.stat().st_size:
                raise DataError(
                    f"{label}: {file.metadata.num_rows:,} rows in {path.stat().st_size:,} bytes "
                    "are no rows of text"
                )
            # One thread: pyarrow's pool aborts the interpreter at exit on a loaded machine.
            for batch in file.iter_batches(_PARQUET_ROWS, use_threads=False):
                limit.add(batch.nbytes)
                yield from batch.to_pylist()
    # A value that Python cannot hold (a far date, bytes that are no UTF-8) is not Arrow's error.
    except (pyarrow.ArrowException, ValueError, OverflowError, RecursionError) as error:
        raise DataError(f"{label}: broken Parquet: {' '.join(str(error).split())}") from error
