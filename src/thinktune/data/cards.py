"""What a step did, as a value and as the data card beside its output."""

import hashlib
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from thinktune.data.naming import NAMED_ROWS
from thinktune.data.provenance import Step, tool
from thinktune.paths import user_path

CARD_MARK = "<!-- data card by thinktune data -->"
"""First line of every card; files without it are somebody's own and are not read."""


@dataclass(frozen=True, slots=True)
class RowList:
    """How many rows something happened to, and the first of them."""

    num_rows: int = 0
    first: tuple[str, ...] = ()

    def add(self, where: str) -> "RowList":
        """One row more; named if it is among the first 20."""
        named = len(self.first) < NAMED_ROWS
        return RowList(self.num_rows + 1, (*self.first, where) if named else self.first)

    def __str__(self) -> str:
        """``2: a.jsonl row 3, a.jsonl row 5``."""
        more = ", ..." if self.num_rows > len(self.first) else ""
        return f"{self.num_rows:,}: {', '.join(self.first)}{more}"

    def shortened(self, num: int) -> "RowList":
        """The same count with fewer rows named."""
        return RowList(self.num_rows, self.first[:num])


@dataclass(frozen=True, slots=True)
class Touched:
    """How much a change touches."""

    rows: int = 0
    fields: int = 0

    def __str__(self) -> str:
        """``2 rows, 3 fields``."""
        rows, fields = ("" if num == 1 else "s" for num in (self.rows, self.fields))
        return f"{self.rows:,} row{rows}, {self.fields:,} field{fields}"


@dataclass(frozen=True, slots=True)
class Mended:
    """What one step read, wrote and left out. Nothing is lost: the counts add up, or it fails."""

    step: Step
    sources: Mapping[str, int]
    """Rows read of each source, unusable ones among them."""
    outputs: Mapping[Path, int]
    """Rows written to each file."""
    dropped: Mapping[str, RowList] = field(default_factory=dict)
    """By reason; all these rows are in ``rejected``."""
    num_repeated: int = 0
    """Rows written again after their first time (``mix`` with ``repeat``)."""
    changed: Mapping[str, Touched] = field(default_factory=dict)
    """By the change's name."""
    table: tuple[tuple[str, ...], ...] = ()
    """A heading and lines: what was drawn from each stratum or source."""
    notes: tuple[str, ...] = ()
    """What the user should know: what was kept though it looks wrong, what could not be exact."""
    card: Path | None = None
    rejected: Path | None = None
    """Rows left out, with reasons; None if there are none."""
    diff: Path | None = None
    """What was replaced by what; None if nothing was."""
    command: str = ""
    """The command line that does the same again."""

    def __post_init__(self) -> None:
        """Hold what went in against what came out."""
        total = self.num_out + self.num_dropped
        if self.num_in + self.num_repeated != total:
            raise AssertionError(f"rows were lost or made: {self.line}")

    @property
    def num_in(self) -> int:
        """Rows read."""
        return sum(self.sources.values())

    @property
    def num_out(self) -> int:
        """Rows written."""
        return sum(self.outputs.values())

    @property
    def num_dropped(self) -> int:
        """Rows left out."""
        return sum(rows.num_rows for rows in self.dropped.values())

    @property
    def line(self) -> str:
        """``10 in = 8 out + 2 dropped (2 empty answer)``."""
        again = f" + {self.num_repeated:,} again" if self.num_repeated else ""
        reasons = "; ".join(f"{rows.num_rows:,} {reason}" for reason, rows in self.dropped.items())
        of = f" ({reasons})" if reasons else ""
        total = f"{self.num_out:,} out + {self.num_dropped:,} dropped{of}"
        return f"{self.num_in:,} in{again} = {total}"


def command_line(step: Step, sources: Sequence[str], out: Path) -> str:
    """Write the command that takes this step.

    >>> command_line(Step.of("dedup", near=0.8), ["my rows.jsonl"], Path("out.jsonl"))
    "thinktune data dedup 'my rows.jsonl' --out out.jsonl --near 0.8"
    """
    words = ["thinktune", "data", step.name, *sources, "--out", str(out)]
    for name, value in step.options.items():
        flag = f"--{name}"
        if isinstance(value, Mapping):
            for key, held in value.items():
                words += [flag, f"{key}={held}"]
        elif isinstance(value, list | tuple):
            for held in value:
                words += [flag, str(held)]
        else:
            words += [flag] if value is True else [flag, str(value)]
    return shlex.join(words)


def data_card(mended: Mended, title: str, earlier: Iterable[str] = ()) -> str:
    """Write the card: what went in and came out, every step with its counts, how to do it again.

    Args:
        mended: the step just taken.
        title: of the card.
        earlier: steps taken before, as ``earlier_steps`` reads them from the sources' cards.
    """
    rows = [(name, f"{num:,}", "read", _digest(Path(name))) for name, num in mended.sources.items()]
    rows += [(p.name, f"{num:,}", "written", _digest(p)) for p, num in mended.outputs.items()]
    if mended.rejected is not None:
        left_out = f"{mended.num_dropped:,}"
        rows += [(mended.rejected.name, left_out, "left out", _digest(mended.rejected))]
    steps = [*earlier, _step_block(mended)]
    numbered = [f"{number}. {block}" for number, block in enumerate(steps, start=1)]
    parts = [
        CARD_MARK,
        f"# {title}",
        f"{mended.line}.",
        _markdown_table([("file", "rows", "", "SHA-256"), *rows]),
        *([_markdown_table(mended.table)] if mended.table else []),
        "## Steps",
        *numbered,
        "Every row names its steps in `metadata.provenance`.",
    ]
    return "\n\n".join(parts) + "\n"


def earlier_steps(source: str) -> list[str]:
    """Read the steps from the card beside a source that a step of ours made; none without one."""
    path = user_path(source)
    beside = path / "README.md" if path.is_dir() else path.with_suffix(".md")
    for card in (beside, path.parent / "README.md"):
        if path.exists() and card.is_file():
            text = card.read_text(encoding="utf-8", errors="replace")
            if text.startswith(CARD_MARK) and (card == beside or f"| {path.name} |" in text):
                section = text.partition("## Steps\n")[2].rpartition("\n\nEvery row names")[0]
                return [block.rstrip() for block in _NUMBER.split(section)[1:]]
    return []


_NUMBER = re.compile(r"^\d+\. (?=\*\*)", re.MULTILINE)


def _step_block(mended: Mended) -> str:
    step = mended.step
    names = ", ".join(f"`{name}`" for name in mended.sources)
    made = ", ".join(f"`{path.name}`" for path in mended.outputs)
    today = datetime.now(UTC).date().isoformat()
    lines = [f"**{step.name}** {names} into {made} ({today}, {tool()}): {mended.line}"]
    lines += [f"changed by {n}: {t}" for n, t in mended.changed.items()]
    lines += [f"dropped, {reason}: {rows}" for reason, rows in mended.dropped.items()]
    lines += [f"note: {note}" for note in mended.notes]
    lines += [f"again: `{mended.command}`"]
    return "\n   - ".join(" ".join(line.split()) for line in lines)


def _markdown_table(rows: Sequence[Sequence[str]]) -> str:
    cells = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows]
    lines = [f"| {' | '.join(row)} |" for row in cells]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


def _digest(path: Path) -> str:
    """SHA-256 of a file; nothing for a folder or a data set by name."""
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        return f"`{hashlib.file_digest(file, 'sha256').hexdigest()}`"
