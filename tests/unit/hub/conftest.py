"""Every test has a Hub of its own and a token; no test touches the real ones."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import close_session, constants

from tests.hub_server import HubServer
from tests.unit.hub.mirrored_runs import TOKEN, add_checkpoint, point_to, write_record
from thinktune.run_folder import RunFolder


@pytest.fixture(autouse=True)
def _logged_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # its storage is not scripted here
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    yield
    close_session()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with HubServer({TOKEN: "write"}) as server:
        point_to(server, monkeypatch)
        yield server


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A run of which one checkpoint is written."""
    folder = tmp_path / "run"
    folder.mkdir()
    write_record(folder, "2026-01-01T00:00:00+00:00")
    (folder / "metrics.jsonl").write_text('{"step": 1}\n')
    (folder / "trackers.json").write_text('{"wandb": "abc"}')
    (folder / "evaluation" / "clinic").mkdir(parents=True)
    (folder / "evaluation" / "clinic" / "before.partial.jsonl").write_text('{"答": 1}\n')
    for stray in (".step-000200.9.part/state.json", "wandb/run-1/files.yaml", "run.lock", "core"):
        (folder / stray).parent.mkdir(parents=True, exist_ok=True)
        (folder / stray).write_text("not ours")
    add_checkpoint(folder, 100)
    return RunFolder(folder)
