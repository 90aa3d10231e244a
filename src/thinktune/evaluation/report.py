"""An evaluation as files: every sample, the numbers as JSON, a page of Markdown and one of HTML."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from thinktune import atomic
from thinktune.errors import DataError
from thinktune.evaluation.comparison import Comparison
from thinktune.evaluation.content import (
    AnsweredSides,
    Provenance,
    metric_values,
    page_content,
)
from thinktune.evaluation.markdown import to_markdown
from thinktune.evaluation.page import to_page
from thinktune.evaluation.resampling import CONFIDENCE
from thinktune.evaluation.samples import write_samples
from thinktune.evaluation.verdict import Results, TaskResult


def write_report(
    folder: Path,
    results: Results,
    answered: Mapping[str, AnsweredSides],
    provenance: Provenance,
    *,
    seed: int,
    curves: Mapping[str, object] | None = None,
) -> None:
    """Write ``comparison.json``, ``report.md``, ``report.html`` and the samples of each task.

    The samples are in ``<task>/before.jsonl`` and ``<task>/after.jsonl``, or in
    ``<task>/alone.jsonl`` if one model was evaluated by itself.

    Args:
        folder: where to; files there are replaced one by one, each whole.
        results: of every task.
        answered: by task name, in the order of the sides.
        provenance: how they came about.
        seed: of the choice of questions shown.
        curves: as ``content.page_content`` takes them.

    Raises:
        DataError: two tasks have one name, and so one folder.
    """
    names = [task.last.task_name for task in results.tasks]
    if twice := [name for name in names if names.count(name) > 1]:
        raise DataError(f"two tasks are called {twice[0]}; rename the file of one")
    for name, sides in answered.items():
        for key, side in zip(results.titles, sides, strict=True):
            write_samples(folder / name / f"{key}.jsonl", side)
    text = json.dumps(to_json(results, provenance), ensure_ascii=False, indent=2, allow_nan=False)
    atomic.write_text(folder / "comparison.json", text + "\n")
    page = to_markdown(results, answered, provenance, seed=seed)
    atomic.write_text(folder / "report.md", page)
    content = page_content(results, answered, provenance, curves=curves)
    atomic.write_text(folder / "report.html", to_page(content))


def to_json(results: Results, provenance: Provenance) -> dict[str, object]:
    """Give results as plain values; metrics go by their keys."""
    return {
        "outcome": results.outcome and results.outcome.value,
        "verdict": results.verdict,
        "warnings": list(results.warnings),
        "sides": results.titles,
        "confidence": CONFIDENCE,
        "tasks": {task.last.task_name: _task(task) for task in results.tasks},
        "provenance": asdict(provenance) | {"created": provenance.created.isoformat()},
    }


def _task(task: TaskResult) -> dict[str, object]:
    scores = task.last
    return {
        "purpose": scores.purpose.value,
        "num_questions": scores.num_questions,
        "num_graded": scores.num_graded,
        "num_samples": scores.num_samples,
        "metrics": {
            f"evaluation/{scores.task_name}/{name}": metric_values(task, name)
            for name in task.metrics
        },
        "reliability": {
            key: None if of.reliability is None else asdict(of.reliability)
            for key, of in task.scores.items()
        },
        "by_reference": {
            reference: {key: asdict(of.by_reference[reference]) for key, of in task.scores.items()}
            for reference in scores.by_reference
        },
        **({} if task.comparison is None else _comparison(task.comparison)),
    }


def _comparison(comparison: Comparison) -> dict[str, object]:
    return {
        "outcome": comparison.outcome.value,
        "verdict": comparison.verdict,
        "warnings": list(comparison.warnings),
        "main": comparison.main,
        "pairs": None if comparison.pairs is None else asdict(comparison.pairs),
        "reasoning_ratio": comparison.reasoning_ratio,
        "questions_needed": comparison.num_needed,
        "smallest_detectable": comparison.detectable,
        "decoding": dict(comparison.decoding),
        "seed": comparison.seed,
    }
