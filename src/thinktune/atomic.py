"""Files and folders that are there whole or not at all: write aside, flush, rename."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _aside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.part")


@contextmanager
def text_aside(path: Path) -> Iterator[TextIO]:
    """A UTF-8 file to write, which takes ``path``'s place when the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = _aside(path)
    try:
        with aside.open("w", encoding="utf-8") as file:
            yield file
        _flush(aside)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Replace a file's content; a reader sees the old text or the new, never a part."""
    with text_aside(path) as file:
        file.write(text)


@contextmanager
def folder_aside(folder: Path) -> Iterator[Path]:
    """An empty folder to fill, which takes ``folder``'s place when the block ends well.

    What stood at ``folder`` before is replaced; if the block raises, it stays as it was.
    """
    aside = _aside(folder)
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        yield aside
        for path in (*aside.rglob("*"), aside):
            _flush(path)
        if folder.exists():
            replaced = folder.with_name(f".{folder.name}.{os.getpid()}.old")
            folder.rename(replaced)
            aside.rename(folder)
            shutil.rmtree(replaced)
        else:
            aside.rename(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
