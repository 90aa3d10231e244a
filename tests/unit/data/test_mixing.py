from collections import Counter
from pathlib import Path

import pytest

from tests.mended_files import put, questions, read, row
from thinktune.data.intake import Source
from thinktune.data.mixing import mix
from thinktune.data.sources import read_examples
from thinktune.errors import ConfigError, DataError


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    """Twenty rows of one kind and seven of another, of which only these are of a split."""
    a = put(tmp_path / "a.jsonl", [row(f"A{n}") for n in range(20)])
    b = put(tmp_path / "b.jsonl", [row(f"B{n}", split="train") for n in range(7)])
    return a, b


def test_weights_give_exact_counts_and_no_row_comes_twice(
    tmp_path: Path, two: tuple[Path, Path]
) -> None:
    a, b = two
    mended = mix([(a, 0.7), (b, "0.3")], tmp_path / "o.jsonl", count=16)
    asked = questions(tmp_path / "o.jsonl")
    assert Counter(name[0] for name in asked) == {"A": 11, "B": 5}  # 11.2 and 4.8
    assert len(set(asked)) == 16
    assert mended.line == "27 in = 16 out + 11 dropped (11 not drawn)"
    assert len(read(tmp_path / "o.rejected.jsonl")) == 11


def test_the_order_is_drawn_and_the_seed_decides_it(tmp_path: Path, two: tuple[Path, Path]) -> None:
    a, b = two
    for name, seed in (("x", 1), ("y", 1), ("z", 2)):
        mix([(a, 20), (b, 7)], tmp_path / f"{name}.jsonl", count=27, seed=seed)
    x, y, z = (questions(tmp_path / f"{name}.jsonl") for name in "xyz")
    assert x == y != z
    assert sorted(x) == sorted(z)
    assert x != sorted(x)
    assert not list(tmp_path.glob(".*"))


def test_without_a_count_the_mix_is_as_large_as_weights_allow(
    tmp_path: Path, two: tuple[Path, Path]
) -> None:
    a, b = two
    mended = mix([(a, 1), (b, 1)], tmp_path / "o.jsonl")
    assert mended.num_out == 14
    assert Counter(q[0] for q in questions(tmp_path / "o.jsonl")) == {"A": 7, "B": 7}


def test_a_source_too_small_stops_the_mix_or_comes_again(
    tmp_path: Path, two: tuple[Path, Path]
) -> None:
    a, b = two
    with pytest.raises(DataError) as caught:
        mix([(a, 0.5), (b, 0.5)], tmp_path / "o.jsonl", count=32)
    assert str(caught.value) == (
        f"too few rows: {b} has 7 of 16; write at most --count 14, or let rows come again "
        "with --repeat"
    )
    mended = mix([(a, 0.5), (b, 0.5)], tmp_path / "o.jsonl", count=32, repeat=True)
    times = Counter(q for q in questions(tmp_path / "o.jsonl") if q[0] == "B")
    assert sorted(times.values()) == [2] * 5 + [3] * 2
    assert mended.line == "27 in + 9 again = 32 out + 4 dropped (4 not drawn)"
    for made in read(tmp_path / "o.jsonl"):
        told = made["metadata"]["provenance"][0].get("times", 1)
        assert told == times.get(made["question"], 1)


def test_the_mix_can_be_trained_on_though_only_some_rows_were_of_a_split(
    tmp_path: Path, two: tuple[Path, Path]
) -> None:
    a, b = two
    mix([(a, 20), (b, 7)], tmp_path / "o.jsonl")
    examples = read_examples(str(tmp_path / "o.jsonl"), split="train")
    assert len(examples) == 27
    of_b = next(example for example in examples if example.question == "B0")
    (step,) = of_b.metadata["provenance"]  # pyright: ignore[reportGeneralTypeIssues]
    assert step["was"] == "train"
    assert step["source"] == "b.jsonl row 1"


def test_sources_with_columns_of_their_own_say_so_in_their_rows(tmp_path: Path) -> None:
    a = put(tmp_path / "a.jsonl", [row("A")])
    b = put(tmp_path / "b.jsonl", [{"Frage": "B", "cot": "R", "output": "O"}])
    mix([(a, 1), (Source(str(b), columns={"question": "Frage"}), 1)], tmp_path / "o.jsonl")
    told = {r["question"]: r["metadata"]["provenance"][0] for r in read(tmp_path / "o.jsonl")}
    assert told["B"]["options"]["column"] == {"question": "Frage"}
    assert "column" not in told["A"]["options"]


@pytest.mark.parametrize(
    ("weights", "count", "message"),
    [
        (("0.5", "0"), 10, "b.jsonl=0: a weight is a number above 0"),
        (("0.5", "much"), 10, "b.jsonl=much: a weight is a number above 0"),
        (("1000", "1"), 10, "b.jsonl would give no row"),
        (("1", "1"), 0, "--count 0, but at least one row is needed"),
    ],
)
def test_an_impossible_mix_is_refused(
    tmp_path: Path, two: tuple[Path, Path], weights: tuple[str, str], count: int, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        mix(list(zip(two, weights, strict=True)), tmp_path / "o.jsonl", count=count)


def test_a_source_named_twice_is_refused(tmp_path: Path, two: tuple[Path, Path]) -> None:
    with pytest.raises(ConfigError, match="each named once"):
        mix([(two[0], 1), (str(two[0]), 1)], tmp_path / "o.jsonl")
