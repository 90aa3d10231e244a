"""What takes long says so as it goes, in the order it is done."""

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.small_runs import ROWS, Interrupter, small_config, write_recipe, write_rows
from thinktune.cli import app
from thinktune.pipeline import run_recipe
from thinktune.tracking import Metrics


class Diary:
    """Keeps every stage with its total and how far it came."""

    def __init__(self) -> None:
        self.stages: list[tuple[str, int | None]] = []
        self.reached: list[list[int]] = []

    def stage(self, title: str, total: int | None = None) -> None:
        self.stages.append((title, total))
        self.reached.append([])

    def advance(self, done: int, numbers: Metrics | None = None) -> None:
        self.reached[-1].append(done)

    def say(self, text: str) -> None:
        """Nothing of it is looked at."""

    def of(self, title: str) -> tuple[int | None, list[int]]:
        """Total of the first stage that begins so, and what was told."""
        place = next(n for n, (other, _) in enumerate(self.stages) if other.startswith(title))
        return self.stages[place][1], self.reached[place]


OWN_TASK = {"max_new_tokens": 4, "tasks": []}
STAGES = ("Loading weights", "Rendering the training rows", "Rendering the held-out questions",
          "Answers of the base model", "Losses of the reference answers",
          "Training the adapter", "Answers of the trained adapter")  # fmt: skip


def test_every_long_stage_of_a_run_has_a_total_and_reaches_it(tmp_path: Path) -> None:
    diary = Diary()
    run_recipe(small_config(tmp_path, evaluation=OWN_TASK), "small", watcher=diary)
    for title in STAGES:
        total, told = diary.of(title)
        assert total, title
        assert told[-1] == total, title
        assert told == sorted(told), title
    order = [title for title, _ in diary.stages]
    assert order[0].startswith("Loading ")
    assert order[-1] == "Comparing the answers, writing the report"


def test_answers_that_were_there_before_an_interruption_are_told_at_once(tmp_path: Path) -> None:
    config = small_config(tmp_path, evaluation=OWN_TASK)
    with pytest.raises(KeyboardInterrupt):
        run_recipe(config, "small", watcher=Interrupter("Answers of the base model", 2))
    diary = Diary()
    run_recipe(config, "small", resume=True, watcher=diary)
    total, told = diary.of("Answers of the base model")
    assert (total, told[0], told[-1]) == (4, 2, 4)


def test_a_log_of_a_run_tells_stages_counts_and_times(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["train", str(write_recipe(tmp_path)), "evaluation.tasks=[]"])
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert "- Training the adapter (6)" in lines
    (last,) = [line for line in lines if line.startswith("  6/6  loss ")]
    assert re.search(r" tokens/s  \d+:\d\d gone$", last)


def test_a_short_look_at_data_says_nothing_of_its_progress(tmp_path: Path) -> None:
    data = write_rows(tmp_path / "rows.jsonl", ROWS)
    done = CliRunner().invoke(app, ["data", "inspect", str(data), "--split", "train"])
    assert done.exit_code == 0, done.output
    assert done.stderr == ""
