"""Examples of a source: all of them or none, or one at a time with what cannot be used."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from types import MappingProxyType

from pydantic import Field, PositiveInt, field_validator

from thinktune.data.columns import MAPPABLE, TRAINING
from thinktune.data.conversations import RowError
from thinktune.data.example import Example
from thinktune.data.formats import Row, write_rows
from thinktune.data.patterns import Pattern
from thinktune.data.places import find_rows
from thinktune.data.records import ExampleReader, to_examples, to_row
from thinktune.errors import ConfigError, DataError
from thinktune.settings import Settings

FIRST_ROWS = 1000
"""How many rows a stream is looked at for its columns; rows after them may have others."""


@dataclass(frozen=True, slots=True)
class Unusable:
    """A row that cannot become an example."""

    row: Row
    reasons: tuple[str, ...]

    @property
    def where(self) -> str:
        """``train.jsonl row 12``."""
        return self.row.where


class DataConfig(Settings):
    """Where the records come from, and which of their columns are which field."""

    train: str
    """Training records: a file, a folder, a Hub data set (owner/name or owner/name:subset), or the
    name of a data set shipped with Thinktune."""
    train_split: str = "train"
    """Which split of it to train on."""
    heldout: str | None = None
    """Held-out questions, named in the same ways; none: another split of the training source."""
    heldout_split: str | None = "test"
    """Which split the held-out questions are; null goes without, and then nothing is compared."""
    revision: str | None = None
    """Branch, tag or commit of the Hub data set that train names."""
    columns: dict[str, str] = Field(default_factory=dict)
    """Our field (question, reasoning, answer, reference, system, id, messages) to the source's
    column, where its name is not one of the usual ones."""
    patterns: dict[str, str] = Field(default_factory=dict)
    """A column that holds several fields to how they stand in it: ``answer:
    "{reasoning}####{answer+reference}"``."""
    limit: PositiveInt | None = None
    """Train on the first so many records only."""

    @field_validator("columns")
    @classmethod
    def _known_fields(cls, columns: dict[str, str]) -> dict[str, str]:
        unknown = sorted(set(columns) - set(MAPPABLE))
        if unknown:
            raise ValueError(f"unknown field {unknown[0]}; known: {', '.join(MAPPABLE)}")
        return columns

    @field_validator("patterns")
    @classmethod
    def _known_patterns(cls, patterns: dict[str, str]) -> dict[str, str]:
        try:
            for text in patterns.values():
                Pattern.parse(text)
        except ConfigError as error:
            raise ValueError(str(error)) from error
        return patterns


def read_examples(
    source: str,
    *,
    split: str | None = None,
    columns: Mapping[str, str] = MappingProxyType({}),
    patterns: Mapping[str, str] = MappingProxyType({}),
    revision: str | None = None,
    limit: int | None = None,
    required: Sequence[str] = TRAINING,
) -> list[Example]:
    """Read the examples of a source, all of them or none.

    ``places.find_rows`` says what ``source`` may be and what ``split`` picks.

    Args:
        source: a file, a folder, a Hub data set id, or the name of a shipped data set.
        split: which part of it; None for all.
        columns: our fields to the source's columns, where the usual names do not fit.
        patterns: columns that hold several fields to how they stand in them.
        revision: branch, tag or commit of a Hub data set.
        limit: the first so many rows only.
        required: fields that must not be empty.

    Raises:
        DataError: nothing can be read there, or rows cannot be used; it names them.
        ConfigError: an optional library is missing, or a setting has no effect on this source.
    """
    if limit is not None and limit < 1:
        raise ConfigError(f"data.limit={limit}, but at least one record is needed")
    rows, _ = find_rows(source, split, revision)
    return to_examples(list(islice(rows, limit)), columns, _parsed(patterns), required=required)


def stream_examples(
    source: str,
    *,
    split: str | None = None,
    columns: Mapping[str, str] = MappingProxyType({}),
    patterns: Mapping[str, str] = MappingProxyType({}),
    revision: str | None = None,
    required: Sequence[str] = TRAINING,
) -> Iterator[Example | Unusable]:
    """Read the examples of a source one at a time; arguments as for ``read_examples``.

    A row that cannot be used is given as such, and the reading goes on.

    Raises:
        DataError: the source cannot be read, or its columns cannot be recognised.
        ConfigError: an optional library is missing, or a setting has no effect on this source.
    """
    rows, _ = find_rows(source, split, revision)
    return examples_of(rows, columns, _parsed(patterns), required=required)


def examples_of(
    rows: Iterable[Row],
    columns: Mapping[str, str],
    patterns: Mapping[str, Pattern],
    *,
    required: Sequence[str] = TRAINING,
) -> Iterator[Example | Unusable]:
    """Make examples of rows one at a time; what cannot be used is given as such."""
    rows = iter(rows)
    first = list(islice(rows, FIRST_ROWS))
    reader = ExampleReader(first, columns, patterns, required=required)
    for row in chain(first, rows):
        try:
            yield reader.read(row)
        except RowError as error:
            yield Unusable(row, tuple(map(str, error.args)))


def _parsed(patterns: Mapping[str, str]) -> dict[str, Pattern]:
    return {name: Pattern.parse(text) for name, text in patterns.items()}


def read_train(config: DataConfig) -> list[Example]:
    """Read the examples to train on."""
    return read_examples(
        config.train,
        split=config.train_split,
        columns=config.columns,
        patterns=config.patterns,
        revision=config.revision,
        limit=config.limit,
    )


def read_heldout(config: DataConfig) -> list[Example]:
    """Read the held-out questions; they need neither reasoning nor answer.

    Raises:
        ConfigError: a held-out source, but no split of it.
        DataError: as ``read_examples``; or the held-out rows would be the training rows.
    """
    if config.heldout_split is None:
        if config.heldout is not None:
            raise ConfigError(
                f"data.heldout={config.heldout} is not read while data.heldout_split is null; "
                "name a split (in a file without a column split, any name reads the whole file)"
            )
        return []
    source = config.heldout or config.train
    same = source == config.train
    rows, divided = find_rows(source, config.heldout_split, config.revision if same else None)
    if same and (not divided or config.heldout_split == config.train_split):
        raise DataError(
            f"{source}: the held-out questions would be the training rows; put them in a file of "
            "their own (data.heldout=FILE), give the rows a column split, or go without them "
            "(data.heldout_split=null)"
        )
    patterns = _parsed(config.patterns)
    return to_examples(list(rows), config.columns, patterns, required=("question",))


def write_examples(path: Path, examples: Iterable[Example]) -> None:
    """Write examples as JSON Lines in our own fields, atomically, as they come.

    ``read_examples`` gives them back, but for ``where``, which then names the new file.

    Raises:
        DataError: metadata holds what JSON cannot; an older file stays as it was.
    """
    write_rows(path, (to_row(example) for example in examples))
