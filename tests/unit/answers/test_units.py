from fractions import Fraction

import pytest

from thinktune.answers.units import unit_at


def measure(text: str, start: int = 1) -> tuple[str, Fraction] | None:
    read = unit_at(text, start)
    return None if read is None else (read[0].measures, read[0].size)


@pytest.mark.parametrize(
    ("text", "measures", "size"),
    [
        ("5 kg", "mass in g", Fraction(1000)),
        ("5公斤", "mass in g", Fraction(1000)),
        ("5克拉", "mass in g", Fraction(1, 5)),
        ("5 KG", "mass in g", Fraction(1000)),
        ("5 μg", "mass in g", Fraction(1, 10**6)),
        ("5-minute walk", "time in s", Fraction(60)),
        ("5個小時", "time in s", Fraction(3600)),
        ("5** mL", "volume in L", Fraction(1, 1000)),
        ("5 per cent", "share in %", Fraction(1)),
        ("5 km/h", "length in m / time in s", Fraction(1000, 3600)),
        ("5 mg per day", "mass in g / time in s", Fraction(1, 86_400_000)),
        ("5公里/小時", "length in m / time in s", Fraction(1000, 3600)),
    ],
)
def test_a_unit_after_a_number_is_read_in_english_and_chinese(text, measures, size):
    assert measure(text) == (measures, size)


@pytest.mark.parametrize(
    "text",
    ["5", "5 eggs", "5 G", "5 M", "5 m2", "5 m^2", "5 mgs", "5 mg/dose", "5 in all", "5 mİn"],
)
def test_what_only_begins_like_a_unit_is_none(text):
    assert measure(text) is None


def test_a_unit_ends_where_its_name_does():
    read = unit_at("5 kg of rice", 1)
    assert read is not None
    assert read[1] == 4
