"""The journal of requests: every finished one on disk before it counts, none asked twice."""

import fcntl
import json
import os
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from thinktune.errors import ConfigError, DataError
from thinktune.teacher.budget import Tokens
from thinktune.teacher.replies import Reply

_SYNC_SECONDS = 1.0


class Journal:
    """Owns a file with one finished request a line; replies stay there, memory has their places.

    A line reaches the operating system before ``add`` returns, so a killed process loses none;
    the disk is made to follow at most once a second, so a power failure loses a second's. A last
    line that was cut off is dropped. Opening reads the file once; memory is about 200 bytes a
    reply.
    """

    def __init__(self, path: Path, parameters: Mapping[str, Any]) -> None:
        """Open or begin the journal of samples taken with ``parameters``.

        Raises:
            ConfigError: another process has it open, or it is of other parameters.
            DataError: a line in its middle is damaged.
        """
        self.path = path
        self.spent: list[int] = [0, 0]
        """Prompt and completion tokens, of lost requests too."""
        self.num_estimated = 0
        """Replies and lost requests whose tokens are a bound."""
        self._places: dict[str, int] = {}
        self._synced = time.monotonic()
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file: BinaryIO = path.open("a+b")
        try:
            self._lock()
            self._read(json.loads(json.dumps(dict(parameters))))
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> "Journal":
        """Use it as a context manager, which closes it."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Write through to the disk and close."""
        os.fsync(self._file.fileno())
        self._file.close()

    def __contains__(self, key: object) -> bool:
        """Whether a request was answered."""
        return key in self._places

    def __len__(self) -> int:
        """How many requests were answered."""
        return len(self._places)

    def add(self, key: str, reply: Reply) -> None:
        """Write down a reply; on return it survives the end of this process."""
        place = self._append({"key": key, "reply": asdict(reply)})
        self._count(key, place, (reply.input_tokens, reply.output_tokens), reply.is_estimated)

    def lose(self, key: str, bound: Tokens) -> None:
        """Write down a request that may have been paid for and whose reply never came whole."""
        place = self._append({"key": key, "lost": list(bound)})
        self._count(None, place, bound, True)

    def read(self, key: str) -> Reply:
        """Read a reply back.

        Raises:
            KeyError: it was not answered.
        """
        self._file.seek(self._places[key])
        return Reply(**json.loads(self._file.readline())["reply"])

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"{self.path}: another process is filling it; wait for it") from None

    def _read(self, parameters: Mapping[str, Any]) -> None:
        self._file.seek(0)
        place = 0
        damaged: int | None = None
        for number, line in enumerate(self._file, start=1):
            if damaged is not None:
                break
            try:
                if not line.endswith(b"\n"):
                    raise ValueError("cut off")
                self._take(json.loads(line), place, number, parameters)
            except (ValueError, KeyError, TypeError, AttributeError):
                if number == 1 and line.endswith(b"\n"):
                    raise DataError(f"{self.path}: not a journal of requests") from None
                damaged = number
            else:
                place += len(line)
        else:
            self._file.truncate(place)
            if place == 0:
                self._append({"journal": 1, "parameters": parameters})
            return
        raise DataError(f"{self.path} line {damaged}: damaged; remove that line")

    def _take(
        self, record: dict[str, Any], place: int, number: int, parameters: Mapping[str, Any]
    ) -> None:
        if number == 1:
            _require_same(self.path, record["parameters"], parameters)
        elif "lost" in record:
            asked, written = record["lost"]
            self._count(None, place, (asked, written), True)
        else:
            reply = Reply(**record["reply"])
            tokens = (reply.input_tokens, reply.output_tokens)
            self._count(record["key"], place, tokens, reply.is_estimated)

    def _append(self, record: Mapping[str, Any]) -> int:
        # ASCII only: a reply may hold half a character, which UTF-8 cannot carry.
        line = json.dumps(record).encode() + b"\n"
        try:
            place = self._file.seek(0, os.SEEK_END)
            self._file.write(line)
            self._file.flush()
            if time.monotonic() - self._synced > _SYNC_SECONDS:
                os.fsync(self._file.fileno())
                self._synced = time.monotonic()
        except OSError as error:
            raise DataError(f"{self.path}: cannot be written: {error.strerror}") from error
        return place

    def _count(self, key: str | None, place: int, tokens: Tokens, is_estimated: bool) -> None:
        if key is not None:
            self._places[key] = place
        self.spent[0] += tokens[0]
        self.spent[1] += tokens[1]
        self.num_estimated += is_estimated


def _require_same(path: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    changed = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    if changed:
        told = "; ".join(
            f"{name}: {old.get(name)!r} then, {new.get(name)!r} now" for name in changed
        )
        raise ConfigError(
            f"{path} was begun with other parameters ({told}); go on with those, or name another "
            "--out to begin anew"
        )
