"""Ask many requests at once, within the caps, until all are answered or nothing more can be."""

import asyncio
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from thinktune.errors import ThinktuneError
from thinktune.teacher.budget import Budget
from thinktune.teacher.client import Client, LimitError, Request, SetAsideError
from thinktune.teacher.journal import Journal
from thinktune.tracking import Watcher

_MIN_FAILURES = 8
"""So many requests set aside in a row, with none answered, mean that the endpoint is down."""
_TELL_SECONDS = 0.2


@dataclass(slots=True)
class Asked:
    """How a round of asking ended."""

    stopped: str | None = None
    """Why not everything was asked; None if it was."""
    set_aside: list[tuple[str, str]] = field(default_factory=list)
    """Rows whose request failed too often, and its last failure."""
    num_retries: int = 0
    seconds: float = 0.0


async def ask_all(
    requests: Iterable[Request],
    client: Client,
    journal: Journal,
    budget: Budget,
    *,
    concurrency: int,
    total: int,
    watcher: Watcher,
) -> Asked:
    """Ask every request that the journal lacks, ``concurrency`` at a time, in their order.

    A request that the caps have no room for waits until those under way have given back what
    they did not use; asking stops when that does not suffice. Whatever stops it, requests under
    way are awaited and kept, but for a Ctrl-C, which keeps what has come.

    Args:
        requests: taken one by one as there is room; at most ``concurrency`` are in memory.
        client: asks one.
        journal: where replies are.
        budget: what may still be spent.
        concurrency: how many at a time.
        total: how many ``requests`` there are, for the progress.
        watcher: is told of every reply, with rates and cost.

    Raises:
        ConfigError: the endpoint refuses a request itself.
    """
    round_ = _Round(client, journal, budget, watcher, total)
    waiting = (request for request in requests if round_.is_new(request))
    running: set[asyncio.Task[None]] = set()
    request = next(waiting, None)
    try:
        while request is not None or running:
            while request is not None and len(running) < concurrency and not round_.is_over:
                if not budget.hold(request.bound):
                    if not running:
                        round_.stop(f"{budget.cap} would be passed")
                    break
                running.add(asyncio.create_task(round_.ask(request)))
                request = next(waiting, None)
            if not running:
                break
            done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()  # what nobody foresaw is raised here
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
    if round_.error is not None:
        raise round_.error
    return round_.finish()


class _Round:
    """The count of one round of asking."""

    def __init__(
        self, client: Client, journal: Journal, budget: Budget, watcher: Watcher, total: int
    ) -> None:
        self._client, self._journal, self._budget = client, journal, budget
        self._watcher, self._total = watcher, total
        self._asked = Asked()
        self._begun, self._told = time.monotonic(), 0.0
        self._num_known = self._num_answered = self._num_failed_in_a_row = 0
        self._tokens_before = sum(budget.spent)
        self.error: ThinktuneError | None = None

    @property
    def is_over(self) -> bool:
        """Whether nothing more is asked."""
        return self._asked.stopped is not None or self.error is not None

    def is_new(self, request: Request) -> bool:
        """Whether the journal lacks a request."""
        known = request.key in self._journal
        self._num_known += known
        return not known

    def stop(self, why: str) -> None:
        """Ask nothing more, and remember why."""
        self._asked.stopped = self._asked.stopped or why

    async def ask(self, request: Request) -> None:
        """Ask one request, and count what came of it."""
        try:
            await self._client.ask(request)
        except SetAsideError as error:
            self._asked.set_aside.append((request.where, str(error)))
            self._num_failed_in_a_row += 1
            if self._num_failed_in_a_row >= _MIN_FAILURES:
                self.stop(f"{self._num_failed_in_a_row} requests in a row failed ({error})")
        except LimitError as error:
            self.stop(str(error))
        except ThinktuneError as error:
            self.error = self.error or error
        else:
            self._num_failed_in_a_row = 0
            self._num_answered += 1
        self._tell()

    def finish(self) -> Asked:
        """Say how the round ended."""
        self._told = 0.0
        self._tell()
        self._asked.num_retries = self._client.num_retries
        self._asked.seconds = time.monotonic() - self._begun
        return self._asked

    def _tell(self) -> None:
        now = time.monotonic()
        if now - self._told < _TELL_SECONDS:
            return
        self._told = now
        elapsed = max(now - self._begun, 1e-9)
        tokens = sum(self._budget.spent)
        self._watcher.advance(
            min(self._num_known + self._num_answered, self._total),
            {
                "requests_per_minute": 60 * self._num_answered / elapsed,
                "tokens_per_second": (tokens - self._tokens_before) / elapsed,
                "tokens": tokens,
                "cost": self._budget.cost,
                "retries": self._client.num_retries,
                "set_aside": len(self._asked.set_aside),
            },
        )
