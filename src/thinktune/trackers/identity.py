"""The names by which trackers know a run, kept in its folder, so that it stays one run."""

import json
import threading
from pathlib import Path

from thinktune import atomic
from thinktune.errors import RunError

IDENTITY_FILE = "trackers.json"
_writing = threading.Lock()


def recall(folder: Path) -> dict[str, str]:
    """By tracker, the run's name or id there; empty if none has been opened.

    Raises:
        RunError: the file is damaged.
    """
    path = folder / IDENTITY_FILE
    if not path.is_file():
        return {}
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        known = None
    if not isinstance(known, dict):
        raise RunError(f"{path}: damaged; remove it, and trackers begin new runs")
    return {str(name): str(identity) for name, identity in known.items()}


def remember(folder: Path, tracker: str, identity: str) -> None:
    """Keep the run's name or id in one tracker, for the process that resumes."""
    with _writing:
        known = recall(folder) | {tracker: identity}
        atomic.write_text(folder / IDENTITY_FILE, json.dumps(known, indent=2) + "\n")
