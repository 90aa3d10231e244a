"""A run folder to mirror, a Hub to mirror it on, and a watcher that remembers."""

import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub import constants

from tests.hub_server import HubServer
from thinktune.hub.mirror import HubMirror
from thinktune.run_folder import RunFolder
from thinktune.tracking import Metrics

REPO = "someone/a-run"
TOKEN = "hf_" + "s3cret" * 5
COMMIT = r"POST .*/commit/"
LOOK = r"GET /api/models/"


class Notes:
    """A watcher that keeps what was said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def stage(self, title: str, total: int | None = None) -> None:
        pass

    def advance(self, done: int, numbers: Metrics | None = None) -> None:
        pass

    def say(self, text: str) -> None:
        self.said.append(text)


def point_to(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """What HF_ENDPOINT does when the library is imported."""
    files = f"{server.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", files)


def write_record(folder: Path, created: str) -> None:
    (folder / "run.json").write_text(json.dumps({"created": created, "settings": {"seed": 1}}))


def add_checkpoint(folder: Path, step: int) -> Path:
    path = folder / "checkpoints" / f"step-{step:06d}"
    path.mkdir(parents=True)
    for name in ("adapter_model.safetensors", "optimizer.safetensors"):
        (path / name).write_bytes(f"{name} {step}".encode() * 1000)
    (path / "state.json").write_text(json.dumps({"steps_done": step}))
    files = {
        file.name: {
            "bytes": file.stat().st_size,
            "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        }
        for file in path.iterdir()
    }
    (path / "manifest.json").write_text(json.dumps({"files": files}))
    return path


def add_adapter(folder: Path) -> None:
    (folder / "adapter").mkdir()
    (folder / "adapter" / "adapter_model.safetensors").write_bytes(b"trained" * 1000)
    (folder / "adapter" / "adapter_config.json").write_text("{}")


def content(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def wait_until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.005)


def push_once(run: RunFolder, notes: Notes | None = None, timeout: float = 10.0) -> HubMirror:
    mirror = HubMirror(REPO, run, notes or Notes(), first_wait=0.01)
    mirror.push()
    mirror.close(timeout)
    return mirror


def steps_of(hub: HubServer) -> set[str]:
    return {n.split("/")[1] for n in hub.repos[REPO].files if n.startswith("checkpoints/")}
