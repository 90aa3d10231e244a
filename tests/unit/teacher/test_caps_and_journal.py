"""Caps that are never passed, and a journal that any end leaves usable."""

import json
import threading
from pathlib import Path

import pytest

from tests.unit.teacher.scripted_server import Say, ScriptedServer, thought
from tests.unit.teacher.test_client_faults import GOOD, questions, run
from thinktune.errors import ConfigError, DataError
from thinktune.settings import parse_settings
from thinktune.teacher.budget import Budget
from thinktune.teacher.config import TeacherConfig
from thinktune.teacher.distilling import distill
from thinktune.teacher.journal import Journal
from thinktune.teacher.replies import Reply


def reply(text: str, tokens: int = 5) -> Reply:
    return Reply(text, "", "stop", "m", "h", "2026-01-01", tokens, tokens)


@pytest.mark.parametrize("concurrency", [1, 5])
def test_the_token_cap_is_never_passed_and_is_used(concurrency: int, tmp_path: Path) -> None:
    out = tmp_path / "o.jsonl"
    full = thought("I fill my limit.", "4", usage=(10, 300))
    settings = {"max_tokens": 300, "concurrency": concurrency, "max_tokens_total": 2000}
    done, _ = run(lambda *_: full, out, 20, **settings)
    spent = done.input_tokens + done.output_tokens
    assert spent <= 2000 < spent + 300 + 200  # no room for one more prompt and completion
    assert done.stopped == "max_tokens_total=2000 would be passed"
    assert not done.is_complete
    assert done.num_rows == spent // 310
    again, server = run(lambda *_: full, out, 20, **settings)
    assert server.asked.total() == 0  # the cap is over all starts
    assert again.num_rows == done.num_rows
    final, server = run(lambda *_: full, out, 20, **(settings | {"max_tokens_total": 99999}))
    assert final.is_complete
    assert server.asked.total() == 20 - done.num_rows


def test_the_cost_cap_counts_prices_of_both_sides(tmp_path: Path) -> None:
    prices = {"price_input": 1_000.0, "price_output": 2_000.0}  # 10 in, 20 out: 0.05 a request
    done, _ = run(lambda *_: GOOD, tmp_path / "o.jsonl", 50, max_cost=1.0, max_tokens=50, **prices)
    assert done.cost == pytest.approx(0.05 * done.num_rows)
    assert 0.6 <= done.cost <= 1.0
    assert "max_cost=1" in (done.stopped or "")


def test_attempts_that_may_have_been_paid_for_count_against_the_cap(tmp_path: Path) -> None:
    done, server = run(
        lambda *_: Say(b"{"), tmp_path / "o.jsonl", 1, max_tokens=500, max_tokens_total=1500
    )
    assert server.asked.total() == 2
    assert 1000 < done.input_tokens + done.output_tokens <= 1500
    assert done.num_estimated == 2


def test_a_reply_without_usage_counts_as_the_most_it_can_be(tmp_path: Path) -> None:
    done, _ = run(
        lambda *_: thought("So it is.", "4", usage=None), tmp_path / "o.jsonl", max_tokens=77
    )
    assert done.output_tokens == 77
    assert done.input_tokens >= len("Question 0?")
    assert done.num_estimated == 1
    assert "requests without usage" in (tmp_path / "o.md").read_text()


def test_what_is_held_back_and_not_used_is_there_again() -> None:
    budget = Budget(max_tokens=100)
    assert budget.hold((30, 30))
    assert not budget.hold((30, 30))
    budget.settle((30, 30), (10, 10))
    assert budget.hold((30, 30))
    assert budget.spent == [10, 10]


def test_replies_come_back_as_they_went_in(tmp_path: Path) -> None:
    texts = ["", "a\u2028b\nc\0", "\ud83d half", "腸胃炎 🤧", "x" * 100_000]
    with Journal(tmp_path / "j.jsonl", {"model": "m"}) as journal:
        for n, text in enumerate(texts):
            journal.add(str(n), reply(text))
            assert journal.read("0") == reply("")  # reading in between moves no writing
        journal.lose("lost", (3, 4))
    with Journal(tmp_path / "j.jsonl", {"model": "m"}) as journal:
        assert [journal.read(str(n)) for n in range(5)] == [reply(text) for text in texts]
        assert journal.spent == [5 * 5 + 3, 5 * 5 + 4]
        assert "lost" not in journal
        assert len(journal) == 5


def test_a_journal_cut_off_at_any_byte_loses_at_most_its_last_line(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    with Journal(path, {"model": "m"}) as journal:
        journal.add("a", reply("one"))
        journal.add("b", reply("two"))
    whole = path.read_bytes()
    ends = [n for n, byte in enumerate(whole) if byte == ord("\n")]
    near_ends = {end + step for end in ends for step in (0, 1, 2)}
    for cut in sorted({*range(0, len(whole), 41), *near_ends, len(whole)}):
        path.write_bytes(whole[:cut])  # beyond the end is the whole
        with Journal(path, {"model": "m"}) as journal:
            assert len(journal) == max(0, sum(end < cut for end in ends) - 1)
            journal.add("c", reply("three"))
        with Journal(path, {"model": "m"}) as journal:
            assert journal.read("c") == reply("three")


def test_damage_in_the_middle_and_foreign_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    with Journal(path, {}) as journal:
        journal.add("a", reply("one"))
        journal.add("b", reply("two"))
    lines = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([lines[0], lines[1][:30], lines[2], b""]))
    with pytest.raises(DataError, match="line 2: damaged"):
        Journal(path, {})
    path.write_text('{"question": "a"}\n')
    with pytest.raises(DataError, match="not a journal"):
        Journal(path, {})
    assert path.read_text() == '{"question": "a"}\n'


def test_two_processes_cannot_fill_one_journal(tmp_path: Path) -> None:
    with (
        Journal(tmp_path / "j.jsonl", {}),
        pytest.raises(ConfigError, match="another process"),
    ):
        Journal(tmp_path / "j.jsonl", {})


def test_other_parameters_are_refused_with_what_differs_and_other_rules_are_not(
    tmp_path: Path,
) -> None:
    out = tmp_path / "o.jsonl"
    run(lambda *_: GOOD, out, 2)
    with pytest.raises(ConfigError, match=r"temperature: 0\.6 then, 0\.9 now.*--out"):
        run(lambda *_: GOOD, out, 2, temperature=0.9)
    done, server = run(lambda *_: GOOD, out, 2, samples=3, keep="all", verify="text")
    assert server.asked == {(f"Question {n}?", seed): 1 for n in (0, 1) for seed in (1, 2)}
    assert done.num_rows == 6


def test_files_of_somebody_else_are_not_overwritten(tmp_path: Path) -> None:
    for name in ("o.jsonl", "o.md", "o.rejected.jsonl"):
        (tmp_path / name).write_text("mine")
        with pytest.raises(ConfigError, match="exists already"):
            run(lambda *_: GOOD, tmp_path / "o.jsonl")
        assert (tmp_path / name).read_text() == "mine"
        (tmp_path / name).unlink()


def test_ctrl_c_keeps_what_came(tmp_path: Path) -> None:
    out = tmp_path / "o.jsonl"

    class Impatient:
        def stage(self, title: str, total: int | None = None) -> None:
            pass

        def advance(self, done: int, numbers: object = None) -> None:
            if done >= 3:
                raise KeyboardInterrupt

        def say(self, text: str) -> None:
            pass

    def script(body: dict, before: int) -> Say | dict:
        return Say(GOOD, seconds=0.3)  # slower than the progress, which tells five times a second

    with ScriptedServer(script) as server:
        settings = {"url": server.url, "model": "m", "samples": 1, "concurrency": 2}
        config = parse_settings(TeacherConfig, settings)
        with pytest.raises(KeyboardInterrupt):
            distill(questions(8), config, out, watcher=Impatient())
        known = (tmp_path / "o.requests.jsonl").read_bytes().count(b"\n") - 1
        assert known >= 3
    done, server = run(lambda *_: GOOD, out, 8)
    assert done.num_rows == 8
    assert server.asked.total() == 8 - known


def test_inside_a_running_loop_as_in_a_notebook_it_works_too(tmp_path: Path) -> None:
    import asyncio  # noqa: PLC0415

    async def cell() -> int:
        return run(lambda *_: GOOD, tmp_path / "o.jsonl")[0].num_rows

    assert asyncio.run(cell()) == 1
    assert threading.active_count() < 20


def test_nothing_kept_leaves_no_rows_file(tmp_path: Path) -> None:
    out = tmp_path / "o.jsonl"
    assert run(lambda *_: GOOD, out)[0].num_rows == 1
    config = {"url": "http://127.0.0.1:9/v1", "model": "m", "samples": 1}
    wrong = [q.__class__(**{f: getattr(q, f) for f in ("question", "reasoning", "answer", "where")}
                         | {"reference": "5"}) for q in questions(1)]  # fmt: skip
    done = distill(wrong, parse_settings(TeacherConfig, config), out)
    assert (done.num_rows, dict(done.rejected)) == (0, {"wrong answer": 1})
    assert not out.exists()
    rejected = json.loads((tmp_path / "o.rejected.jsonl").read_text())
    assert (rejected["reason"], rejected["expected"]) == ("wrong answer", "5")
