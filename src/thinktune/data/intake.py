"""A source as a step reads it: its rows one at a time, and what becomes of the unusable ones."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from thinktune.data.columns import TRAINING
from thinktune.data.example import Example
from thinktune.data.naming import name_numbers, name_reasons
from thinktune.data.near_duplicates import Progress
from thinktune.data.sources import Unusable, stream_examples
from thinktune.errors import DataError
from thinktune.tracking import Silence, Watcher, watched


@dataclass(frozen=True, slots=True)
class Source:
    """Where rows come from and how they are read; arguments as for ``stream_examples``."""

    name: str
    split: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    patterns: Mapping[str, str] = field(default_factory=dict)
    revision: str | None = None
    questions_only: bool = False
    """Rows need a question and nothing else, as held-out questions do."""
    skip_unusable: bool = False
    """Set rows aside that cannot be used, instead of stopping at them."""
    watcher: Watcher = field(default_factory=Silence, compare=False)
    """Is told of every row read."""

    def read(self) -> Iterator[Example | Unusable]:
        """Read the rows, one at a time; errors as of ``stream_examples``."""
        rows = stream_examples(
            self.name,
            split=self.split,
            columns=self.columns,
            patterns=self.patterns,
            revision=self.revision,
            required=("question",) if self.questions_only else TRAINING,
        )
        return watched(rows, self.watcher, f"Reading {self.name}")

    def told(self, watcher: Watcher) -> "Source":
        """The same source, of whose reading a watcher is told."""
        return replace(self, watcher=watcher)

    def search_progress(self) -> Progress:
        """Tells the watcher of a search for near-duplicates, as a stage of its own."""

        def tell(done: int, total: int) -> None:
            if done == 1:
                self.watcher.stage("Looking for near-duplicates", total)
            self.watcher.advance(done)

        return tell

    def options(self) -> dict[str, object]:
        """What a step must tell of how its source was read."""
        return {
            "split": self.split,
            "column": dict(self.columns),
            "pattern": dict(self.patterns),
            "revision": self.revision,
            "questions_only": self.questions_only,
            "skip_unusable": self.skip_unusable,
        }


AnySource = Source | str | Path
"""A source, or its name if nothing else needs saying."""


def as_source(source: AnySource) -> Source:
    """Take a name for a source with everything as usual."""
    return source if isinstance(source, Source) else Source(str(source))


def usable(
    source: Source, set_aside: Callable[[Unusable], object] | None = None
) -> Iterator[Example]:
    """Read the examples of a source, and deal with the rows that cannot be used.

    Raises:
        DataError: after the last row, if some cannot be used and ``skip_unusable`` is off; it
            names them all.
    """
    problems: dict[tuple[str, str], list[int]] = {}
    for item in source.read():
        if isinstance(item, Example):
            yield item
        elif not source.skip_unusable:
            for reason in item.reasons:
                problems.setdefault((item.row.label, reason), []).append(item.row.number)
        elif set_aside is not None:
            set_aside(item)
    if problems:
        listed = name_reasons(
            f"{label}: {reason} in {name_numbers(numbers)}"
            for (label, reason), numbers in problems.items()
        )
        raise DataError(f"{listed}; mend these rows, or set them aside with --skip-unusable")


def reread(examples: Iterable[Example], num: int) -> Iterator[tuple[int, Example]]:
    """Number the examples of a second reading.

    Raises:
        DataError: they are not as many as in the first.
    """
    place = -1
    for place, example in enumerate(examples):
        if place >= num:
            break
        yield place, example
    if place + 1 != num:
        raise DataError(f"the source changed while it was read: it had {num:,} usable rows")
