"""Which files of a run are mirrored, held still while they are sent, and what has changed."""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete
from huggingface_hub.hf_api import RepoSibling

from thinktune.run_folder import RunFolder
from thinktune.training.manifest import MANIFEST

_TOP_FILE = re.compile(r"\w+\.jsonl?")  # run.json, metrics.jsonl, trackers.json and their like
_CHECKPOINT_FILE = re.compile(r"checkpoints/step-\d+/[^/]+")
_FOLDERS = ("checkpoints/", "adapter/", "evaluation/")
_ASIDE = ".hub"


@dataclass(slots=True)
class Snapshot:
    """A run's files at one moment, which nobody changes."""

    files: dict[str, Path] = field(default_factory=dict)
    """By name in the repository."""
    hashes: dict[str, str] = field(default_factory=dict)
    """SHA-256 of those that a manifest names."""
    steps_done: int = 0
    """By the newest checkpoint."""

    def title(self) -> str:
        """What is in it, in words."""
        parts = [f"step {self.steps_done}" if self.steps_done else "no checkpoint yet"]
        parts += ["the adapter"] if any(n.startswith("adapter/") for n in self.files) else []
        parts += ["the comparison"] if "evaluation/report.html" in self.files else []
        return ", ".join(parts)


def is_mirrored(name: str) -> bool:
    """Whether a file of this name belongs to a mirror.

    >>> [is_mirrored(name) for name in ("metrics.jsonl", "wandb/run.log", "adapter/.x.part")]
    [True, False, False]
    """
    if "/." in name:
        return False
    if name.startswith("checkpoints/"):
        return _CHECKPOINT_FILE.fullmatch(name) is not None
    return name.startswith(_FOLDERS) or _TOP_FILE.fullmatch(name) is not None


@contextmanager
def snapshot_of(run: RunFolder) -> Iterator[Snapshot]:
    """A run's files as they are now, though it goes on writing and removing.

    Checkpoints and the adapter are never changed in place and get a second name (hard links, no
    room taken); where a file system has no links, and for the other files, copies are made.
    """
    aside = run.path / _ASIDE
    shutil.rmtree(aside, ignore_errors=True)  # of a process that was killed
    snapshot = Snapshot()
    try:
        for folder in sorted(run.checkpoints.glob("step-*")):
            _take_checkpoint(run, folder, aside, snapshot)
        # After the checkpoints, so that no checkpoint is newer than the records.
        rest = [path for path in run.path.iterdir() if path.is_file()]
        rest += [*run.adapter.rglob("*"), *run.evaluation.rglob("*")]
        for path in rest:
            name = path.relative_to(run.path).as_posix()
            is_adapter = name.startswith("adapter/")
            if is_mirrored(name) and path.is_file():
                snapshot.files[name] = _held(path, aside / name, link=is_adapter)
        yield snapshot
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def difference(
    snapshot: Snapshot, remote: Mapping[str, RepoSibling]
) -> tuple[list[CommitOperationAdd], list[CommitOperationDelete]]:
    """What makes a repository like the snapshot.

    A folder of which the snapshot has nothing is left alone: a mirror outlives its original.
    """
    adds = [
        CommitOperationAdd(name, path)
        for name, path in snapshot.files.items()
        if name not in remote or not _is_same(path, remote[name], snapshot.hashes.get(name))
    ]
    here = tuple(f for f in _FOLDERS if any(name.startswith(f) for name in snapshot.files))
    gone = [name for name in remote if name.startswith(here) and name not in snapshot.files]
    return adds, [CommitOperationDelete(name, is_folder=False) for name in gone]


def _take_checkpoint(run: RunFolder, folder: Path, aside: Path, snapshot: Snapshot) -> None:
    """Take a checkpoint whole, or not at all if it is not, or is being removed just now."""
    files, hashes = dict[str, Path](), dict[str, str]()
    place = folder.relative_to(run.path).as_posix()
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
        for name, told in {**manifest, MANIFEST: None}.items():
            if not is_mirrored(f"{place}/{name}"):
                return
            held = _held(folder / name, aside / place / name, link=True)
            files[f"{place}/{name}"] = held
            if told is not None:
                hashes[f"{place}/{name}"] = told["sha256"]
                if held.stat().st_size != told["bytes"]:
                    return
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return
    snapshot.files |= files
    snapshot.hashes |= hashes
    snapshot.steps_done = int(folder.name.removeprefix("step-"))


def _held(path: Path, held: Path, *, link: bool) -> Path:
    held.parent.mkdir(parents=True, exist_ok=True)
    if link:
        try:
            os.link(path, held)
        except FileNotFoundError:
            raise
        except OSError:  # no links there: Google Drive, exFAT
            shutil.copyfile(path, held)
    else:
        shutil.copyfile(path, held)
    return held


def _is_same(path: Path, remote: RepoSibling, known: str | None) -> bool:
    if path.stat().st_size != remote.size:
        return False
    if remote.lfs is not None:
        return (known or _sha256(path)) == remote.lfs.sha256
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0%b" % (len(content), content)).hexdigest() == remote.blob_id


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
