import time

import pytest

from thinktune.answers.grading import AnswerKind, Match, grade
from thinktune.answers.maths import maths_key, same_maths
from thinktune.errors import ConfigError


@pytest.mark.parametrize(
    ("reference", "answer", "equal"),
    [
        (r"\frac{1}{2}", r"so \boxed{0.5}", True),
        (r"\frac{1}{2}", r"so \boxed{\frac{2}{4}}.", True),
        ("x^2+2x+1", r"\boxed{(x+1)^2}", True),
        (r"$2\sqrt{3}$", r"thus $\sqrt{12}$", True),
        (r"(1,2]", r"\boxed{(1,2]}", True),
        (r"\$18", r"\boxed{18}", True),
        ("18", "The answer is 18 dollars.", True),
        ("7", r"first \boxed{7}, no, \boxed{8}", False),
        ("x^2", "no idea", False),
        ("x^2", "", False),
    ],
)
def test_maths_is_equal_by_value_not_spelling(reference, answer, equal):
    assert same_maths(reference, answer) is equal
    assert grade(answer, reference, {}, AnswerKind.MATHS) == Match(equal, equal, ())


def test_maths_that_would_take_forever_is_unequal_in_time():
    begun = time.perf_counter()
    assert not same_maths("9^{9^{9^9}}", r"\boxed{8^{9^{9^9}}}", seconds=1)
    assert time.perf_counter() - begun < 6


def test_a_reference_without_maths_is_refused():
    with pytest.raises(ConfigError, match="holds no maths"):
        same_maths("", "7")


@pytest.mark.parametrize(
    "texts",
    [
        (r"\boxed{\frac{1}{2}}", "$0.5$", r"\boxed{\frac{2}{4}}", "so it is 1/2"),
        (r"\boxed{(x+1)^2}", r"\boxed{x^2+2x+1}"),
        (r"\boxed{\sqrt{12}}", r"$2\sqrt{3}$"),
        (r"\boxed{x=3}", r"\boxed{3}", "3"),
        (r"\boxed{\{2,1\}}", r"\boxed{\{1,2\}}"),
        (r"\boxed{1{,}000}", "1000"),
    ],
)
def test_equal_expressions_have_one_key(texts):
    assert len({maths_key(text) for text in texts}) == 1
    assert maths_key(texts[0]) is not None


def test_different_expressions_have_different_keys():
    texts = (
        *(r"\boxed{1}", r"\boxed{-1}", r"\boxed{i}", r"\boxed{1+i}", r"\boxed{x}", r"\boxed{x^2}"),
        *(r"\boxed{(1,2]}", r"\boxed{[1,2]}", r"\boxed{10^{400}}", r"\boxed{\infty}"),
        *(r"\boxed{1234567890123456}", r"\boxed{1234567890123457}", r"\boxed{\pi}"),
    )
    assert len({maths_key(text) for text in texts}) == len(texts)


def test_a_text_without_maths_has_no_key():
    assert [maths_key(text) for text in ("", "no idea", r"\boxed{}")] == [None, None, None]


def test_maths_that_would_take_forever_keeps_its_wording_as_its_key():
    begun = time.perf_counter()
    assert maths_key(r"\boxed{9^{9^{9^9}}}", seconds=1) == "9^{9^{9^9}}"
    assert time.perf_counter() - begun < 6
