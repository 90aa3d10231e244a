import pytest

from thinktune.answers.grading import (
    AnswerKind,
    Match,
    conclusion,
    grade,
    grade_phrases,
    vote,
)
from thinktune.errors import ConfigError

CLINIC = {
    "common cold": ["cold", "普通感冒", "感冒"],
    "influenza": ["flu", "流感", "流行性感冒"],
    "gastroenteritis": ["stomach flu", "腸胃炎", "腸胃型感冒"],
    "bronchitis": ["支氣管炎"],
    "sinusitis": ["鼻竇炎"],
    "skin infection": ["皮膚感染"],
}


@pytest.mark.parametrize(
    ("answer", "strict", "lenient"),
    [
        ("It is the flu.", True, True),
        ("Influenza, that is, the flu.", True, True),
        ("Influenza rather than a cold.", False, True),
        ("A cold rather than influenza.", False, False),
        ("A cold.", False, False),
        ("Rest.", False, False),
    ],
)
def test_strict_takes_the_reference_alone_and_lenient_takes_it_first(answer, strict, lenient):
    match = grade(answer, "influenza", CLINIC)
    assert (match.strict, match.lenient) == (strict, lenient)


def test_numbers_are_equal_by_value_not_spelling():
    assert grade("So 1,000.0 in all", "1000", {}, AnswerKind.NUMBER) == Match(True, True, ("1000",))
    assert not grade("So 1000 or 1001", "1000", {}, AnswerKind.NUMBER).lenient
    assert not grade("no idea", "1000", {}, AnswerKind.NUMBER).strict
    assert grade("2/6", "1/3", {}, AnswerKind.NUMBER).strict
    with pytest.raises(ConfigError, match="holds no number"):
        grade("1", "one", {}, AnswerKind.NUMBER)


@pytest.mark.parametrize(
    ("answer", "strict", "lenient"),
    [
        ("paris", True, True),
        ("**Paris**.", True, True),
        ("The capital is Paris, of course.", False, True),
        (r"So \boxed{Paris}", True, True),
        ("Parisian", False, False),
        ("", False, False),
    ],
)
def test_text_is_strict_as_a_whole_and_lenient_as_a_part(answer, strict, lenient):
    assert grade(answer, "Paris", {}, AnswerKind.TEXT) == Match(strict, lenient, ())


def test_choices_are_graded_by_letter():
    assert grade("Answer: C", "(C)", {}, AnswerKind.CHOICE) == Match(True, True, ("C",))
    assert grade("Answer: B", "C. Paris", {}, AnswerKind.CHOICE) == Match(False, False, ("B",))
    with pytest.raises(ConfigError, match="is no choice"):
        grade("C", "perhaps", {}, AnswerKind.CHOICE)


def test_numbers_are_graded_with_their_units():
    assert grade("It is 1500 g", "1.5 kg", {}, AnswerKind.NUMBER) == Match(True, True, ("1500",))
    assert not grade("It is 1500", "1.5 kg", {}, AnswerKind.NUMBER).lenient


@pytest.mark.parametrize(
    ("answer", "strict", "lenient"),
    [
        ("Rest, and see a doctor.", True, True),
        ("Rest; go to hospital.", True, True),
        ("Rest, see a doctor, take antibiotics.", False, True),
        ("Take antibiotics.", False, False),
        ("See a doctor.", False, False),
    ],
)
def test_phrases_are_strict_without_the_forbidden_and_lenient_with_it(answer, strict, lenient):
    required, forbidden = ["rest", "see a doctor|go to hospital"], ["antibiotics"]
    assert grade_phrases(answer, required, forbidden) == Match(strict, lenient, ())


def test_phrases_may_stand_in_the_reference():
    assert grade("It is Paris", "Paris|City of Light", {}, AnswerKind.PHRASES).strict
    assert not grade("It is Rome", "Paris; France", {}, AnswerKind.PHRASES).lenient
    for answer in ("", "Paris"):
        with pytest.raises(ConfigError, match="no phrase is required"):
            grade(answer, " ; ", {}, AnswerKind.PHRASES)


def test_forbidden_phrases_alone_are_enough_to_grade():
    assert grade_phrases("Rest.", [], ["antibiotics"]) == Match(True, True, ())


@pytest.mark.parametrize(
    ("kind", "answer", "key"),
    [
        (AnswerKind.LABEL, "The FLU", "influenza"),
        (AnswerKind.LABEL, "flu or cold", None),
        (AnswerKind.LABEL, "rest", None),
        (AnswerKind.NUMBER, "so 1,000.0 g", "1000"),
        (AnswerKind.NUMBER, "三十五個", "35"),
        (AnswerKind.NUMBER, "none", None),
        (AnswerKind.CHOICE, "Answer: (b", None),
        (AnswerKind.CHOICE, "Answer: (B)", "B"),
        (AnswerKind.MATHS, r"\boxed{\frac{2}{4}}", "0.5"),
        (AnswerKind.MATHS, "no idea", None),
        (AnswerKind.TEXT, " **Paris**. ", "paris"),
        (AnswerKind.PHRASES, r"so \boxed{Paris}", "paris"),
        (AnswerKind.TEXT, " . ", None),
    ],
)
def test_equal_final_answers_vote_alike(kind, answer, key):
    assert vote(answer, kind, CLINIC) == key


@pytest.mark.parametrize(
    ("kind", "reasoning", "key"),
    [
        (AnswerKind.LABEL, "A cold? Fever 39.5, so the flu. Rest helps.", "influenza"),
        (AnswerKind.LABEL, "The flu was ruled out. Most likely a cold.", "common cold"),
        (AnswerKind.LABEL, "Hard to tell.", None),
        (AnswerKind.NUMBER, "3 + 4 = 7. So 7 in all.", "7"),
        (AnswerKind.CHOICE, "(A) is early. The answer is C", "C"),
        (AnswerKind.MATHS, r"first \boxed{1}, then \boxed{\frac{1}{2}}", "0.5"),
        (AnswerKind.MATHS, "so x is 7", None),
        (AnswerKind.TEXT, "It is Paris", None),
        (AnswerKind.PHRASES, "It is Paris", None),
    ],
)
def test_a_reasoning_comes_to_what_it_names_last(kind, reasoning, key):
    assert conclusion(reasoning, kind, CLINIC) == key
