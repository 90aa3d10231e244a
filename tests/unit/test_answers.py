import time
from decimal import Decimal

import pytest

from thinktune.answers import (
    AnswerKind,
    Match,
    find_boxed,
    find_choice,
    find_labels,
    find_number,
    grade,
    is_number,
    label_of,
    labels_from,
    normalise,
    same_maths,
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
    ("answer", "found"),
    [
        ("Most likely INFLUENZA.", ("influenza",)),
        ("**Diagnosis:** _flu_", ("influenza",)),
        ("A common-cold, I think", ("common cold",)),
        ("a common\n  cold", ("common cold",)),
        ("Ｆｌｕ", ("influenza",)),
        ("cold or flu, so a cold", ("common cold", "influenza")),
        ("nothing to worry about", ()),
        ("", ()),
    ],
)
def test_labels_are_found_whatever_their_case_width_and_markup(answer, found):
    assert find_labels(answer, CLINIC) == found


@pytest.mark.parametrize("answer", ["fluid", "influenzal", "affluent", "scolding", "flu2", "flué"])
def test_a_latin_alias_inside_a_word_is_not_a_label(answer):
    assert find_labels(answer, CLINIC) == ()


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ("您可能患有流感，請多休息", ("influenza",)),
        ("這是流行性感冒", ("influenza",)),
        ("診斷為普通感冒。", ("common cold",)),
        ("診斷是flu嗎", ("influenza",)),
        ("腸胃型感冒（腸胃炎）", ("gastroenteritis",)),
    ],
)
def test_labels_are_found_inside_chinese_text(answer, found):
    assert find_labels(answer, CLINIC) == found


def test_the_longest_alias_wins_where_aliases_overlap():
    assert find_labels("stomach flu", CLINIC) == ("gastroenteritis",)
    assert find_labels("stomach flu, not flu", CLINIC) == ("gastroenteritis", "influenza")
    late = {"a": ["big bad"], "b": ["bad stomach flu"]}
    assert find_labels("big bad stomach flu", late) == ("b",)


def test_negations_are_not_understood():
    assert find_labels("non-sinusitis; no sign of flu", CLINIC) == ("sinusitis", "influenza")


def test_a_one_letter_label_must_appear_in_its_own_case():
    options = {"A": [], "B": []}
    assert find_labels("it is a matter of taste: B", options) == ("B",)


def test_an_alias_of_two_labels_is_refused():
    with pytest.raises(ConfigError, match="'Flu' belongs to both 'influenza' and 'stomach'"):
        find_labels("", {"influenza": ["flu"], "stomach": ["Flu"]})
    with pytest.raises(ConfigError, match="empty alias"):
        find_labels("", {"influenza": [" "]})


def test_a_reference_may_be_a_label_an_alias_or_a_text_naming_one_label():
    assert label_of("Influenza", CLINIC) == "influenza"
    assert label_of("Stomach Flu", CLINIC) == "gastroenteritis"
    assert label_of("Flu (viral)", CLINIC) == "influenza"
    for reference in ("asthma", "flu or cold"):
        with pytest.raises(ConfigError, match="not one of the labels"):
            label_of(reference, CLINIC)


def test_distinct_references_become_labels_in_order_of_first_appearance():
    assert labels_from(["flu", "cold", "Flu ", "cough"]) == {"flu": [], "cold": [], "cough": []}


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


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("18", "18"),
        ("She makes $1,026.50.", "1026.50"),
        ("１，２３４．５ 元", "1234.5"),
        ("共18個", "18"),
        ("x = −7", "-7"),
        ("$-5", "-5"),
        ("10-5", "5"),
        ("between 3-5 days", "5"),
        ("3/4 of it", "0.75"),
        ("1\u202f234\u00a0567", "1234567"),
        ("1'000'000", "1000000"),
        ("5e3", "5000"),
        ("a share of .5", "0.5"),
        ("50 %", "50"),
        ("16GB", "16"),
        (r"so \boxed{42}, after 3 steps", "42"),
        ("first 1, then 2", "2"),
    ],
)
def test_the_last_number_is_read_in_the_usual_spellings(text, number):
    assert find_number(text) == Decimal(number)


@pytest.mark.parametrize("text", ["", "none", "vitamin B12", "- , .", "e5"])
def test_a_text_without_a_number_gives_none(text):
    assert find_number(text) is None


def test_an_absurd_exponent_or_a_zero_divisor_costs_nothing():
    assert find_number("1e999999999") == 1
    assert find_number("3/0") == 3
    assert find_number("9" * 5000) is not None


def test_only_a_text_that_is_all_number_is_a_number():
    assert all(map(is_number, ["18", " -3.5 ", "$1,000", "50%", "３", "2/3"]))
    assert not any(map(is_number, ["18 eggs", "", "1 2", "flu"]))


def test_numbers_are_equal_by_value_not_spelling():
    assert grade("So 1,000.0 in all", "1000", {}, AnswerKind.NUMBER) == Match(
        True, True, ("1000.0",)
    )
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


def test_normalising_twice_is_normalising_once():
    once = normalise("  「Ｔｈｅ  Straße」！ ")
    assert once == "the strasse"
    assert normalise(once) == once


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


def test_choices_are_graded_by_letter():
    assert grade("Answer: C", "(C)", {}, AnswerKind.CHOICE) == Match(True, True, ("C",))
    assert grade("Answer: B", "C. Paris", {}, AnswerKind.CHOICE) == Match(False, False, ("B",))
    with pytest.raises(ConfigError, match="is no choice"):
        grade("C", "perhaps", {}, AnswerKind.CHOICE)


@pytest.mark.parametrize("text", ["the answer is ", "answer ", "(", "\\boxed{", "is * "])
def test_looping_text_is_read_in_no_time(text):
    begun = time.perf_counter()
    find_choice("answer " + text * 20_000)
    assert time.perf_counter() - begun < 2


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


def test_a_box_may_hold_braces():
    assert find_boxed(r"\boxed{1} and \boxed{\frac{1}{2}} {x}") == r"\frac{1}{2}"
    assert find_boxed(r"\boxed{\{1, 2\}}") == r"\{1, 2\}"
    assert find_boxed(r"\boxed{never closed") is None
    assert find_boxed("none") is None
