"""Numbers go to metrics.jsonl whatever happens to the trackers beside it."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.small_runs import hide_package, small_config, without_timing
from thinktune.errors import ConfigError, RunError
from thinktune.pipeline import run_recipe
from thinktune.trackers.identity import recall, remember
from thinktune.trackers.redaction import without_secrets
from thinktune.trackers.relay import CAPACITY, Backend, Delivery, Numbers, Rows, Start, Value
from thinktune.tracking import (
    TRACKERS,
    Report,
    Silence,
    Tracker,
    keep_records,
    read_metrics,
    require_trackers,
)


def write_steps(folder: Path, first: int, last: int) -> None:
    tracker = Tracker(folder, resume_step=first - 1)
    for step in range(first, last + 1):
        tracker.log(step, {"train/loss": 1.0 / step, "train/num_tokens": step})
    tracker.close()


def test_every_step_is_one_line_that_reads_back_as_it_was(tmp_path: Path) -> None:
    write_steps(tmp_path, 1, 3)
    assert read_metrics(tmp_path) == [
        {"step": step, "train/loss": 1.0 / step, "train/num_tokens": step} for step in (1, 2, 3)
    ]


def test_a_step_is_on_disk_before_the_next_one_begins(tmp_path: Path) -> None:
    tracker = Tracker(tmp_path)
    tracker.log(1, {"train/loss": 2.5})
    assert read_metrics(tmp_path) == [{"step": 1, "train/loss": 2.5}]
    tracker.close()


def test_a_resumed_run_drops_what_it_will_make_again_and_keeps_the_rest(tmp_path: Path) -> None:
    write_steps(tmp_path, 1, 5)
    whole = (tmp_path / "metrics.jsonl").read_bytes()
    write_steps(tmp_path, 4, 5)
    assert (tmp_path / "metrics.jsonl").read_bytes() == whole


def test_a_new_run_has_no_numbers_of_an_old_one(tmp_path: Path) -> None:
    write_steps(tmp_path, 1, 5)
    Tracker(tmp_path).close()
    assert read_metrics(tmp_path) == []


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), None])
def test_a_number_that_json_cannot_hold_is_null(tmp_path: Path, value: float | None) -> None:
    tracker = Tracker(tmp_path)
    tracker.log(1, {"a": value, "b": "text", "c": 2})
    tracker.close()
    line = (tmp_path / "metrics.jsonl").read_text()
    assert json.loads(line, parse_constant=pytest.fail) == {
        "step": 1,
        "a": None,
        "b": "text",
        "c": 2,
    }


@pytest.mark.parametrize("torn", ['{"step": 4, "train/lo', "{", '{"step": 4, "a": "\xe7'])
def test_a_last_line_that_a_power_failure_cut_off_is_made_again(tmp_path: Path, torn: str) -> None:
    write_steps(tmp_path, 1, 3)
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(torn.encode("latin-1"))
    assert [record["step"] for record in read_metrics(tmp_path)] == [1, 2, 3]
    write_steps(tmp_path, 4, 4)
    assert [record["step"] for record in read_metrics(tmp_path)] == [1, 2, 3, 4]


def test_a_damaged_line_in_the_middle_is_named(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"st\n{"step": 3}\n')
    with pytest.raises(RunError, match=r"metrics\.jsonl line 2: damaged"):
        read_metrics(tmp_path)


def test_keeping_records_of_a_file_that_is_not_there_makes_none(tmp_path: Path) -> None:
    keep_records(tmp_path / "samples.jsonl", 3)
    assert list(tmp_path.iterdir()) == []


def test_records_keep_text_in_any_script(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    text = "".join(f'{{"step": {n}, "completion": "發燒\u2028\\n{n}"}}\n' for n in (1, 2))
    path.write_text(text, encoding="utf-8")
    keep_records(path, 2)
    assert path.read_text(encoding="utf-8") == text


def test_nobody_asked_means_no_tracker_package_is_imported(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from thinktune.tracking import Tracker; "
        f"t = Tracker(Path({str(tmp_path)!r})); t.log(1, {{'a': 1.0}}); t.close(); "
        "print({'wandb', 'tensorboard', 'mlflow', 'trackio', 'torch'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


class Kept:
    """A tracker that takes everything."""

    def __init__(self, start: Start) -> None:
        self.settings = start.settings
        self.taken: list[tuple[Any, ...]] = [("history", *h) for h in start.history]

    def log(self, step: int, metrics: Numbers) -> None:
        self.taken.append(("log", step, dict(metrics)))

    def samples(self, step: int, rows: Rows) -> None:
        self.taken.append(("samples", step, [dict(row) for row in rows]))

    def artifact(self, path: Path) -> None:
        self.taken.append(("artifact", path))

    def summary(self, step: int, values: Mapping[str, Value]) -> None:
        self.taken.append(("summary", step, dict(values)))

    def close(self, *, failed: bool) -> None:
        self.taken.append(("close", failed))


class Sleeper(Kept):
    """A tracker that does not come back from its first record."""

    def log(self, step: int, metrics: Numbers) -> None:
        threading.Event().wait()


class SleepsAtStart(Kept):
    """A tracker that cannot be opened, and does not say so."""

    def __init__(self, start: Start) -> None:
        threading.Event().wait()


class SleepsAtEnd(Kept):
    """A tracker that takes everything and does not let go."""

    def close(self, *, failed: bool) -> None:
        threading.Event().wait()


class Raiser(Kept):
    """A tracker that fails at each call."""

    def log(self, step: int, metrics: Numbers) -> None:
        raise ConnectionError("no route to https://me:hunter22@host/?api_key=abcdef")

    def close(self, *, failed: bool) -> None:
        raise OSError("no space left")


class Leaver(Kept):
    """A tracker that ends its process, as command line tools do."""

    def log(self, step: int, metrics: Numbers) -> None:
        sys.exit("please log in")


class RaisesAtStart(Kept):
    """A tracker that cannot be opened."""

    def __init__(self, start: Start) -> None:
        raise PermissionError("no key")


class Listener(Silence):
    """A watcher that remembers what it is told, and by which thread."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.threads: set[int] = set()

    def say(self, text: str) -> None:
        self.said.append(text)
        self.threads.add(threading.get_ident())


def use(monkeypatch: pytest.MonkeyPatch, backend: Callable[[Start], Backend]) -> Listener:
    monkeypatch.setitem(TRACKERS, Report.WANDB, backend)
    return Listener()


@pytest.mark.parametrize("backend", [Sleeper, SleepsAtStart, SleepsAtEnd])
def test_a_tracker_that_hangs_holds_a_run_up_for_no_longer_than_there_is_patience(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: type[Kept]
) -> None:
    listener = use(monkeypatch, backend)
    begun = time.monotonic()
    tracker = Tracker(tmp_path, report_to=[Report.WANDB], watcher=listener, patience=0.3)
    for step in range(1, 21):
        tracker.log(step, {"train/loss": 1.0})
    logged = time.monotonic()
    delivery = tracker.close()["wandb"]
    assert time.monotonic() - logged < 3
    assert logged - begun < 3
    assert (delivery.sent, delivery.dropped) == ((20, 0) if backend is SleepsAtEnd else (0, 20))
    assert "left alone" in str(delivery.error)
    assert len(read_metrics(tmp_path)) == 20
    assert sum("left alone" in text for text in listener.said) == 1
    assert listener.threads == {threading.get_ident()}


def test_trackers_that_hang_share_the_patience(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for report in Report:
        monkeypatch.setitem(TRACKERS, report, Sleeper)
    tracker = Tracker(tmp_path, report_to=list(Report), patience=1)
    tracker.log(1, {"train/loss": 1.0})
    begun = time.monotonic()
    delivered = tracker.close()
    assert time.monotonic() - begun < 3
    assert list(delivered) == [report.value for report in Report]


def test_what_a_full_queue_refuses_is_counted_and_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listener = use(monkeypatch, Sleeper)
    tracker = Tracker(tmp_path, report_to=[Report.WANDB], watcher=listener, patience=0.1)
    for step in range(1, CAPACITY + 101):
        tracker.log(step, {"train/loss": 1.0})
    said_meanwhile = list(listener.said)
    delivery = tracker.close()["wandb"]
    assert delivery.dropped == CAPACITY + 100
    assert len(said_meanwhile) == 1
    assert "further are dropped" in said_meanwhile[0]
    assert listener.said[1:] == [
        f"wandb: {CAPACITY + 100} of {CAPACITY + 100} records did not get there."
    ]
    assert [r["step"] for r in read_metrics(tmp_path)] == list(range(1, CAPACITY + 101))


@pytest.mark.parametrize(
    ("backend", "error", "sent"),
    [
        (Raiser, "ConnectionError: no route to https://***@host/?api_key=***", 1),
        (RaisesAtStart, "PermissionError: no key", 0),
        (Leaver, "SystemExit: please log in", 1),
    ],
)
def test_a_tracker_that_fails_costs_its_own_records_and_is_named_once_without_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: type[Kept], error: str, sent: int
) -> None:
    listener = use(monkeypatch, backend)
    tracker = Tracker(tmp_path, report_to=[Report.WANDB], watcher=listener, patience=5)
    for step in range(1, 11):
        tracker.log(step, {"train/loss": 1.0})
    tracker.summary({"verdict": "better"})
    assert tracker.close()["wandb"] == Delivery(sent, 11 - sent, error)
    assert listener.said == [
        f"report_to=[wandb]: {error}. The run goes on; metrics.jsonl is whole.",
        f"wandb: {11 - sent} of 11 records did not get there.",
    ]
    assert len(read_metrics(tmp_path)) == 10


def test_a_whole_run_is_the_same_with_a_tracker_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = []
    use(monkeypatch, Raiser)
    for name, report_to in (("without", []), ("with", ["wandb"])):
        (tmp_path / name).mkdir()
        config = small_config(tmp_path / name, report_to=report_to)
        runs.append(run_recipe(config, "small", compare_after=False).folder)
    without, with_it = (without_timing(read_metrics(folder)) for folder in runs)
    assert without == with_it
    assert len(without) >= 6


def test_a_tracker_gets_finite_numbers_samples_folder_and_verdict_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Kept] = []

    def opener(start: Start) -> Kept:
        made.append(Kept(start))
        return made[-1]

    use(monkeypatch, opener)
    settings = {"seed": 3, "evaluation": {"judge": {"url": "http://a:b@c/v1", "api_key": "x"}}}
    tracker = Tracker(tmp_path, report_to=[Report.WANDB], settings=settings)
    tracker.log(1, {"train/loss": 2.0, "a": float("nan"), "b": None, "c": "text", "d": 3})
    tracker.samples([])
    tracker.samples([{"id": "x", "before": "Bearer abcdefgh12", "after": "flu"}])
    tracker.artifact(tmp_path / "adapter")
    tracker.summary({"verdict": "better", "pass_at_1": 0.5})
    assert tracker.close(failed=True)["wandb"] == Delivery(4, 0, None)
    (kept,) = made
    assert kept.settings == {
        "seed": 3,
        "evaluation": {"judge": {"url": "http://***@c/v1", "api_key": "***"}},
    }
    assert kept.taken == [
        ("log", 1, {"train/loss": 2.0, "d": 3}),
        ("samples", 1, [{"id": "x", "before": "Bearer ***", "after": "flu"}]),
        ("artifact", tmp_path / "adapter"),
        ("summary", 1, {"verdict": "better", "pass_at_1": 0.5}),
        ("close", True),
    ]


def test_a_resumed_run_tells_a_tracker_what_it_kept_and_not_what_it_makes_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts: list[Start] = []
    logged: list[int] = []

    class Noting(Kept):
        def __init__(self, start: Start) -> None:
            starts.append(start)

        def log(self, step: int, metrics: Numbers) -> None:
            logged.append(step)

        def close(self, *, failed: bool) -> None:
            pass

    use(monkeypatch, Noting)
    write_steps(tmp_path, 1, 5)
    tracker = Tracker(tmp_path, report_to=[Report.WANDB], resume_step=3)
    tracker.log(4, {"train/loss": 0.25})
    assert tracker.close()["wandb"] == Delivery(1, 0, None)
    assert logged == [1, 2, 3, 4]
    assert starts[0].history[2] == (3, {"train/loss": 1 / 3, "train/num_tokens": 3})


def test_the_identity_of_a_run_is_kept_for_each_tracker(tmp_path: Path) -> None:
    assert recall(tmp_path) == {}
    remember(tmp_path, "wandb", "ab12")
    remember(tmp_path, "mlflow", "cd34")
    remember(tmp_path, "wandb", "ef56")
    assert recall(tmp_path) == {"wandb": "ef56", "mlflow": "cd34"}
    (tmp_path / "trackers.json").write_text("{")
    with pytest.raises(RunError, match=r"trackers\.json: damaged; remove it"):
        recall(tmp_path)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://me:pw@host/v1", "https://***@host/v1"),
        ("postgresql://me:pw@db:5432/x", "postgresql://***@db:5432/x"),
        ("https://host/f?X-Amz-Signature=ab&a=1", "https://host/f?X-Amz-Signature=***&a=1"),
        ("Authorization: Bearer abc.def-123", "Authorization: Bearer ***"),
        ("hf_" + "a" * 30, "***"),
        ("it is sk-" + "a" * 30 + ".", "it is ***."),
        ("the key is swordfish", "the key is ***"),
        ("max_tokens=4096, a fever of 39", "max_tokens=4096, a fever of 39"),
        ("mail me@host", "mail me@host"),
    ],
)
def test_secrets_are_taken_out_and_the_rest_stays(
    monkeypatch: pytest.MonkeyPatch, text: str, shown: str
) -> None:
    monkeypatch.setenv("MY_API_KEY", "swordfish")
    monkeypatch.setenv("OTHER_TOKEN", "39")  # too short to be told from ordinary text
    assert without_secrets(text) == shown
    assert without_secrets({"a": [text, 4]}) == {"a": [shown, 4]}


def test_settings_with_a_secrets_name_are_hidden_and_others_are_not() -> None:
    settings = {
        "api_key": "x",
        "hub.token": "y",
        "max_tokens": "7",
        "key": 3,
        "stop_token_ids": [1],
    }
    assert without_secrets(settings) == settings | {"api_key": "***", "hub.token": "***"}


@pytest.mark.parametrize("report", list(Report))
def test_a_tracker_whose_package_is_missing_is_refused_before_the_run(
    monkeypatch: pytest.MonkeyPatch, report: Report
) -> None:
    require_trackers([])
    hide_package(monkeypatch, report.value)
    with pytest.raises(ConfigError, match=rf"pip install 'thinktune\[{report}\]'"):
        require_trackers([report])
