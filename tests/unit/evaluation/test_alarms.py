from collections.abc import Sequence
from dataclasses import replace

from tests.answered_questions import Written, answer_all, ask, write
from thinktune.answers.grading import AnswerKind
from thinktune.evaluation.comparison import compare
from thinktune.evaluation.samples import Answered, ReferenceLosses, Sample
from thinktune.evaluation.scores import grade_samples
from thinktune.evaluation.tasks import Purpose


def answered(
    *answers: Written | Sequence[Written],
    reasoning: str = "a b c flu",
    losses: ReferenceLosses | None = None,
) -> list[Answered]:
    task = ask(*["flu"] * len(answers))
    return answer_all(task, answers, reasoning=reasoning, losses=losses)


def warnings(before: list[Answered], after: list[Answered]) -> tuple[str, ...]:
    return compare(
        before,
        after,
        task_name="clinic",
        purpose=Purpose.DOMAIN,
        decoding={},
        seed=1,
        sides=("base", "tuned"),
    ).warnings


def test_nothing_strange_is_nothing_said():
    assert warnings(answered("cold", "flu"), answered("flu", "flu")) == ()


def test_collapsed_reasoning_is_warned_of_under_forty_percent():
    before = answered("flu", "flu", reasoning="w " * 9 + "flu")
    (warning,) = warnings(before, answered("flu", "flu", reasoning="w w flu"))
    assert warning.startswith("Reasoning collapsed to 30% of its length, on the 2 questions")
    assert warnings(before, answered("flu", "flu", reasoning="w w w flu")) == ()


def test_rambling_reasoning_is_warned_of_over_two_and_a_half_times():
    before = answered("flu", "flu", reasoning="a flu")
    (warning,) = warnings(before, answered("flu", "flu", reasoning="a b c d e flu"))
    assert warning.startswith("Reasoning rambles: it is 3.0 times as long, on the 2 questions")
    assert warnings(before, answered("flu", "flu", reasoning="a b c d flu")) == ()


def test_a_base_model_that_never_closed_is_not_called_longer_or_shorter():
    assert warnings(answered(None, None), answered("flu", "flu")) == (
        "No reasoning was closed on 2 questions (base), so there is no length to compare with "
        "(tuned: 4 words on average).",
    )
    (never,) = warnings(answered(None), answered(None))
    assert never.endswith("(tuned: none closed either).")


def test_a_gain_in_format_alone_is_not_called_knowledge():
    told = warnings(answered(*[None] * 20, reasoning="flu"), answered(*["flu"] * 20))
    assert any(w.startswith("Lenient accuracy did not clearly rise") for w in told)


def test_empty_reasoning_is_counted():
    told = warnings(answered("flu", "flu"), answered("flu", None, reasoning=""))
    assert "1 of 2 completions have empty reasoning (tuned; base: 0)." in told


def cut(sample: Sample) -> Sample:
    return replace(sample, truncated=True)


def test_completions_that_met_the_limit_are_counted_and_a_rise_is_named():
    task = ask(*["flu"] * 20)
    whole = [[write(n, "a flu", "flu")] for n in range(20)]
    one = [[cut(whole[0][0])], *whole[1:]]
    (told,) = warnings(grade_samples(task, whole), grade_samples(task, one))
    assert told.startswith("1 of 20 completions met the token limit (tuned; base: 0); raise")
    every = [[cut(sample)] for (sample,) in whole]
    (told,) = warnings(grade_samples(task, whole), grade_samples(task, every))
    assert told.startswith("20 of 20 completions met the token limit (tuned; base: 0), and that")


def test_completions_that_go_in_circles_are_counted():
    loop = "Wait, let me look at the fever again. " * 20 + "the flu"
    told = warnings(answered("flu"), answered("flu", reasoning=loop))
    loops = "1 of 1 completions repeat themselves over more than half of their length"
    assert f"{loops} (tuned; base: 0)." in told


def test_simplified_characters_in_traditional_answers_are_shown():
    task = ask("流感", kind=AnswerKind.TEXT, question="發燒三天，喉嚨痛，是什麼病？")
    fine = grade_samples(task, [[write(0, "病人發燒，應該是流感", "流感，應該多休息")]])
    mixed = grade_samples(task, [[write(0, "病人發燒，應該是流感", "流感，头痛发烧應該多休息")]])
    assert warnings(fine, fine) == ()
    assert warnings(fine, mixed) == (
        "In 1 completions the answer is not all in the question's script: "
        "Simplified characters such as 头、发、烧 (tuned; base: 0).",
    )


def test_right_answers_that_the_reasoning_does_not_conclude_are_warned_of():
    before = answered("cold", "cold", reasoning="first a cold")
    (told,) = warnings(before, answered("flu", "flu", reasoning="first a cold"))
    assert told.startswith("The reasoning does not carry the answer: what it concludes is the")
    assert warnings(before, answered("cold", "cold", reasoning="first the flu")) == ()


def test_reasoning_that_another_could_replace_is_warned_of_where_answers_are_learnt():
    idle, used = ReferenceLosses(1.0, 0.5, 0.5, 0.5), ReferenceLosses(1.0, 0.25, 0.5, 1.0)
    (told,) = warnings(answered("flu", "flu", losses=idle), answered("flu", "flu", losses=idle))
    assert "after another question's reasoning the reference answer is as likely" in told
    assert warnings(answered("flu", losses=used), answered("flu", losses=used)) == ()
    assert warnings(answered("cold", losses=idle), answered("cold", losses=idle)) == ()


def test_questions_that_are_not_graded_are_counted():
    task = ask("flu", None)
    some = answer_all(task, ["flu", "flu"], reasoning="a flu")
    assert warnings(some, some) == ("1 of 2 questions are not graded.",)


def test_two_prompts_for_one_question_are_told():
    (before,) = answered("flu")
    graded = before.graded[0]
    other = replace(graded, sample=replace(graded.sample, prompt="other"))
    (told,) = warnings([before], [replace(before, graded=(other,))])
    assert told.startswith("1 of 1 questions had one prompt on each side")
