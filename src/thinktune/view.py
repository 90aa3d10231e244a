"""What a person sees in the terminal: tables of what a run did, and records in colour."""

from collections.abc import Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from thinktune.data.contract import ContractReport
from thinktune.data.faults import Fault, Severity
from thinktune.data.inspection import Inspection
from thinktune.data.segments import Segment
from thinktune.data.spans import Span
from thinktune.evaluation.comparison import choose_shown
from thinktune.evaluation.content import AnsweredSides
from thinktune.evaluation.metrics import Unit
from thinktune.evaluation.samples import Graded
from thinktune.evaluation.scores import Estimate, is_right
from thinktune.evaluation.statistics import Interval
from thinktune.evaluation.tasks import Purpose
from thinktune.evaluation.verdict import Results, TaskResult, scores_told

SEGMENT_STYLES = {
    Segment.PROMPT: "dim",
    Segment.THINK_OPEN: "yellow",
    Segment.REASONING: "cyan",
    Segment.THINK_CLOSE: "yellow",
    Segment.ANSWER: "green",
    Segment.EOS: "magenta",
}
_SHOWN_METRICS = {
    "pass_at_1": "strict (pass@1)",
    "lenient_accuracy": "lenient",
    "required_rate": "required phrases",
    "closure_rate": "closed",
    "truncated_rate": "truncated",
    "reasoning_words": "reasoning words",
    "answer_words": "answer words",
    "loss_answer": "answer loss",
}
"""Short, so that a table with all its intervals fits 80 columns."""
_DIGITS = {Unit.RATE: 2, Unit.NATS: 2}


def evaluation_view(results: Results) -> Group:
    """A table of each task that counts, one line of each other, and the verdict."""
    tasks = [task for task in results.tasks if task.last.purpose is Purpose.DOMAIN]
    tasks = tasks or results.tasks
    parts: list[RenderableType] = [
        task_table(task, list(results.titles.values())) for task in tasks
    ]
    for task in results.tasks:
        if task not in tasks:
            name, of = task.last.task_name, task.comparison
            parts.append(Text(f"{name}: {of.verdict}" if of else scores_told([task.last])))
    parts.append(Text(results.verdict, style="bold"))
    parts += [Text(f"note: {warning}", style="yellow") for warning in results.warnings]
    return Group(*parts)


def task_table(task: TaskResult, titles: Sequence[str]) -> Table:
    """The main metrics of a task by side, and their paired difference, with 95 % intervals."""
    scores, comparison = task.last, task.comparison
    title = f"{scores.task_name}: {scores.num_questions} questions"
    if scores.num_samples > 1:
        title += f", {scores.num_samples} samples each"
    table = Table(title=escape(title), box=box.SIMPLE_HEAD)
    table.padding = (0, 1, 0, 0)
    table.add_column("")
    for column in (*titles, *(["difference"] if comparison else [])):
        table.add_column(escape(column), justify="right", no_wrap=True)
    shown = _SHOWN_METRICS | {f"maj_at_{scores.num_samples}": f"maj@{scores.num_samples}"}
    for name, metric in task.metrics.items():
        if name not in shown:
            continue
        cells = [_estimate(of.metrics.get(name), metric.unit) for of in task.scores.values()]
        if comparison:
            of = comparison.differences.get(name)
            cells.append("-" if of is None else _cell(of.mean, of.interval, metric.unit, "+"))
        table.add_row(shown[name], *cells)
    return table


def _estimate(estimate: Estimate | None, unit: Unit) -> str:
    return "-" if estimate is None else _cell(estimate.mean, estimate.interval, unit, "")


def _cell(mean: float, interval: Interval, unit: Unit, sign: str) -> str:
    form = f"{sign}.{_DIGITS.get(unit, 0)}f"
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


def _mark(graded: Graded, purpose: Purpose) -> tuple[str, str]:
    right = is_right(graded, purpose)
    if right is None:
        return "not graded", "dim"
    return ("right", "green") if right else ("not right", "red")


def side_by_side(
    sides: AnsweredSides, titles: Sequence[str], purpose: Purpose, *, seed: int
) -> Group:
    """Some questions with the first sample of each side; a wrong one among them, if any."""
    panels = []
    for index in choose_shown(sides[-1], purpose, seed=seed):
        problem, first = sides[-1][index].problem, [of[index].graded[0] for of in sides]
        table = Table(box=box.SIMPLE_HEAD, expand=True, show_edge=False)
        for title, graded in zip(titles, first, strict=True):
            table.add_column(Text.assemble(f"{title}: ", _mark(graded, purpose)), ratio=1)
        table.add_row(*map(_completion, first))
        reference = f"\nreference: {problem.reference}" if problem.reference else ""
        question = Text.assemble((problem.question, "bold"), (reference, "dim"))
        panels.append(Panel(Group(question, table), title=escape(problem.id), border_style="dim"))
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
    counts = [f"{inspection.num_rows} rows", f"{inspection.num_with_reference} with reference"]
    if inspection.num_unusable:
        counts.insert(1, f"{inspection.num_unusable} cannot be used")
    if inspection.num_heldout:
        counts.append(f"against {inspection.num_heldout} held out")
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
    scripts = Text("scripts: ", style="dim")
    for field, counted in inspection.scripts.items():
        told = ", ".join(f"{script} {count}" for script, count in counted.items())
        scripts.append(f"{field} {told}; ")
    parts.append(scripts)
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
                + (f"; template.overlong=drop would drop {touched}, fail stop" if touched else "")
            )
        )
    parts += [_fault(fault) for fault in inspection.faults]
    if not inspection.faults:
        parts.append(Text("nothing wrong found", style="green"))
    return Group(*parts)


def _fault(fault: Fault) -> Text:
    style = {Severity.ERROR: "bold red", Severity.WARNING: "yellow", Severity.NOTE: "cyan"}
    rows = _some_rows(fault.rows[:5]) + (" ..." if fault.num_rows > 5 else "")
    head = (f"{fault.severity}: ", style[fault.severity])
    told = f"{fault.what}: {fault.num_rows}" + (f" ({rows})" if rows else "")
    return Text.assemble(head, told, (f"\n  {fault.way_out}", "dim"))


def _some_rows(names: Sequence[str]) -> str:
    """Rows of one file by their numbers: ``train.jsonl rows 3, 8, 14``."""
    parted = [name.rpartition(" row ") for name in names]
    labels = {label for label, _, _ in parted}
    if len(names) > 1 and len(labels) == 1 and all(place.isdecimal() for *_, place in parted):
        return f"{labels.pop()} rows " + ", ".join(place for *_, place in parted)
    return ", ".join(names)
