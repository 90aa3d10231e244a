"""A mirror is private, one run's, and comes back whole or not at all."""

import shutil
import time
from pathlib import Path

import pytest
from huggingface_hub import constants

from tests.hub_server import HubServer
from tests.unit.hub.mirrored_runs import (
    LOOK,
    REPO,
    TOKEN,
    Notes,
    add_checkpoint,
    content,
    push_once,
    steps_of,
    write_record,
)
from thinktune.errors import ConfigError, RunError
from thinktune.hub.mirror import HubMirror
from thinktune.hub.repository import fetch, require_hub
from thinktune.run_folder import RunFolder

# The library's upload of a large file without Xet storage.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


def test_a_public_repository_is_refused_before_a_run_and_during_one(
    hub: HubServer, run: RunFolder
) -> None:
    hub.put(REPO, {"model.safetensors": b"m"}, is_private=False)
    with pytest.raises(ConfigError, match="is public, and a run's samples may show training data"):
        require_hub(REPO, None)
    notes = Notes()
    mirror = HubMirror(REPO, run, notes, first_wait=0.01)
    for _ in range(3):
        mirror.push()
        time.sleep(0.05)
    mirror.close(10)
    assert len(hub.repos[REPO].commits) == 1
    assert mirror.num_failed == 1
    assert sum("is public" in text for text in notes.said[:-1]) == 1


def test_a_public_repository_that_is_this_run_s_mirror_is_used(
    hub: HubServer, run: RunFolder
) -> None:
    push_once(run)
    hub.repos[REPO].is_private = False
    require_hub(REPO, run)
    add_checkpoint(run.path, 200)
    push_once(run)
    assert steps_of(hub) == {"step-000100", "step-000200"}


def test_another_run_s_mirror_is_never_overwritten(hub: HubServer, run: RunFolder) -> None:
    push_once(run)
    before = dict(hub.repos[REPO].files)
    write_record(run.path, "2027-07-07T00:00:00+00:00")
    notes = Notes()
    push_once(run, notes)
    assert hub.repos[REPO].files == before
    for going_on in (run, None):
        with pytest.raises(ConfigError, match="holds another run, of 2026-01-01"):
            require_hub(REPO, going_on)
    assert "holds another run" in notes.said[0]


def test_a_private_repository_with_other_things_keeps_them(hub: HubServer, run: RunFolder) -> None:
    hub.put(REPO, {"README.md": b"mine", "notes/a.txt": b"mine too"})
    require_hub(REPO, None)
    push_once(run)
    assert hub.repos[REPO].files["README.md"] == b"mine"
    assert hub.repos[REPO].files["notes/a.txt"] == b"mine too"
    assert steps_of(hub) == {"step-000100"}


def test_without_a_token_a_run_is_refused_at_once(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    for refused in (lambda: require_hub(REPO, None), lambda: fetch(REPO, tmp_path / "new")):
        with pytest.raises(ConfigError, match=r"`hf auth login`, or HF_TOKEN"):
            refused()
    assert hub.requests == []


@pytest.mark.parametrize("name", ["run", "a/b/c", "a b/c", "../x", "a/..", "", "https://x/y"])
def test_what_is_no_repository_s_name_is_refused_at_once(hub: HubServer, name: str) -> None:
    with pytest.raises(ConfigError, match="write user/name"):
        require_hub(name, None)
    assert hub.requests == []


def test_offline_mode_and_push_to_hub_exclude_each_other(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match="HF_HUB_OFFLINE"):
        require_hub(REPO, None)


@pytest.mark.parametrize("status", [401, 403])
def test_a_token_that_is_not_accepted_is_refused_before_a_run(hub: HubServer, status: int) -> None:
    hub.fail(LOOK, status)
    with pytest.raises(ConfigError, match=str(status)) as refusal:
        require_hub(REPO, None)
    assert TOKEN not in str(refusal.value)


def test_nothing_is_fetched_into_a_folder_that_holds_something(
    hub: HubServer, run: RunFolder, tmp_path: Path
) -> None:
    push_once(run)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    assert not fetch(REPO, tmp_path / "mine")
    assert list(content(tmp_path / "mine")) == ["thesis.txt"]


def test_a_lock_and_fragments_do_not_keep_a_run_from_being_fetched(
    hub: HubServer, run: RunFolder, tmp_path: Path
) -> None:
    push_once(run)
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "run.lock").touch()
    assert fetch(REPO, tmp_path / "new")
    assert (tmp_path / "new" / "run.json").is_file()


def test_a_mirror_that_is_not_there_is_not_fetched(hub: HubServer, tmp_path: Path) -> None:
    assert not fetch(REPO, tmp_path / "new")
    hub.put(REPO, {"README.md": b"no run"})
    assert not fetch(REPO, tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "name",
    ["../evil.json", "adapter/../../evil", "/etc/cron.d/evil", "adapter\\..\\evil", "C:/evil",
     "adapter//evil", "adapter/\x00evil", "evaluation/./evil"],
)  # fmt: skip
def test_a_file_name_that_leaves_the_run_folder_is_refused(
    hub: HubServer, run: RunFolder, tmp_path: Path, name: str
) -> None:
    push_once(run)
    hub.repos[REPO].files[name] = b"evil"
    with pytest.raises(RunError, match="outside a run folder"):
        fetch(REPO, tmp_path / "new")
    assert not (tmp_path / "new").exists()
    assert hub.count("GET .*/resolve/") == 0


def test_what_is_no_part_of_a_mirror_stays_on_the_hub(
    hub: HubServer, run: RunFolder, tmp_path: Path
) -> None:
    push_once(run)
    strays = {"setup.py": b"x", "adapter/.hidden": b"x", "x/y.json": b"x"}
    hub.repos[REPO].files.update(strays)
    assert fetch(REPO, tmp_path / "new")
    expected = hub.repos[REPO].files.keys() - {*strays, ".gitattributes"}
    assert content(tmp_path / "new").keys() == expected


@pytest.mark.parametrize("pattern", [LOOK, "optimizer"])
def test_a_fetch_that_breaks_off_leaves_nothing_behind(
    hub: HubServer, run: RunFolder, tmp_path: Path, pattern: str
) -> None:
    push_once(run)
    hub.fail(pattern, 418, times=float("inf"))
    with pytest.raises(RunError, match=f"{REPO} could not be fetched: the Hub answers 418"):
        fetch(REPO, tmp_path / "away" / "new")
    left = tmp_path / "away"
    assert not left.exists() or not list(left.iterdir())


def test_a_mirror_larger_than_the_disk_is_refused_before_it_is_fetched(
    hub: HubServer, run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    push_once(run)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    with pytest.raises(RunError, match=r"needs 0\.00 GB, and 0\.00 GB are free"):
        fetch(REPO, tmp_path / "new")
    assert hub.count("resolve") == 0


def test_a_run_json_of_something_else_is_no_run(
    hub: HubServer, run: RunFolder, tmp_path: Path
) -> None:
    hub.put(REPO, {"run.json": b"[1]"})
    with pytest.raises(ConfigError, match=r"run\.json of something else"):
        require_hub(REPO, run)
    with pytest.raises(RunError, match="holds no settings"):
        fetch(REPO, tmp_path / "new")
    assert not (tmp_path / "new").exists()
