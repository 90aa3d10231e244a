"""The live view of a run: the stage, its progress, time left, and the losses."""

from collections.abc import Sequence
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column
from rich.text import Text

from thinktune.tracking import Metrics

_BARS = "▁▂▃▄▅▆▇█"


def sparkline(values: Sequence[float], width: int = 40) -> str:
    """Draw numbers as a line of bars, from lowest to highest.

    >>> sparkline([1.0, 2.0, 3.0, 4.0])
    '▁▃▅█'
    """
    if not values:
        return ""
    step = max(1, -(-len(values) // width))
    means = [
        sum(values[i : i + step]) / len(values[i : i + step]) for i in range(0, len(values), step)
    ]
    low, high = min(means), max(means)
    scale = (len(_BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(_BARS[int((value - low) * scale)] for value in means)


def _title_column(width: int) -> Column:
    # What the other columns need stays free: a name may be a long path.
    room = width - (50 if width < 100 else 66)
    return Column(no_wrap=True, overflow="ellipsis", max_width=max(room, 12))


class LiveView:
    """Watches a run in the terminal: the stage, its progress, time left, and the losses.

    Where the output is no terminal (a log file), it prints a line now and then instead.
    """

    def __init__(self, console: Console) -> None:
        """Show on ``console``; use it as a context manager."""
        self._console = console
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("[bold]{task.description}", table_column=_title_column(console.width)),
            BarColumn(bar_width=12 if console.width < 100 else 28),
            MofNCompleteColumn(table_column=Column(no_wrap=True)),
            TimeElapsedColumn(table_column=Column(no_wrap=True)),
            TimeRemainingColumn(table_column=Column(no_wrap=True)),
            TextColumn("left"),
            console=console,
        )
        self._live = Live(console=console, refresh_per_second=4, transient=False)
        self._task: TaskID | None = None
        self._title, self._total, self._told = "", None, 0.0
        self._losses: list[float] = []
        self._numbers: dict[str, float | int | str | None] = {}

    def __enter__(self) -> "LiveView":
        """Start drawing."""
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop drawing; what was drawn stays."""
        self._finish()
        if self._console.is_terminal:
            self._live.stop()

    def _finish(self) -> None:
        if self._task is not None:
            if self._total is None:
                self._progress.update(self._task, total=1, completed=1)
            self._progress.stop_task(self._task)
        self._draw()

    def stage(self, title: str, total: int | None = None) -> None:
        """Begin a new line of progress."""
        self._finish()
        self._title, self._total, self._told = title, total, 0.0
        self._numbers = {}
        self._task = self._progress.add_task(escape(title), total=total)
        if not self._console.is_terminal:
            self._console.print(f"- {title}" + (f" ({total})" if total else ""), markup=False)
        self._draw()

    def advance(self, done: int, numbers: Metrics | None = None) -> None:
        """Move the line on, and show the latest numbers."""
        self._numbers |= dict(numbers or {})
        if isinstance(loss := self._numbers.get("train/loss"), float):
            self._losses.append(loss)
        if self._task is not None:
            self._progress.update(self._task, completed=done)
        if self._console.is_terminal:
            self._draw()
        elif self._total and (done == self._total or done / self._total >= self._told + 0.1):
            self._told = done / self._total
            told = "  ".join(self._shown_numbers())
            self._console.print(f"  {done}/{self._total}  {told}", markup=False)

    def say(self, text: str) -> None:
        """Print a line that stays above the view."""
        self._console.print(text, markup=False, style="yellow")

    def _shown_numbers(self) -> list[str]:
        number = {k: v for k, v in self._numbers.items() if isinstance(v, (int, float))}
        shown = []
        for key, label in (
            ("train/loss", "loss"),
            ("train/loss_reasoning", "reasoning"),
            ("train/loss_answer", "answer"),
            ("heldout/loss", "held-out"),
        ):
            if key in number:
                shown.append(f"{label} {number[key]:.3f}")
        speed = number.get("train/tokens_per_second", number.get("tokens_per_second"))
        if speed is not None:
            shown.append(f"{speed:.0f} tokens/s")
        if "closed" in number:
            shown.append(f"{number['closed']} closed their reasoning")
        return shown

    def _draw(self) -> None:
        if not self._console.is_terminal:
            return
        parts: list[RenderableType] = [self._progress]
        if shown := self._shown_numbers():
            parts.append(Text("  " + "   ".join(shown), style="cyan"))
        if len(self._losses) > 1:
            parts.append(
                Text.assemble(
                    ("  loss ", "dim"),
                    (f"{self._losses[0]:.2f} ", "dim"),
                    (sparkline(self._losses), "green"),
                    (f" {self._losses[-1]:.2f}", "dim"),
                )
            )
        self._live.update(Group(*parts))
