"""Numbers go to metrics.jsonl whatever happens, and to W&B beside it without a key."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.small_runs import hide_package
from thinktune.errors import ConfigError, RunError
from thinktune.tracking import Report, Tracker, keep_records, read_metrics, require_trackers


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
        "print('wandb' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


WANDB_RUN = """
import socket, sys
from pathlib import Path
from thinktune.tracking import Report, Tracker

connect = socket.socket.connect
def only_here(self, address):
    if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "::1", "localhost"):
        raise AssertionError(f"connects to {address}")
    return connect(self, address)
socket.socket.connect = only_here

first = int(sys.argv[2])
folder = Path(sys.argv[1])
tracker = Tracker(
    folder, report_to=[Report.WANDB], name="mine", settings={"seed": 3}, resume_step=first - 1
)
for step in range(first, first + 2):
    tracker.log(step, {"train/loss": 1.0 / step})
print(tracker._wandb.id, tracker._wandb.settings.mode)
tracker.close()
"""


def run_wandb(folder: Path, first: int) -> tuple[str, str]:
    """Log two steps in a process of its own, without key, input or home."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB", "NETRC"))}
    environment |= {"HOME": str(folder), "WANDB_CACHE_DIR": str(folder / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", WANDB_RUN, str(folder / "run"), str(first)],
        capture_output=True,
        text=True,
        env=environment,
        stdin=subprocess.DEVNULL,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    run_id, mode = done.stdout.split()
    return run_id, mode


def test_wandb_writes_offline_without_a_key_and_a_resumed_run_is_the_same_run(
    tmp_path: Path,
) -> None:
    pytest.importorskip("wandb")
    first, mode = run_wandb(tmp_path, 1)
    again, _ = run_wandb(tmp_path, 3)
    assert mode == "offline"
    assert first == again == (tmp_path / "run" / "wandb_run_id").read_text()
    files = list((tmp_path / "run").rglob(f"run-{first}.wandb"))
    assert files
    assert all(b"train/loss" in path.read_bytes() for path in files)
    assert [record["step"] for record in read_metrics(tmp_path / "run")] == [1, 2, 3, 4]


def test_a_tracker_whose_package_is_missing_is_refused_before_the_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    require_trackers([])
    hide_package(monkeypatch, "wandb")
    with pytest.raises(ConfigError, match=r"pip install 'thinktune\[wandb\]'"):
        require_trackers([Report.WANDB])
