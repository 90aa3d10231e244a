"""Of a run that goes on, what is pushed is whole, ours, and as it was."""

import json
import os
import shutil
from pathlib import Path

import pytest

from tests.hub_server import HubServer
from tests.unit.hub.mirrored_runs import (
    COMMIT,
    REPO,
    Notes,
    add_checkpoint,
    content,
    push_once,
    steps_of,
    wait_until,
)
from thinktune.hub.mirror import HubMirror
from thinktune.hub.repository import fetch
from thinktune.run_folder import RunFolder

# The library's upload of a large file without Xet storage.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


def test_only_what_changed_is_sent_and_a_push_without_news_is_no_commit(
    hub: HubServer, run: RunFolder
) -> None:
    push_once(run)
    assert hub.count("PUT /large/") == 2
    add_checkpoint(run.path, 200)
    push_once(run)
    assert hub.count("PUT /large/") == 4
    push_once(run)
    assert hub.count("PUT /large/") == 4
    assert hub.count(COMMIT) == 2


def test_a_checkpoint_that_is_gone_here_is_removed_there(hub: HubServer, run: RunFolder) -> None:
    push_once(run)
    add_checkpoint(run.path, 200)
    shutil.rmtree(run.checkpoints / "step-000100")
    push_once(run)
    assert steps_of(hub) == {"step-000200"}
    assert hub.count(COMMIT) == 2


def test_a_mirror_outlives_the_loss_of_every_checkpoint_here(
    hub: HubServer, run: RunFolder
) -> None:
    push_once(run)
    shutil.rmtree(run.checkpoints)
    (run.path / "metrics.jsonl").write_text("")
    push_once(run)
    assert steps_of(hub) == {"step-000100"}


@pytest.mark.parametrize("harm", ["no manifest", "file missing", "file short"])
def test_a_checkpoint_that_is_not_whole_is_not_pushed(
    hub: HubServer, run: RunFolder, harm: str
) -> None:
    path = add_checkpoint(run.path, 200)
    match harm:
        case "no manifest":
            (path / "manifest.json").unlink()
        case "file missing":
            (path / "optimizer.safetensors").unlink()
        case "file short":
            (path / "optimizer.safetensors").write_bytes(b"opt")
    mirror = push_once(run)
    assert steps_of(hub) == {"step-000100"}
    assert mirror.num_failed == 0


def test_a_manifest_cannot_make_a_file_outside_be_pushed(hub: HubServer, run: RunFolder) -> None:
    (run.path.parent / "secret").write_text("x")
    path = add_checkpoint(run.path, 200)
    files = {"../../../secret": {"bytes": 1, "sha256": "0"}}
    (path / "manifest.json").write_text(json.dumps({"files": files}))
    push_once(run)
    assert not [name for name in hub.repos[REPO].files if "secret" in name]
    assert steps_of(hub) == {"step-000100"}


def test_files_are_sent_as_they_were_though_the_run_goes_on_writing(
    hub: HubServer, run: RunFolder
) -> None:
    gate = hub.hold("preupload")
    mirror = HubMirror(REPO, run, Notes())
    mirror.push()
    wait_until(lambda: hub.count("preupload") == 1)
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2}\n')
    shutil.rmtree(run.checkpoints / "step-000100")
    gate.set()
    mirror.close(10)
    first = hub.repos[REPO].commits[1].files
    assert first["metrics.jsonl"] == b'{"step": 1}\n'
    name = "checkpoints/step-000100/optimizer.safetensors"
    assert first[name] == b"optimizer.safetensors 100" * 1000
    assert mirror.num_failed == 0
    assert not (run.path / ".hub").exists()


def test_a_snapshot_is_copied_where_there_are_no_hard_links(
    hub: HubServer, run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    push_once(run)
    assert fetch(REPO, tmp_path / "new")
    assert content(tmp_path / "new")["checkpoints/step-000100/state.json"]
