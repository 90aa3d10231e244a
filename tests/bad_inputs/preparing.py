"""How a case of bad input is prepared: files in an empty folder, and the words typed there."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.small_runs import ROWS, write_recipe, write_rows
from tests.tiny_models import tiny_checkpoint

Prepare = Callable[[Path], list[str]]
"""Writes the files of a case into an empty folder, and gives the words that are typed there."""

Cases = dict[str, tuple[Prepare, list[str]]]
"""Cases by name: how each is prepared, and what its message must hold."""

TRAIN = ["train", "small.yaml"]


def bad_rows(**changes: Any) -> list[dict[str, Any]]:
    """The second and fourth row with ``changes``."""
    return [row | changes if n in (1, 3) else row for n, row in enumerate(ROWS)]


def rows(content: object) -> Prepare:
    """Train on a data file of bytes, or of rows."""

    def prepare(folder: Path) -> list[str]:
        path = folder / "rows.jsonl"
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            assert isinstance(content, list)
            write_rows(path, content)
        write_recipe(folder)
        return TRAIN

    return prepare


def inspect(name: str, content: bytes | str, *options: str) -> Prepare:
    """Inspect a data file of that name."""

    def prepare(folder: Path) -> list[str]:
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
        return ["data", "inspect", name, *options]

    return prepare


def train_on(name: str, content: bytes | str) -> Prepare:
    """Train on a data file of that name."""

    def prepare(folder: Path) -> list[str]:
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
        write_recipe(folder, data={"train": name})
        return TRAIN

    return prepare


def settings(*overrides: str, **changes: Any) -> Prepare:
    """Train by a recipe with ``changes`` and overrides."""

    def prepare(folder: Path) -> list[str]:
        write_recipe(folder, **changes)
        return [*TRAIN, *overrides]

    return prepare


def recipe(content: bytes | str) -> Prepare:
    """Train by a recipe of exactly that text."""

    def prepare(folder: Path) -> list[str]:
        text = content.encode() if isinstance(content, str) else content
        (folder / "small.yaml").write_bytes(text)
        return TRAIN

    return prepare


def words(*typed: str) -> Prepare:
    """Type words in a folder with a recipe and rows; TINY is a model that is whole."""

    def prepare(folder: Path) -> list[str]:
        write_recipe(folder)
        return [word.replace("TINY", str(tiny_checkpoint("llama"))) for word in typed]

    return prepare


def model(change: Callable[[Path], object]) -> Prepare:
    """Train on a model whose folder was changed."""

    def prepare(folder: Path) -> list[str]:
        shutil.copytree(tiny_checkpoint("llama"), folder / "model")
        change(folder / "model")
        write_recipe(folder, base_model="model")
        return TRAIN

    return prepare


def model_without(name: str) -> Prepare:
    """Train on a model whose folder lacks a file."""
    return model(lambda folder: (folder / name).unlink())


def model_config(**changes: Any) -> Prepare:
    """Train on a model of another configuration."""
    return model(lambda folder: merge(folder / "config.json", changes))


def model_file(name: str, content: bytes | str) -> Prepare:
    """Train on a model with one file of other content."""
    text = content.encode() if isinstance(content, str) else content
    return model(lambda folder: (folder / name).write_bytes(text))


def merge(path: Path, changes: dict[str, Any]) -> None:
    """Change keys of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
