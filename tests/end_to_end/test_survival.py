"""A run that is killed, stopped or out of room loses nothing that was saved, and says what is."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.small_runs import small_settings, without_timing, write_recipe, write_rows
from tests.survivors import KILLED, Nursery
from thinktune.tracking import read_metrics, read_records

TRAINING = {"batch_size": 3, "max_steps": 6, "eval_steps": 2, "save_steps": 1, "sample_steps": 3}
ROOM = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-ec"]


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    """One for all: it imports everything once."""
    with Nursery() as nursery:
        yield nursery


def settings_of(folder: Path) -> dict[str, Any]:
    folder.mkdir(exist_ok=True)
    return small_settings(folder, training=TRAINING, evaluation={"max_new_tokens": 3, "tasks": []})


def outcome_of(run: Path) -> dict[str, Any]:
    """All that a run comes to, but for times."""
    answers = {
        side: read_records(run / f"evaluation/rows/{side}.jsonl") for side in ("before", "after")
    }
    for records in answers.values():
        ids = [json.dumps(record.get("id", record.get("key", record))) for record in records]
        assert len(set(ids)) == len(ids), "an answer was written down twice"
    looks = [(record["step"], record["id"]) for record in read_records(run / "samples.jsonl")]
    assert len(set(looks)) == len(looks), "a look at the model was written down twice"
    training = json.loads((run / "run.json").read_text())["training"]
    training.pop("train_seconds")
    return {
        "metrics": without_timing(read_metrics(run)),
        "adapter": (run / "adapter" / "adapter_model.safetensors").read_bytes(),
        "answers": answers,
        "looks": looks,
        "training": training,
        "tasks": json.loads((run / "evaluation" / "comparison.json").read_text())["tasks"],
        "checkpoints": sorted(path.name for path in (run / "checkpoints").iterdir()),
    }


@pytest.fixture(scope="module")
def whole(
    nursery: Nursery, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Any], dict[str, Any]]:
    """How long the uninterrupted run takes, and what it comes to."""
    folder = tmp_path_factory.mktemp("whole")
    result = nursery.run("train", settings_of(folder))
    assert result["status"] == 0
    return result, outcome_of(folder / "run")


def test_a_run_killed_at_thirty_moments_is_bit_for_bit_the_run_that_was_not(
    nursery: Nursery, tmp_path: Path, whole: tuple[dict[str, Any], dict[str, Any]]
) -> None:
    settings, (length, wanted) = settings_of(tmp_path), whole
    moments, kills, runs = random.Random(7), 0, 0
    while kills < 30:
        runs += 1
        assert runs < 40, "hardly a process lived long enough to be killed"
        run = tmp_path / f"run-{runs}"
        settings["output_dir"] = str(run)
        for _ in range(3):  # killed again and again on its way to the end
            if moments.random() < 0.5:
                when = {"seconds": moments.uniform(0, length["seconds"])}
            else:  # in the middle of making a file safe
                when = {"call": moments.randint(1, length["calls"])}
            kills += nursery.run("train", settings, **when)["status"] == KILLED
        assert nursery.run("train", settings)["status"] == 0
        assert outcome_of(run) == wanted
        shutil.rmtree(run)


VERBS = {
    "clean": ["--fix", "whitespace", "--out", "out.jsonl"],
    "convert": ["--out", "out.jsonl"],
    "dedup": ["--out", "out.jsonl"],
    "split": ["--heldout", "0.2", "--out", "parts"],
}


@pytest.mark.parametrize("verb", VERBS)
def test_data_that_is_made_is_there_whole_or_not_at_all(
    nursery: Nursery, tmp_path: Path, verb: str
) -> None:
    rows = [{"question": f"Q{n} of {n % 89}?", "answer": f"A{n}"} for n in range(3000)]
    source = write_rows(tmp_path / "rows.jsonl", [row | {"reasoning": "R"} for row in rows])
    *options, out = VERBS[verb]

    def made(name: str, **when: Any) -> tuple[dict[str, Any], dict[str, bytes]]:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        arguments = ["data", verb, str(source), *options, str(folder / out), "--force"]
        result = nursery.run("command", arguments, **when)
        found = (path for path in folder.rglob("*.jsonl") if not path.name.startswith("."))
        return result, {str(path.relative_to(folder)): path.read_bytes() for path in found}

    whole, wanted = made("whole")
    assert whole["status"] == 0
    assert wanted
    moments, killed = random.Random(verb), 0
    for number in range(6):
        when = {"seconds": moments.uniform(0, whole["seconds"])}
        if number % 2:
            when = {"call": moments.randint(1, whole["calls"])}
        result, found = made("killed", **when)
        killed += result["status"] == KILLED
        assert all(content == wanted[name] for name, content in found.items()), "half a file"
    assert killed >= 2
    assert made("killed")[1] == wanted


def start(folder: Path, *arguments: str, **training: Any) -> subprocess.Popen[str]:
    """A run as a user starts it."""
    recipe = write_recipe(
        folder, training=TRAINING | {"sample_steps": None, "save_steps": None} | training
    )
    command = [sys.executable, "-m", "thinktune", "train", str(recipe), "--no-compare", *arguments]
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command, stdout=pipe, stderr=pipe, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )


def wait_for_steps(run: Path, steps: int) -> None:
    until = time.monotonic() + 120
    while len(read_metrics(run)) < steps:
        assert time.monotonic() < until, "the run does not get on"
        time.sleep(0.02)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_the_step_under_way_and_the_same_command_goes_on(
    tmp_path: Path, number: int, code: int
) -> None:
    process, run = start(tmp_path, max_steps=200), tmp_path / "run"
    wait_for_steps(run, 3)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert "Stopping: what is under way is finished and saved first" in err
    assert "Traceback" not in err
    done = read_metrics(run)[-1]["step"]
    assert done < 200
    told = " ".join(out.split())
    assert f"saved after step {done}: the same command with --resume auto goes on" in told
    assert (run / "checkpoints" / f"step-{done:06d}" / "manifest.json").is_file()
    again = start(tmp_path, "--resume", "auto", max_steps=200)
    out, err = again.communicate(timeout=120)
    assert again.returncode == 0, err
    assert f"goes on after step {done}" in " ".join(out.split())
    assert [record["step"] for record in read_metrics(run)] == list(range(1, 201))


def test_a_second_signal_ends_at_once() -> None:
    code = (
        "import time\\nfrom thinktune.interruption import held, interruptible\\n"
        "with interruptible(), held():\\n    print('in', flush=True)\\n    time.sleep(60)\\n"
    ).replace("\\n", "\n")
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout
    assert process.stderr
    process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    process.stderr.readline()
    assert "once more ends at once" in process.stderr.readline()
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == -signal.SIGTERM
    process.communicate()


def test_a_run_folder_in_use_is_refused(tmp_path: Path) -> None:
    first = start(tmp_path, max_steps=400)
    wait_for_steps(tmp_path / "run", 1)
    second = start(tmp_path, "--resume", "auto", max_steps=400)
    _, err = second.communicate(timeout=60)
    first.kill()
    first.communicate()
    assert second.returncode == 2
    assert "another process is at work in this run folder" in err


def in_a_small_room(
    folder: Path, script: str, size: str = "8m"
) -> subprocess.CompletedProcess[str]:
    """Run a shell script with a file system of its own, so large, at ROOM; no root needed."""
    room = folder / "room"
    room.mkdir()
    mount = f"mount -t tmpfs -o size={size} tmpfs {room} && cd {folder} && ROOM={room}\n"
    probe = subprocess.run([*ROOM, mount], capture_output=True, text=True)
    if probe.returncode:
        pytest.skip(f"no file system can be mounted here: {probe.stderr.strip()}")
    recipe = write_recipe(folder, training=TRAINING | {"sample_steps": None, "max_steps": 120})
    train = (
        f"{sys.executable} -m thinktune train {recipe} output_dir=$ROOM/run --no-compare "
        "--resume auto"
    )
    command = f"{mount}train() {{ {train} 2>&1; }}\n{script}"
    return subprocess.run(
        [*ROOM, command], capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )


def test_a_full_disk_ends_the_run_with_what_is_saved_and_what_to_do(tmp_path: Path) -> None:
    done = in_a_small_room(
        tmp_path,
        "(while [ ! -s $ROOM/run/metrics.jsonl ]; do sleep 0.02; done; "
        "dd if=/dev/zero of=$ROOM/filler bs=1k 2>/dev/null) &\n"
        "train && echo no error || echo code $?\nwait\nrm $ROOM/filler\ntrain\necho went on",
    )
    told = " ".join(done.stdout.split())
    assert "code 2" in told, told
    assert "No space left on device" in told
    assert "with --resume auto goes on" in told
    assert "Traceback" not in told
    assert told.endswith("went on"), told


def test_a_disk_too_small_for_the_checkpoints_is_told_before_the_first_step(tmp_path: Path) -> None:
    done = in_a_small_room(tmp_path, "train || echo code $?", size="100k")
    told = " ".join(done.stdout.split())
    assert "checkpoints, the best and the adapter need" in told
    assert "name another output_dir" in told
    assert "code 2" in told


def test_a_folder_that_cannot_be_written_is_named_with_the_way_out(tmp_path: Path) -> None:
    script = "mkdir $ROOM/run; mount -o remount,ro $ROOM; train || echo code $?"
    told = " ".join(in_a_small_room(tmp_path, script).stdout.split())
    assert "run: cannot be written (Read-only file system); name another folder" in told
    assert "code 2" in told


def test_a_clock_that_goes_back_changes_nothing(
    nursery: Nursery, tmp_path: Path, whole: tuple[dict[str, Any], dict[str, Any]]
) -> None:
    settings = settings_of(tmp_path)
    assert nursery.run("train", settings, call=60)["status"] == KILLED
    tomorrow = time.time() + 86400
    for path in (tmp_path / "run").rglob("*"):
        os.utime(path, (tomorrow, tomorrow))
    assert nursery.run("train", settings)["status"] == 0
    assert outcome_of(tmp_path / "run") == whole[1]
