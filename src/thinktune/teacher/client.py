"""One request to an OpenAI-compatible endpoint, repeated until it is answered or set aside."""

import asyncio
import hashlib
import itertools
import json
import os
import random
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any

from thinktune.errors import ConfigError
from thinktune.teacher.budget import Budget, Tokens
from thinktune.teacher.config import TeacherConfig
from thinktune.teacher.journal import Journal
from thinktune.teacher.replies import Reply, ReplyError, error_text, read_reply

if TYPE_CHECKING:  # an optional extra, and slow to import
    from openai import APIStatusError, AsyncOpenAI

_RETRIED = (408, 409, 425, 429)
_NEVER_SENT = ("ConnectError", "ConnectTimeout", "PoolTimeout", "LocalProtocolError")
_MAX_BACKOFF_SECONDS = 60.0
_MAX_WAIT_SECONDS = 600.0
_TEMPLATE_TOKENS = 64
"""What a chat template may add around the messages."""


class LimitError(Exception):
    """Nothing more can be asked now, but later; its text says why."""


class SetAsideError(Exception):
    """A request that failed as often as it may; its text is the last failure."""


@dataclass(frozen=True, slots=True)
class Request:
    """One completion to ask for."""

    body: Mapping[str, Any]
    """The fields of the request, with model, messages and limit."""
    max_tokens: int
    """The limit in it."""
    key: str
    """Names it in the journal."""
    where: str
    """The row it is for, for messages."""

    @property
    def bound(self) -> Tokens:
        """The most prompt and completion tokens it can take; no token is less than a byte."""
        prompt = json.dumps(self.body["messages"], ensure_ascii=False).encode(errors="replace")
        return len(prompt) + _TEMPLATE_TOKENS, self.max_tokens


def fingerprint(value: object) -> str:
    """Sixteen hexadecimal digits of any JSON value."""
    text = json.dumps(value, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Pace:
    """Says when the next attempt may begin: evenly spaced, and not while the endpoint rests."""

    def __init__(self, per_minute: float | None) -> None:
        """Let ``per_minute`` attempts begin in a minute; None for any number."""
        self._gap = 60 / per_minute if per_minute else 0.0
        self._free_at = 0.0

    async def turn(self) -> None:
        """Wait for the next turn and take it."""
        while (wait := self._free_at - time.monotonic()) > 0:
            await asyncio.sleep(wait)
        self._free_at = time.monotonic() + self._gap

    def hold(self, seconds: float) -> None:
        """Let nobody begin for so long."""
        self._free_at = max(self._free_at, time.monotonic() + seconds)


class Client:
    """Owns the connections to an endpoint; asks, repeats, and writes replies into the journal."""

    def __init__(self, config: TeacherConfig, journal: Journal, budget: Budget) -> None:
        """Prepare to ask; use it as an asynchronous context manager.

        Raises:
            ConfigError: the package openai is missing, or no key is set where one is needed.
        """
        self.num_retries = 0
        self._config, self._journal, self._budget = config, journal, budget
        self._pace = Pace(config.requests_per_minute)
        self._key = _api_key(config)
        self._api = _open(config, self._key)

    async def __aenter__(self) -> "Client":
        """Begin."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the connections."""
        await self._api.close()

    async def ask(self, request: Request) -> Reply:
        """Ask until there is a reply, which is then in the journal.

        The caller has held ``request.bound`` in the budget; it is settled when this returns or
        raises. An attempt that may have been paid for counts as if it had used its bound.

        Raises:
            SetAsideError: ``max_retries`` repetitions failed too.
            LimitError: a cap, or an endpoint that wants a long rest.
            ConfigError: the endpoint refuses the request itself.
        """
        used: Tokens = (0, 0)
        is_held = True
        try:
            for attempt in itertools.count():
                await self._pace.turn()
                try:
                    reply = await self._attempt(request)
                except _AttemptError as error:
                    failure = error
                else:
                    self._journal.add(request.key, reply)
                    used = (reply.input_tokens, reply.output_tokens)
                    return reply
                if failure.may_be_paid:
                    self._journal.lose(request.key, request.bound)
                    self._budget.settle(request.bound, request.bound)
                    is_held = False
                if attempt >= self._config.max_retries:
                    raise SetAsideError(str(failure))
                if not is_held and not self._budget.hold(request.bound):
                    raise LimitError(f"{self._budget.cap} would be passed")
                is_held = True
                await self._wait(failure, attempt)
                self.num_retries += 1
            raise AssertionError("unreachable")
        finally:
            if is_held:
                self._budget.settle(request.bound, used)

    async def _attempt(self, request: Request) -> Reply:
        import openai  # noqa: PLC0415 - an optional extra, and slow to import

        named = {"model": request.body["model"], "messages": request.body["messages"]}
        rest = {name: value for name, value in request.body.items() if name not in named}
        try:
            async with asyncio.timeout(self._config.timeout_seconds):
                response = await self._api.chat.completions.with_raw_response.create(
                    **named, extra_body=rest
                )
            text = self._without_key(response.text)
            return read_reply(text, endpoint=self._config.host, bound=request.bound)
        except ReplyError as error:
            raise _AttemptError(str(error), may_be_paid=True) from None
        except (TimeoutError, openai.APITimeoutError):
            limit = self._config.timeout_seconds
            raise _AttemptError(f"no reply within {limit:g} s", may_be_paid=True) from None
        except openai.APIStatusError as error:
            raise self._refusal(error, request) from None
        except openai.APIConnectionError as error:
            cause = type(error.__cause__).__name__
            sent = cause not in _NEVER_SENT
            told = "connection cut" if sent else "no connection"
            raise _AttemptError(f"{told} ({cause})", may_be_paid=sent) from None

    def _refusal(self, error: "APIStatusError", request: Request) -> Exception:
        status = error.status_code
        told = self._without_key(error_text(error.body or error.message))
        if status in _RETRIED or status >= 500:
            if error.code == "insufficient_quota":
                return LimitError(f"{self._config.host} says the quota is used up: {told}")
            rest = _retry_after(error.response.headers)
            return _AttemptError(f"status {status}: {told}", may_be_paid=False, rest=rest)
        hint = {
            401: "; set the variable that --api-key-env names, OPENAI_API_KEY without it",
            403: "; set the variable that --api-key-env names, OPENAI_API_KEY without it",
            404: "; is the model's name right, and does the URL end in /v1?",
        }.get(status, "")
        return ConfigError(
            f"{request.where}: {self._config.url} refuses the request ({status}): {told}{hint}"
        )

    async def _wait(self, failure: "_AttemptError", attempt: int) -> None:
        """Back off: doubling, with jitter, and for all requests as long as the endpoint says."""
        if failure.rest:
            if failure.rest > _MAX_WAIT_SECONDS:
                raise LimitError(f"{self._config.host} asks to wait {failure.rest:.0f} s")
            self._pace.hold(failure.rest)
            return
        backoff = min(_MAX_BACKOFF_SECONDS, self._config.backoff_seconds * 2**attempt)
        await asyncio.sleep(backoff * random.uniform(0.5, 1.0))

    def _without_key(self, text: str) -> str:
        return text.replace(self._key, "[key]") if self._key else text


class _AttemptError(Exception):
    """An attempt that failed and may be repeated."""

    def __init__(self, text: str, *, may_be_paid: bool, rest: float | None = None) -> None:
        super().__init__(text)
        self.may_be_paid = may_be_paid
        self.rest = rest


def _api_key(config: TeacherConfig) -> str | None:
    """The key, from the environment alone; not to this machine or in the clear unless asked."""
    if config.api_key_env is not None:
        key = os.environ.get(config.api_key_env, "").strip()
        if not key:
            raise ConfigError(f"--api-key-env {config.api_key_env}: that variable is not set")
        return key
    if config.url.startswith("http://"):
        return None
    key = os.environ.get("OPENAI_API_KEY", "").strip()
    if not key and not config.is_loopback:
        raise ConfigError(
            f"{config.host} needs a key: set OPENAI_API_KEY, or name another variable by "
            "--api-key-env"
        )
    return key or None


def _open(config: TeacherConfig, key: str | None) -> "AsyncOpenAI":
    try:
        import openai  # noqa: PLC0415 - an optional extra, and slow to import
    except ImportError as error:
        raise ConfigError("a teacher needs openai: pip install thinktune[teacher]") from error
    return openai.AsyncOpenAI(
        base_url=config.url,
        api_key=key or "none",
        max_retries=0,
        timeout=config.timeout_seconds,
        # A proxy from the environment cannot reach this machine's own ports.
        http_client=openai.DefaultAsyncHttpxClient(trust_env=not config.is_loopback),
    )


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that a Retry-After header asks for, as a number or a date; None without one."""
    text = headers.get("retry-after", "")
    with suppress(ValueError):
        return max(0.0, float(text))
    with suppress(ValueError, TypeError):
        return max(0.0, (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds())
    return None
