"""Rows that a step went wrong with: said, and kept in the run's folder."""

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from thinktune import atomic
from thinktune.errors import TrainingError
from thinktune.tracking import Watcher, read_records

QUARANTINE_FILE = "quarantine.jsonl"
_MAX_TOLD = 8  # rows named on the screen; the file names all


class Response(StrEnum):
    """What was done about it."""

    LEFT_OUT = "left out"
    """The rows are not trained on."""
    WARNED = "warned"
    """The update was made."""
    SKIPPED = "skipped"
    """Nothing was updated, and the run went on."""
    STOPPED = "stopped"
    """Nothing was updated, and the run ended."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """What went wrong, and with which rows."""

    what: str
    """A clause, as in "the loss is not finite"."""
    rows: tuple[str, ...]
    """Where they come from; those with the highest loss first."""
    response: Response
    loss: float | None = None
    """Of the step, in nats a target token."""
    grad_norm: float | None = None
    detail: str = ""
    """What more is known: the layer, the way out."""

    def __str__(self) -> str:
        """The whole in one line."""
        done = {
            Response.LEFT_OUT: "left out",
            Response.WARNED: "the update was made",
        }.get(self.response, "nothing was updated")
        end = f"; {self.detail}" if self.detail else ""
        return f"{self.what} on {told_rows(self.rows)}: {done}{end}"


class SpoiledStepError(TrainingError):
    """A step that cannot be taken; knows its rows."""

    def __init__(self, trouble: Trouble) -> None:
        """Say what went wrong."""
        super().__init__(str(trouble))
        self.trouble = trouble


class Quarantine:
    """Owns a run's quarantine.jsonl: one line for each trouble, on disk before the run goes on.

    A line is written in one piece and flushed. A resumed run meets the same steps again; what is
    written already is not written twice.
    """

    def __init__(self, folder: Path, watcher: Watcher) -> None:
        """Read what an earlier process wrote; a last line that was cut off is dropped."""
        self.path = folder / QUARANTINE_FILE
        self._watcher = watcher
        records = read_records(self.path)
        if self.path.is_file() and not self.path.read_bytes().endswith(b"\n"):
            atomic.write_text(self.path, "".join(map(_line, records)))
        self._known = {_key(record) for record in records}

    def keep(self, step: int, trouble: Trouble) -> None:
        """Write it down, and say it unless the run ends with it.

        Args:
            step: counted from 1, as in metrics.jsonl; 0 for before the first.
            trouble: what to keep.
        """
        record = {
            "step": step,
            "what": trouble.what,
            "response": str(trouble.response),
            "rows": list(trouble.rows),
            "loss": _plain(trouble.loss),
            "grad_norm": _plain(trouble.grad_norm),
            "detail": trouble.detail,
        }
        if _key(record) not in self._known:
            self._known.add(_key(record))
            _append(self.path, _line(record))
        if trouble.response is not Response.STOPPED:
            self._watcher.say(f"{f'Step {step}: ' if step else ''}{trouble} ({self.path}).")


def told_rows(rows: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(rows) - _MAX_TOLD} more" if len(rows) > _MAX_TOLD else ""
    return ", ".join(rows[:_MAX_TOLD]) + more


def _key(record: dict[str, Any]) -> tuple[int, str, tuple[str, ...]]:
    return record["step"], record["what"], tuple(record["rows"])


def _line(record: dict[str, Any]) -> str:
    return json.dumps(record, ensure_ascii=False) + "\n"


def _plain(value: float | None) -> float | str | None:
    """JSON has no word for what is not finite."""
    return value if value is None or math.isfinite(value) else str(value)


def _append(path: Path, line: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, line.encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
