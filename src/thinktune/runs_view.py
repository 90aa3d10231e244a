"""Runs in the terminal: a table of many, some side by side, and one under way."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from thinktune.live_view import sparkline
from thinktune.metric_curves import MetricsReader
from thinktune.pace import clock_text
from thinktune.run_comparison import ABSENT, RunsCompared
from thinktune.run_table import Run, RunState
from thinktune.terminal_chart import MARK, Series, chart

_STATES = {
    RunState.RUNNING: ("▶", "green"),
    RunState.FINISHED: ("✓", "dim"),
    RunState.INTERRUPTED: ("‖", "yellow"),
    RunState.FAILED: ("✗", "red"),
    RunState.DAMAGED: ("!", "red"),
}
_OUTCOMES = {"better": "green", "worse": "red", "cannot tell": "yellow"}
_COLOURS = ("cyan", "magenta", "yellow", "green", "blue", "red", "white", "bright_black")
_SPARK = 10
_WIDEST = 140
"""Characters of a chart; on a wider one the eye loses the curve."""
_SHOWN_SCORES = (
    "pass_at_1",
    "lenient_accuracy",
    "closure_rate",
    "truncated_rate",
    "reasoning_words",
    "loss_answer",
)
"""Of what was measured; --json has all."""

_Column = tuple[str, int, bool, Callable[[Run], str | Text]]
"""Title, least width of a terminal that shows it, whether it holds numbers, what it shows."""


def list_view(runs: Sequence[Run], *, width: int) -> Group:
    """A table of runs, as much of each as there is room for, and what is wrong with some."""
    columns = [column for column in _columns(runs) if width >= column[1]]
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False, pad_edge=False)
    for title, _, is_number, _ in columns:
        is_name = title == "run"
        table.add_column(
            title, justify="right" if is_number else "left", no_wrap=not is_name,
            overflow="fold" if is_name else "ellipsis", min_width=8,
        )  # fmt: skip
    for run in runs:
        table.add_row(*(show(run) for *_, show in columns))
    notes = [
        Text.assemble((run.name, "bold"), ": ", (problem, _STATES[run.state][1]))
        for run in runs
        for problem in run.problems
    ]
    return Group(table, *([Text()] if notes else []), *notes)


def _columns(runs: Sequence[Run]) -> list[_Column]:
    together = len({run.path.parent.resolve() for run in runs}) == 1
    return [
        ("run", 0, False, lambda run: Text(run.name if together else str(run.path))),
        ("state", 0, False, _state),
        ("steps", 0, True, lambda run: _steps(run.steps_done, run.num_steps)),
        ("train loss", 60, False, _loss),
        ("held-out", 100, True, lambda run: _number(run.heldout_loss)),
        ("pass@1", 76, False, _pass_at_1),
        ("verdict", 118, False, lambda run: Text(run.outcome, _OUTCOMES.get(run.outcome, ""))),
        ("tokens/s", 132, True, lambda run: _number(run.tokens_per_second, 0)),
        ("started", 152, False, lambda run: Text(_when(run.started), "dim")),
        ("recipe", 172, False, lambda run: Text(run.recipe, "dim")),
        ("base model", 200, False, lambda run: Text(run.base_model, "dim")),
    ]


def _state(run: Run) -> Text:
    sign, style = _STATES[run.state]
    return Text(f"{sign} {run.state}", style)


def _steps(done: int, num_steps: int | None) -> str:
    return f"{done:,}" + ("" if num_steps is None else f"/{num_steps:,}")


def _loss(run: Run) -> Text:
    if run.loss is None:
        return Text()
    line = sparkline(run.losses, _SPARK)
    return Text.assemble((line.ljust(_SPARK), "cyan"), f" {run.loss:.3f}")


def _number(value: float | None, digits: int = 3) -> str:
    return "" if value is None else f"{value:,.{digits}f}"


def _pass_at_1(run: Run) -> Text:
    told = " → ".join(f"{mean:.2f}" for mean in run.pass_at_1.values())
    return Text(told, _OUTCOMES.get(run.outcome, ""))


def _when(when: datetime) -> str:
    return when.astimezone().strftime("%Y-%m-%d %H:%M")


def comparison_view(compared: RunsCompared, *, width: int) -> Group:
    """Curves of runs over each other, what differs between them, and their scores."""
    series = [
        Series(chr(ord("A") + place), style, metrics.train, metrics.heldout)
        for place, (style, metrics) in enumerate(zip(_COLOURS, compared.metrics, strict=False))
    ]
    parts: list[RenderableType] = [_legend(compared.runs, series), Text()]
    if any(each.curve or each.points for each in series):
        parts += [loss_chart(series, width=width), Text()]
    parts.append(_differences(compared, series))
    if compared.scores:
        parts += [Text(), _scores(compared, series, width)]
    for each, run in zip(series, compared.runs, strict=True):
        if run.verdict:
            parts += [Text(), Text.assemble((each.label, f"bold {each.style}"), "  ", run.verdict)]
    return Group(*parts)


def loss_chart(series: Sequence[Series], *, width: int) -> Group:
    """Losses by step, and which sign is which."""
    drawn = chart(series, width=min(width, _WIDEST), height=14 if width < _WIDEST else 18)
    return Group(drawn, Text(f"━ train loss   {MARK} held-out loss", "dim"))


def _legend(runs: Sequence[Run], series: Sequence[Series]) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(overflow="ellipsis")
    for _ in range(4):
        table.add_column(no_wrap=True)
    for each, run in zip(series, runs, strict=True):
        table.add_row(
            Text.assemble((each.label, f"bold {each.style}"), "  ", run.name, no_wrap=True),
            _state(run),
            _steps(run.steps_done, run.num_steps),
            Text.assemble(("train ", "dim"), _number(run.loss)),
            Text.assemble(("held-out ", "dim"), _number(run.heldout_loss)),
        )
    return table


def _table(first: str, series: Sequence[Series]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False, pad_edge=False)
    table.add_column(first, overflow="fold")
    for each in series:
        table.add_column(Text(each.label, f"bold {each.style}"), overflow="fold")
    return table


def _differences(compared: RunsCompared, series: Sequence[Series]) -> RenderableType:
    if not compared.differences:
        return Text("The same settings, base, data, versions and machine.", "dim")
    table = _table("differs", series)
    for group, names in compared.differences.items():
        for name, values in names.items():
            is_plain = group in ("settings", "machine")
            title = name if is_plain else f"{group} {name}"
            table.add_row(Text(title), *(Text(_plain(value)) for value in values))
    return table


def _plain(value: Any) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)


def _scores(compared: RunsCompared, series: Sequence[Series], width: int) -> Table:
    has_room = width >= 30 + 28 * len(series)
    table = _table("before → after" + (" [95 %]" if has_room else ""), series)
    for key, runs in compared.scores.items():
        task, _, name = key.removeprefix("evaluation/").rpartition("/")
        if name in _SHOWN_SCORES or name.startswith("maj_at_"):
            title = f"{task} {name.replace('_at_', '@').replace('_', ' ')}"
            table.add_row(Text(title), *(_score(sides, has_room) for sides in runs))
    return table


def _score(sides: Mapping[str, Mapping[str, float]], has_room: bool) -> Text:
    if not sides:
        return Text(ABSENT, "dim")
    form = ".2f" if all(of["mean"] < 10 for of in sides.values()) else ".0f"
    told = Text(" → ".join(f"{of['mean']:{form}}" for of in sides.values()))
    last = list(sides.values())[-1]
    if has_room:
        told.append(f" [{last['low']:{form}}, {last['high']:{form}}]", "dim")
    return told


def watch_view(run: Run, metrics: MetricsReader, *, width: int) -> Group:
    """One run as it is now: its curve, its progress and its newest numbers."""
    parts: list[RenderableType] = [
        Text.assemble((run.name, "bold"), "   ", (f"{run.recipe}  {run.base_model}", "dim"))
    ]
    if metrics.train or metrics.heldout:
        parts.append(loss_chart([Series("", "cyan", metrics.train, metrics.heldout)], width=width))
    progress = Table.grid(padding=(0, 2, 0, 0))
    bar = ProgressBar(run.num_steps, run.steps_done, width=24 if width < 100 else 40)
    progress.add_row(_state(run), bar, *(Text(told) for told in newest_numbers(run, metrics)))
    parts.append(progress)
    parts += [Text(problem, "red") for problem in run.problems]
    if run.verdict:
        parts.append(Text(run.verdict, _OUTCOMES.get(run.outcome, "")))
    return Group(*parts)


def newest_numbers(run: Run, metrics: MetricsReader) -> list[str]:
    """Steps, losses, speed and time left, each in words; only what is known."""
    told = [f"step {_steps(run.steps_done, run.num_steps)}"]
    if run.loss is not None:
        told.append(f"loss {run.loss:.3f}")
    if run.heldout_loss is not None:
        told.append(f"held-out {run.heldout_loss:.3f}")
    if (speed := metrics.tokens_per_second) is not None:
        told.append(f"{speed:,.0f} tokens/s")
    steps_left = (run.num_steps or 0) - run.steps_done
    if run.state is RunState.RUNNING and steps_left > 0 and metrics.step_seconds is not None:
        told.append(f"{clock_text(steps_left * metrics.step_seconds)} left")
    return told
