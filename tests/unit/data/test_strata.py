import pytest

from thinktune.data.example import Example
from thinktune.data.strata import Rule, Stratifier, all_hold
from thinktune.errors import ConfigError, DataError


def example(reference: str | None = None, **metadata: object) -> Example:
    return Example("Q", "R", "A", reference, metadata=metadata)


@pytest.mark.parametrize(
    ("text", "year", "holds"),
    [
        ("metadata.year>=2024", 2024, True),
        ("metadata.year >= 2024", "2023", False),
        ("metadata.year>=2024", "999", False),
        ("metadata.year<1e4", 999.5, True),
        ("metadata.year=2024", "2024.0", True),
        ("metadata.year!=2024", "unknown", True),
        ("metadata.year>2024", "unknown", None),
        ("metadata.year>=2024-05-01", "2024-11-30", True),
        ("metadata.year='flu'", "flu", True),
        ("metadata.year==true", True, True),
        ("metadata.month>=1", 2024, None),
        ("metadata.year.month>=1", {"month": 3}, True),
    ],
)
def test_a_rule_compares_numbers_as_numbers_and_the_rest_as_text(
    text: str, year: object, holds: bool | None
) -> None:
    assert Rule.parse(text).holds(example(year=year)) is holds


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("metadata.year", "write FIELD, one of"),
        ("year>=2024", "no field 'year'; known: question"),
        ("metadata.>=2024", "no field 'metadata.'"),
        ("__import__('os').remove('x')", "write FIELD"),
    ],
)
def test_what_is_no_rule_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Rule.parse(text)


def test_all_rules_must_hold() -> None:
    rules = [Rule.parse("reference=flu"), Rule.parse("metadata.age<18")]
    assert all_hold(rules, example("flu", age=7)) is True
    assert all_hold(rules, example("flu", age=70)) is False
    assert all_hold(rules, example("flu")) is None


def test_rows_are_grouped_by_every_field_asked_for() -> None:
    stratifier = Stratifier(["reference", "metadata.age"])
    for held in (example("flu", age=7), example("flu"), example(age=7), example("flu", age=7)):
        stratifier.add(held)
    strata = stratifier.strata()
    assert strata.names == ("flu / 7", "flu / (none)", "(none) / 7")
    assert strata.rows.tolist() == [0, 1, 2, 0]


def test_a_field_that_no_row_has_is_refused() -> None:
    stratifier = Stratifier(["metadata.aeg"])
    stratifier.add(example(age=7))
    with pytest.raises(DataError, match=r"--by metadata\.aeg: no row has it"):
        stratifier.strata()
