import json
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest

from thinktune.data.example import Role, Turn
from thinktune.errors import DataError
from thinktune.evaluation.samples import Grade, Graded, Sample, read_samples, write_samples
from thinktune.evaluation.tasks import Problem

GRADED = Graded(
    Problem(
        "row 1",
        'a "question"\r\nover \u2028 lines \x85 流感',
        reference="flu",
        system="be brief",
        history=(Turn(Role.USER, "hi"), Turn(Role.ASSISTANT, "hello", reasoning="greet")),
        metadata={"age": 3, "tags": ["a"]},
    ),
    Sample("row 1", "<p>", "r</think>a", "r", "a", closed=True, truncated=False, num_tokens=4),
    Grade(True, True, True, False, ("flu",)),
)
UNGRADED = Graded(
    Problem("row 2", "?"),
    Sample("row 2", "<p>", "r", "r", "", closed=False, truncated=True, num_tokens=9),
    Grade(None, None, False, True, ()),
)


def test_samples_come_back_as_they_were(tmp_path: Path):
    path = tmp_path / "evaluation" / "after.jsonl"
    write_samples(path, [GRADED, UNGRADED])
    assert read_samples(path) == [GRADED, UNGRADED]
    assert [p.name for p in path.parent.iterdir()] == ["after.jsonl"]


def test_a_row_holds_the_prompt_the_completion_and_the_grade(tmp_path: Path):
    write_samples(tmp_path / "s.jsonl", [GRADED])
    row = json.loads((tmp_path / "s.jsonl").read_text(encoding="utf-8"))
    assert (row["prompt"], row["completion"], row["strict"]) == ("<p>", "r</think>a", True)


def test_metadata_that_json_cannot_hold_is_written_as_text(tmp_path: Path):
    problem = replace(GRADED.problem, metadata={"seen": date(2026, 11, 24)})
    write_samples(tmp_path / "s.jsonl", [replace(GRADED, problem=problem)])
    (read,) = read_samples(tmp_path / "s.jsonl")
    assert read.problem.metadata == {"seen": "2026-11-24"}


@pytest.mark.parametrize("row", ["{", "[]", "{}", '{"id": "x"}', "3"])
def test_a_damaged_row_is_named(tmp_path: Path, row: str):
    path = tmp_path / "s.jsonl"
    write_samples(path, [GRADED])
    path.write_text(path.read_text(encoding="utf-8") + row + "\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"s.jsonl row 2 is not a graded sample"):
        read_samples(path)


def test_a_missing_file_says_what_to_do(tmp_path: Path):
    with pytest.raises(DataError, match="run the evaluation first"):
        read_samples(tmp_path / "none.jsonl")
