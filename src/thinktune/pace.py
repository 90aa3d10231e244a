"""How fast a long thing goes of late, and how long the rest of it will take."""

import time
from collections import deque
from collections.abc import Callable

_MERGE_SECONDS = 0.2
_WINDOW_SECONDS = 60.0
_WINDOW_FRACTION = 0.2
"""Of late means the last minute, or the last fifth of a longer time."""
_MIN_MARKS = 5
"""So many parts count even if they took longer."""


class Pace:
    """Measures one stage from now on.

    What was done before the first mark counts for nothing: neither what an earlier process did,
    nor a first part that is slow because something is compiled or opened. Parts that end together
    (answers of one batch) are one mark.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin; ``clock`` gives seconds."""
        self._clock, self._begun = clock, clock()
        self._marks: deque[tuple[float, int]] = deque()

    @property
    def elapsed(self) -> float:
        """Seconds since the beginning."""
        return self._clock() - self._begun

    def advance(self, done: int) -> None:
        """``done`` parts are finished by now; memory stays bounded."""
        now = self._clock()
        window = max(_WINDOW_SECONDS, _WINDOW_FRACTION * (now - self._begun))
        last = self._marks[-1][0] if self._marks else self._begun
        if now - last < max(_MERGE_SECONDS, window / 500):
            if self._marks:
                self._marks[-1] = (last, done)
            return
        self._marks.append((now, done))
        while len(self._marks) > _MIN_MARKS and self._marks[1][0] < now - window:
            self._marks.popleft()

    def seconds_left(self, total: int) -> float | None:
        """Time until ``total`` parts are finished, at the recent rate; None until that is known."""
        if len(self._marks) < 2:
            return None
        (first_at, first), (last_at, last) = self._marks[0], self._marks[-1]
        if last <= first or last_at - first_at < 1:
            return None
        each = (last_at - first_at) / (last - first)
        under_way = min(self._clock() - last_at, each)
        return max(0.0, (total - last) * each - under_way)


def clock_text(seconds: float) -> str:
    """Seconds as a clock shows them.

    >>> clock_text(200), clock_text(3723.4)
    ('3:20', '1:02:03')
    """
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
