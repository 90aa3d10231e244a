"""What an endpoint can do wrong, and what becomes of the request."""

import json
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest

from tests.unit.teacher.scripted_server import Say, Script, ScriptedServer, completion, thought
from thinktune.data.example import Example
from thinktune.data.sources import read_examples
from thinktune.errors import ConfigError
from thinktune.settings import parse_settings
from thinktune.teacher.card import Distilled
from thinktune.teacher.config import TeacherConfig
from thinktune.teacher.distilling import distill

GOOD = thought("Two and two are four.", "4")


def questions(num: int = 1) -> list[Example]:
    return [
        Example(f"Question {n}?", "", "", "4", where=f"q.jsonl row {n + 1}") for n in range(num)
    ]


def run(
    script: Script, out: Path, num: int = 1, **settings: object
) -> tuple[Distilled, ScriptedServer]:
    fast = {"model": "m", "samples": 1, "backoff_seconds": 0.005, "timeout_seconds": 5}
    with ScriptedServer(script) as server:
        config = parse_settings(TeacherConfig, {"url": server.url} | fast | settings)
        return distill(questions(num), config, out), server


FAULTS = {
    "slow": Say(GOOD, seconds=0.6),
    "429": Say({"error": {"message": "slow down"}}, status=429),
    "500": Say({"error": {"message": "oops"}}, status=500),
    "503 of a proxy": Say(b"<html>bad gateway</html>", status=503),
    "cut body": Say(GOOD, cut=True),
    "no response": Say(hang_up=True),
    "malformed JSON": Say(b'{"choices": [{"mess'),
    "not an object": Say([1]),
    "no choices": Say({"choices": []}),
    "no message": Say({"choices": [{"finish_reason": "stop"}]}),
    "content no text": Say(completion(["a"])),  # pyright: ignore[reportArgumentType]
    "an error with status 200": Say({"error": {"message": "upstream", "code": 502}}),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_passing_fault_is_survived_by_asking_again(fault: Say, tmp_path: Path) -> None:
    done, server = run(
        lambda _, before: fault if before < 2 else GOOD, tmp_path / "o.jsonl", timeout_seconds=0.3
    )
    assert done.is_complete
    assert (done.num_rows, done.num_retries) == (1, 2)
    assert list(server.asked.values()) == [3]
    row = read_examples(str(tmp_path / "o.jsonl"))[0]
    assert (row.reasoning, row.answer) == ("Two and two are four.", "4")


@pytest.mark.parametrize("fault", [FAULTS["500"], FAULTS["malformed JSON"]], ids=["500", "broken"])
def test_a_lasting_fault_sets_one_question_aside_and_the_next_start_asks_it_again(
    fault: Say, tmp_path: Path
) -> None:
    out = tmp_path / "o.jsonl"

    def script(body: dict, before: int) -> Say | dict:
        return fault if body["messages"][-1]["content"] == "Question 1?" else GOOD

    done, server = run(script, out, 3, max_retries=2)
    assert not done.is_complete
    assert [where for where, _ in done.set_aside] == ["q.jsonl row 2"]
    assert server.asked["Question 1?", 0] == 3
    assert len(read_examples(str(out))) == 2
    again, server = run(lambda *_: GOOD, out, 3, max_retries=2)
    assert again.is_complete
    assert dict(server.asked) == {("Question 1?", 0): 1}
    assert len(read_examples(str(out))) == 3


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_retry_after_is_honoured_by_every_request(form: str, tmp_path: Path) -> None:
    rest = 0.4 if form == "seconds" else 2.0
    asked = str(rest)
    if form == "date":  # whole seconds, so at least one is left
        asked = format_datetime(datetime.now(UTC) + timedelta(seconds=rest), usegmt=True)
    limited = Say({"error": "wait"}, status=429, headers={"Retry-After": asked})

    def script(body: dict, before: int) -> Say | dict:
        return limited if body["messages"][-1]["content"] == "Question 0?" and not before else GOOD

    done, server = run(script, tmp_path / "o.jsonl", 6, concurrency=2)
    assert done.num_rows == 6
    gaps = [b - a for a, b in zip(server.times, server.times[1:], strict=False)]
    assert max(gaps) >= (0.35 if form == "seconds" else 0.8)


def test_an_endpoint_that_wants_a_long_rest_stops_the_asking(tmp_path: Path) -> None:
    limited = Say({"error": "quota"}, status=429, headers={"Retry-After": "86400"})
    begun = time.monotonic()
    done, _ = run(lambda *_: limited, tmp_path / "o.jsonl", 2)
    assert time.monotonic() - begun < 5
    assert "asks to wait 86400 s" in (done.stopped or "")


@pytest.mark.parametrize(
    ("status", "told"),
    [(401, "--api-key-env"), (404, "end in /v1"), (400, "q.jsonl row 1"), (402, "bad balance")],
)
def test_a_refusal_stops_at_once_with_one_line(status: int, told: str, tmp_path: Path) -> None:
    refusal = Say({"error": {"message": "bad\nbalance"}}, status=status)
    with ScriptedServer(lambda *_: refusal) as server:
        config = parse_settings(
            TeacherConfig, {"url": server.url, "model": "m", "samples": 1, "concurrency": 1}
        )
        with pytest.raises(ConfigError) as caught:
            distill(questions(5), config, tmp_path / "o.jsonl")
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)
    assert server.asked.total() == 1


def test_nobody_listening_stops_after_a_few_questions_and_costs_nothing(tmp_path: Path) -> None:
    with ScriptedServer(lambda *_: GOOD) as server:
        url = server.url
    config = parse_settings(
        TeacherConfig,
        {"url": url, "model": "m", "samples": 1, "max_retries": 1, "backoff_seconds": 0.005},
    )
    done = distill(questions(500), config, tmp_path / "o.jsonl")
    assert "in a row failed (no connection" in (done.stopped or "")
    assert len(done.set_aside) < 30
    assert done.input_tokens == done.output_tokens == 0


def test_what_came_before_a_refusal_is_kept(tmp_path: Path) -> None:
    out = tmp_path / "o.jsonl"

    def script(body: dict, before: int) -> Say | dict:
        if body["messages"][-1]["content"] == "Question 2?":
            return Say({"error": "too long"}, status=400)
        return GOOD

    with pytest.raises(ConfigError, match="row 3"):
        run(script, out, 6, concurrency=1)
    done, server = run(lambda *_: GOOD, out, 6)
    assert done.num_rows == 6
    assert {name for name, _ in server.asked} == {f"Question {n}?" for n in range(2, 6)}


def test_the_bound_on_requests_at_a_time_is_kept_and_used(tmp_path: Path) -> None:
    for bound in (1, 7):
        done, server = run(
            lambda *_: Say(GOOD, seconds=0.02), tmp_path / f"{bound}.jsonl", 30, concurrency=bound
        )
        assert done.num_rows == 30
        assert server.most_at_once == bound


def test_requests_begin_evenly_at_the_rate_asked_for(tmp_path: Path) -> None:
    _, server = run(lambda *_: GOOD, tmp_path / "o.jsonl", 6, requests_per_minute=600)
    assert server.times[-1] - server.times[0] >= 0.45  # five gaps of a tenth of a second


@pytest.mark.parametrize("key", ["TEACHER_TEST_KEY", None])
def test_the_key_goes_to_the_endpoint_and_nowhere_else(
    key: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEACHER_TEST_KEY", "sk-very-secret-1234")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret-1234")
    echo = thought("My key is sk-very-secret-1234.", "4")
    done, server = run(lambda *_: echo, tmp_path / "o.jsonl", api_key_env=key)
    assert done.num_rows == 1
    sent = server.headers[0]["authorization"]
    assert sent == ("Bearer sk-very-secret-1234" if key else "Bearer none")
    if key:
        written = b"".join(path.read_bytes() for path in tmp_path.iterdir())
        assert b"very-secret" not in written
        refusal = Say({"error": "bad key sk-very-secret-1234"}, status=401)
        with pytest.raises(ConfigError, match=r"bad key \[key\]"):
            run(lambda *_: refusal, tmp_path / "p.jsonl", api_key_env=key)


def test_a_key_that_is_not_set_is_missed_before_anything_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    for settings in ({"url": "https://example.invalid/v1"}, {"api_key_env": "NO_SUCH_KEY"}):
        with pytest.raises(ConfigError, match="api-key-env"):
            run(lambda *_: GOOD, tmp_path / "o.jsonl", **settings)


def test_what_is_asked_is_what_was_set(tmp_path: Path) -> None:
    _, server = run(
        lambda *_: GOOD,
        tmp_path / "o.jsonl",
        samples=2,
        temperature=0.7,
        top_p=None,
        seed=5,
        max_tokens=99,
        max_tokens_field="max_completion_tokens",
        instruction="Box it.",
        extra_body={"chat_template_kwargs": {"thinking": True}},
    )
    assert sorted(body.pop("seed") for body in server.bodies) == [5, 6]
    assert server.bodies[0] == {
        "path": "/v1/chat/completions",
        "model": "m",
        "messages": [{"role": "user", "content": "Question 0?\n\nBox it."}],
        "max_completion_tokens": 99,
        "temperature": 0.7,
        "chat_template_kwargs": {"thinking": True},
    }
    row = json.loads((tmp_path / "o.jsonl").read_text())
    assert row["question"] == "Question 0?"
