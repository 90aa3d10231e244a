"""One pass over a source into new files: rows kept, rows left out, and the card, all counted."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import TextIO

from thinktune.atomic import text_aside, write_text
from thinktune.data.cards import Mended, RowList, Touched, command_line, data_card, earlier_steps
from thinktune.data.example import Example
from thinktune.data.formats import READERS, json_line
from thinktune.data.intake import Source, usable
from thinktune.data.provenance import Step, row_after
from thinktune.data.records import to_row
from thinktune.data.sources import Unusable
from thinktune.errors import ConfigError, DataError
from thinktune.paths import user_path

LINES = (".jsonl", ".ndjson")
"""How the name of an output file ends."""


class Output:
    """The files that a step writes: there together once it ends well, and not at all otherwise.

    A row goes to ``keep`` or to ``drop``; what the source cannot give is dropped by ``read``.
    Memory does not grow with the rows.
    """

    def __init__(
        self,
        step: Step,
        sources: Sequence[Source],
        out: Path,
        *,
        parts: Sequence[str] = (),
        beside: Sequence[str] = (),
        force: bool = False,
        arguments: Sequence[str] = (),
    ) -> None:
        """Refuse an output that would overwrite something.

        Args:
            step: what is done.
            sources: what is read.
            out: the file to write; with ``parts`` the folder.
            parts: names of the files in the folder: ``train`` for train.jsonl.
            beside: names of other files that are read and must stay as they are.
            force: replace files that are there.
            arguments: the sources as the command line names them, if not by their names.

        Raises:
            ConfigError: the output is there already, is a source, or has another format's name.
        """
        self._step, self._sources, self._out = step, sources, out
        self._arguments = list(arguments) or [source.name for source in sources]
        stem = out if parts else out.with_suffix("")
        self._files = {part: out / f"{part}.jsonl" for part in parts} or {"": out}
        self._rejected = stem.with_name(stem.name + ".rejected.jsonl")
        self._diff = stem.with_name(stem.name + ".diff.txt")
        self._card = out / "README.md" if parts else stem.with_name(stem.name + ".md")
        self._check_names(is_folder=bool(parts))
        self._check_place(
            [*(source.name for source in sources), *beside], force, is_folder=bool(parts)
        )
        self._open: dict[Path, TextIO] = {}
        self._stack = ExitStack()
        self._num_in = dict.fromkeys((source.name for source in sources), 0)
        self._num_out = Counter(dict.fromkeys(self._files.values(), 0))
        self._dropped: dict[str, RowList] = {}
        self._changed: dict[str, Touched] = {}
        self.table: tuple[tuple[str, ...], ...] = ()
        """A heading and lines for the screen and the card."""
        self.notes: list[str] = []
        """What the user should know."""
        self.num_repeated = 0
        self.mended: Mended | None = None
        """What was done, once the block has ended."""

    def __enter__(self) -> "Output":
        """Begin to write."""
        self._new_folder = not self._card.parent.exists()
        for path in self._files.values():
            self._file(path)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        """Put the files in their places and write the card; after an error, leave all as it was."""
        empty = None
        if error is None and not self._num_out.total():
            empty = error = DataError(
                f"{self._out.name} would be empty: {sum(self._num_in.values())} rows in, "
                f"and all dropped ({'; '.join(self._dropped)})"
            )
        earlier = [step for source in self._sources for step in earlier_steps(source.name)]
        self._stack.__exit__(error and type(error), error, at)
        if error is not None:
            if self._new_folder:
                with suppress(OSError):  # somebody else has put something there
                    self._card.parent.rmdir()
            if empty is not None:
                raise empty
            return
        for path in (self._rejected, self._diff):
            if path not in self._open:
                path.unlink(missing_ok=True)  # of an earlier run that this one replaces
        self.mended = self._account()
        write_text(self._card, data_card(self.mended, self._out.resolve().name, earlier))

    def read(self, source: Source) -> Iterator[Example]:
        """Read a source, counting its rows and dropping those that cannot be used."""
        for example in usable(source, lambda item: self._set_aside(item, source.name)):
            self._num_in[source.name] += 1
            yield example

    def keep(self, example: Example, part: str = "", **more: object) -> None:
        """Write a row with its provenance; ``more`` goes into the record of this step."""
        row = row_after(example, self._step, **more)
        self.write_line(json_line(row, example.where), part)

    def write_line(self, line: str, part: str = "") -> None:
        """Write a row that is a line of JSON already."""
        path = self._files[part]
        self._num_out[path] += 1
        self._open[path].write(line)

    def drop(self, example: Example, reason: str, detail: str = "") -> None:
        """Leave a row out: counted by reason, and written to the rejected rows with the detail."""
        told = f"{reason}: {detail}" if detail else reason
        self._reject(to_row(example), example.where, reason, [told])

    def change(self, name: str, num_fields: int) -> None:
        """Count a row that was changed in so many fields."""
        touched = self._changed.get(name, Touched())
        self._changed[name] = Touched(touched.rows + 1, touched.fields + num_fields)

    def differ(self, where: str, name: str, pairs: Sequence[tuple[str, str]]) -> None:
        """Write to the diff what was replaced in a field of a row."""
        told = ", ".join(f"{before} -> {after}" for before, after in pairs)
        self._file(self._diff).write(f"{where}\t{name}\t{' '.join(told.split())}\n")

    def _set_aside(self, item: Unusable, name: str) -> None:
        self._num_in[name] += 1
        self._reject(item.row.cells, item.where, "; ".join(item.reasons), item.reasons)

    def _reject(
        self, row: Mapping[str, object], where: str, reason: str, told: Sequence[str]
    ) -> None:
        self._dropped[reason] = self._dropped.get(reason, RowList()).add(where)
        held = {**row, "left_out": {"source": where, "step": self._step.name, "reasons": [*told]}}
        self._file(self._rejected).write(json_line(held, where))

    def _file(self, path: Path) -> TextIO:
        if path not in self._open:
            self._open[path] = self._stack.enter_context(text_aside(path))
        return self._open[path]

    def _account(self) -> Mended:
        return Mended(
            self._step,
            dict(self._num_in),
            dict(self._num_out),
            dropped=self._dropped,
            num_repeated=self.num_repeated,
            changed=self._changed,
            table=self.table,
            notes=tuple(self.notes),
            card=self._card,
            rejected=self._rejected if self._rejected in self._open else None,
            diff=self._diff if self._diff in self._open else None,
            command=command_line(self._step, self._arguments, self._out),
        )

    def _check_names(self, *, is_folder: bool) -> None:
        suffix = self._out.suffix.lower()
        if is_folder and (suffix in READERS or self._out.is_file()):
            raise ConfigError(f"--out {self._out}: {self._step.name} writes a folder; name one")
        if not is_folder and suffix not in LINES:
            raise ConfigError(
                f"--out {self._out}: JSON Lines are written; let the name end in .jsonl"
            )

    def _check_place(self, names: Sequence[str], force: bool, *, is_folder: bool) -> None:
        made = [*self._files.values(), self._rejected, self._diff, self._card]
        for name in names:
            read = user_path(name).resolve()
            inside = read.is_dir() and any(read in path.resolve().parents for path in made)
            if inside or read in (path.resolve() for path in made):
                raise ConfigError(
                    f"--out {self._out} would change the source {name}; write to another place"
                )
        there = next((path for path in made if path.exists()), None)
        if there is None and is_folder and self._out.is_dir() and any(self._out.iterdir()):
            there = self._out
        if there is not None and not force:
            raise ConfigError(f"{there} is there already; name another --out, or add --force")


def finished(output: Output) -> Mended:
    """Give the account of an output whose block has ended."""
    if output.mended is None:
        raise ValueError("the output is still being written")
    return output.mended
