"""Paths as people write them: a home folder, and names that no file can have."""

import os
from pathlib import Path

from thinktune.errors import ConfigError

_MAX_NAME, _MAX_PATH = 255, 4095  # bytes, on Linux and macOS


def user_path(text: str | Path) -> Path:
    """Read a path, with ``~`` for a home folder; whether there is a file is not asked.

    Raises:
        ConfigError: it is too long for a file's name, or the home folder of nobody.
    """
    try:
        path = Path(text).expanduser()
    except RuntimeError:
        raise ConfigError(f"{text}: there is no such user; write the whole path") from None
    names = [len(os.fsencode(part)) for part in path.parts]
    if max(names, default=0) > _MAX_NAME or len(os.fsencode(path)) > _MAX_PATH:
        raise ConfigError(f"{str(text)[:40]}...: too long for a file's name ({len(str(text)):,})")
    return path
