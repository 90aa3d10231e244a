"""Following a run that another process is at: in a live picture, or in lines."""

import time
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.live import Live

from thinktune.errors import RunError
from thinktune.live_view import can_draw
from thinktune.metric_curves import MetricsReader
from thinktune.run_table import Run, RunState, is_run, read_run, read_runs
from thinktune.runs_view import newest_numbers, watch_view
from thinktune.tracking import METRICS_FILE

LINE_FRACTION = 0.05
"""Where lines are printed, there is one for each such share of the steps."""
LINE_SECONDS = 60.0
"""And one at least as often."""


def newest_run(folder: Path) -> Path | None:
    """The run itself, or of a folder's runs the newest one under way, else the newest."""
    if is_run(folder):
        return folder
    try:
        runs = read_runs([folder])
    except RunError:
        return None
    return next((run.path for run in runs if run.state is RunState.RUNNING), runs[0].path)


def watch(folder: Path, console: Console, *, seconds: float = 1.0) -> None:
    """Show a run until it ends; Ctrl-C is left to the caller.

    Args:
        folder: a run's, or one with runs, of which ``newest_run`` is watched. It need not be
            there yet: a run that is about to begin is waited for.
        console: where to; where nothing can be drawn again, lines are printed.
        seconds: between two looks.
    """
    if (path := newest_run(folder)) is None:
        console.print(f"Waiting for a run in {folder}; Ctrl-C leaves.", markup=False, style="dim")
    while path is None:
        time.sleep(seconds)
        path = newest_run(folder)
    metrics = MetricsReader(path / METRICS_FILE)
    looks = _looks(path, metrics, seconds)
    if not can_draw(console):
        _print_lines(looks, metrics, console)
        return
    with Live(console=console, auto_refresh=False) as live:
        for run in looks:
            live.update(watch_view(run, metrics, width=console.width), refresh=True)


def _looks(path: Path, metrics: MetricsReader, seconds: float) -> Iterator[Run]:
    """The run again and again until it ends; the last look sees all it wrote."""
    was_over = False
    while True:
        run = read_run(path)
        metrics.read()
        yield run
        # Once is not enough: a run that just begins has its files before it has its lock.
        is_over = run.state is not RunState.RUNNING
        if is_over and (was_over or run.state is RunState.FINISHED):
            return
        was_over = is_over
        time.sleep(seconds)


def _print_lines(looks: Iterator[Run], metrics: MetricsReader, console: Console) -> None:
    run, told, told_at = None, -1, 0.0
    for run in looks:
        if told < 0:
            _print(f"- {run.path}", console)
            told = 0
        due = max(1.0, LINE_FRACTION * (run.num_steps or 0))
        moved = abs(run.steps_done - told) >= due  # back, if it is resumed
        waited = time.monotonic() - told_at >= LINE_SECONDS
        if run.state is RunState.RUNNING and (moved or waited):
            _print("  " + "  ".join(newest_numbers(run, metrics)), console)
            told, told_at = run.steps_done, time.monotonic()
    if run is not None:
        _print("  " + "  ".join((*newest_numbers(run, metrics), run.state)), console)
        for text in filter(None, (*run.problems, run.verdict)):
            _print(text, console)


def _print(text: str, console: Console) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)
