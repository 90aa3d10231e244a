"""``thinktune distill`` as a user runs it, against a real server, through kills and faults."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.end_to_end.test_cli import thinktune
from tests.small_runs import write_rows
from tests.unit.teacher.scripted_server import Say, ScriptedServer, thought

SAMPLES = 3


def add(body: dict, before: int) -> dict:
    """Adds right, at first too long-windedly, and wrong with the third seed."""
    first, second = map(int, body["messages"][-1]["content"].split("?")[0].split()[-1].split("+"))
    steps = f"We take {first}. We add {second}, which makes the sum that was asked for. "
    return {
        0: thought(steps * 3, f"It is {first + second}."),
        1: thought(steps, f"It is {first + second}."),
        2: thought(steps, f"It is {first + second + 1}."),
    }[body["seed"]]


def write_questions(folder: Path, num: int) -> Path:
    rows = [
        {"question": f"What is {n}+{n * n}?", "reference": str(n + n * n), "id": f"sum-{n}"}
        for n in range(num)
    ]
    return write_rows(folder / "sums.jsonl", rows)


def rows_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def words(questions: Path, url: str, *more: object) -> list[str]:
    out = questions.parent / "rows.jsonl"
    given = ("--teacher", url, "--model", "adder", "--out", out, "-k", SAMPLES, *more)
    return ["distill", str(questions), *map(str, given)]


def test_questions_become_rows_that_the_doctor_reads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    questions = write_questions(tmp_path, 6)
    prices = ("--price-input", 1000, "--price-output", 1000)
    with ScriptedServer(add) as server:
        said = thinktune(capsys, *words(questions, server.url, *prices))
    assert said.code == 0, said.err
    assert server.asked.total() == 6 * SAMPLES
    for told in ("wrong answer", "right, but not the shortest", "0.5400", "Data card: "):
        assert told in said.out
    rows = rows_of(tmp_path / "rows.jsonl")
    assert [row["answer"] for row in rows] == [f"It is {n + n * n}." for n in range(6)]
    assert all(row["reasoning"].count("We take") == 1 for row in rows)
    assert rows[2]["metadata"]["id"] == "sum-2"
    teacher = rows[2]["metadata"]["teacher"]
    date = teacher.pop("date")
    assert date.endswith("+00:00")
    assert teacher == {
        "source": "sums.jsonl row 3",
        "endpoint": server.url.split("/")[2],
        "model": "adder",
        "served_model": "served-1",
        "parameters": {
            "model": "adder",
            "temperature": 0.6,
            "top_p": 0.95,
            "max_tokens": 8192,
            "seed": 0,
        },
        "sample": 1,
        "seed": 1,
        "samples_asked": 3,
        "samples_kept": 1,
        "agreement": 0.6667,
        "verification": "number against the reference",
        "keep": "shortest",
        "input_tokens": 30,
        "output_tokens": 60,
    }
    card = (tmp_path / "rows.md").read_text()
    for line in ("| rejected: wrong answer | 6 |", "| cost | 0.5400 |", "| temperature | 0.6 |"):
        assert line in card
    rejected = rows_of(tmp_path / "rows.rejected.jsonl")
    assert len(rejected) == 12
    assert {row["reason"] for row in rejected} == {"wrong answer", "right, but not the shortest"}
    assert thinktune(capsys, "data", "inspect", tmp_path / "rows.jsonl").code == 0
    refused = thinktune(capsys, "data", "inspect", tmp_path / "rows.rejected.jsonl")
    assert refused.code == 2  # no rejected sample is trained on by mistake


def test_a_killed_run_goes_on_and_asks_nothing_twice_but_what_was_under_way(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    questions = write_questions(tmp_path, 40)
    concurrency = 4
    with ScriptedServer(lambda body, before: Say(add(body, before), seconds=0.05)) as server:
        command = words(questions, server.url, "--concurrency", concurrency)
        for stop_at in (15, 60):  # killed twice, at different places
            child = subprocess.Popen(
                [sys.executable, "-m", "thinktune", *command],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                env=os.environ | {"NO_COLOR": "1"},
            )
            deadline = time.monotonic() + 60
            while server.answered.total() < stop_at and time.monotonic() < deadline:
                time.sleep(0.005)
            child.send_signal(signal.SIGKILL)
            _, errors = child.communicate()
            assert child.returncode == -signal.SIGKILL, errors
        assert not (tmp_path / "rows.jsonl").exists()
        journal = (tmp_path / "rows.requests.jsonl").read_bytes()
        (tmp_path / "rows.requests.jsonl").write_bytes(journal + b'{"key": "sample-0-torn')
        said = thinktune(capsys, *command)
        assert said.code == 0, said.err
    again = [name for name, times in server.asked.items() if times > 1]
    assert len(server.asked) == 40 * SAMPLES
    assert max(server.asked.values()) <= 3
    assert 0 < len(again) <= 2 * concurrency
    assert server.asked.total() <= 40 * SAMPLES + 2 * concurrency
    assert len(rows_of(tmp_path / "rows.jsonl")) == 40
    once = server.asked.total()
    with ScriptedServer(add) as other:
        thinktune(capsys, *words(questions, other.url))
        assert (other.asked.total(), server.asked.total()) == (0, once)


def test_a_cap_ends_with_code_1_says_so_and_leaves_the_rows_so_far(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    questions = write_questions(tmp_path, 10)
    cap = ("--max-tokens-total", 700, "--max-tokens", 100, "--concurrency", 2)
    with ScriptedServer(add) as server:
        said = thinktune(capsys, *words(questions, server.url, *cap))
        assert said.code == 1
        assert "stopped: max_tokens_total=700 would be passed" in said.out
        assert "the same command goes on" in said.out
        assert "## Incomplete" in (tmp_path / "rows.md").read_text()
        assert 0 < len(rows_of(tmp_path / "rows.jsonl")) < 10
        assert thinktune(capsys, *words(questions, server.url, "--max-tokens", 100)).code == 0
        assert server.asked.total() == 30


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (("--keep", "best"), "keep='best'"),
        (("--temperature", "warm"), "temperature='warm'"),
        (("--extra-body", "[1]"), "JSON object"),
        (("--column", "question"), "NAME=VALUE"),
        (("--verify", "choice"), "sums.jsonl row 1: reference '0' is no choice"),
        (("--out", "rows.csv"), "ending in .jsonl"),
        (("--api-key-env", "NO_SUCH_KEY"), "NO_SUCH_KEY"),
    ],
)
def test_what_cannot_work_is_one_line_before_anything_is_asked(
    more: tuple[str, ...], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    questions = write_questions(tmp_path, 2)
    with ScriptedServer(add) as server:
        said = thinktune(capsys, *words(questions, server.url, *more))
    assert said.code == 2
    assert told in said.err
    assert len(said.err.strip().splitlines()) == 1
    assert server.asked.total() == 0


def test_the_teachers_own_spelling_of_columns_can_be_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"question": f"What is {n}+1?", "answer": f"so\n#### {n + 1}"} for n in range(3)]
    questions = write_rows(tmp_path / "gsm.jsonl", rows)
    with ScriptedServer(add) as server:
        pattern = "answer={reasoning}####{reference}"
        said = thinktune(capsys, *words(questions, server.url, "--pattern", pattern))
    assert said.code == 0, said.err
    written = rows_of(tmp_path / "rows.jsonl")
    assert [row["reference"] for row in written] == ["1", "2", "3"]
