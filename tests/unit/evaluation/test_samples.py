import json
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest

from thinktune.data.example import Role, Turn
from thinktune.errors import DataError
from thinktune.evaluation.samples import (
    Answered,
    Grade,
    Graded,
    ReferenceLosses,
    Sample,
    from_record,
    read_samples,
    to_record,
    with_judgement,
    write_samples,
)
from thinktune.evaluation.tasks import Problem

PROBLEM = Problem(
    "row 1",
    'a "question"\r\nover \u2028 lines \x85 流感',
    reference="flu",
    system="be brief",
    history=(Turn(Role.USER, "hi"), Turn(Role.ASSISTANT, "hello", reasoning="greet")),
    metadata={"age": 3, "tags": ["a"]},
    required=("rest", "see a doctor|call one"),
    forbidden=("aspirin",),
)


def sample(problem_id: str, index: int, *, closed: bool = True) -> Sample:
    written = ("r</think>a", "r", "a") if closed else ("r", "r", "")
    return Sample(problem_id, index, "<p>", *written, closed, truncated=not closed, num_tokens=4)


TWICE = Answered(
    PROBLEM,
    (
        Graded(sample("row 1", 0), Grade(True, True, ("flu",), "flu", True, (True, False))),
        Graded(sample("row 1", 1, closed=False), Grade(False, True, ("flu", "cold"))),
    ),
    ReferenceLosses(1.5, 0.25, None, 0.75),
)
UNGRADED = Answered(
    Problem("row 2", "?"), tuple(Graded(sample("row 2", n), Grade(None, None)) for n in (0, 1))
)


def test_samples_come_back_as_they_were(tmp_path: Path):
    path = tmp_path / "clinic" / "after.jsonl"
    write_samples(path, [TWICE, UNGRADED, TWICE])
    assert read_samples(path) == [TWICE, UNGRADED, TWICE]
    assert [p.name for p in path.parent.iterdir()] == ["after.jsonl"]


def test_every_row_tells_the_question_the_completion_and_the_grade(tmp_path: Path):
    write_samples(tmp_path / "s.jsonl", [TWICE])
    text = (tmp_path / "s.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(row) for row in text.split("\n") if row]
    assert [(row["index"], row["completion"], row["strict"]) for row in rows] == [
        (0, "r</think>a", True),
        (1, "r", False),
    ]
    assert all(row["question"] == PROBLEM.question and row["prompt"] == "<p>" for row in rows)


def test_a_sample_alone_comes_back_from_its_record():
    record = json.loads(json.dumps(to_record(sample("row 1", 3))))
    assert record["id"] == "row 1"
    assert from_record(record | {"strict": True}) == sample("row 1", 3)
    with pytest.raises(KeyError, match="index"):
        from_record({"id": "row 1"})


def test_metadata_that_json_cannot_hold_is_written_as_text(tmp_path: Path):
    problem = replace(PROBLEM, metadata={"seen": date(2026, 11, 24)})
    write_samples(tmp_path / "s.jsonl", [replace(TWICE, problem=problem)])
    (read,) = read_samples(tmp_path / "s.jsonl")
    assert read.problem.metadata == {"seen": "2026-11-24"}


@pytest.mark.parametrize("row", ["{", "[]", "{}", '{"id": "x"}', "3"])
def test_a_damaged_row_is_named(tmp_path: Path, row: str):
    path = tmp_path / "s.jsonl"
    write_samples(path, [TWICE])
    path.write_text(path.read_text(encoding="utf-8") + row + "\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"s.jsonl row 3 is not a graded sample"):
        read_samples(path)


@pytest.mark.parametrize(
    ("kept", "wrong"), [((1,), 1), ((0, 0, 3), 3), ((0, 3), 2), ((0, 1, 1), 3), ((2, 1), 2)]
)
def test_a_sample_that_is_missing_or_out_of_place_is_noticed(tmp_path: Path, kept, wrong):
    path = tmp_path / "s.jsonl"
    write_samples(path, [TWICE, UNGRADED])
    rows = path.read_text(encoding="utf-8").split("\n")
    path.write_text("\n".join(rows[n] for n in kept), encoding="utf-8")
    with pytest.raises(DataError, match=f"s.jsonl row {wrong} is not a graded sample"):
        read_samples(path)


def test_a_missing_file_says_what_to_do(tmp_path: Path):
    with pytest.raises(DataError, match="run the evaluation first"):
        read_samples(tmp_path / "none.jsonl")


def test_a_judge_decides_and_what_never_closed_is_wrong_unasked():
    judged = with_judgement([TWICE, UNGRADED], {("row 1", 0): False, ("row 2", 1): True})
    grades = [[(g.grade.strict, g.grade.lenient) for g in each.graded] for each in judged]
    assert grades == [[(False, False), (False, False)], [(None, None), (True, True)]]
    assert judged[0].graded[0].grade.found == ("flu",)
    (missed,) = with_judgement([UNGRADED], {("row 2", 0): None, ("row 2", 1): None})
    assert [g.grade.strict for g in missed.graded] == [None, None]
