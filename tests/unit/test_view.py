from collections.abc import Sequence

from rich.console import Console, RenderableType

from tests.answered_questions import Written, answer_all, ask
from thinktune import view
from thinktune.evaluation.comparison import Comparison, compare
from thinktune.evaluation.samples import Answered
from thinktune.evaluation.scores import summarise
from thinktune.evaluation.tasks import Purpose
from thinktune.evaluation.verdict import Alone, Evaluation


def answers(*given: Written | Sequence[Written]) -> list[Answered]:
    return answer_all(ask(*["flu"] * len(given)), given, reasoning="so [bold] is the flu")


def compared(before: list[Answered], after: list[Answered], purpose: Purpose) -> Comparison:
    name = f"{purpose}-task"
    return compare(before, after, task_name=name, purpose=purpose, decoding={}, seed=1)


def shown(what: RenderableType) -> list[str]:
    console = Console(width=80, color_system=None)
    with console.capture() as capture:
        console.print(what)
    return capture.get().splitlines()


BEFORE, AFTER = answers(*["cold"] * 20), answers(*["flu"] * 19, None)
DOMAIN = compared(BEFORE, AFTER, Purpose.DOMAIN)
KEPT = compared(AFTER, AFTER, Purpose.RETENTION)


def test_each_metric_takes_one_line_of_eighty_columns():
    lines = [
        line.split("  ")[0].strip() for line in shown(view.evaluation_view(Evaluation((DOMAIN,))))
    ]
    assert lines[4:10] == [
        "strict (pass@1)",
        "lenient",
        "closed",
        "truncated",
        "reasoning words",
        "answer words",
    ]


def test_a_task_outside_the_domain_takes_no_table():
    lines = shown(view.evaluation_view(Evaluation((DOMAIN, KEPT))))
    text = " ".join(" ".join(lines).split())
    assert "domain-task: 20 questions" in text
    assert "retention-task: 20 questions" not in text
    assert f"retention-task: {KEPT.verdict}" in text
    assert Evaluation((DOMAIN, KEPT)).verdict in text
    alone = " ".join(" ".join(shown(view.evaluation_view(Evaluation((KEPT,))))).split())
    assert "retention-task: 20 questions" in alone


def test_every_warning_is_a_note():
    empty = answer_all(ask("flu", "flu"), ["flu", "flu"], reasoning="")
    evaluation = Evaluation((compared(answers("flu", "flu"), empty, Purpose.DOMAIN),))
    text = " ".join(" ".join(shown(view.evaluation_view(evaluation))).split())
    assert len(evaluation.warnings) > 1
    assert all(f"note: {warning}" in text for warning in evaluation.warnings)


def test_one_model_alone_is_shown_without_a_difference():
    several = answers(*[["flu", "cold", "flu"]] * 5)
    scores = [summarise(several, task_name=purpose, purpose=purpose, seed=1) for purpose in Purpose]
    text = "\n".join(shown(view.evaluation_view(Alone(tuple(scores)))))
    assert "domain: 5 questions, 3 samples each" in text
    assert "maj@3" in text
    assert "difference" not in text
    assert "\nretention: lenient accuracy 0.67 on 5 questions" in text


def test_questions_stand_side_by_side_as_they_were_written():
    sides = view.side_by_side((BEFORE, AFTER), ("old", "new"), Purpose.DOMAIN, seed=1)
    text = "\n".join(shown(sides))
    assert "old: not right" in text
    assert "new: not right" in text
    assert "so [bold] is the flu" in text
    assert "(the reasoning was never closed)" in text
    (alone,) = (view.side_by_side((BEFORE,), ("answers",), Purpose.DOMAIN, seed=1),)
    assert "answers: not right" in "\n".join(shown(alone))
