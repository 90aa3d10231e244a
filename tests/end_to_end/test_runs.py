"""`thinktune runs`, as a user types it, on real runs."""

import io
import json
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock
from rich.console import Console
from typer.testing import CliRunner

from tests.small_runs import Interrupter, small_config
from thinktune import run_watching
from thinktune.cli import app
from thinktune.errors import ConfigError, RunError, ThinktuneError
from thinktune.pipeline import run_recipe
from thinktune.run_table import Run, RunState, read_run
from thinktune.tracking import Silence

RUN = CliRunner()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder of three runs: finished, interrupted in step 4, and without its record."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        asked = {"max_new_tokens": 4, "tasks": []}
        run_recipe(small_config(folder, output_dir="runs/first", evaluation=asked), "small")
        changed = {"lora": {"rank": 2, "alpha": 8}, "output_dir": "runs/second"}
        second = small_config(folder, evaluation=asked, **changed)
        with pytest.raises(KeyboardInterrupt):
            run_recipe(second, "small", watcher=Interrupter("Training", 4))
        shutil.copytree("runs/first", "runs/third")
        Path("runs/third/run.json").unlink()
        yield folder


def told(*arguments: str, width: int = 120) -> str:
    done = RUN.invoke(app, ["runs", *arguments], env={"COLUMNS": str(width)})
    if isinstance(done.exception, ThinktuneError):
        raise done.exception
    assert done.exit_code == 0, done.output
    is_folded = "--json" not in arguments and "--watch" not in arguments
    assert not is_folded or max(map(len, done.output.splitlines())) <= width
    return done.output


def test_runs_are_listed_with_state_steps_losses_and_verdict(runs: Path):
    lines = {line.split()[0]: line for line in told().splitlines() if line.strip()}
    assert "✓ finished" in lines["first"]
    assert "6/6" in lines["first"]
    assert "cannot tell" in lines["first"]
    assert "‖ interrupted" in lines["second"]
    assert "4/6" in lines["second"]
    assert "! damaged" in lines["third"]
    assert lines["third:"] == "third: no run.json"


def test_the_list_as_json_has_the_numbers_of_the_run_itself(runs: Path):
    listed = {Path(run["path"]).name: run for run in json.loads(told("--json"))}
    record = json.loads((runs / "runs/first/run.json").read_text())
    first = listed["first"]
    assert first["loss"] == record["training"]["last"]["loss"]
    assert first["heldout_loss"] == record["training"]["heldout"]["loss"]
    assert first["verdict"] == record["verdict"]
    key = "evaluation/rows/pass_at_1"
    assert first["pass_at_1"] == {side: record["scores"][side][key] for side in record["scores"]}
    assert len(first["losses"]) == 6
    assert (listed["second"]["state"], listed["second"]["steps_done"]) == ("interrupted", 4)


def test_two_runs_named_are_compared(runs: Path):
    shown = told("runs/first", "runs/second")
    assert ["lora.rank", "4", "2"] in [line.split() for line in shown.splitlines()]
    assert "output_dir" not in shown
    assert "● held-out loss" in shown
    assert "rows pass@1" in shown
    compared = json.loads(told("runs/first", "runs/second", "--json"))
    assert compared["differences"] == {
        "settings": {"lora.rank": [4, 2], "lora.dropout": [0.1, 0.0]}
    }
    assert [len(curve) for curve in compared["train_loss"]] == [6, 4]
    assert [step for step, _ in compared["heldout_loss"][0]] == [2, 4, 6]
    assert compared["scores"]["evaluation/rows/pass_at_1"][1] == {}


def test_what_cannot_be_done_is_said_in_a_line(runs: Path):
    with pytest.raises(RunError, match="no such folder"):
        told("nothing")
    with pytest.raises(RunError, match=r"third: no run\.json; it cannot be compared"):
        told("runs", "--compare")
    with pytest.raises(ConfigError, match="--watch follows one run"):
        told("runs/first", "runs/second", "--watch")


def test_watching_a_run_that_is_over_shows_how_it_ended(runs: Path):
    lines = told("runs/first", "--watch").splitlines()
    assert lines[0] == "- runs/first"
    assert len(lines) == 3
    assert lines[-2].startswith("  step 6/6  loss ")
    assert lines[-2].endswith("finished")
    assert lines[-1].startswith("Cannot tell")


@pytest.mark.parametrize("is_terminal", [False, True])
def test_a_run_is_waited_for_and_followed_until_it_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_terminal: bool
):
    config = small_config(tmp_path, output_dir=str(tmp_path / "runs" / "new"))
    seen: list[tuple[RunState, int]] = []

    class Patient(Silence):
        """Lets each step be seen before the next."""

        is_training = False

        def stage(self, title: str, total: int | None = None) -> None:
            self.is_training = "Training" in title

        def advance(self, done: int, numbers: object = None) -> None:
            until = time.monotonic() + 20
            while self.is_training and time.monotonic() < until and seen[-1][1] < done:
                time.sleep(0.01)

    def look(folder: Path) -> Run:
        seen.append(((run := read_run(folder)).state, run.steps_done))
        return run

    monkeypatch.setattr(run_watching, "read_run", look)
    console = Console(record=True, width=100, force_terminal=is_terminal, file=io.StringIO())
    thread = threading.Thread(
        target=run_recipe,
        args=(config, "small"),
        kwargs={"compare_after": False, "watcher": Patient()},
    )
    (tmp_path / "runs").mkdir()
    threading.Timer(0.2, thread.start).start()
    run_watching.watch(tmp_path / "runs", console, seconds=0.02)
    thread.join()
    steps = [steps for _, steps in seen]
    assert list(dict.fromkeys(steps)) == [*range(steps[0], 7)]
    assert steps[0] <= 1
    assert RunState.INTERRUPTED not in {state for state, steps in seen if 1 < steps < 6}
    assert seen[-1] == (RunState.FINISHED, 6)
    shown = console.export_text()
    assert "Waiting for a run" in shown
    assert "step 6/6" in shown
    assert "finished" in shown


def test_leaving_a_watched_run_with_ctrl_c_is_quiet(runs: Path, monkeypatch: pytest.MonkeyPatch):
    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", interrupt)
    with FileLock("runs/second/run.lock"):
        lines = told("runs/second", "--watch").splitlines()
    assert lines[0] == "- runs/second"
    assert lines[1].startswith("  step 4/6  loss ")
    assert lines[1].endswith(" left")
    assert len(lines) == 2
