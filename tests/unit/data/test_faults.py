from collections.abc import Sequence
from dataclasses import replace

import pytest

from tests.tokenizers import r1_llama
from thinktune.data.example import Example, Role, Turn
from thinktune.data.faults import NAMED_ROWS, Fault, Severity
from thinktune.data.formats import Row
from thinktune.data.inspection import inspect
from thinktune.data.sources import Unusable
from thinktune.data.template import Template, TemplateConfig

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


def find_faults(examples: list[Example], heldout: Sequence[Example] = ()) -> list[Fault]:
    return list(inspect(examples, heldout=heldout).faults)


def rows(faults: list[Fault], what: str) -> list[str]:
    named = (row for fault in faults if what in fault.what for row in fault.rows)
    return [name.partition(":")[0] for name in named]


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
        ({"reasoning": "a <think> b"}, "think tags", "error"),
        ({"question": "What </think> is it?"}, "think tags", "error"),
        ({"answer": "## Reasoning\nIt is red.\n## Answer\nRed."}, "within the answer", "warning"),
        ({"answer": "推理過程：發燒三天。答案是流感"}, "within the answer", "warning"),
        (
            {
                "reasoning": "take rest and drink water and see the doctor if it lasts",
                "answer": "Take rest and drink water, and see the doctor if it lasts.",
            },
            "only restates",
            "warning",
        ),
        ({"reference": "flu", "answer": "It is the flu."}, "never reached", "warning"),
        ({"question": "I read of lung cancer.", "reference": "lung cancer"}, "question", "note"),
        ({"answer": "Ask anna.li@example.org"}, "e-mail", "warning"),
        ({"answer": "Take it.<br/>Rest."}, "HTML", "warning"),
        ({"answer": "It\u00e2\u20ac\u2122s the flu"}, "wrong encoding", "warning"),
        ({"answer": "头痛，發燒"}, "characters in one text", "warning"),
        ({"answer": "多喝水，多休息，三天後再來看醫生"}, "different scripts", "warning"),
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
        ({"question": "3 of 12 apples?", "answer": "9 apples", "reference": "12"}, "question"),
        ({"answer": "Reasoning is hard."}, "within the answer"),
        (
            {"reasoning": "It is 4,000 + 4 000 = 8,000.", "answer": "8000", "reference": "8000"},
            "reached",
        ),
        ({"answer": "a < b <i and 3<4>2"}, "tags"),
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


def test_one_opening_in_more_than_a_tenth_of_the_rows_is_reported() -> None:
    opening = "Okay, so the patient has a rash and fever, and then we think about it more: "
    many = [example(n, reasoning=f"{opening}{n}") for n in range(3)]
    assert rows(find_faults(many + [example(n) for n in range(3, 29)]), "begins") == [
        row(0),
        row(1),
        row(2),
    ]
    assert rows(find_faults(many + [example(n) for n in range(3, 30)]), "begins") == []
    assert rows(find_faults(many[:2]), "begins") == []


def test_errors_come_before_warnings_and_notes() -> None:
    bad = example(1, question=" Q is x y z? ", reasoning="x y z", answer="x y z")
    severities = [fault.severity for fault in find_faults([bad])]
    assert severities == [Severity.ERROR, Severity.WARNING, Severity.NOTE, Severity.NOTE]


def test_a_row_without_a_place_of_its_own_is_named_by_its_number() -> None:
    faults = find_faults([example(1), example(2, where="", answer="B ")])
    assert rows(faults, "white space") == ["row 2"]


def test_nearly_the_same_question_is_found_here_and_among_the_held_out() -> None:
    asked = (
        "I have had a fever and a bad cough since {}, and my whole body aches. At night I sweat so "
        "much that I change the sheets, and my wife is ill too. What is it, please?"
    )
    near = [example(n, question=asked.format(day)) for n, day in ((1, "Monday"), (2, "Tuesday"))]
    heldout = [replace(example(9, question=asked.format("Sunday")), where="test.jsonl row 4")]
    faults = find_faults([*near, example(3)], heldout)
    assert rows(faults, "nearly the same question again") == [row(1), row(2)]
    (leak,) = (fault for fault in faults if "nearly" in fault.what and "held-out" in fault.what)
    assert leak.severity is Severity.ERROR
    assert leak.rows[0].startswith("train.jsonl row 1 = test.jsonl row 4 (0.")
    assert not any("nearly" in f.what for f in inspect([*near], heldout=heldout, near=None).faults)


def test_the_rarer_of_two_chinese_scripts_is_at_fault() -> None:
    def chinese(number: int, answer: str) -> Example:
        text = f"第{number}位病人發燒頭痛三天了，咳嗽也很厲害，想問這樣是什麼病呢"
        return example(number, question=text, reasoning=text + "。先想一想。", answer=answer)

    many = [chinese(n, f"多喝水，看醫師{n}") for n in range(12)]
    faults = find_faults([*many, chinese(12, "多喝水，看医师")])
    assert rows(faults, "Simplified Chinese beside Traditional") == [row(12)]
    assert rows(find_faults(many), "Simplified") == []


def test_a_reference_far_rarer_than_the_others_is_named() -> None:
    many = [example(n, reference="flu" if n < 9 else "cold") for n in range(11)]
    (fault,) = (fault for fault in find_faults(many) if "rarer" in fault.what)
    assert fault.rows == ("cold 2",)
    assert (fault.severity, fault.num_rows) == (Severity.NOTE, 2)


def test_reasoning_far_shorter_than_the_base_models_is_told_if_that_is_known() -> None:
    many = [example(n) for n in range(3)]
    (fault,) = inspect(many, base_words=300).faults
    assert fault.what == "reasoning far shorter than the base model's: 11 words to 300"
    assert inspect(many, base_words=55).faults == ()


def test_rows_that_cannot_be_used_are_counted_by_reason() -> None:
    bad = [Unusable(Row("a.jsonl", n, {}), ("empty answer",)) for n in (2, 5)]
    found = inspect([example(1), *bad])
    assert (found.num_rows, found.num_examples, found.num_unusable) == (3, 1, 2)
    assert found.faults[0].what == "cannot be used: empty answer"
    assert found.faults[0].rows == ("a.jsonl row 2", "a.jsonl row 5")
    assert inspect(bad).words == {}


def test_every_row_is_counted_and_the_first_thousand_are_named() -> None:
    many = [example(n, answer=f" {n}") for n in range(NAMED_ROWS + 7)]
    (fault,) = (fault for fault in find_faults(many) if "white space" in fault.what)
    assert (fault.num_rows, len(fault.rows)) == (NAMED_ROWS + 7, NAMED_ROWS)


def test_a_row_that_no_template_can_render_is_a_fault_and_no_end() -> None:
    template = Template.from_tokenizer(r1_llama(), TemplateConfig())
    found = inspect([example(1), example(2, answer="It is <think>")], template=template)
    assert rows(list(found.faults), "think tags") == [row(2)]
    assert found.tokens is not None
    assert found.tokens.segments["row"].minimum > 0
    alone = inspect([example(2, answer="It is <think>")], template=template)
    assert alone.tokens is not None
    assert alone.tokens.segments == {}
