"""An evaluation as a page of Markdown for a model card: verdict, tables, questions side by side."""

import html
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from thinktune.evaluation.comparison import Comparison, choose_shown
from thinktune.evaluation.content import (
    AnsweredSides,
    Provenance,
    instead_of,
    notes_of,
)
from thinktune.evaluation.differences import Difference
from thinktune.evaluation.metrics import Unit
from thinktune.evaluation.resampling import CONFIDENCE
from thinktune.evaluation.samples import Answered
from thinktune.evaluation.scores import Estimate, ReferenceScores, is_right
from thinktune.evaluation.tasks import Purpose
from thinktune.evaluation.verdict import Results, TaskResult

MAX_SHOWN_CHARACTERS = 1200
"""Reasoning and answers are cut to this many characters on the page, never in the samples."""
_NOT_SHOWN = {"unfinished_rate", "think_rate"}  # the one is 1 - closure_rate, the other warns
_DIGITS = {Unit.RATE: 2, Unit.NATS: 3}


def to_markdown(
    results: Results,
    answered: Mapping[str, AnsweredSides],
    provenance: Provenance,
    *,
    seed: int,
) -> str:
    """Give an evaluation as a page: verdict, numbers, and some questions side by side."""
    tasks, titles = results.tasks, results.titles
    names = ", ".join(_literal(task.last.task_name) for task in tasks)
    parts = [f"# Evaluation: {names}", f"**{_literal(results.verdict)}**"]
    parts += map(_note, results.warnings)
    for task in tasks:
        parts += _task(task, titles, results.warnings)
    parts += [_meaning(tasks), "## To repeat this", f"`{provenance.command}`"]
    models = zip(titles.values(), provenance.models, strict=True)
    rows = [*models, *provenance.facts.items()]
    parts.append(_table(("", ""), [map(_literal, row) for row in rows]))
    for task in tasks:
        sides = answered[task.last.task_name]
        parts += _shown(task, titles, sides, seed=seed)
    return "\n\n".join(parts) + "\n"


def _note(warning: str) -> str:
    return f"> **Note:** {_literal(warning)}"


def _task(task: TaskResult, titles: Mapping[str, str], told: Sequence[str]) -> Iterator[str]:
    """Show all numbers of a task; warnings among ``told`` stand above."""
    scores, comparison = task.last, task.comparison
    yield f"## {_literal(scores.task_name)}"
    if comparison is not None:
        yield _literal(comparison.verdict)
        yield from (_note(warning) for warning in comparison.warnings if warning not in told)
    yield _metrics_table(task, titles)
    if comparison is not None:
        yield from _pairs_table(comparison)
    yield from _reference_table(task, titles)


def _metrics_table(task: TaskResult, titles: Mapping[str, str]) -> str:
    rows = []
    for name, metric in task.metrics.items():
        if name in _NOT_SHOWN:
            continue
        unit = metric.unit
        title = metric.title if unit is Unit.RATE else f"{metric.title} ({unit})"
        row = [title, *(_estimate(of.metrics.get(name), unit) for of in task.scores.values())]
        if task.comparison is not None:
            difference = task.comparison.differences.get(name)
            row.append(_difference(difference, unit, task.last.num_questions))
        rows.append(row)
    scores = task.last
    asked = f"{scores.num_questions} questions"
    if scores.num_samples > 1:
        asked += f", {scores.num_samples} samples each"
    last = ["difference"] if task.comparison is not None else []
    return _table([asked, *map(_literal, titles.values()), *last], rows)


def _estimate(estimate: Estimate | None, unit: Unit) -> str:
    if estimate is None:
        return "none"
    form = f".{_DIGITS.get(unit, 0)}f"
    low, high = estimate.interval.low, estimate.interval.high
    return f"{estimate.mean:{form}} ({low:{form}} to {high:{form}})"


def _difference(difference: Difference | None, unit: Unit, num_questions: int) -> str:
    if difference is None:
        return "no pairs"
    form = f"+z.{_DIGITS.get(unit, 0)}f"
    low, high = difference.interval.low, difference.interval.high
    pairs = "" if difference.num == num_questions else f", {difference.num} pairs"
    mark = " \\*" if difference.changed and difference.p_adjusted is not None else ""
    return f"{difference.mean:{form}} ({low:{form}} to {high:{form}}{pairs}){mark}"


def _meaning(tasks: Sequence[TaskResult]) -> str:
    told = (
        "Strict: the reasoning was closed and the answer gives the reference and nothing else. "
        "Lenient: the reference is given first, wherever it stands.  \n"
        f"In brackets: {CONFIDENCE:.0%} intervals (Wilson for rates, Newcombe for paired rates, "
        "bootstrap-t for all that is not 0 or 1 for each question)."
    )
    if any(task.comparison for task in tasks):
        told += (
            " A star marks a change that Holm's correction for many metrics leaves at p < 0.05; "
            "without one, and but for the metric in the verdict, these questions cannot tell."
        )
    return told


def _pairs_table(comparison: Comparison) -> Iterator[str]:
    if comparison.pairs is None:
        return
    counts, (before, after) = comparison.pairs, map(_literal, comparison.sides)
    right = "strictly right" if comparison.purpose is Purpose.DOMAIN else "leniently right"
    most = " in most samples" if comparison.before.num_samples > 1 else ""
    yield _table(
        (f"{right}{most}", "questions"),
        [
            (f"{before} and {after}", str(counts.both)),
            (f"only {before}", str(counts.only_before)),
            (f"only {after}", str(counts.only_after)),
            ("neither", str(counts.neither)),
        ],
    )


def _reference_table(task: TaskResult, titles: Mapping[str, str]) -> Iterator[str]:
    scores, names = task.scores, [*map(_literal, titles.values())]
    rows = [
        [
            _literal(reference),
            str(of.num),
            *(str(side.by_reference[reference].num_strict) for side in scores.values()),
            *(str(side.by_reference[reference].num_lenient) for side in scores.values()),
            _instead(reference, task.last.by_reference[reference]),
        ]
        for reference, of in task.last.by_reference.items()
    ]
    if rows:
        strict, lenient = ([f"{how} {name}" for name in names] for how in ("strict", "lenient"))
        last = f"answered instead, {names[-1]}"
        yield _table(["reference", "questions", *strict, *lenient, last], rows)


def _instead(reference: str, scores: ReferenceScores) -> str:
    return _literal(instead_of(reference, scores)) or "nothing"


def _shown(
    task: TaskResult,
    titles: Mapping[str, str],
    sides: AnsweredSides,
    *,
    seed: int,
) -> Iterator[str]:
    scores = task.last
    indices = choose_shown(sides[-1], scores.purpose, seed=seed)
    files = " and ".join(f"`{scores.task_name}/{key}.jsonl`" for key in titles)
    yield f"## Questions of {_literal(scores.task_name)}"
    yield (
        f"{len(indices)} of {scores.num_questions}, chosen by chance (seed {seed}), one with a "
        f"wrong answer among them if there is one. All of them are in {files}."
    )
    for index in indices:
        yield from _side_by_side([of[index] for of in sides], titles, scores.purpose)


def _side_by_side(
    sides: Sequence[Answered], titles: Mapping[str, str], purpose: Purpose
) -> Iterator[str]:
    """Show the first sample of each side."""
    problem = sides[0].problem
    reference = "" if problem.reference is None else f" (reference: {_literal(problem.reference)})"
    earlier = f" *after {len(problem.history)} earlier turns*" if problem.history else ""
    samples = [of.graded[0].sample for of in sides]
    reasoning = [_text(sample.reasoning) for sample in samples]
    answer = [_text(sample.answer) for sample in samples]
    yield f"### {_literal(problem.id)}{reference}"
    yield "> " + _literal(problem.question.strip()).replace("\n", "  \n> ") + earlier
    yield _table(
        ["", *map(_literal, titles.values())],
        [
            ["graded", *(_grade(of, purpose) for of in sides)],
            ["reasoning", *reasoning],
            ["answer", *answer],
            ["tokens", *(str(sample.num_tokens) for sample in samples)],
        ],
    )


def _grade(answered: Answered, purpose: Purpose) -> str:
    first, num = answered.graded[0], len(answered.graded)
    right = is_right(first, purpose)
    told = {True: "right", False: "wrong", None: "not graded"}[right]
    notes = "; ".join(_literal(note) for note in notes_of(answered.problem, first))
    told += f": {notes}" if notes else ""
    if num > 1:
        num_right = sum(bool(is_right(g, purpose)) for g in answered.graded)
        told += f" (the first of {num} samples, {num_right} right)"
    return told


def _text(text: str) -> str:
    text = text.strip()
    shown = _literal(text[:MAX_SHOWN_CHARACTERS]).replace("\n", "<br>")
    num_left = len(text) - MAX_SHOWN_CHARACTERS
    if num_left > 0:
        shown += f" … *({num_left:,} more characters)*"
    return shown or "*empty*"


_MARKUP = re.compile(r"([\\`*\[\]$|~]|(?<!\w)_|_(?!\w)|^[-+#=])", re.MULTILINE)


def _literal(text: str) -> str:
    """Show what a model wrote as it wrote it: no markup, no HTML, no links, no cell borders."""
    text = _MARKUP.sub(r"\\\1", text.replace("\r", ""))
    return html.escape(text, quote=False)


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = list(head)
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
