"""A manifest says of each file in a folder how long it is and what it hashes to."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"


class DamagedError(Exception):
    """A folder is not as it was written."""


def write_manifest(folder: Path) -> None:
    """Describe every file that is in a folder now."""
    paths = sorted(path for path in folder.iterdir() if path.name != MANIFEST)
    text = json.dumps({"files": {path.name: _digest(path) for path in paths}}, indent=2)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")


def check_manifest(folder: Path) -> None:
    """Compare a folder with its manifest; reads all of it.

    Raises:
        DamagedError: what is missing, cut short or changed.
    """
    files = read_json(folder / MANIFEST).get("files")
    if not isinstance(files, Mapping) or not files:
        raise DamagedError(f"no {MANIFEST}" if not files else f"{MANIFEST} is not one")
    for name, wanted in files.items():
        path = folder / str(name)
        if path.name != name or not path.is_file():
            raise DamagedError(f"{name} is missing")
        found = _digest(path)
        if not isinstance(wanted, Mapping) or found["bytes"] != wanted.get("bytes"):
            raise DamagedError(f"{name} is cut short or grown")
        if found != wanted:
            raise DamagedError(f"{name} is changed")


def read_json(path: Path) -> dict[str, Any]:
    """The object in a file; empty where there is none, or no file that can be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _digest(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"bytes": path.stat().st_size, "sha256": digest}
