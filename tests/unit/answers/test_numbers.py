import time
from decimal import Decimal

import pytest

from thinktune.answers.numbers import (
    find_number,
    find_quantity,
    is_number,
    is_quantity,
    number_text,
    same_quantity,
)


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


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("答案是-3", "-3"),
        ("x等於−7", "-7"),
        ("3天-5天", "5"),
        ("３５％", "35"),
        (r"\boxed{1{,}000} or \boxed{12\text{ kg}}", "12"),
    ],
)
def test_a_number_in_chinese_text_or_latex_has_its_sign(text, number):
    assert find_number(text) == Decimal(number)


@pytest.mark.parametrize(
    ("reference", "answer"),
    [
        ("1.5 kg", "It weighs 1500 g."),
        ("1.5 kg", "一共1.5公斤"),
        ("1.5公斤", "１５００ 公克"),
        ("1.5 kg", r"so \boxed{1500\text{ g}}"),
        ("2 hours", "120 min"),
        ("90 minutes", "That is 1 hour and 30 minutes."),
        ("90 分鐘", "需要1小時30分鐘"),
        ("20 minutes", "1/3 hour"),
        ("兩小時", "120分鐘"),
        ("37 °C", "98.6 °F"),
        ("37 °C", r"$98.6^\circ\text{F}$"),
        ("0 °C", "32 degrees Fahrenheit"),
        ("5 mL/min", "300 mL per hour"),
        ("50%", "50 percent"),
        ("50%", "百分之五十"),
        ("5‰", "0.5 %"),
        ("1 year", "12 months"),
        ("1 mile", "1.609344 km"),
        ("1.5 kg", "1.5"),
        ("1.5", "1.5 kg"),
        ("1.5 kg", "1.5 bags"),
        ("18", "18 m"),
        ("3千克", "3000克"),
    ],
)
def test_quantities_are_equal_whatever_their_unit(reference, answer):
    assert same_quantity(reference, answer)
    assert same_quantity(reference, reference)


@pytest.mark.parametrize(
    ("reference", "answer"),
    [
        ("1.5 kg", "1500"),
        ("1.5 kg", "1.5 g"),
        ("1500", "1.5 kg"),
        ("5 minutes", "5 m"),
        ("37 °C", "37 °F"),
        ("50%", "0.5"),
        ("5 mL/min", "5 mL"),
        ("5 mL/min", "5 mL/h"),
        ("1 year", "365 days"),
        ("90 minutes", "30 minutes and 1 hour"),
        ("5 kg", "no idea"),
    ],
)
def test_another_size_or_measure_is_not_equal(reference, answer):
    assert not same_quantity(reference, answer)


def test_a_quantity_is_a_number_and_perhaps_a_known_unit_and_nothing_else():
    assert all(map(is_quantity, ["18", "1.5 kg", "37°C", "50 %", "5 mL/min", "三公斤", "2/3 h"]))
    assert not any(map(is_quantity, ["18 eggs", "kg", "", "1 2", "1.5 kg of rice", "flu"]))


def test_equal_numbers_are_written_alike():
    for texts in (("1000", "1,000.00", "1e3"), ("0", "-0.0"), ("0.5", ".5", "1/2"), ("-3", "−3.0")):
        written = {number_text(find_number(text) or Decimal("nan")) for text in texts}
        assert len(written) == 1
    assert number_text(Decimal("9" * 5000)) == "9" * 5000


def test_quantities_without_end_are_read_in_no_time():
    begun = time.perf_counter()
    find_quantity("1 h 30 min " * 2_000)
    find_quantity("5 m/" * 2_000)
    find_quantity(r"\text{" * 10_000 + "5 kg")
    assert time.perf_counter() - begun < 3
