"""The live view of what takes long: the stage, its progress, time left, and the losses."""

import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from thinktune.pace import Pace, clock_text
from thinktune.tracking import Metrics

LINE_SECONDS = 60.0
"""Where lines are printed, there is one at least as often."""
LINE_FRACTION = 0.1
"""And one for each such share of a stage, but not several in a second."""
PATIENCE_SECONDS = 2.0
"""What a brief view watches may take so long without a word."""
_SHOWN = {
    "train/loss": "loss {:.3f}",
    "train/loss_reasoning": "reasoning {:.3f}",
    "train/loss_answer": "answer {:.3f}",
    "heldout/loss": "held-out {:.3f}",
    "train/tokens_per_second": "{:,.0f} tokens/s",
    "requests_per_minute": "{:,.0f}/min",
    "tokens_per_second": "{:,.0f} tokens/s",
    "tokens": "{:,} tokens",
    "cost": "cost {:.4f}",
    "retries": "{:,} retries",
    "set_aside": "{:,} set aside",
    "closed": "{:,} closed their reasoning",
}
"""Numbers worth showing, in order, and how."""
_NOT_AT_ZERO = {"requests_per_minute", "tokens_per_second", "tokens", "retries", "set_aside"}
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


@dataclass(slots=True)
class _Stage:
    """One thing that is being done."""

    title: str
    total: int | None
    pace: Pace
    done: int = 0
    seconds: float | None = None
    """It took; None while it is under way."""
    told_at: float = 0.0
    told: int | None = None
    is_headed: bool = False
    numbers: dict[str, float | int | str | None] = field(default_factory=dict)

    @property
    def count(self) -> str:
        """``120/600``, or what is done where the total is not known."""
        if self.total is not None:
            return f"{self.done:,}/{self.total:,}"
        return f"{self.done:,}" if self.done else ""

    @property
    def left(self) -> str:
        """``13:20 left``, where it can be known."""
        if self.seconds is not None or self.total is None or self.done >= self.total:
            return ""
        seconds = self.pace.seconds_left(self.total)
        return "" if seconds is None else f"{clock_text(seconds)} left"

    def shown(self) -> list[str]:
        """The latest numbers, in words."""
        pairs = [(key, form, self.numbers.get(key)) for key, form in _SHOWN.items()]
        return [
            form.format(value)
            for key, form, value in pairs
            if isinstance(value, int | float) and (value or key not in _NOT_AT_ZERO)
        ]


def can_draw(console: Console) -> bool:
    """Whether lines that are on the screen can be drawn again there.

    Not in a log file; nor in a notebook, be it its own console or a ``!command`` in one, which
    has a terminal that cannot move up.
    """
    in_notebook = console.is_jupyter or "JPY_PARENT_PID" in os.environ
    return console.is_terminal and not in_notebook


class LiveView:
    """Watches what takes long: the stage, its progress, time left, and the losses.

    Where nothing can be drawn again, it prints lines at sensible moments instead: one for each
    tenth of a stage, and one a minute, whether or not anything has moved.
    """

    def __init__(
        self,
        console: Console,
        *,
        brief: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Show on ``console``; use it as a context manager.

        Args:
            console: where to.
            brief: for what is often over at once: leave nothing behind on a terminal, and print
                nothing elsewhere until it has taken two seconds.
            clock: gives seconds.
        """
        self._console, self._brief, self._clock = console, brief, clock
        self._draws = can_draw(console)
        self._spinner = Spinner("dots")
        self._stages: list[_Stage] = []
        self._losses: list[float] = []
        self._lock = threading.RLock()
        self._over = threading.Event()
        self._ticker = threading.Thread(target=self._tick, daemon=True)
        self._live = Live(
            console=console, get_renderable=self._picture, refresh_per_second=4, transient=brief
        )

    def __enter__(self) -> "LiveView":
        """Start showing."""
        if self._draws:
            self._live.start()
        else:
            self._ticker.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop; what was shown stays, unless it was brief."""
        self._finish()
        if self._draws:
            self._live.stop()
        else:
            self._over.set()
            self._ticker.join()

    def stage(self, title: str, total: int | None = None) -> None:
        """Begin a new line of progress."""
        with self._lock:
            self._finish()
            self._make_room()
            pace = Pace(self._clock)
            self._stages.append(_Stage(title, total, pace, told_at=self._clock()))
            if not self._draws and not self._brief:
                self._head(self._stages[-1])

    def advance(self, done: int, numbers: Metrics | None = None) -> None:
        """Move the line on, and show the latest numbers."""
        with self._lock:
            if not self._stages:
                return
            stage = self._stages[-1]
            stage.done = done
            stage.pace.advance(done)
            stage.numbers |= dict(numbers or {})
            if isinstance(loss := (numbers or {}).get("train/loss"), float):
                self._losses.append(loss)
            if not self._draws:
                self._tell_if_due(stage)

    def say(self, text: str) -> None:
        """Print a line that stays above the view."""
        self._console.print(text, markup=False, style="yellow", soft_wrap=not self._draws)

    def _finish(self) -> None:
        if self._stages and self._stages[-1].seconds is None:
            self._stages[-1].seconds = self._stages[-1].pace.elapsed

    def _make_room(self) -> None:
        """Let go of the oldest stages before the picture is higher than the terminal."""
        while self._stages and len(self._stages) > (self._console.height - 8 if self._draws else 0):
            oldest = self._stages.pop(0)
            if self._draws and not self._brief:
                self._console.print(self._rows([oldest]))

    def _tick(self) -> None:
        while not self._over.wait(1.0):
            with self._lock:
                if self._stages and self._stages[-1].seconds is None:
                    self._tell_if_due(self._stages[-1])

    def _tell_if_due(self, stage: _Stage) -> None:
        if self._brief and stage.pace.elapsed < PATIENCE_SECONDS:
            return
        self._head(stage)
        waited = self._clock() - stage.told_at
        moved = stage.done - (stage.told or 0)
        share = stage.total is not None and moved >= LINE_FRACTION * stage.total and moved > 0
        is_end = stage.done == stage.total and stage.told != stage.done
        if waited >= LINE_SECONDS or is_end or (share and waited >= 1):
            stage.told, stage.told_at = stage.done, self._clock()
            times = ", ".join(filter(None, (f"{clock_text(stage.pace.elapsed)} gone", stage.left)))
            parts = filter(None, (stage.count, *stage.shown(), times))
            self._console.print("  " + "  ".join(parts), markup=False, soft_wrap=True)

    def _head(self, stage: _Stage) -> None:
        if not stage.is_headed:
            stage.is_headed = True
            total = "" if stage.total is None else f" ({stage.total:,})"
            self._console.print(f"- {stage.title}{total}", markup=False, soft_wrap=True)

    def _rows(self, stages: Sequence[_Stage]) -> Table:
        rows = Table.grid(padding=(0, 1, 0, 0))
        rows.add_column(width=1)
        rows.add_column()  # the only one that gives way: a name may be a long path
        for _ in range(4):
            rows.add_column(no_wrap=True, justify="right")
        width = 12 if self._console.width < 100 else 28
        for stage in stages:
            is_over = stage.seconds is not None
            total, done = stage.total, stage.done
            if is_over and total is None:
                total = done = 1
            rows.add_row(
                "" if is_over else self._spinner,
                Text(stage.title, style="bold", no_wrap=True, overflow="ellipsis"),
                ProgressBar(total, done, width=width, pulse=total is None),
                Text(stage.count, style="green"),
                Text(clock_text(stage.seconds or stage.pace.elapsed), style="yellow"),
                Text(stage.left, style="cyan"),
            )
        return rows

    def _picture(self) -> RenderableType:
        # Rich's thread calls this and holds the console: it must not wait for our lock.
        stages, losses = list(self._stages), list(self._losses)
        parts: list[RenderableType] = [self._rows(stages)]
        if stages and (shown := stages[-1].shown()):
            parts.append(Text("  " + "   ".join(shown), style="cyan"))
        if len(losses) > 1:
            ends = (("  loss ", "dim"), (f"{losses[0]:.2f} ", "dim"))
            bars = (sparkline(losses), "green")
            parts.append(Text.assemble(*ends, bars, (f" {losses[-1]:.2f}", "dim")))
        return Group(*parts)
