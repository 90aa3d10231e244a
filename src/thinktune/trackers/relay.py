"""A tracker behind a queue and a thread of its own: it may fail or hang, the run goes on."""

import queue
import threading
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from thinktune.trackers.redaction import without_secrets

Value = float | int | str | bool | None
Numbers = Mapping[str, float | int]
Rows = Sequence[Mapping[str, Value]]

T = TypeVar("T")

CAPACITY = 1000
"""Records that may wait for one tracker; what comes when as many wait is dropped."""


@dataclass(frozen=True, slots=True)
class Start:
    """What a tracker knows of a run when it opens it."""

    folder: Path
    name: str
    settings: Mapping[str, object]
    """By group, as in a recipe."""
    history: Sequence[tuple[int, Numbers]] = ()
    """What a resumed run has logged before: step and numbers, oldest first."""


class Backend(Protocol):
    """One tracker's run. Made, called and closed by one thread; may raise or block anywhere."""

    def log(self, step: int, metrics: Numbers) -> None:
        """Draw the curves on. Called for the run's history first; has each point once after it."""
        ...

    def samples(self, step: int, rows: Rows) -> None:
        """Keep a table: a row for each question, all with the same columns."""
        ...

    def artifact(self, path: Path) -> None:
        """Keep a folder's files under its name."""
        ...

    def summary(self, step: int, values: Mapping[str, Value]) -> None:
        """Keep what came of the run."""
        ...

    def close(self, *, failed: bool) -> None:
        """Hand over what is pending, and end the run as finished or failed."""
        ...


@dataclass(frozen=True, slots=True)
class Delivery:
    """What became of the records meant for one tracker."""

    sent: int
    dropped: int
    """Refused by a full queue, failed in the tracker, or still waiting when it was left alone."""
    error: str | None
    """The first thing that went wrong, without secrets."""


class Relay:
    """Hands records to one tracker, in order, from a daemon thread.

    No method but `wait` ever waits, and `wait` no longer than it is told to. An error in the
    tracker costs that record; the next is tried again. A tracker that a resumed run opens is told
    the history first, because what it had of it may have been lost with the process.
    """

    def __init__(self, name: str, opener: Callable[[Start], Backend], start: Start) -> None:
        """Begin to open the tracker; what is put meanwhile waits."""
        self.name = name
        self._opener, self._start = opener, start
        self._queue: queue.SimpleQueue[Callable[[Backend], None] | None] = queue.SimpleQueue()
        self._offered = self._sent = 0
        self._run_failed = False
        self._error: str | None = None
        self._told = False
        self._thread = threading.Thread(target=self._work, name=f"tracker {name}", daemon=True)
        self._thread.start()

    def put(self, call: Callable[[Backend], None]) -> None:
        """Leave a record to be handed over; dropped if too many wait."""
        self._offered += 1
        if self._queue.qsize() < CAPACITY:
            self._queue.put(call)
        elif self._error is None:
            self._error = f"takes nothing in; {CAPACITY} records wait and further are dropped"

    def news(self) -> str | None:
        """The first thing that went wrong, once; None if nothing did or it was told."""
        if self._error is None or self._told:
            return None
        self._told = True
        return self._error

    def end(self, *, failed: bool) -> None:
        """Nothing more comes; the tracker is closed once it has what waits."""
        self._run_failed = failed
        self._queue.put(None)

    def wait(self, seconds: float) -> Delivery:
        """Give the tracker that long to be done, then leave it alone."""
        self._thread.join(max(seconds, 0))
        if self._thread.is_alive() and self._error is None:
            self._error = "was not done in time and was left alone"
        return Delivery(self._sent, self._offered - self._sent, self._error)

    def _work(self) -> None:
        backend = self._attempt(lambda: self._opener(self._start))
        if backend is not None:
            for step, numbers in self._start.history:
                self._attempt(_called(lambda b, s=step, n=numbers: b.log(s, n), backend))
        while (call := self._queue.get()) is not None:
            if backend is not None and self._attempt(_called(call, backend)):
                self._sent += 1
        if backend is not None:
            self._attempt(lambda: backend.close(failed=self._run_failed))

    def _attempt(self, action: Callable[[], T]) -> T | None:
        try:
            return action()
        except BaseException as error:  # SystemExit too: a thread has nobody to pass it on to
            if self._error is None:
                told = str(without_secrets(str(error))).strip().splitlines()
                self._error = f"{type(error).__name__}: {told[0]:.200}" if told else repr(error)
            return None


def _called(call: Callable[[Backend], None], backend: Backend) -> Callable[[], bool]:
    def action() -> bool:
        call(backend)
        return True

    return action


def unseen(
    step: int, metrics: Numbers, present: Mapping[str, Container[int]]
) -> dict[str, float | int]:
    """The numbers of curves that have no point at this step yet.

    >>> unseen(3, {"train/loss": 2.0, "probe/num": 4}, {"train/loss": {2, 3}, "probe/num": {2}})
    {'probe/num': 4}
    """
    return {name: number for name, number in metrics.items() if step not in present.get(name, ())}


def flat(settings: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """Settings by their full names.

    >>> flat({"seed": 3, "lora": {"rank": 4}})
    {'seed': 3, 'lora.rank': 4}
    """
    values: dict[str, object] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            values |= flat(value, f"{prefix}{name}.")
        else:
            values[f"{prefix}{name}"] = value
    return values
