from collections import Counter
from pathlib import Path

import pytest

from tests.mended_files import put, questions, read, row
from thinktune.data.sampling import sample
from thinktune.errors import ConfigError, DataError

ROWS = [
    row(f"Q{n}?", reference="flu" if n % 4 else "cold", age_group="child" if n % 3 else "adult")
    for n in range(60)
]


def test_a_proportional_sample_has_exact_counts_and_the_others_are_beside_it(
    tmp_path: Path,
) -> None:
    source = put(tmp_path / "s.jsonl", ROWS)
    mended = sample(source, tmp_path / "o.jsonl", count=12, by=["reference"])
    made = read(tmp_path / "o.jsonl")
    assert Counter(r["reference"] for r in made) == {"flu": 9, "cold": 3}
    assert mended.line == "60 in = 12 out + 48 dropped (48 not drawn)"
    left = questions(tmp_path / "o.rejected.jsonl")
    assert sorted(left + questions(tmp_path / "o.jsonl")) == sorted(questions(source))


def test_an_equal_sample_has_as_many_of_each(tmp_path: Path) -> None:
    source = put(tmp_path / "s.jsonl", ROWS)
    sample(source, tmp_path / "o.jsonl", count=30, by=["reference"], shares="equal")
    assert Counter(r["reference"] for r in read(tmp_path / "o.jsonl")) == {"flu": 15, "cold": 15}


def test_a_stratum_too_small_for_an_equal_share_is_named(tmp_path: Path) -> None:
    source = put(tmp_path / "s.jsonl", ROWS)
    with pytest.raises(DataError) as caught:
        sample(source, tmp_path / "o.jsonl", count=40, by=["reference"], shares="equal")
    assert str(caught.value) == (
        "40 rows in equal shares are 20 of each stratum, but cold has 15; at most 30 in all"
    )


def test_strata_can_be_of_several_fields(tmp_path: Path) -> None:
    source = put(tmp_path / "s.jsonl", ROWS)
    by = ["reference", "metadata.age_group"]
    mended = sample(source, tmp_path / "o.jsonl", fraction=0.2, by=by)
    assert [line[:2] for line in mended.table[1:-1]] == [
        ("cold / adult", "1"),
        ("flu / child", "6"),
        ("flu / adult", "3"),
        ("cold / child", "2"),
    ]


def test_equal_shares_need_strata(tmp_path: Path) -> None:
    source = put(tmp_path / "s.jsonl", ROWS)
    with pytest.raises(ConfigError, match="add --by FIELD"):
        sample(source, tmp_path / "o.jsonl", count=4, shares="equal")
    with pytest.raises(ConfigError, match="--shares fair; known: proportional, equal"):
        sample(source, tmp_path / "o.jsonl", count=4, shares="fair", by=["reference"])
