import time

import pytest

from thinktune.answers.choices import find_choice


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("C", "C"),
        ("c", "C"),
        (" (C) ", "C"),
        ("**C**", "C"),
        ("C. Paris", "C"),
        (r"So \boxed{\text{D}} it is, not A", "D"),
        (r"\boxed{(E)}", "E"),
        ("Option A fails. Answer: **B) flu**", "B"),
        ("The correct answer is option (B).", "B"),
        ("因此答案為（Ｃ）。", "C"),
        ("A is too early and (B) too late, so the answer is (C).", "C"),
        ("it can only be (B)", "B"),
        ("(A) or (B)", None),
        ("the answer is I think unclear", None),
        ("A good day", None),
        ("Cat", None),
        ("", None),
    ],
)
def test_the_letter_decided_for_is_read_in_the_usual_spellings(text, letter):
    assert find_choice(text) == letter


@pytest.mark.parametrize("text", ["the answer is ", "answer ", "(", "\\boxed{", "is * "])
def test_looping_text_is_read_in_no_time(text):
    begun = time.perf_counter()
    find_choice("answer " + text * 20_000)
    assert time.perf_counter() - begun < 2
