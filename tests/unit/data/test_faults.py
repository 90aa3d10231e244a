from dataclasses import replace

import pytest

from thinktune.data.example import Example, Role, Turn
from thinktune.data.faults import Fault, Severity, find_faults

WORDS = (
    "alpha",
    "bravo",
    "charlie",
    "delta",
    "echo",
    "fox",
    "golf",
    "hotel",
    "india",
    "kilo",
    "lima",
)


def example(number: int, **fields: object) -> Example:
    """An example without a fault, unlike every other."""
    return replace(
        Example(
            question=f"What about {number}?",
            reasoning=" ".join(f"{word}{number}" for word in WORDS),
            answer=f"The answer is {number}",
            where=f"train.jsonl row {number}",
        ),
        **fields,
    )


def rows(faults: list[Fault], what: str) -> list[str]:
    return [row for fault in faults if what in fault.what for row in fault.rows]


def row(number: int) -> str:
    return f"train.jsonl row {number}"


def test_good_examples_have_no_fault() -> None:
    assert find_faults([example(n) for n in range(30)], [example(n) for n in range(30, 40)]) == []


@pytest.mark.parametrize(
    ("fields", "what", "severity"),
    [
        ({"reasoning": " the answer IS 3 ", "answer": "the answer IS 3"}, "is the answer", "error"),
        ({"reasoning": "one two three four five six seven eight nine"}, "shorter", "warning"),
        ({"reasoning": "可能是普通感冒吧"}, "shorter", "warning"),
        ({"answer": "a\x00b"}, "control", "warning"),
        ({"answer": "lost \ufffd text"}, "control", "warning"),
        ({"history": (Turn(Role.USER, "a\x1bb"), Turn(Role.ASSISTANT, "c"))}, "control", "warning"),
        ({"question": "Flu, or a Cold?", "answer": "a cold"}, "in the question", "note"),
        ({"question": "是不是流感？", "answer": "流感"}, "in the question", "note"),
        ({"question": " What?"}, "white space", "note"),
        ({"answer": "That.\n"}, "white space", "note"),
    ],
)
def test_a_fault_of_one_row_is_found_there_and_only_there(
    fields: dict[str, object], what: str, severity: str
) -> None:
    faults = find_faults([example(1), example(2, **fields), example(3)])
    assert rows(faults, what) == [row(2)]
    (fault,) = (fault for fault in faults if what in fault.what)
    assert (fault.severity, fault.num_rows) == (Severity(severity), 1)
    assert fault.way_out


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"reasoning": "one two three four five six seven eight nine ten"}, "shorter"),
        ({"reasoning": "發燒三天又全身痠痛所以是流感"}, "shorter"),
        ({"answer": "tab\tand\r\nlines"}, "control"),
        ({"question": "A or B?", "answer": "B"}, "in the question"),
    ],
)
def test_what_is_no_fault_is_not_reported(fields: dict[str, object], what: str) -> None:
    assert rows(find_faults([example(1, **fields)]), what) == []


def test_repeated_questions_are_told_apart_by_their_answers() -> None:
    same = [example(1), example(2, question="What  about 1?\n", answer="The answer is 1")]
    differing = [example(3), example(4, question="What about 3?")]
    faults = find_faults([*same, *differing, example(5)])
    assert rows(faults, "with the same answer") == [row(1), row(2)]
    assert rows(faults, "with different answers") == [row(3), row(4)]


def test_the_same_words_after_another_conversation_are_another_question() -> None:
    history = (Turn(Role.USER, "Hello"), Turn(Role.ASSISTANT, "Hi"))
    faults = find_faults([example(1), example(2, question="What about 1?", history=history)])
    assert rows(faults, "same question") == []


def test_a_training_question_that_is_held_out_too_is_an_error_that_names_both() -> None:
    heldout = [
        replace(example(2), where="test.jsonl row 9"),
        replace(example(8), where="test.jsonl row 10"),
    ]
    faults = find_faults([example(1, question=" "), example(2), example(3)], heldout)
    assert faults[0].severity is Severity.ERROR
    assert faults[0].rows == ("train.jsonl row 2 = test.jsonl row 9",)


def test_one_opening_in_more_than_a_fifth_of_the_rows_is_reported() -> None:
    opening = "Okay, so the patient has a rash and fever, and then we think about it more: "
    many = [example(n, reasoning=f"{opening}{n}") for n in range(3)]
    assert rows(find_faults(many + [example(n) for n in range(3, 14)]), "begins") == [
        row(0),
        row(1),
        row(2),
    ]
    assert rows(find_faults(many + [example(n) for n in range(3, 15)]), "begins") == []
    assert rows(find_faults(many[:2]), "begins") == []


def test_errors_come_before_warnings_and_notes() -> None:
    bad = example(1, question=" Q is x y z? ", reasoning="x y z", answer="x y z")
    severities = [fault.severity for fault in find_faults([bad])]
    assert severities == [Severity.ERROR, Severity.WARNING, Severity.NOTE, Severity.NOTE]


def test_a_row_without_a_place_of_its_own_is_named_by_its_number() -> None:
    faults = find_faults([example(1), example(2, where="", answer="B ")])
    assert rows(faults, "white space") == ["row 2"]
