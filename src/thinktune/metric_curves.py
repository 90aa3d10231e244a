"""A run's metrics.jsonl while it grows, its end, or a sample: no more is read than is needed."""

import json
import math
import os
import re
from collections import deque
from pathlib import Path
from typing import Any

TRAIN_LOSS, HELDOUT_LOSS = "train/loss", "heldout/loss"
_SECONDS, _TOKENS = "train/step_seconds", "train/num_tokens"
_LOSS_BYTES = re.compile(rb'"train/loss": (-?\d[-+.\deE]*)')
_TAIL_BYTES = 16_384
_WINDOW_BYTES = 2_048
"""Some four records."""
_RECENT_STEPS = 50


def number_in(value: object) -> float | None:
    """The value if it is a finite number."""
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    return None


class MetricsReader:
    """Follows a metrics.jsonl: each ``read`` takes in what was written since the last.

    A last line without its end waits for the rest. Where the file became another, as it does
    when a resumed run drops the steps it makes again, all is read anew. Holds two numbers a step.
    """

    def __init__(self, path: Path) -> None:
        """Nothing is read yet; the file need not be there."""
        self.path = path
        self._start_over()

    def _start_over(self) -> None:
        self._offset, self._last_line = 0, b""
        self.train: dict[int, float] = {}
        """Loss by step."""
        self.heldout: dict[int, float] = {}
        self.newest: dict[str, Any] = {}
        """The newest value of every metric."""
        self.num_damaged = 0
        self._recent: deque[tuple[float, float]] = deque(maxlen=_RECENT_STEPS)

    def read(self) -> bool:
        """Take in what is new; says whether anything was.

        Raises:
            OSError: the file is there and cannot be read.
        """
        try:
            with self.path.open("rb") as file:
                file.seek(self._offset - len(self._last_line))
                is_other = file.read(len(self._last_line)) != self._last_line
                if is_other:
                    self._start_over()
                    file.seek(0)
                text = file.read()
        except FileNotFoundError:
            is_other, text = self._offset > 0, b""
            self._start_over()
        whole = text[: text.rfind(b"\n") + 1]
        lines = whole.split(b"\n")[:-1]
        for line in lines:
            self._take(line)
        if lines:
            self._offset, self._last_line = self._offset + len(whole), lines[-1] + b"\n"
        return is_other or bool(lines)

    def _take(self, line: bytes) -> None:
        record = _record(line)
        if record is None:
            self.num_damaged += 1
            return
        self.newest |= record
        for key, curve in ((TRAIN_LOSS, self.train), (HELDOUT_LOSS, self.heldout)):
            if (loss := number_in(record.get(key))) is not None:
                curve[record["step"]] = loss
        if (seconds := number_in(record.get(_SECONDS))) is not None:
            self._recent.append((number_in(record.get(_TOKENS)) or 0.0, seconds))

    @property
    def step_seconds(self) -> float | None:
        """Mean time of a recent step."""
        seconds = [s for _, s in self._recent]
        return sum(seconds) / len(seconds) if seconds else None

    @property
    def tokens_per_second(self) -> float | None:
        """Of recent steps."""
        return _speed(self._recent)


def _record(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    is_record = isinstance(record, dict) and isinstance(record.get("step"), int)
    return record if is_record else None


def _speed(steps: deque[tuple[float, float]]) -> float | None:
    seconds = sum(s for _, s in steps)
    return sum(tokens for tokens, _ in steps) / seconds if seconds > 0 else None


def read_end(path: Path) -> MetricsReader:
    """The last records of a file, some thirty; where the file is short, all of them.

    Raises:
        OSError: the file cannot be read; also if there is none.
    """
    end = MetricsReader(path)
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        file.seek(max(0, size - _TAIL_BYTES))
        text = file.read(_TAIL_BYTES)
    lines = text.split(b"\n")[:-1]
    for line in lines if size <= _TAIL_BYTES else lines[1:]:
        end._take(line)
    return end


def sample_losses(path: Path, num: int = 20) -> list[float]:
    """Training losses along the whole file, in order: all if they are few, else some means.

    Of a long file ``num`` evenly spaced windows are read, each of a few records.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size <= num * _WINDOW_BYTES:
            return _losses(file.read())
        stride = (size - _WINDOW_BYTES) / (num - 1)
        windows = (
            _losses(os.pread(file.fileno(), _WINDOW_BYTES, int(place * stride)))
            for place in range(num)
        )
        return [sum(losses) / len(losses) for losses in windows if losses]


def _losses(text: bytes) -> list[float]:
    # A number cut off at the end of a window would be another number.
    found = (match for match in _LOSS_BYTES.finditer(text) if match.end() < len(text))
    losses = []
    for match in found:
        try:
            losses.append(float(match[1]))
        except ValueError:
            continue
    return losses


def find_last(path: Path, key: str, *, within: int = 2**20) -> float | None:
    """The last value of a metric in the file's last ``within`` bytes."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        file.seek(max(0, size - within))
        text = file.read(within)
    place = text.rfind(f'"{key}": '.encode())
    if place < 0:
        return None
    start, end = text.rfind(b"\n", 0, place) + 1, text.find(b"\n", place)
    record = _record(text[start:end]) if end > 0 else None
    return number_in(record.get(key)) if record else None
