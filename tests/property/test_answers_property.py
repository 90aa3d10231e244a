from decimal import Decimal

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from thinktune.answers.choices import find_choice
from thinktune.answers.grading import AnswerKind, conclusion, grade, grade_phrases, vote
from thinktune.answers.labels import find_labels
from thinktune.answers.maths import maths_key, same_maths
from thinktune.answers.numbers import find_number, number_text, same_quantity
from thinktune.answers.numerals import read_numeral, to_digits
from thinktune.answers.phrases import find_phrases, read_phrases
from thinktune.answers.wording import normalise

LABELS = {
    "common cold": ["cold", "普通感冒"],
    "influenza": ["flu", "grippe", "流感"],
    "gastroenteritis": ["stomach flu", "腸胃炎"],
    "B": [],
}
ALIASES = [(alias, label) for label, aliases in LABELS.items() for alias in (label, *aliases)]
CUES = ["answer", "option", "choice", "答案", "選項", "选项", "應選", "应选", "故選", "故选"]
numbers = st.integers(-(10**15), 10**15)
decimals = st.decimals(-(10**9), 10**9, places=3)
prose = st.text(st.sampled_from("is it so that we know 因此我們 .,;!?\n*"), max_size=30)


def write_numeral(number: int, *, simplified: bool = False, liang: bool = False) -> str:
    """Write a whole number below 10^12 in Chinese, as it is taught."""

    def below_myriad(value: int) -> str:
        text, zero = "", ""
        for unit, sign in ((1000, "千"), (100, "百"), (10, "十"), (1, "")):
            digit, value = divmod(value, unit)
            if digit:
                two = liang and digit == 2 and unit >= 100
                text += zero + ("兩" if two else "零一二三四五六七八九"[digit]) + sign
            zero = "零" if text and not digit else ""
        return text

    if number == 0:
        return "零"
    text = "負" if number < 0 else ""
    rest, first, gap = abs(number), True, False
    for unit, sign in ((10**8, "億"), (10**4, "萬"), (1, "")):
        part, rest = divmod(rest, unit)
        if part:
            if not first and (part < 1000 or gap):
                text += "零"
            text += below_myriad(part) + sign
            first, gap = False, False
        elif not first:
            gap = True
    if text.removeprefix("負").startswith("一十"):
        text = text.replace("一十", "十", 1)
    return text.translate(str.maketrans("億萬負兩", "亿万负两")) if simplified else text


@given(st.integers(-(10**12) + 1, 10**12 - 1), st.booleans(), st.booleans())
@settings(max_examples=400, deadline=None)
def test_a_whole_number_in_chinese_numerals_reads_back(number, simplified, liang):
    text = write_numeral(number, simplified=simplified, liang=liang)
    assert find_number(text) == number
    assert read_numeral(text.strip("負负")) == abs(number)
    assume(abs(number) > 10)
    assert find_number(f"所以答案是{text}。") == number
    assert same_quantity(f"{number} kg", f"一共{text}公斤")


@given(st.integers(1, 99), st.integers(1, 999))
@settings(deadline=None)
def test_a_share_in_chinese_numerals_reads_back(whole, below):
    assert find_number(f"百分之{write_numeral(whole)}") == whole
    assume(below > 1)
    written = f"{write_numeral(below)}分之{write_numeral(whole)}"
    assume(below not in (100, 1000) and "一百" not in written[:2])
    assert find_number(written) == Decimal(whole) / Decimal(below)


@given(numbers, st.sampled_from(["{}", "{:,}", "{} kg", "${:,}", "**{}**", "{}個", "= {} %"]))
@settings(deadline=None)
def test_a_whole_number_reads_back_in_any_spelling(number, spelling):
    for text in (spelling.format(number), spelling.format(number).replace("-", "−")):
        assume("$-" not in text)
        for width in (text, text.translate(str.maketrans("0123456789", "０１２３４５６７８９"))):
            assert find_number(width) == number
            assert find_number(f"first 7, then {width}") == number
            assert find_number(rf"\boxed{{{width}}}, after 3 steps") == number


@given(decimals)
@settings(deadline=None)
def test_equal_numbers_are_written_alike(number):
    longer = number.quantize(Decimal("1.00000"))
    assert number_text(number) == number_text(longer)
    assert Decimal(number_text(number)) == number
    assert vote(f"So {number:f} in all", AnswerKind.NUMBER, {}) == number_text(number)


@given(
    st.decimals(0, 10**3, places=3),
    st.sampled_from(
        [
            ("kg", "g", 1000),
            ("公斤", "毫克", 10**6),
            ("h", "minutes", 60),
            ("L/h", "mL per hour", 1000),
        ]
    ),
)
@settings(deadline=None)
def test_a_quantity_equals_itself_in_a_smaller_unit_and_nothing_else(number, units):
    large, small, times = units
    assert same_quantity(f"{number:f} {large}", f"It is {number * times:,f} {small}.")
    assert same_quantity(f"{number * times:f} {small}", f"{number:f} {large}")
    assert not same_quantity(f"{number:f} {large}", f"{number * times + 1:f} {small}")
    assert not same_quantity(f"{number:f} {large}", f"{number:f} km")


@given(st.sampled_from(ALIASES), st.sampled_from([str.upper, str.lower, str.title]), prose, prose)
@settings(deadline=None)
def test_a_label_is_found_by_any_alias_in_any_case_in_any_sentence(alias, case, before, after):
    name, label = alias
    text = f"{before} {name if len(name) == 1 else case(name)} {after}"
    assert find_labels(text, LABELS) == (label,)
    assert vote(text, AnswerKind.LABEL, LABELS) == label
    assert conclusion(f"Not a cold. {text}", AnswerKind.LABEL, LABELS) == label
    assert grade(text, label, LABELS).strict


@given(
    st.sampled_from("ABCDEFGHJ"),
    st.sampled_from(
        ["{}", "({})", "**{}**", "{}. Paris", r"\boxed{{{}}}", r"so \boxed{{\text{{{}}}}}"]
    ),
)
@settings(deadline=None)
def test_a_letter_alone_is_the_choice(letter, spelling):
    assert find_choice(spelling.format(letter)) == letter


@given(
    st.sampled_from("ABCDEFGHJ"),
    st.sampled_from("ABCDEFGHJ"),
    st.sampled_from(CUES),
    st.sampled_from([" is ", ": ", ":", "：", " is: **", " is (", "是", "為（"]),
)
@settings(deadline=None)
def test_a_letter_after_a_cue_is_the_choice_whatever_stood_before(first, letter, cue, link):
    assert find_choice(f"The {cue}{link}{first}, no. The {cue}{link}{letter}") == letter


@given(st.integers(-99, 99), st.sampled_from([1, 2, 4, 5, 8, 10]))
@settings(max_examples=40, deadline=None)
def test_a_fraction_equals_its_decimal_and_its_latex(above, below):
    pytest.importorskip("math_verify")
    decimal = number_text(Decimal(above) / Decimal(below))
    fraction = rf"\frac{{{above}}}{{{below}}}"
    assert same_maths(fraction, rf"\boxed{{{decimal}}}")
    assert same_maths(decimal, f"so ${fraction}$")
    assert not same_maths(fraction, rf"\boxed{{{above + 1}/{below}}}")
    keys = {maths_key(rf"\boxed{{{text}}}") for text in (decimal, fraction, f"{above}/{below}")}
    assert len(keys) == 1


@given(st.lists(st.sampled_from(["see a doctor", "rest", "就醫", "X-ray"]), unique=True), prose)
@settings(deadline=None)
def test_a_phrase_is_found_if_and_only_if_it_was_put_in(phrases, between):
    text = f" {between} ".join(["", *(phrase.upper() for phrase in phrases), ""])
    every = ["see a doctor", "rest", "就醫", "X-ray"]
    assert find_phrases(text, every) == tuple(phrase in phrases for phrase in every)
    if phrases:
        assert grade_phrases(text, phrases).strict
        assert not grade_phrases(text, phrases, phrases[:1]).strict


@given(st.lists(st.text(st.characters(exclude_characters="|;；\n"), min_size=1), max_size=4))
@settings(deadline=None)
def test_phrases_as_a_list_are_those_of_a_text(phrases):
    assume(all(normalise(phrase).strip("-_ ") for phrase in phrases))
    assert read_phrases("; ".join(phrases)) == read_phrases(phrases)


@given(
    st.text()
    | st.text(st.sampled_from("0123456789.,/-+e一二十百萬億點分之負零 ABC()\\{}boxed$%kgmh^"))
)
@settings(max_examples=400, deadline=None)
def test_any_text_can_be_graded_voted_and_concluded(text):
    references = {
        AnswerKind.LABEL: "flu",
        AnswerKind.NUMBER: "1.5 kg",
        AnswerKind.CHOICE: "C",
        AnswerKind.PHRASES: "rest; 就醫",
        AnswerKind.TEXT: "Paris",
    }
    for kind, reference in references.items():
        match = grade(text, reference, LABELS, kind)
        assert match.lenient or not match.strict
        conclusion(text, kind, LABELS)
        assert vote(text, kind, LABELS) != ""


@given(st.text(st.sampled_from("0123456789.,/-+xyz ()\\{}boxed$frac^_="), max_size=30))
@settings(max_examples=60, deadline=None)
def test_any_text_can_be_held_against_maths(text):
    pytest.importorskip("math_verify")
    assert isinstance(same_maths(r"\frac{1}{2}", text, seconds=2), bool)
    maths_key(text, seconds=2)


@given(st.text(st.characters(exclude_categories=["Cs"])))
@settings(deadline=None)
def test_a_text_without_chinese_numerals_stays_as_it_is(text):
    assume(not set(text) & set("零〇一二兩两三四五六七八九十百千萬万億亿負负"))
    assert to_digits(text) == text
