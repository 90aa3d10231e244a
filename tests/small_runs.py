"""A whole run in a moment: a tiny model, a dozen records, and the recipe that joins them."""

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.tiny_models import tiny_checkpoint
from thinktune.config import RunConfig, check
from thinktune.tracking import Metrics

ROWS = [
    {
        "question": f"Fever for {days} days?",
        "reasoning": f"It is {days} days. " + "First we look. " * (days % 3),
        "answer": "flu" if days % 2 else "cold",
        "reference": "flu" if days % 2 else "cold",
        "split": "train" if days < 8 else "test",
    }
    for days in range(12)
]
TIMING = ("step_seconds", "tokens_per_second")


def write_rows(path: Path, rows: Iterable[object]) -> Path:
    """JSON Lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def small_settings(folder: Path, **changes: Any) -> dict[str, Any]:
    """Settings of a run of six steps with dropout; ``changes`` replace whole groups."""
    data = folder / "rows.jsonl"
    if not data.exists():
        write_rows(data, ROWS)
    return {
        "base_model": str(tiny_checkpoint("llama")),
        "base_dtype": "float32",
        "seed": 3,
        "data": {"train": str(data)},
        "lora": {"rank": 4, "alpha": 8, "dropout": 0.1},
        "optimizer": {"learning_rate": 0.01, "warmup_steps": 1},
        "training": {"batch_size": 3, "max_steps": 6, "eval_steps": 2, "save_steps": 2},
        "evaluation": {"max_new_tokens": 4},
        "generation": {"max_new_tokens": 4},
        "output_dir": str(folder / "run"),
    } | changes


def small_config(folder: Path, **changes: Any) -> RunConfig:
    """The same, checked."""
    return check(small_settings(folder, **changes), where="test")


def write_recipe(folder: Path, **changes: Any) -> Path:
    """The same as a recipe file."""
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(small_settings(folder, **changes)), encoding="utf-8")
    return path


def without_timing(records: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Records as they are the same on every machine."""
    return [{k: v for k, v in r.items() if not k.endswith(TIMING)} for r in records]


class Interrupter:
    """A user who presses Ctrl-C once ``done`` parts of a stage are finished."""

    def __init__(self, title: str, done: int) -> None:
        """Wait for that stage."""
        self.title, self.done, self.now = title, done, ""
        self.said: list[str] = []

    def stage(self, title: str, total: int | None = None) -> None:
        """Remember the stage."""
        self.now = title

    def advance(self, done: int, numbers: Metrics | None = None) -> None:
        """Interrupt."""
        if self.title in self.now and done == self.done:
            raise KeyboardInterrupt

    def say(self, text: str) -> None:
        """Keep what was said."""
        self.said.append(text)


class _Without:
    """An import finder that does not see one package."""

    def __init__(self, finder: Any, name: str) -> None:
        self.finder, self.name = finder, name

    def find_spec(self, name: str, *place: Any) -> Any:
        return None if name == self.name else self.finder.find_spec(name, *place)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.finder, name)


def hide_package(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Make an installed package as if it were not."""
    monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(sys, "meta_path", [_Without(f, name) for f in sys.meta_path])
