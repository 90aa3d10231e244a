"""What a person sees of a step that made a new file: counts, strata, notes and files."""

from collections.abc import Mapping, Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from thinktune.data.cards import Mended, Touched
from thinktune.data.fixes import FIXES

SHOWN_ROWS = 5
"""Rows named on the screen for each reason; the card names more, the rejected file all."""


def mended_view(mended: Mended) -> Group:
    """The whole account: every row that went in is in one of its numbers."""
    parts: list[RenderableType] = [Text(mended.line, style="bold")]
    if mended.table:
        parts.append(_table(mended.table))
    for name, touched in mended.changed.items():
        parts.append(Text(f"{name}: {touched}"))
    for reason, rows in mended.dropped.items():
        parts.append(Text(f"dropped, {reason}: {rows.shortened(SHOWN_ROWS)}", style="yellow"))
    parts += [Text(f"note: {note}", style="yellow") for note in mended.notes]
    written = [*mended.outputs, mended.rejected, mended.diff, mended.card]
    parts.append(Text("wrote " + ", ".join(str(path) for path in written if path), style="dim"))
    return Group(*parts)


def fixes_view(touched: Mapping[str, Touched]) -> Group:
    """What each fix would touch, and how to choose."""
    lines = [("fix", "rows", "fields", "what it does")]
    for name, of in touched.items():
        what = (FIXES[name].__doc__ or "").partition("\n")[0]
        lines.append((name, f"{of.rows:,}", f"{of.fields:,}", what))
    hint = "nothing was written; choose: --fix NAME,NAME --out FILE"
    return Group(_table(lines), Text(hint, style="dim"))


def _table(lines: Sequence[Sequence[str]]) -> Table:
    heading, *rest = lines
    table = Table(box=box.SIMPLE_HEAD)
    for place, title in enumerate(heading):
        numbers = all(_is_number(line[place]) for line in rest)
        table.add_column(title, justify="right" if numbers else "left", overflow="fold")
    for line in rest:
        table.add_row(*map(Text, line))
    return table


def _is_number(cell: str) -> bool:
    return not cell or cell.replace(",", "").isdigit()
