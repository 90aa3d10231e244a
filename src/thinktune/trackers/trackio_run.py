"""Trackio: its local store, or the Space or server its environment variables name."""

import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from thinktune.trackers.identity import recall, remember
from thinktune.trackers.relay import Numbers, Rows, Start, Value, unseen


class TrackioRun:
    """A Trackio run, found again by its name."""

    def __init__(self, start: Start) -> None:
        """Open the run the folder remembers, or a new one."""
        import trackio  # noqa: PLC0415 - optional, slow to import
        from trackio.sqlite_storage import SQLiteStorage  # noqa: PLC0415 - optional

        project = os.environ.get("TRACKIO_PROJECT", "thinktune")
        # Runs are looked up by name, and folders of the same name may lie in two places.
        name = recall(start.folder).get("trackio") or f"{start.name}-{secrets.token_hex(2)}"
        remember(start.folder, "trackio", name)
        # A Space or server keeps what it was given, and is not asked.
        away = os.environ.get("TRACKIO_SPACE_ID") or os.environ.get("TRACKIO_SERVER_URL")
        self._present: dict[str, set[int]] = {}
        if away:
            there = list(start.history)
        else:
            there = [(int(r["step"]), r) for r in SQLiteStorage.get_logs(project, name)]
        for step, curves in there:
            for curve in curves:
                self._present.setdefault(curve, set()).add(step)
        self._trackio: Any = trackio
        self._run: Any = trackio.init(
            project,
            name=name,
            config=dict(start.settings),
            resume="allow",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )

    def log(self, step: int, metrics: Numbers) -> None:
        """Draw the curves on."""
        if new := unseen(step, metrics, self._present):
            self._run.log(new, step=step)

    def samples(self, step: int, rows: Rows) -> None:
        """Keep a table named samples."""
        self._run.log({"samples": self._trackio.Table(data=[dict(r) for r in rows])}, step=step)

    def artifact(self, path: Path) -> None:
        """Keep a folder as an artifact of the type model."""
        artifact = self._trackio.Artifact(f"{path.name}-{self._run.name}", type="model")
        artifact.add_dir(str(path))
        self._run.log_artifact(artifact)

    def summary(self, step: int, values: Mapping[str, Value]) -> None:
        """Log the values with the last step."""
        self._run.log(dict(values), step=step)

    def close(self, *, failed: bool) -> None:
        """Write what is pending."""
        self._run.finish()
