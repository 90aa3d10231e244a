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
from thinktune.evaluation.comparison import Comparison, choose_shown
from thinktune.evaluation.samples import Graded
from thinktune.evaluation.scores import METRICS, Estimate, Unit
from thinktune.evaluation.statistics import Interval

SEGMENT_STYLES = {
    Segment.PROMPT: "dim",
    Segment.THINK_OPEN: "yellow",
    Segment.REASONING: "cyan",
    Segment.THINK_CLOSE: "yellow",
    Segment.ANSWER: "green",
    Segment.EOS: "magenta",
}
_SHOWN_METRICS = (
    "strict_accuracy",
    "lenient_accuracy",
    "closure_rate",
    "truncated_rate",
    "reasoning_words",
    "answer_words",
)


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
