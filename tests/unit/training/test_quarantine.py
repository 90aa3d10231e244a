"""The quarantine says each trouble, keeps it on disk, and keeps none twice."""

import json
import math
from pathlib import Path

import pytest

from thinktune.tracking import Silence, read_records
from thinktune.training.quarantine import QUARANTINE_FILE, Quarantine, Response, Trouble


class Listener(Silence):
    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


def trouble(response: Response = Response.WARNED, rows: tuple[str, ...] = ("a", "b")) -> Trouble:
    return Trouble("the loss is 12, 9 times the usual", rows, response, 12.0, 0.5)


def records(folder: Path) -> list[dict]:
    return read_records(folder / QUARANTINE_FILE)


def test_a_trouble_is_kept_whole(tmp_path: Path) -> None:
    Quarantine(tmp_path, Silence()).keep(7, trouble(Response.SKIPPED))
    assert records(tmp_path) == [
        {
            "step": 7,
            "what": "the loss is 12, 9 times the usual",
            "response": "skipped",
            "rows": ["a", "b"],
            "loss": 12.0,
            "grad_norm": 0.5,
            "detail": "",
        }
    ]


def test_a_resumed_run_writes_nothing_twice_and_loses_nothing(tmp_path: Path) -> None:
    for _ in range(2):
        quarantine = Quarantine(tmp_path, Silence())
        for step in (7, 7, 9):
            quarantine.keep(step, trouble())
    quarantine.keep(9, trouble(rows=("c",)))
    found = [(record["step"], record["rows"]) for record in records(tmp_path)]
    assert found == [(7, ["a", "b"]), (9, ["a", "b"]), (9, ["c"])]


def test_a_line_that_was_cut_off_is_dropped_and_the_next_one_is_whole(tmp_path: Path) -> None:
    Quarantine(tmp_path, Silence()).keep(1, trouble())
    path = tmp_path / QUARANTINE_FILE
    path.write_text(path.read_text() + '{"step": 2, "wh')
    Quarantine(tmp_path, Silence()).keep(3, trouble())
    assert [record["step"] for record in records(tmp_path)] == [1, 3]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_numbers_that_are_not_finite_are_words_in_the_file(tmp_path: Path, value: float) -> None:
    bad = Trouble("the loss is not finite", ("a",), Response.STOPPED, value, value)
    Quarantine(tmp_path, Silence()).keep(1, bad)

    def refuse(word: str) -> None:
        pytest.fail(f"{word} is no JSON")

    line = (tmp_path / QUARANTINE_FILE).read_text()
    assert json.loads(line, parse_constant=refuse)["loss"] == str(value)


def test_what_ends_the_run_is_left_to_its_error_and_the_rest_is_said(tmp_path: Path) -> None:
    listener = Listener()
    quarantine = Quarantine(tmp_path, listener)
    quarantine.keep(1, trouble(Response.STOPPED))
    assert listener.said == []
    quarantine.keep(2, trouble(rows=tuple(map(str, range(11)))))
    (said,) = listener.said
    assert said.startswith(
        "Step 2: the loss is 12, 9 times the usual on 0, 1, 2, 3, 4, 5, 6, 7 and"
    )
    assert "3 more: the update was made" in said
    assert QUARANTINE_FILE in said


def test_without_trouble_there_is_no_file(tmp_path: Path) -> None:
    Quarantine(tmp_path, Silence())
    assert list(tmp_path.iterdir()) == []
