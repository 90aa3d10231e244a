"""Runs side by side: their loss curves, the settings that differ, and what was measured."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from thinktune.errors import RunError
from thinktune.metric_curves import MetricsReader
from thinktune.run_table import SIDES, Run, read_comparison, read_record, read_run
from thinktune.tracking import METRICS_FILE

MOST = 8
"""Runs that one chart can show."""
_OF_THE_MACHINE = ("platform", "device", "num_threads", "dtype", "base_dtype")
_ELSEWHERE = {"recipe", "created", "seed", "training", "verdict", "scores", "failure"}
"""Told elsewhere, or no condition of the run."""
ABSENT = "-"
"""In place of a value that a run does not have."""


@dataclass(frozen=True, slots=True)
class RunsCompared:
    """Two or more runs, and in what they differ."""

    runs: tuple[Run, ...]
    metrics: tuple[MetricsReader, ...]
    """Of each run, read to its end."""
    differences: Mapping[str, Mapping[str, Sequence[Any]]]
    """By group (settings, base, data, versions, machine, ...) and name, the value in each run."""
    scores: Mapping[str, Sequence[Mapping[str, Mapping[str, float]]]]
    """By metric key, for each run: by side the mean and its 95 % interval."""

    def to_plain(self) -> dict[str, Any]:
        """All of it as JSON has it; curves are lists of step and loss."""
        return {
            "runs": [run.to_plain() for run in self.runs],
            "train_loss": [sorted(each.train.items()) for each in self.metrics],
            "heldout_loss": [sorted(each.heldout.items()) for each in self.metrics],
            "differences": self.differences,
            "scores": self.scores,
        }


def compare_runs(folders: Sequence[Path]) -> RunsCompared:
    """Read runs whole and put them side by side, in the order given.

    Raises:
        RunError: they are too many, or one's run.json or comparison.json is damaged.
    """
    if len(folders) > MOST:
        raise RunError(f"{len(folders)} runs are too many side by side; name {MOST} at most")
    records, scores, metrics = [], [], []
    for folder in folders:
        try:
            records.append(read_record(folder))
            scores.append(_scores_of(read_comparison(folder)))
        except RunError as error:
            raise RunError(f"{folder}: {error}; it cannot be compared") from None
        reader = MetricsReader(folder / METRICS_FILE)
        reader.read()
        metrics.append(reader)
    return RunsCompared(
        tuple(map(read_run, folders)),
        tuple(metrics),
        _differences([_conditions(record) for record in records]),
        {key: [run.get(key, {}) for run in scores] for key in dict.fromkeys(chain(*scores))},
    )


def _conditions(record: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """All that may make two runs differ, by group and dotted name."""
    groups: dict[str, dict[str, Any]] = {}
    for name, value in record.items():
        if name in _ELSEWHERE:
            continue
        if isinstance(value, Mapping):
            groups[name] = _flat(value)
        else:
            group = "machine" if name in _OF_THE_MACHINE else "other"
            groups.setdefault(group, {})[name] = value
    groups.get("settings", {}).pop("output_dir", None)
    for name in ("dropped", "shortened"):
        rows = groups.get("data", {}).get(name)
        if isinstance(rows, list):
            groups["data"][name] = len(rows)
    return groups


def _flat(group: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in group.items():
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _differences(
    runs: Sequence[Mapping[str, Mapping[str, Any]]],
) -> dict[str, dict[str, list[Any]]]:
    differing: dict[str, dict[str, list[Any]]] = {}
    for group in dict.fromkeys(group for run in runs for group in run):
        for name in dict.fromkeys(name for run in runs for name in run.get(group, {})):
            values = [run.get(group, {}).get(name, ABSENT) for run in runs]
            if any(value != values[0] for value in values):
                differing.setdefault(group, {})[name] = values
    return differing


def _scores_of(comparison: Mapping[str, Any]) -> dict[str, dict[str, dict[str, float]]]:
    """By metric key and side, the mean and its interval."""
    try:
        return {
            key: {
                side: {name: sides[side][name] for name in ("mean", "low", "high")}
                for side in SIDES
                if sides.get(side) is not None
            }
            for task in comparison.get("tasks", {}).values()
            for key, sides in task["metrics"].items()
        }
    except (KeyError, TypeError, AttributeError):
        raise RunError(
            "comparison.json is not as `thinktune evaluate` writes it; have it made again"
        ) from None
