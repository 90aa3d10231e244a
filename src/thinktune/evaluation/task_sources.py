"""Where a task comes from: shipped with the project, a data file, or seeded generators."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from thinktune.answers.boxes import final_text
from thinktune.answers.grading import AnswerKind
from thinktune.data.example import Example
from thinktune.data.formats import Row, read_rows
from thinktune.data.patterns import Pattern
from thinktune.data.places import find_rows
from thinktune.data.records import to_examples
from thinktune.errors import ConfigError, DataError
from thinktune.evaluation.tasks import (
    EvaluationConfig,
    Grader,
    Problem,
    Purpose,
    Task,
    task_from_examples,
)
from thinktune.paths import user_path

TASKS: dict[str, str] = {
    "retention": "arithmetic, general knowledge and other languages, 20 questions each",
}
"""Tasks shipped with the project, ``assets/probe/NAME.jsonl``; all ask for what may be lost."""

GENERATORS = "reasoning-gym:"
"""Begins a task of generators: ``reasoning-gym:NAME,NAME:NUM``."""

NUM_GENERATED = 20
"""Questions of each generator, where the task does not say."""

GSM8K = "{reasoning}####{answer+reference}"
"""How an answer of GSM8K and its like (arXiv:2110.14168) is written."""

LETTERS = ascii_uppercase[:10]
"""Options beyond J are not read from answers."""

INSTRUCTION = "Answer with the letter of the right option."
"""Stands under the options of a multiple-choice question."""

_OPTIONS = ("choices", "options")
_ANSWERS = ("answerkey", "answer_idx", "answer_index", "reference", "answer", "label")

BOXED = "\n\nPut the final answer alone in \\boxed{}."
"""Asked of generated questions, for their scorers compare the bare answer."""


def find_task(spec: str, config: EvaluationConfig, *, seed: int) -> Task:
    """Find a task beside the held-out questions.

    Args:
        spec: a name in ``TASKS``; a file, folder or data set as ``places.find_rows`` takes it (its
            split test if it has one, else all rows); or ``reasoning-gym:NAME,NAME:NUM``, that many
            questions of each generator. Files with options (``with_options``) and GSM8K's form are
            recognised; others need a reference, or phrases in columns required or forbidden.
        config: how many questions are asked. Graders and labels are of the held-out questions; here
            the rows decide.
        seed: of generated questions; the same seed and version give the same questions.

    Returns:
        The task; its purpose is retention, but for data of your own, which is your domain.

    Raises:
        ConfigError: no such task, or reasoning-gym is missing or has no such generator.
        DataError: the rows cannot be read or graded.
    """
    config = config.model_copy(update={"grader": Grader.AUTO, "labels": {}})
    if spec in TASKS:
        path = Path(str(files("thinktune").joinpath("assets", "probe", f"{spec}.jsonl")))
        task = _task_of_rows(list(read_rows(path, path.name)), config, spec)
        return replace(task, purpose=Purpose.RETENTION)
    if spec.startswith(GENERATORS):
        return _generated(spec, config, seed)
    return _task_of_rows(_held_out_rows(spec), config, Path(spec).stem.replace(":", "-"))


def _held_out_rows(source: str) -> list[Row]:
    try:
        return list(find_rows(source, "test")[0])
    except DataError:
        pass  # no such split; what else is wrong comes again
    try:
        return list(find_rows(source, None)[0])
    except DataError as error:
        if user_path(source).exists():
            raise
        raise ConfigError(
            f"no task {source}: {error}; tasks: {', '.join(TASKS)}, a data file, or "
            f"{GENERATORS}NAME"
        ) from error


def _task_of_rows(rows: Sequence[Row], config: EvaluationConfig, name: str) -> Task:
    columns = {column for row in rows for column in row.cells}
    if _has_options(columns):
        examples = [with_options(row) for row in rows]
        return task_from_examples(
            examples, config.model_copy(update={"grader": Grader.CHOICE}), name=name
        )
    patterns = {}
    answers = [row.cells.get("answer") for row in rows]
    if "reference" not in columns and all(isinstance(a, str) and "####" in a for a in answers):
        patterns["answer"] = Pattern.parse(GSM8K)
    examples = to_examples(rows, {}, patterns, required=("question",))
    if not any(map(_is_graded, examples)):
        raise DataError(
            f"{rows[0].label}: nothing to grade answers against; give it a column reference, or "
            "required phrases"
        )
    return task_from_examples(examples, config, name=name)


def _has_options(columns: Iterable[str]) -> bool:
    """Say whether rows with these columns are multiple-choice questions."""
    names = {name.casefold() for name in columns}
    listed = any(name in names for name in _OPTIONS) or {"a", "b"} <= names
    return "question" in names and listed and any(name in names for name in _ANSWERS)


def with_options(row: Row) -> Example:
    """Make an example of a multiple-choice row: options in the question, a letter as reference.

    Options are a list (``choices``, as MMLU has it), texts with their labels (ARC), an object of
    letters (``options``, MedQA), or columns A, B and so on. The answer is an option's own label or
    letter, its place counted from 0, or its text.

    Raises:
        DataError: no question, fewer than two options or more than ten, or an answer that is none
            of them; names the row.
    """
    cells = {name.casefold(): value for name, value in row.cells.items()}
    question = str(cells.get("question") or "").strip()
    labels, texts = _options(cells)
    if not question or not 2 <= len(texts) <= len(LETTERS):
        raise DataError(
            f"{row.where}: a question and two to {len(LETTERS)} options are needed, not "
            f"{question!r} and {len(texts)} options"
        )
    answers = [cells[name] for name in _ANSWERS if cells.get(name) is not None]
    place = _place(answers[0] if answers else None, labels, texts)
    if place is None:
        raise DataError(f"{row.where}: answer {answers[:1]} is none of its options")
    lines = [f"{letter}. {text}" for letter, text in zip(LETTERS, texts, strict=False)]
    return Example(
        question="\n".join((question, "", *lines, "", INSTRUCTION)),
        reasoning="",
        answer="",
        reference=LETTERS[place],
        metadata={name: row.cells[name] for name in row.cells if name.casefold() != "question"},
        where=row.where,
    )


def _options(cells: Mapping[str, object]) -> tuple[list[str], list[str]]:
    """The options' own labels, and their texts."""
    listed = next((cells[name] for name in _OPTIONS if cells.get(name) is not None), None)
    if listed is None:
        held = [(k, cells.get(k.casefold())) for k in LETTERS]
        listed = {letter: text for letter, text in held if text is not None and text != ""}
    if isinstance(listed, Mapping):
        labels, texts = listed.get("label"), listed.get("text")
        if not isinstance(labels, Sequence) or not isinstance(texts, Sequence):
            labels, texts = list(listed), list(listed.values())
        return list(map(str, labels)), list(map(str, texts))
    if isinstance(listed, str) or not isinstance(listed, Sequence):
        return [], []
    return list(LETTERS[: len(listed)]), list(map(str, listed))


def _place(answer: object, labels: Sequence[str], texts: Sequence[str]) -> int | None:
    """Which option an answer is: by its label, its text or its place."""
    told = str(answer).strip()
    if isinstance(answer, str):
        for names in (list(labels), [text.strip() for text in texts]):
            for name in (told, told.strip("(). ").upper()):
                if names.count(name) == 1:
                    return names.index(name)
    if told.isdecimal():
        if told in labels:
            return labels.index(told)
        return int(told) if int(told) < len(texts) else None
    return None


def _is_graded(example: Example) -> bool:
    return bool(
        (example.reference or "").strip()
        or example.metadata.get("required")
        or example.metadata.get("forbidden")
    )


def _generated(spec: str, config: EvaluationConfig, seed: int) -> Task:
    names, num = _read_generators(spec)
    generators = {name: _generator(name, num, seed) for name in names}
    entries = {
        f"{name} {place + 1}": generators[name][place] for place in range(num) for name in names
    }
    problems = tuple(
        Problem(
            id=problem_id,
            question=entry["question"].rstrip() + BOXED,
            reference=entry["answer"],
            metadata={"group": problem_id.partition(" ")[0]},
        )
        for problem_id, entry in entries.items()
    )

    def score(problem: Problem, answer: str) -> float:
        generator = generators[problem.id.partition(" ")[0]]
        return float(generator.score_answer(_bare(answer), entries[problem.id]))

    return Task(
        name=f"reasoning-gym-{'+'.join(names)}",
        problems=problems[: config.num_questions],
        kind=AnswerKind.TEXT,
        labels={},
        purpose=Purpose.RETENTION,
        score=score,
    )


def _read_generators(spec: str) -> tuple[list[str], int]:
    """Part ``reasoning-gym:NAME,NAME:NUM`` into the names, each once, and the number."""
    listed, _, num = spec.removeprefix(GENERATORS).partition(":")
    names = list(dict.fromkeys(name.strip() for name in listed.split(",")))
    if not all(names) or not re.fullmatch(r"(0*[1-9]\d{0,4})?", num):
        raise ConfigError(
            f"task {spec}: write {GENERATORS}NAME,NAME:NUM, for example {GENERATORS}chain_sum:20"
        )
    return names, int(num or NUM_GENERATED)


def _generator(name: str, num: int, seed: int) -> Any:
    try:
        from reasoning_gym import factory  # noqa: PLC0415  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ConfigError(
            f"{GENERATORS}{name} needs reasoning-gym: pip install thinktune[tasks]"
        ) from error
    if name not in factory.DATASETS:
        raise ConfigError(
            f"reasoning-gym has no generator {name}; known: {', '.join(sorted(factory.DATASETS))}"
        )
    return factory.create_dataset(name, size=num, seed=seed)


def _bare(answer: str) -> str:
    r"""The final answer without marks that are none of it: ``\text{yes}`` and ``**yes**``."""
    text = final_text(answer).strip().strip("*$").strip()
    wrapped = re.fullmatch(r"\\(?:text|mathrm|mathbf)\s*\{([^{}]*)\}", text)
    return wrapped[1] if wrapped else text
