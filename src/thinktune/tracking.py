"""Where a run's numbers go: always metrics.jsonl, and the trackers asked for beside it."""

import importlib.util
import json
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast, runtime_checkable

from thinktune import atomic
from thinktune.errors import ConfigError, RunError
from thinktune.trackers.mlflow_run import MlflowRun
from thinktune.trackers.redaction import without_secrets
from thinktune.trackers.relay import Backend, Delivery, Relay, Rows, Start, Value
from thinktune.trackers.tensorboard_log import TensorboardLog
from thinktune.trackers.trackio_run import TrackioRun
from thinktune.trackers.wandb_run import WandbRun

METRICS_FILE = "metrics.jsonl"
Metrics = Mapping[str, float | int | str | None]
Item = TypeVar("Item")


class Report(StrEnum):
    """A tracker that can stand beside metrics.jsonl."""

    WANDB = "wandb"
    TENSORBOARD = "tensorboard"
    MLFLOW = "mlflow"
    TRACKIO = "trackio"


TRACKERS: dict[Report, Callable[[Start], Backend]] = {
    Report.WANDB: WandbRun,
    Report.TENSORBOARD: TensorboardLog,
    Report.MLFLOW: MlflowRun,
    Report.TRACKIO: TrackioRun,
}
PATIENCE = 20.0
"""Seconds that all trackers together get to be done once a run has ended."""


@runtime_checkable
class Watcher(Protocol):
    """Whoever watches a run: a live view in the terminal, plain lines, or nobody."""

    def stage(self, title: str, total: int | None = None) -> None:
        """A new thing is being done, in ``total`` parts if that is known."""
        ...

    def advance(self, done: int, numbers: Metrics | None = None) -> None:
        """``done`` parts are finished; ``numbers`` are worth showing."""
        ...

    def say(self, text: str) -> None:
        """Something to know that stays on the screen."""
        ...


class Silence:
    """A watcher that shows nothing."""

    def stage(self, title: str, total: int | None = None) -> None:
        """Ignore it."""

    def advance(self, done: int, numbers: Metrics | None = None) -> None:
        """Ignore it."""

    def say(self, text: str) -> None:
        """Ignore it."""


def watched(
    items: Iterable[Item], watcher: Watcher, title: str, total: int | None = None
) -> Iterator[Item]:
    """Begin a stage and pass items on; each is done when the next is asked for."""
    watcher.stage(title, total)
    for done, item in enumerate(items, start=1):
        yield item
        watcher.advance(done)


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Every record of a run's metrics.jsonl, oldest first; empty if there is none.

    Raises:
        RunError: a line is damaged.
    """
    return read_records(folder / METRICS_FILE)


def read_records(path: Path) -> list[dict[str, Any]]:
    """Every record of a file with one for each line; empty if there is none.

    A last line that was cut off, as by a power failure, is left out.

    Raises:
        RunError: another line is damaged.
    """
    if not path.is_file():
        return []
    records = []
    *whole, rest = path.read_text(encoding="utf-8", errors="replace").split("\n")
    for number, line in enumerate(whole, start=1):
        try:
            record = json.loads(line)
        except ValueError as error:
            raise RunError(f"{path} line {number}: damaged ({error}); remove that line") from None
        records.append(record)
    try:
        return [*records, json.loads(rest)]
    except ValueError:
        return records


def keep_records(path: Path, last_step: int) -> None:
    """Drop the records of later steps from a file, which a resumed run will make again."""
    if not path.is_file():
        return
    kept = [record for record in read_records(path) if record["step"] <= last_step]
    lines = [json.dumps(record, ensure_ascii=False) + "\n" for record in kept]
    atomic.write_text(path, "".join(lines))


def _plain(value: float | int | str | None) -> float | int | str | None:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _numbers(record: Mapping[str, Any]) -> dict[str, float | int]:
    return {k: v for k, v in record.items() if k != "step" and isinstance(v, int | float)}


class Tracker:
    """Takes a run's numbers; owns metrics.jsonl and the trackers beside it.

    metrics.jsonl is written first, by the caller's thread. Each tracker has a thread of its own
    and cannot hold the run up: what it fails at or has no time for is counted, and said once. A
    resumed run keeps the records up to the step it resumes from and drops the rest, which will be
    made again; each tracker goes on with the run it has, and gets nothing twice.
    """

    def __init__(
        self,
        folder: Path,
        *,
        report_to: Sequence[Report] = (),
        name: str = "",
        settings: Mapping[str, object] | None = None,
        resume_step: int = 0,
        watcher: Watcher | None = None,
        patience: float = PATIENCE,
    ) -> None:
        """Open ``folder/metrics.jsonl`` for appending, and begin to open the trackers.

        Args:
            folder: of the run.
            report_to: which trackers stand beside it.
            name: of the run, as trackers show it.
            settings: of the run, by group; secrets in them stay here.
            resume_step: steps that an earlier process took.
            watcher: is told what goes wrong in a tracker.
            patience: seconds that all trackers together get to be done at the end.
        """
        folder.mkdir(parents=True, exist_ok=True)
        keep_records(folder / METRICS_FILE, resume_step)
        self._file = (folder / METRICS_FILE).open("a", encoding="utf-8", buffering=1)
        self._step, self._watcher, self._patience = resume_step, watcher or Silence(), patience
        plain = cast("dict[str, object]", without_secrets(settings or {}))
        history = [(r["step"], _numbers(r)) for r in read_metrics(folder)] if report_to else []
        start = Start(folder, name, plain, history)
        self._relays = [Relay(r.value, TRACKERS[r], start) for r in dict.fromkeys(report_to)]

    def log(self, step: int, metrics: Metrics) -> None:
        """Record the numbers of one step; trackers get those that are finite numbers."""
        record = {"step": step} | {key: _plain(value) for key, value in metrics.items()}
        self._file.write(json.dumps(record) + "\n")
        self._step = max(self._step, step)
        numbers = _numbers(record)
        self._pass_on(lambda tracker: tracker.log(step, numbers))

    def sync(self) -> None:
        """Have what was recorded outlive a power failure, as the checkpoint that follows will."""
        os.fsync(self._file.fileno())

    def samples(self, rows: Rows) -> None:
        """Show a table in every tracker: what was asked, and what was answered before and after."""
        if rows:
            step, plain = self._step, cast(Rows, without_secrets([dict(row) for row in rows]))
            self._pass_on(lambda tracker: tracker.samples(step, plain))

    def artifact(self, path: Path) -> None:
        """Give every tracker a folder; it must stay as it is until `close`."""
        self._pass_on(lambda tracker: tracker.artifact(path))

    def summary(self, values: Mapping[str, Value]) -> None:
        """Show in every tracker what came of the run."""
        step, plain = self._step, cast("dict[str, Value]", without_secrets(dict(values)))
        self._pass_on(lambda tracker: tracker.summary(step, plain))

    def close(self, *, failed: bool = False) -> dict[str, Delivery]:
        """Close metrics.jsonl, and wait for the trackers as long as there is patience.

        Args:
            failed: the run did not come to its end; trackers show it so.

        Returns:
            By tracker, what became of its records.
        """
        self._file.close()
        for relay in self._relays:
            relay.end(failed=failed)
        until = time.monotonic() + self._patience
        delivered = {relay.name: relay.wait(until - time.monotonic()) for relay in self._relays}
        self._tell()
        for name, delivery in delivered.items():
            if delivery.dropped:
                self._watcher.say(
                    f"{name}: {delivery.dropped} of {delivery.sent + delivery.dropped} records "
                    f"did not get there."
                )
        return delivered

    def _pass_on(self, call: Callable[[Backend], None]) -> None:
        for relay in self._relays:
            relay.put(call)
        self._tell()

    def _tell(self) -> None:
        for relay in self._relays:
            if news := relay.news():
                self._watcher.say(
                    f"report_to=[{relay.name}]: {news}. The run goes on; {METRICS_FILE} is whole."
                )


def require_trackers(report_to: Sequence[Report]) -> None:
    """Refuse a tracker whose package is missing, before a run begins.

    Raises:
        ConfigError: what to install.
    """
    for report in report_to:
        if importlib.util.find_spec(report.value) is None:
            raise ConfigError(
                f"report_to=[{report}] needs the package: pip install 'thinktune[{report}]'"
            )
