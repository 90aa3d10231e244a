"""A comparison as files: every sample, the numbers as JSON, and a page of Markdown to read."""

import html
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from thinktune import atomic
from thinktune.evaluation.comparison import Comparison, Difference, choose_shown
from thinktune.evaluation.samples import Graded, write_samples
from thinktune.evaluation.scores import (
    METRICS,
    OTHER,
    SEVERAL,
    UNFINISHED,
    Estimate,
    ReferenceScores,
    Unit,
    answered,
)
from thinktune.evaluation.statistics import CONFIDENCE, NUM_RESAMPLES

MAX_SHOWN_CHARACTERS = 1200
"""Reasoning and answers are cut to this many characters on the page, never in the samples."""
_ONLY_IN_JSON = {"unfinished_rate", "think_rate"}  # the one is 1 - closure_rate, the other warns


def write_comparison(
    folder: Path,
    before: Sequence[Graded],
    after: Sequence[Graded],
    comparison: Comparison,
    *,
    num_shown: int = 3,
) -> None:
    """Write ``before.jsonl``, ``after.jsonl``, ``comparison.json`` and ``comparison.md``."""
    write_samples(folder / "before.jsonl", before)
    write_samples(folder / "after.jsonl", after)
    text = json.dumps(to_json(comparison), ensure_ascii=False, indent=2, allow_nan=False)
    atomic.write_text(folder / "comparison.json", text + "\n")
    atomic.write_text(
        folder / "comparison.md", to_markdown(comparison, before, after, num_shown=num_shown)
    )


def to_json(comparison: Comparison) -> dict[str, object]:
    """Give a comparison as plain values; metrics go by their keys."""
    before, after = comparison.before, comparison.after
    metrics = {
        f"evaluation/{comparison.task_name}/{name}": {
            "before": _estimate_json(before.metrics.get(name)),
            "after": _estimate_json(after.metrics.get(name)),
            "difference": _estimate_json(comparison.differences.get(name)),
        }
        for name in METRICS
    }
    mcnemar = comparison.mcnemar
    return {
        "task": comparison.task_name,
        "outcome": comparison.outcome.value,
        "verdict": comparison.verdict,
        "warnings": list(comparison.warnings),
        "num_questions": before.num_questions,
        "num_graded": before.num_graded,
        "confidence": CONFIDENCE,
        "metrics": metrics,
        "strict_pairs": None if mcnemar is None else asdict(mcnemar.counts),
        "mcnemar_p": None if mcnemar is None else mcnemar.p,
        "reasoning_ratio": comparison.reasoning_ratio,
        "by_reference": {
            reference: {
                "before": asdict(before.by_reference[reference]),
                "after": asdict(after.by_reference[reference]),
            }
            for reference in before.by_reference
        },
        "decoding": dict(comparison.decoding),
        "seed": comparison.seed,
    }


def to_markdown(
    comparison: Comparison,
    before: Sequence[Graded],
    after: Sequence[Graded],
    *,
    num_shown: int = 3,
) -> str:
    """Give a comparison as a page: verdict, numbers, and some questions side by side."""
    decoding = ", ".join(f"`{name} {value}`" for name, value in comparison.decoding.items())
    parts = [
        f"# Before and after: {_literal(comparison.task_name)}",
        f"**{comparison.verdict}**",
        *(f"> **Note:** {_literal(warning)}" for warning in comparison.warnings),
        _metrics_table(comparison),
        _meaning(comparison),
        *_pairs_table(comparison),
        *_reference_table(comparison),
        "## How both were decoded",
        f"Same prompts, same decoding: {decoding or 'not recorded'}.",
        *_shown(comparison, before, after, num_shown),
    ]
    return "\n\n".join(parts) + "\n"


def _estimate_json(value: Estimate | Difference | None) -> dict[str, float] | None:
    if value is None:
        return None
    flat = {"mean": value.mean, "low": value.interval.low, "high": value.interval.high}
    if isinstance(value, Estimate):
        flat["median"] = value.median
    return flat | {"num": value.num}


def _metrics_table(comparison: Comparison) -> str:
    rows = []
    for name, metric in METRICS.items():
        if name in _ONLY_IN_JSON:
            continue
        title = metric.title if metric.unit is Unit.RATE else f"{metric.title} ({metric.unit})"
        old, new = comparison.before.metrics.get(name), comparison.after.metrics.get(name)
        difference = comparison.differences.get(name)
        rows.append(
            (
                title,
                _estimate_cell(old, metric.unit),
                _estimate_cell(new, metric.unit),
                _difference_cell(difference, metric.unit, comparison.before.num_questions),
            )
        )
    title = f"{comparison.before.num_questions} questions"
    return _table((title, "before", "after", "difference"), rows)


def _estimate_cell(estimate: Estimate | None, unit: Unit) -> str:
    if estimate is None:
        return "none"
    form = ".2f" if unit is Unit.RATE else ".0f"
    low, high = estimate.interval.low, estimate.interval.high
    return f"{estimate.mean:{form}} ({low:{form}} to {high:{form}})"


def _difference_cell(difference: Difference | None, unit: Unit, num_questions: int) -> str:
    if difference is None:
        return "no pairs"
    form = "+z.2f" if unit is Unit.RATE else "+z.0f"
    low, high = difference.interval.low, difference.interval.high
    pairs = "" if difference.num == num_questions else f", {difference.num} pairs"
    return f"{difference.mean:{form}} ({low:{form}} to {high:{form}}{pairs})"


def _meaning(comparison: Comparison) -> str:
    return (
        "Strict: the reasoning was closed and the answer gives the reference and nothing else. "
        "Lenient: the reference is given first, wherever it stands.  \n"
        f"In brackets: {CONFIDENCE:.0%} intervals (Wilson for rates, Newcombe for paired rates, "
        f"bootstrap with {NUM_RESAMPLES:,} resamples for lengths); where that of a difference "
        "holds 0, these questions cannot tell before from after."
    )


def _pairs_table(comparison: Comparison) -> list[str]:
    if comparison.mcnemar is None:
        return []
    counts = comparison.mcnemar.counts
    table = _table(
        ("strictly right", "questions"),
        [
            ("before and after", str(counts.both)),
            ("only before", str(counts.only_before)),
            ("only after", str(counts.only_after)),
            ("neither", str(counts.neither)),
        ],
    )
    return [
        "## Question by question",
        table,
        f"Exact McNemar test: p = {comparison.mcnemar.p:.2g}.",
    ]


def _reference_table(comparison: Comparison) -> list[str]:
    rows = [
        (
            _literal(reference),
            str(old.num),
            str(old.num_strict),
            str(new.num_strict),
            str(old.num_lenient),
            str(new.num_lenient),
            _instead(reference, new),
        )
        for reference, old in comparison.before.by_reference.items()
        for new in (comparison.after.by_reference[reference],)
    ]
    if not rows:
        return []
    head = (
        "reference",
        "questions",
        "strict before",
        "strict after",
        "lenient before",
        "lenient after",
        "answered instead, after",
    )
    return ["## By reference", _table(head, rows)]


def _instead(reference: str, scores: ReferenceScores) -> str:
    wrong = (f"{what} {num}" for what, num in scores.answered.items() if what != reference)
    return _literal(", ".join(wrong)) or "nothing"


def _shown(
    comparison: Comparison, before: Sequence[Graded], after: Sequence[Graded], num_shown: int
) -> list[str]:
    indices = choose_shown(after, num=num_shown, seed=comparison.seed)
    if any(after[index].grade.strict is False for index in indices):
        how = "at least one of them wrong after training"
    else:
        how = "none was wrong after training"
    parts = [
        "## Side by side",
        f"{len(indices)} of {len(after)} questions, chosen by chance (seed {comparison.seed}); "
        f"{how}. All of them are in `before.jsonl` and `after.jsonl`.",
    ]
    for index in indices:
        parts += _side_by_side(before[index], after[index])
    return parts


def _side_by_side(before: Graded, after: Graded) -> list[str]:
    problem = before.problem
    reference = "" if problem.reference is None else f" (reference: {_literal(problem.reference)})"
    earlier = f" *after {len(problem.history)} earlier turns*" if problem.history else ""
    rows = [
        ("graded", _grade_cell(before), _grade_cell(after)),
        (
            "reasoning",
            _text_cell(before.sample.reasoning, "before.jsonl"),
            _text_cell(after.sample.reasoning, "after.jsonl"),
        ),
        (
            "answer",
            _text_cell(before.sample.answer, "before.jsonl"),
            _text_cell(after.sample.answer, "after.jsonl"),
        ),
        ("tokens", str(before.sample.num_tokens), str(after.sample.num_tokens)),
    ]
    return [
        f"### {_literal(problem.id)}{reference}",
        "> " + _literal(problem.question.strip()).replace("\n", "  \n> ") + earlier,
        _table(("", "before", "after"), rows),
    ]


def _grade_cell(graded: Graded) -> str:
    if graded.grade.strict is None:
        return "not graded: no reference"
    if graded.grade.strict:
        return "right"
    what = answered(graded)
    why = {
        UNFINISHED: "never closed its reasoning",
        OTHER: "does not give the reference",
        SEVERAL: f"names {_literal(' and '.join(graded.grade.found))}",
    }.get(what, f"answered {_literal(what)}")
    return f"wrong: {why}{', right if lenient' if graded.grade.lenient else ''}"


def _text_cell(text: str, file: str) -> str:
    text = text.strip()
    shown = _literal(text[:MAX_SHOWN_CHARACTERS]).replace("\n", "<br>")
    num_left = len(text) - MAX_SHOWN_CHARACTERS
    if num_left > 0:
        shown += f" … *({num_left:,} more characters in {file})*"
    return shown or "*empty*"


_MARKUP = re.compile(r"([\\`*\[\]$|~]|(?<!\w)_|_(?!\w)|^[-+#=])", re.MULTILINE)


def _literal(text: str) -> str:
    """Show what a model wrote as it wrote it: no markup, no HTML, no links, no cell borders."""
    text = _MARKUP.sub(r"\\\1", text.replace("\r", ""))
    return html.escape(text, quote=False)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
