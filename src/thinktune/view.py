"""What a person sees in the terminal: a live view of a run, and tables of what came of it."""

from collections.abc import Sequence
from types import TracebackType

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.panel import Panel
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
from rich.table import Column, Table
from rich.text import Text

from thinktune.data.contract import ContractReport
from thinktune.data.faults import Fault, Severity
from thinktune.data.inspection import Inspection, Span
from thinktune.data.segments import Segment
from thinktune.evaluation.comparison import Comparison, choose_shown
from thinktune.evaluation.samples import Graded
from thinktune.evaluation.scores import METRICS, Estimate, Unit
from thinktune.evaluation.statistics import Interval
from thinktune.tracking import Metrics

SEGMENT_STYLES = {
    Segment.PROMPT: "dim",
    Segment.THINK_OPEN: "yellow",
    Segment.REASONING: "cyan",
    Segment.THINK_CLOSE: "yellow",
    Segment.ANSWER: "green",
    Segment.EOS: "magenta",
}
_BARS = "▁▂▃▄▅▆▇█"
_SHOWN_METRICS = (
    "strict_accuracy",
    "lenient_accuracy",
    "closure_rate",
    "truncated_rate",
    "reasoning_words",
    "answer_words",
)


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


def comparison_table(comparison: Comparison) -> Table:
    """Before, after and their paired difference, with 95 % intervals."""
    num = comparison.before.num_questions
    table = Table(title=f"{num} held-out questions, before and after", box=box.SIMPLE_HEAD)
    table.padding = (0, 1, 0, 0)  # fits 80 columns with every interval on one line
    table.add_column("")
    for title in ("before", "after", "difference"):
        table.add_column(title, justify="right", no_wrap=True)
    for name in _SHOWN_METRICS:
        metric = METRICS[name]
        before, after = comparison.before.metrics.get(name), comparison.after.metrics.get(name)
        if before is None and after is None:
            continue
        difference = comparison.differences.get(name)
        change = (
            "-"
            if difference is None
            else _cell(difference.mean, difference.interval, metric.unit, "+")
        )
        label = metric.title if metric.unit is Unit.RATE else f"{metric.title} ({metric.unit})"
        table.add_row(label, _estimate(before, metric.unit), _estimate(after, metric.unit), change)
    return table


def _estimate(estimate: Estimate | None, unit: Unit) -> str:
    return "-" if estimate is None else _cell(estimate.mean, estimate.interval, unit, "")


def _cell(mean: float, interval: Interval, unit: Unit, sign: str) -> str:
    form = f"{sign}.2f" if unit is Unit.RATE else f"{sign}.0f"
    return f"{mean:{form}} [{interval.low:{form}}, {interval.high:{form}}]"


def _completion(graded: Graded, limit: int = 700) -> Text:
    sample = graded.sample
    reasoning = (
        sample.reasoning if len(sample.reasoning) <= limit else sample.reasoning[:limit] + " ..."
    )
    text = Text(reasoning, style="dim italic")
    if sample.closed:
        text.append("\n\n" + sample.answer, style="not dim not italic")
    else:
        text.append("\n\n(the reasoning was never closed)", style="not italic red")
    return text


def _mark(graded: Graded) -> tuple[str, str]:
    if graded.grade.strict is None:
        return "not graded", "dim"
    return ("right", "green") if graded.grade.strict else ("not right", "red")


def side_by_side(
    before: Sequence[Graded], after: Sequence[Graded], *, num: int, seed: int
) -> Group:
    """Some questions with what was written before and after; a wrong one among them, if any."""
    panels = []
    for index in choose_shown(after, num=num, seed=seed):
        old, new = before[index], after[index]
        table = Table(box=box.SIMPLE_HEAD, expand=True, show_edge=False)
        for when, graded in (("before", old), ("after", new)):
            verdict, style = _mark(graded)
            table.add_column(Text.assemble(f"{when}: ", (verdict, style)), ratio=1)
        table.add_row(_completion(old), _completion(new))
        reference = f"\nreference: {new.problem.reference}" if new.problem.reference else ""
        question = Text.assemble((new.problem.question, "bold"), (reference, "dim"))
        panels.append(
            Panel(Group(question, table), title=escape(new.problem.id), border_style="dim")
        )
    return Group(*panels)


def contract_view(report: ContractReport, name: str) -> Group:
    """The five points of the template contract, each with its evidence."""
    table = Table(title=f"template contract of {name}", box=box.ROUNDED, show_lines=True)
    for title in ("point", "promise", "", "evidence"):
        table.add_column(title, overflow="fold")
    for finding in report.findings:
        state = Text("holds", style="green") if finding.ok else Text("broken", style="bold red")
        evidence = "\n".join((*finding.failures, finding.evidence))
        table.add_row(finding.point, finding.claim, state, Text(evidence))
    notes = [Text(f"note: {note}", style="yellow") for note in report.notes]
    return Group(Text(report.template), table, *notes)


def coloured_row(spans: Sequence[Span]) -> Text:
    """A rendered row: each segment in its colour, tokens that carry loss underlined."""
    text = Text()
    for span in spans:
        style = SEGMENT_STYLES[span.segment] + (" underline" if span.carries_loss else "")
        text.append(span.text, style=style)
    return text


def segment_legend() -> Text:
    """Which colour is which segment."""
    parts = [(f"{s.name.lower()} ", style) for s, style in SEGMENT_STYLES.items()]
    return Text.assemble("segments: ", *parts, ("underlined", "underline"), " carries loss")


def inspection_view(inspection: Inspection, source: str) -> Group:
    """Counts, lengths, references and findings of a data set, on one screen."""
    counts = [f"{inspection.num_examples} rows", f"{inspection.num_with_reference} with reference"]
    if inspection.num_with_system:
        counts.append(f"{inspection.num_with_system} with system prompt")
    if inspection.num_with_history:
        counts.append(f"{inspection.num_with_history} with earlier turns")
    lengths = Table(title="lengths", box=box.ROUNDED)
    lengths.add_column("")
    for title in ("min", "median", "p95", "max"):
        lengths.add_column(title, justify="right")
    groups = [("words", inspection.words)]
    if inspection.tokens is not None:
        groups.append(("tokens", inspection.tokens.segments))
    for unit, group in groups:
        for field, q in group.items():
            row = (q.minimum, f"{q.median:.0f}", q.p95, q.maximum)
            lengths.add_row(f"{field} ({unit})", *map(str, row))
    parts: list[RenderableType] = [Text(f"{source}: {', '.join(counts)}", style="bold"), lengths]
    if inspection.references and len(inspection.references) <= 20:
        table = Table(title="references", box=box.ROUNDED)
        table.add_column("")
        table.add_column("rows", justify="right")
        for reference, count in inspection.references.items():
            table.add_row(escape(reference), str(count))
        parts.append(table)
    if (tokens := inspection.tokens) is not None and tokens.max_length is not None:
        touched = len(tokens.dropped) + len(tokens.shortened)
        parts.append(
            Text(
                f"limit {tokens.max_length} tokens ({tokens.overlong}): {touched} rows touched: "
                f"{len(tokens.shortened)} shortened, {len(tokens.dropped)} dropped"
            )
        )
    parts += [_fault(fault) for fault in inspection.faults]
    if not inspection.faults:
        parts.append(Text("nothing wrong found", style="green"))
    return Group(*parts)


def _fault(fault: Fault) -> Text:
    style = {Severity.ERROR: "bold red", Severity.WARNING: "yellow", Severity.NOTE: "cyan"}
    rows = ", ".join(fault.rows[:5]) + (" ..." if len(fault.rows) > 5 else "")
    head = (f"{fault.severity}: ", style[fault.severity])
    return Text.assemble(head, f"{fault.what}: {fault.num_rows} ({rows}); {fault.way_out}")
