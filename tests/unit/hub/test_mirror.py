"""A mirrored run is current, one commit a push, and is never stopped by the Hub."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.hub_server import HubServer
from tests.unit.hub.mirrored_runs import (
    COMMIT,
    LOOK,
    REPO,
    TOKEN,
    Notes,
    add_adapter,
    add_checkpoint,
    content,
    point_to,
    push_once,
    steps_of,
    wait_until,
)
from thinktune.hub.mirror import HubMirror
from thinktune.hub.repository import fetch, require_hub
from thinktune.run_folder import RunFolder

# The library's upload of a large file without Xet storage.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


def test_a_pushed_run_comes_back_with_the_same_bytes(
    hub: HubServer, run: RunFolder, tmp_path: Path
) -> None:
    add_adapter(run.path)
    push_once(run)
    assert fetch(REPO, tmp_path / "new" / "run")
    strays = (".step-000200.9.part/state.json", "wandb/run-1/files.yaml", "run.lock", "core")
    expected = {name: data for name, data in content(run.path).items() if name not in strays}
    assert content(tmp_path / "new" / "run") == expected
    assert len(expected) == 10
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["run"]


def test_a_repository_is_made_private_and_each_push_is_one_commit(
    hub: HubServer, run: RunFolder
) -> None:
    mirror = HubMirror(REPO, run, Notes())
    for step in (200, 300):
        mirror.push()
        done = step // 100 - 1
        wait_until(lambda done=done: mirror.num_pushed == done)
        add_checkpoint(run.path, step)
    mirror.push()
    mirror.close(10)
    assert [(body["organization"], body["name"]) for body in hub.created] == [("someone", "a-run")]
    assert hub.repos[REPO].is_private
    titles = [commit.title for commit in hub.repos[REPO].commits[1:]]
    assert titles == ["Thinktune: step 100", "Thinktune: step 200", "Thinktune: step 300"]
    for commit, step in zip(hub.repos[REPO].commits[1:], (100, 200, 300), strict=True):
        newest = {n for n in commit.files if n.startswith(f"checkpoints/step-{step:06d}/")}
        assert len(newest) == 4


def test_while_a_push_is_under_way_only_the_newest_waits(hub: HubServer, run: RunFolder) -> None:
    gate = hub.hold(COMMIT)
    mirror = HubMirror(REPO, run, Notes())
    mirror.push()
    wait_until(lambda: hub.count(COMMIT) == 1)
    for step in (200, 300, 400):
        add_checkpoint(run.path, step)
        mirror.push()
    shutil.rmtree(run.checkpoints / "step-000100")  # though it is being pushed
    shutil.rmtree(run.checkpoints / "step-000200")
    gate.set()
    mirror.close(10)
    first, second = hub.repos[REPO].commits[1:]
    assert first.title.endswith("step 100")
    assert second.title.endswith("step 400")
    assert steps_of(hub) == {"step-000300", "step-000400"}
    assert (mirror.num_pushed, mirror.num_failed) == (2, 0)


@pytest.mark.parametrize(
    ("pattern", "status", "expected"),
    [
        (LOOK, 401, "the Hub does not accept the token (401)"),
        ("repos/create", 403, "the token may not write there (403)"),
        (COMMIT, 403, "the token may not write there (403)"),
        (COMMIT, 429, "the Hub asks for fewer requests (429)"),
        (COMMIT, 412, "the Hub answers 412"),
        (COMMIT, 500, "the Hub answers 500 as the test wants"),
        (LOOK, 503, "the Hub answers 503 as the test wants"),
    ],
)
def test_a_failed_push_is_said_once_counted_and_tried_again(
    hub: HubServer, run: RunFolder, pattern: str, status: int, expected: str
) -> None:
    hub.fail(pattern, status, times=3)
    notes = Notes()
    mirror = push_once(run, notes)
    assert (mirror.num_pushed, mirror.num_failed) == (1, 3)
    first, last = notes.said
    assert expected in first
    assert "The run goes on" in first
    assert "this run, step 100. 3 pushes failed on the way." in last
    assert steps_of(hub) == {"step-000100"}
    assert hub.count(COMMIT) == (4 if pattern == COMMIT else 1)


@pytest.mark.parametrize(
    "headers", [{"Retry_After": "1"}, {"RateLimit": '"api";r=0;t=1'}], ids=["Retry-After", "limit"]
)
def test_a_push_waits_as_long_as_the_hub_asks(
    hub: HubServer, run: RunFolder, headers: dict[str, str]
) -> None:
    hub.fail(COMMIT, 429, **headers)
    mirror = HubMirror(REPO, run, Notes(), first_wait=0.01)
    began = time.monotonic()
    mirror.push()
    wait_until(lambda: mirror.num_pushed == 1)
    assert 1.0 <= time.monotonic() - began < 5.0
    mirror.close(10)


def test_waits_between_failures_grow(hub: HubServer, run: RunFolder) -> None:
    hub.fail(COMMIT, 500, times=float("inf"))
    mirror = HubMirror(REPO, run, Notes(), first_wait=0.1)
    mirror.push()
    time.sleep(1.2)  # tries at 0, 0.1, 0.3, 0.7 and 1.5 s
    assert 2 <= mirror.num_failed <= 4
    mirror.close(0.01)


def test_a_hub_that_cannot_be_reached_stops_neither_the_check_nor_the_run(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    with HubServer({}) as gone:
        pass
    point_to(gone, monkeypatch)
    require_hub(REPO, run)
    notes = Notes()
    mirror = HubMirror(REPO, run, notes, first_wait=0.01)
    mirror.push()
    wait_until(lambda: mirror.num_failed >= 2)
    began = time.monotonic()
    mirror.close(0.3)
    assert time.monotonic() - began < 2.0
    assert mirror.num_pushed == 0
    assert "Connection refused" in notes.said[0]
    assert len(notes.said) == 2
    assert "Nothing new of this run is on the Hub" in notes.said[1]
    assert "--resume auto" in notes.said[1]


def test_a_full_disk_is_one_more_failure(
    hub: HubServer, run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "copyfile", full)
        notes = Notes()
        mirror = HubMirror(REPO, run, notes, first_wait=0.01)
        mirror.push()
        wait_until(lambda: mirror.num_failed >= 2)
    mirror.close(10)
    assert "No space left on device" in notes.said[0]
    assert steps_of(hub) == {"step-000100"}


@pytest.mark.parametrize("pattern", [LOOK, "preupload", "PUT /large", COMMIT])
def test_closing_waits_no_longer_than_asked_for_a_server_that_hangs(
    hub: HubServer, run: RunFolder, pattern: str
) -> None:
    push_once(run)
    add_checkpoint(run.path, 200)
    gate = hub.hold(pattern)
    notes, before = Notes(), hub.count(pattern)
    mirror = HubMirror(REPO, run, notes)
    mirror.push()
    wait_until(lambda: hub.count(pattern) > before)
    began = time.monotonic()
    mirror.close(0.3)
    assert time.monotonic() - began < 2.0
    assert "Nothing new of this run is on the Hub (no answer)" in notes.said[-1]
    gate.set()
    wait_until(lambda: mirror.num_pushed == 1)


def test_what_is_and_what_is_not_on_the_hub_is_said_at_the_end(
    hub: HubServer, run: RunFolder
) -> None:
    notes = Notes()
    mirror = HubMirror(REPO, run, notes, first_wait=0.01)
    mirror.push()
    wait_until(lambda: mirror.num_pushed == 1)
    hub.fail(COMMIT, 502, times=float("inf"))
    add_checkpoint(run.path, 200)
    mirror.push()
    wait_until(lambda: mirror.num_failed >= 1)
    mirror.close(0.3)
    assert "is this run up to step 100. What came after is only in" in notes.said[-1]
    assert "502" in notes.said[-1]


def test_a_process_ends_though_the_hub_hangs(hub: HubServer, run: RunFolder) -> None:
    hub.hold("PUT /large")
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from thinktune.hub.mirror import HubMirror\n"
        "from thinktune.run_folder import RunFolder\n"
        "from thinktune.tracking import Silence\n"
        f"mirror = HubMirror({REPO!r}, RunFolder(Path(sys.argv[1])), Silence())\n"
        "mirror.push()\n"
        "mirror.close(1)\n"
        "print('ended')\n"
    )
    env = os.environ | {"HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1"}
    ended = subprocess.run(
        [sys.executable, "-c", program, str(run.path)],
        capture_output=True, text=True, env=env, timeout=60, check=False,
    )  # fmt: skip
    assert (ended.returncode, ended.stdout) == (0, "ended\n")
    assert hub.count("PUT /large") == 1
    assert TOKEN not in ended.stderr


def test_the_token_is_in_no_message(hub: HubServer, run: RunFolder) -> None:
    notes = Notes()
    mirror = HubMirror(REPO, run, notes, first_wait=0.01)
    hub.fail(COMMIT, 500, X_Error_Message=f"bad token {TOKEN}")
    mirror.push()
    mirror.close(10)
    assert "bad token (token)" in notes.said[0]
    assert TOKEN not in " ".join(notes.said)
