from collections import Counter
from pathlib import Path

import pytest

from tests.mended_files import put, questions, read, row
from thinktune.data.intake import Source
from thinktune.data.sources import read_examples
from thinktune.data.splitting import split
from thinktune.errors import ConfigError, DataError

CASE = (
    "A patient of {age} has had a fever of 39 degrees for three days, with aching muscles and a "
    "dry cough; nobody in the family is ill. He works in a bakery, sleeps badly, drinks enough. "
    "What is it, and may he go back to work before the end of the week or should he stay at home?"
)
LABELS = ("flu", "cold", "gastroenteritis")


def many(num: int) -> list[dict[str, object]]:
    return [
        row(f"Question {n} of {n * 7919 % 104729}?", reference=LABELS[n % 5 % 3], number=n)
        for n in range(num)
    ]


def parts(folder: Path) -> tuple[list[dict], list[dict]]:
    return read(folder / "train.jsonl"), read(folder / "test.jsonl")


def test_counts_are_exact_by_stratum_and_nothing_is_lost(tmp_path: Path) -> None:
    source = put(tmp_path / "s.jsonl", many(100))
    mended = split(source, tmp_path / "o", heldout=0.2, by=["reference"])
    train, test = parts(tmp_path / "o")
    assert Counter(r["reference"] for r in test) == {"flu": 8, "cold": 8, "gastroenteritis": 4}
    assert mended.line == "100 in = 100 out + 0 dropped"
    assert sorted(questions(source)) == sorted(r["question"] for r in train + test)
    numbers = [r["metadata"]["number"] for r in test]
    assert numbers == sorted(numbers)
    assert ("cold", "32", "8") in mended.table
    assert test[0]["metadata"]["provenance"][0]["side"] == "test"


def test_the_seed_decides_and_only_the_seed(tmp_path: Path) -> None:
    source = put(tmp_path / "s.jsonl", many(40))
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        split(source, tmp_path / name, heldout_count=10, seed=seed)
    a, b, c = ((tmp_path / name / "test.jsonl").read_bytes() for name in "abc")
    assert a == b
    assert a != c


def test_near_duplicates_are_on_one_side(tmp_path: Path) -> None:
    rows = many(60)
    for place, age in zip(range(0, 60, 6), range(40, 50), strict=True):
        rows[place]["question"] = CASE.format(age=age)
    source = put(tmp_path / "s.jsonl", rows)
    held = []
    for seed in range(12):
        split(source, tmp_path / "o", heldout_count=30, seed=seed, force=True)
        _, test = parts(tmp_path / "o")
        assert len(test) == 30
        held.append(sum("bakery" in r["question"] for r in test))
    assert set(held) == {0, 10}
    split(source, tmp_path / "o", heldout_count=30, near=None, force=True)
    assert 0 < sum("bakery" in r["question"] for r in parts(tmp_path / "o")[1]) < 10


def test_the_same_question_is_on_one_side_without_the_near_search(tmp_path: Path) -> None:
    rows = [row(f"Q{n // 2}?", f"A{n}") for n in range(40)]
    split(put(tmp_path / "s.jsonl", rows), tmp_path / "o", heldout_count=20, near=None)
    train, test = ({r["question"] for r in side} for side in parts(tmp_path / "o"))
    assert len(test) == 10
    assert not train & test


def test_a_count_that_groups_do_not_allow_is_told(tmp_path: Path) -> None:
    rows = [row(f"Q{n // 4}?", f"A{n}") for n in range(12)]
    source = put(tmp_path / "s.jsonl", rows)
    mended = split(source, tmp_path / "o", heldout_count=5, near=None)
    assert len(parts(tmp_path / "o")[1]) == 4
    assert mended.notes == (
        "4 rows held out instead of 5: near-duplicates stay together",
        "12 rows in 3 groups of near-duplicates, none parted",
    )
    with pytest.raises(DataError, match="all 12 rows would be training rows"):
        split(source, tmp_path / "p", heldout_count=3, near=None)
    assert not (tmp_path / "p").exists()


def test_a_rule_holds_out_what_it_says_and_what_is_nearly_the_same(tmp_path: Path) -> None:
    rows = [row(f"Q{n}?", year=2020 + n % 6) for n in range(30)]
    rows += [row(CASE.format(age=40), year=2025), row(CASE.format(age=41), year=2020), row("No?")]
    source = put(tmp_path / "s.jsonl", rows)
    mended = split(source, tmp_path / "o", rule=["metadata.year>=2024"])
    _, test = parts(tmp_path / "o")
    years = [r["metadata"]["year"] for r in test]
    assert sorted(years) == [2020] + [2024] * 5 + [2025] * 6
    assert mended.notes[:2] == (
        "1 row lacks a value that the rule can compare: not matched",
        "1 row held out for a near-duplicate that the rule holds for",
    )


def test_the_folder_is_read_by_its_splits_though_the_rows_had_other_ones(tmp_path: Path) -> None:
    rows = [r | {"split": "train"} for r in many(20)]
    split(put(tmp_path / "s.jsonl", rows), tmp_path / "o", heldout_count=5)
    held = read_examples(str(tmp_path / "o"), split="test")
    assert len(held) == 5
    assert len(read_examples(str(tmp_path / "o" / "test.jsonl"), split="test")) == 5
    assert {example.metadata["split"] for example in held} == {"test"}
    (step,) = held[0].metadata["provenance"]  # pyright: ignore[reportGeneralTypeIssues]
    assert step["was"] == "train"


def test_unusable_rows_lie_beside_the_folder_and_not_in_it(tmp_path: Path) -> None:
    source = put(tmp_path / "s.jsonl", [*many(9), row("")])
    mended = split(Source(str(source), skip_unusable=True), tmp_path / "o", heldout_count=3)
    assert mended.line == "10 in = 9 out + 1 dropped (1 empty question)"
    assert len(read(tmp_path / "o.rejected.jsonl")) == 1
    assert sorted(p.name for p in (tmp_path / "o").iterdir()) == [
        "README.md",
        "test.jsonl",
        "train.jsonl",
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "say either --heldout-count N or --heldout F"),
        ({"rule": ["reference=flu"], "heldout": 0.5}, "hold out by --rule, or by"),
        ({"heldout": 0.5, "near": 0.2}, "threshold 0.2 is out of 0.7 to 1"),
        ({"heldout_count": 9}, "all 9 rows would be held out"),
        ({"heldout": 0.5, "by": ["age"]}, "no field 'age'"),
        ({"rule": ["reference=measles"]}, "all 9 rows would be training rows"),
    ],
)
def test_an_impossible_split_is_refused(
    tmp_path: Path, options: dict[str, object], message: str
) -> None:
    source = put(tmp_path / "s.jsonl", many(9))
    with pytest.raises((ConfigError, DataError), match=message):
        split(source, tmp_path / "o", **options)  # pyright: ignore[reportArgumentType]


def test_a_split_writes_a_folder_of_its_own(tmp_path: Path) -> None:
    source = put(tmp_path / "s.jsonl", many(9))
    with pytest.raises(ConfigError, match="split writes a folder"):
        split(source, tmp_path / "o.jsonl", heldout=0.5)
    (tmp_path / "o").mkdir()
    (tmp_path / "o" / "mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match="o is there already"):
        split(source, tmp_path / "o", heldout=0.5)
