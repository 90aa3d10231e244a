"""What `thinktune runs` knows of a run: its state, numbers and curves, whole or damaged."""

import io
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from rich.console import Console, RenderableType

from thinktune.errors import RunError
from thinktune.metric_curves import MetricsReader, find_last, read_end, sample_losses
from thinktune.run_comparison import compare_runs
from thinktune.run_table import RunState, find_runs, read_run, read_runs
from thinktune.runs_view import comparison_view, list_view
from thinktune.terminal_chart import MARK, Series, chart
from thinktune.tracking import Tracker, keep_records

SETTINGS = {
    "base_model": "some/model",
    "lora": {"rank": 16},
    "data": {"train": "rows.jsonl"},
    "training": {"batch_size": 4, "num_train_epochs": 2.0, "max_steps": None},
    "output_dir": None,
}


def write_run(folder: Path, *, losses: list[float] | None = None, **facts: Any) -> Path:
    """A run's folder: its record, and its metrics as a tracker writes them."""
    folder.mkdir(parents=True)
    record = {
        "recipe": "mine",
        "created": "2026-11-24T10:00:00+00:00",
        "settings": SETTINGS,
        "data": {"num_train": 10},
    }
    (folder / "run.json").write_text(json.dumps(record | facts))
    if losses is not None:
        tracker = Tracker(folder)
        for step, loss in enumerate(losses, start=1):
            tracker.log(step, numbers(loss) | ({"heldout/loss": 2 * loss} if step == 2 else {}))
        tracker.close()
    return folder


def numbers(loss: float) -> dict[str, float]:
    return {"train/loss": loss, "train/num_tokens": 100, "train/step_seconds": 0.5}


def text_of(view: RenderableType, width: int) -> str:
    console = Console(width=width, record=True, file=io.StringIO())

    console.print(view)
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= width
    return text


def test_an_unfinished_run_is_interrupted_and_its_numbers_are_the_newest(tmp_path: Path):
    run = read_run(write_run(tmp_path / "a", losses=[3.0, 2.0, 1.5]))
    assert run.state is RunState.INTERRUPTED
    assert (run.steps_done, run.num_steps) == (3, 5)
    assert (run.loss, run.heldout_loss, run.tokens_per_second) == (1.5, 4.0, 200.0)
    assert run.losses == (3.0, 2.0, 1.5)
    assert run.started == datetime(2026, 11, 24, 10, tzinfo=UTC)
    assert run.problems == ()


def test_a_run_is_running_while_a_process_holds_its_lock_and_looking_takes_it_from_nobody(tmp_path):
    folder = write_run(tmp_path / "a")
    lock = FileLock(folder / "run.lock", timeout=0)
    with lock:
        assert read_run(folder).state is RunState.RUNNING
        assert read_run(folder).state is RunState.RUNNING
    assert read_run(folder).state is RunState.INTERRUPTED
    with lock:
        pass


def test_a_run_that_only_has_its_lock_is_running_and_not_damaged(tmp_path: Path):
    folder = tmp_path / "a"
    folder.mkdir()
    with FileLock(folder / "run.lock"):
        (run,) = read_runs([tmp_path])
        assert (run.state, run.problems) == (RunState.RUNNING, ())
    assert read_run(folder).state is RunState.DAMAGED


def test_a_trained_run_is_finished_unless_its_answers_are_half_done(tmp_path: Path):
    folder = write_run(tmp_path / "a", training={"num_steps": 5}, losses=[1.0] * 5)
    assert read_run(folder).state is RunState.FINISHED
    journal = folder / "evaluation" / "heldout" / "after.partial.jsonl"
    journal.parent.mkdir(parents=True)
    journal.write_text("")
    assert read_run(folder).state is RunState.INTERRUPTED


def test_a_failed_run_says_what_it_failed_with(tmp_path: Path):
    run = read_run(write_run(tmp_path / "a", failure="the loss is not finite"))
    assert (run.state, run.problems) == (RunState.FAILED, ("the loss is not finite",))


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("run.json", b"{", "run.json: not valid JSON"),
        ("run.json", b"\xff\xfe", "run.json: not valid JSON"),
        ("run.json", b"[" * 100_000, "run.json: not valid JSON"),
        ("run.json", b"[]", "run.json: not a JSON object"),
        ("run.json", b'{"settings": 3}', "run.json holds no settings"),
        (
            "metrics.jsonl",
            b'{"step": 1}\n{"st\n{"step": 3}\n',
            "metrics.jsonl: a line near its end",
        ),
        ("metrics.jsonl", b"[1]\n", "metrics.jsonl: a line near its end"),
        ("evaluation/comparison.json", b"", "comparison.json: not valid JSON"),
    ],
)
def test_a_damaged_file_is_named_and_the_rest_is_shown(tmp_path, name, content, told):
    folder = write_run(tmp_path / "a", losses=[1.0])
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(content)
    (run,) = read_runs([tmp_path])
    (problem,) = run.problems
    assert problem.startswith(told)
    assert (run.state is RunState.DAMAGED) == (name == "run.json")
    assert told[:40] in text_of(list_view([run], width=80), 80)


@pytest.mark.parametrize("wrong", [None, 3, "x", [1], {"last": 1, "num_steps": "x"}])
@pytest.mark.parametrize("name", ["training", "data", "created", "recipe", "verdict", "failure"])
def test_a_record_with_anything_in_any_place_is_listed(tmp_path: Path, name: str, wrong: object):
    run = read_run(write_run(tmp_path / "a", losses=[1.0], **{name: wrong}))
    assert "a" in text_of(list_view([run], width=200), 200)
    json.dumps(run.to_plain(), allow_nan=False)


def test_lost_metrics_of_a_trained_run_are_a_problem(tmp_path: Path):
    run = read_run(write_run(tmp_path / "a", training={"num_steps": 5}))
    assert (run.problems, run.steps_done) == (("no metrics.jsonl",), 5)


def test_runs_are_found_in_folders_once_and_the_newest_is_first(tmp_path: Path):
    old = write_run(tmp_path / "runs" / "b", created="2026-11-24T10:00:00+00:00")
    new = write_run(tmp_path / "runs" / "a", created="2026-11-24T12:00:00+02:00")
    last = write_run(tmp_path / "c", created="2026-11-25T00:00:00+00:00")
    (tmp_path / "runs" / "no-run").mkdir()
    runs = read_runs([tmp_path / "runs", last, old])
    assert [run.path for run in runs] == [last, old, new]
    with pytest.raises(RunError, match="no such folder"):
        find_runs([tmp_path / "nothing"])
    with pytest.raises(RunError, match="neither a run nor a folder with runs"):
        find_runs([tmp_path / "runs" / "no-run"])


def test_a_reader_takes_in_only_what_is_new_and_waits_for_the_end_of_a_line(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    reader = MetricsReader(path)
    assert reader.read() is False
    path.write_bytes(b'{"step": 1, "train/loss": 3.0}\n{"step": 2, "train/lo')
    assert reader.read() is True
    assert reader.train == {1: 3.0}
    assert reader.read() is False
    with path.open("ab") as file:
        file.write(b'ss": 2.0, "heldout/loss": 2.5}\n{"step"')
    assert reader.read() is True
    assert (reader.train, reader.heldout) == ({1: 3.0, 2: 2.0}, {2: 2.5})
    assert reader.num_damaged == 0


def test_a_reader_forgets_the_steps_that_a_resumed_run_makes_again(tmp_path: Path):
    folder = write_run(tmp_path / "a", losses=[5.0, 4.0, 3.0, 2.0])
    reader = MetricsReader(folder / "metrics.jsonl")
    reader.read()
    tracker = Tracker(folder, resume_step=2)
    for step in range(3, 9):  # by now the file is longer than it was
        tracker.log(step, numbers(9.0))
    tracker.close()
    assert reader.read() is True
    assert reader.train == {1: 5.0, 2: 4.0} | dict.fromkeys(range(3, 9), 9.0)
    keep_records(reader.path, 1)
    reader.read()
    assert (reader.train, reader.heldout) == ({1: 5.0}, {})
    reader.path.unlink()
    assert reader.read() is True
    assert reader.train == {}


def test_a_loss_that_is_no_number_is_left_out_of_the_curve(tmp_path: Path):
    folder = write_run(tmp_path / "a", losses=[2.0, float("nan"), 1.0])
    reader = MetricsReader(folder / "metrics.jsonl")
    reader.read()
    assert reader.train == {1: 2.0, 3: 1.0}
    assert sample_losses(reader.path) == [2.0, 1.0]


def test_the_end_and_a_sample_of_a_long_file_are_those_of_the_whole(tmp_path: Path):
    losses = [10 / step + 1e-5 for step in range(1, 5001)]
    folder = write_run(tmp_path / "a", losses=losses)
    path = folder / "metrics.jsonl"
    assert read_end(path).newest["step"] == 5000
    assert len(read_end(path).train) < 500
    sampled = sample_losses(path, num=20)
    assert len(sampled) == 20
    assert sampled[1:] == sorted(sampled[1:], reverse=True)
    assert sampled[10] == pytest.approx(losses[2500], rel=0.1)
    assert find_last(path, "heldout/loss") == 2 * losses[1]
    assert find_last(path, "heldout/loss", within=10_000) is None
    assert find_last(path, "nothing") is None


def test_a_comparison_has_what_differs_and_nothing_else(tmp_path: Path):
    other = SETTINGS | {"lora": {"rank": 32}, "output_dir": "elsewhere", "new": [1, 2]}
    a = write_run(tmp_path / "a", losses=[3.0, 2.0], versions={"torch": "2.12"}, device="cpu")
    b = write_run(
        tmp_path / "b", losses=[3.0], settings=other, versions={"torch": "2.13"}, device="cpu",
        data={"num_train": 10, "dropped": ["x row 1"]}, created="2026-11-25T10:00:00+00:00",
    )  # fmt: skip
    compared = compare_runs([a, b])
    assert compared.differences == {
        "settings": {"lora.rank": [16, 32], "new": ["-", [1, 2]]},
        "data": {"dropped": ["-", 1]},
        "versions": {"torch": ["2.12", "2.13"]},
    }
    assert [each.train for each in compared.metrics] == [{1: 3.0, 2: 2.0}, {1: 3.0}]
    shown = text_of(comparison_view(compared, width=80), 80)
    assert "versions torch" in shown
    assert "lora.rank" in shown
    same = compare_runs([a, a])
    assert same.differences == {}
    assert "The same settings" in text_of(comparison_view(same, width=80), 80)


def test_damaged_runs_and_too_many_are_not_compared(tmp_path: Path):
    runs = [write_run(tmp_path / str(number)) for number in range(9)]
    with pytest.raises(RunError, match="9 runs are too many"):
        compare_runs(runs)
    (runs[1] / "run.json").write_text("{")
    with pytest.raises(RunError, match=r"1: run\.json: not valid JSON"):
        compare_runs(runs[:2])
    (runs[2] / "evaluation").mkdir()
    (runs[2] / "evaluation" / "comparison.json").write_text('{"tasks": {"x": {}}}')
    with pytest.raises(RunError, match=r"2: comparison\.json is not as .* have it made again"):
        compare_runs([runs[0], runs[2]])


@pytest.mark.parametrize("width", [40, 80, 120, 200])
def test_every_run_stands_on_a_list_of_any_width(tmp_path: Path, width: int):
    for number in range(3):
        write_run(tmp_path / f"run-{number}", losses=[3.0, 2.0, 1.0])
    shown = text_of(list_view(read_runs([tmp_path]), width=width), width)
    assert all(f"run-{number}" in shown for number in range(3))
    assert ("some/model" in shown) == (width == 200)


def test_a_falling_curve_falls_on_the_chart_with_its_ends_on_the_axes():
    curve = {step: 4.0 - step / 100 for step in range(1, 301)}
    lines = chart([Series("A", "cyan", curve, {300: 2.0})], width=60, height=10).plain.split("\n")
    drawn = [line[line.index(line.lstrip("0123456789. ")[0]) + 1 :] for line in lines[:10]]
    starts = [len(line) - len(line.lstrip()) for line in drawn if line.strip()]
    assert starts == sorted(starts)
    assert starts[0] == 0
    assert drawn[-1].rstrip().endswith("A")
    assert sum(line.count(MARK) for line in lines) == 1
    assert lines[-1].split() == ["step", "1", "300"]
    assert max(map(len, lines)) <= 60


@pytest.mark.parametrize("values", [[1.0], [0.0, 0.0], [1e-9, 2e-9], [1e9, -1e9], [5.0, 5.0, 5.1]])
def test_any_values_have_a_chart_with_an_axis(values: list[float]):
    curve = dict(enumerate(values))
    drawn = chart([Series("A", "cyan", curve, {})], width=30, height=5).plain
    assert "┤" in drawn
    assert any("\u2800" < sign <= "\u28ff" for sign in drawn)
