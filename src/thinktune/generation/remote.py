"""Every prompt completed by another engine: a completions server such as vLLM's."""

import asyncio
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, field_validator
from transformers import PreTrainedTokenizerBase

from thinktune.endpoints import base_url, is_loopback, wait_for
from thinktune.errors import ConfigError, DataError
from thinktune.generation.completion import Completion, GenerationConfig, Stop
from thinktune.settings import Settings

if TYPE_CHECKING:  # an optional extra, and slow to import
    from openai import AsyncOpenAI

_NO_ROUTE = (404, 405, 501)
_PROBE = "Is 3.14 naïve?\n\n體溫 38,5 °C：發燒。</think>"
"""What both tokenizers must write alike: words, digits, accents, Chinese, spaces, a tag."""
_STOPS = {"stop": Stop.END_OF_TURN, "length": Stop.TOKEN_LIMIT}
"""vLLM's finish_reason; its others (abort, error, repetition) end no completion of ours."""


class ServerConfig(Settings):
    """A completions server that takes and gives token ids, and how much is asked at a time."""

    url: str
    """Base URL of an OpenAI-compatible server, usually ending in /v1."""
    model: str = Field(min_length=1)
    """What it calls the model: the base model's name, or that of an adapter it has loaded."""
    num_parallel: PositiveInt = 64
    """Requests under way at a time; the server batches them."""
    max_retries: NonNegativeInt = 6
    """Repetitions of a request that failed (429, 5xx, no connection), with growing waits."""
    timeout_seconds: PositiveFloat = 3600
    """Limit of one request; a completion comes whole, so a long one takes long."""
    api_key_env: str | None = None
    """Environment variable with the key; null: OPENAI_API_KEY, for https only."""

    @field_validator("url")
    @classmethod
    def _plain_url(cls, url: str) -> str:
        return base_url(url, "/completions")

    @property
    def is_loopback(self) -> bool:
        """Whether the server is on this machine."""
        return is_loopback(self.url)


def complete_remotely(
    server: ServerConfig,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    config: GenerationConfig,
    *,
    stop_token_ids: Sequence[int],
    seed: int = 0,
    numbers: Sequence[int] | None = None,
    on_done: Callable[[int, Completion], None] | None = None,
    on_warning: Callable[[str], None] | None = None,
) -> list[Completion]:
    """Complete every prompt on a server; the twin of `thinktune.generation.engine.generate`.

    Prompts and completions travel as token ids, so the server's chat template is never used, and
    text is made here as the built-in engine makes it. Every completion is a request of its own
    with a seed of its own. Two sides answered by the same server compare like for like. Neither
    equals the built-in engine token by token: its random numbers are others, and where two tokens
    are nearly as likely, greedy ones part too. vLLM itself repeats a seeded completion only as far
    as its kernels do not depend on the batch.

    Args:
        server: where it is, and what it calls the model.
        tokenizer: the model's, which the server's must equal.
        prompts: token ids of each prompt.
        config: limits and sampling; sent in full, so that no default of the server's counts.
        stop_token_ids: tokens that end a completion.
        seed: of the draws.
        numbers: decides each prompt's draws; None for its place in the list.
        on_done: called with (index, completion) as each ends.
        on_warning: called with what could not be checked.

    Returns:
        Completions in the order of the prompts.

    Raises:
        ConfigError: openai or a key is missing; the server refuses, cannot be reached, has
            another tokenizer, or gives no token ids (vLLM does from 0.10.2 on).
        DataError: a prompt is empty or fills the server's context.
    """
    key = _api_key(server)
    chosen = range(len(prompts)) if numbers is None else numbers

    async def ask() -> list[Completion]:
        async with _open(server, key) as api:
            asker = _Asker(server, api, tokenizer, config, tuple(stop_token_ids))
            context = await asker.read_context(on_warning or (lambda _: None))
            limits = _limits(prompts, config, context)
            bodies = [
                {"prompt": list(prompt), "max_tokens": limit, "seed": seed * 1_000_003 + number}
                for prompt, limit, number in zip(prompts, limits, chosen, strict=True)
            ]
            return await asker.complete_all(bodies, on_done or (lambda *_: None))

    with _plain_errors(server, key):
        return wait_for(ask())


@dataclass(frozen=True, slots=True)
class _Asker:
    """Asks a server over connections that are open; openai's errors pass through."""

    server: ServerConfig
    api: "AsyncOpenAI"
    tokenizer: PreTrainedTokenizerBase
    config: GenerationConfig
    stops: tuple[int, ...]

    async def read_context(self, on_warning: Callable[[str], None]) -> int | None:
        """Check that the tokenizers agree, and give the most tokens the server can see.

        None, with a warning, if the server has no such route; ConfigError if they do not agree.
        """
        import openai  # noqa: PLC0415 - an optional extra, and slow to import

        url = self.server.url
        try:
            body = {"prompt": _PROBE, "add_special_tokens": False}
            told = await self._post(f"{url.removesuffix('/v1')}/tokenize", body)
        except openai.APIStatusError as error:
            if error.status_code not in _NO_ROUTE:
                raise
            on_warning(f"{url} has no /tokenize: that its tokenizer is this model's is unchecked")
            return None
        if told.get("tokens") != self.tokenizer.encode(_PROBE, add_special_tokens=False):
            raise ConfigError(
                f"{url}: the tokenizer of {self.server.model} there is not this model's; serve "
                "the base model this run names"
            )
        context = told.get("max_model_len")
        return context if isinstance(context, int) else None

    async def complete_all(
        self, bodies: Sequence[dict[str, Any]], on_done: Callable[[int, Completion], None]
    ) -> list[Completion]:
        """Ask them all, so many at a time."""
        common = {
            "temperature": self.config.temperature,
            "top_p": self.config.top_p,
            # What the checkpoint's generation_config.json says would count otherwise.
            **{"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0},
            **{"presence_penalty": 0.0, "frequency_penalty": 0.0},
            "stop_token_ids": list(self.stops),
            "skip_special_tokens": False,
            "add_special_tokens": False,
            "return_token_ids": True,
        }
        gate = asyncio.Semaphore(self.server.num_parallel)

        async def complete(index: int) -> tuple[int, Completion]:
            async with gate:
                reply = await self._post("/completions", bodies[index] | common)
                return index, self._read(bodies[index], reply)

        tasks = [asyncio.create_task(complete(index)) for index in range(len(bodies))]
        done: dict[int, Completion] = {}
        try:
            for ended in asyncio.as_completed(tasks):
                index, completion = await ended
                done[index] = completion
                on_done(index, completion)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return [done[index] for index in range(len(bodies))]

    async def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        try:
            body = {"model": self.server.model} | body
            reply = await self.api.post(path, body=body, cast_to=object)
        except (ValueError, RecursionError):  # what calls itself JSON and is none
            reply = None
        if not isinstance(reply, dict):
            raise ConfigError(f"{self.server.url}: the reply is no JSON; does the URL end in /v1?")
        return reply

    def _read(self, asked: Mapping[str, Any], reply: Mapping[str, Any]) -> Completion:
        """Read a completion, once nothing in it contradicts what was asked."""
        url = self.server.url
        match reply.get("choices"):
            case [{"finish_reason": finish, "token_ids": [*tokens]} as choice]:
                pass
            case [{"finish_reason": _}]:
                raise ConfigError(f"{url}: no token ids in the reply; vLLM gives them from 0.10.2")
            case _:
                raise ConfigError(f"{url}: no completion in the reply")
        if not isinstance(finish, str) or finish not in _STOPS:
            raise ConfigError(f"{url}: a completion ended by {finish!r:.40}, not by the model")
        if choice.get("prompt_token_ids") not in (None, asked["prompt"]):
            raise ConfigError(f"{url}: the server changed a prompt (its prompt_token_ids differ)")
        known = range(len(self.tokenizer))
        if not all(isinstance(token, int) and token in known for token in tokens):
            raise ConfigError(f"{url}: token ids in the reply that this model does not have")
        if len(tokens) > asked["max_tokens"]:
            raise ConfigError(f"{url}: {len(tokens)} tokens, of {asked['max_tokens']} asked")
        stop = _STOPS[finish]
        if stop is Stop.END_OF_TURN and tokens and tokens[-1] in self.stops:
            tokens.pop()
        text = self.tokenizer.decode(tokens, skip_special_tokens=False)
        assert isinstance(text, str)
        return Completion(tuple(tokens), text, stop)


def _limits(
    prompts: Sequence[Sequence[int]], config: GenerationConfig, context: int | None
) -> list[int]:
    limits = []
    for index, prompt in enumerate(prompts):
        room = config.max_new_tokens if context is None else context - len(prompt)
        if not prompt or room <= 0:
            told = f"prompt {index} has {len(prompt)} tokens; the server reads 1 to less than "
            raise DataError(f"{told}{context or 'its limit'} (--max-model-len)")
        limits.append(min(room, config.max_new_tokens))
    return limits


@contextmanager
def _plain_errors(server: ServerConfig, key: str | None) -> Iterator[None]:
    try:
        import openai  # noqa: PLC0415 - an optional extra, and slow to import
    except ImportError as error:
        raise ConfigError("a server needs openai: pip install thinktune[teacher]") from error
    try:
        yield
    except openai.APIStatusError as error:
        told = error.message.replace(key, "[key]") if key else error.message
        hint = {
            401: "; name the variable that holds the key (api_key_env)",
            404: "; is the model's name right, and does the URL end in /v1?",
        }.get(error.status_code, "")
        told = " ".join(told.split())[:300]
        raise ConfigError(f"{server.url}: {told}{hint}") from None
    except openai.APIConnectionError as error:  # a timeout too
        raise ConfigError(
            f"{server.url}: no reply in {server.max_retries + 1} attempts "
            f"({type(error.__cause__).__name__}); is the server running?"
        ) from None


def _api_key(server: ServerConfig) -> str | None:
    """The key, from the environment alone, and never in the clear to another machine."""
    is_https = server.url.startswith("https://")
    if server.api_key_env is None:
        return os.environ.get("OPENAI_API_KEY", "").strip() or None if is_https else None
    key = os.environ.get(server.api_key_env, "").strip()
    if not key:
        raise ConfigError(f"api_key_env={server.api_key_env}: that variable is not set")
    if not is_https and not server.is_loopback:
        raise ConfigError(
            f"{server.url}: a key would travel unencrypted; use https, or a tunnel such as "
            "`ssh -L 8000:localhost:8000 HOST`"
        )
    return key


def _open(server: ServerConfig, key: str | None) -> "AsyncOpenAI":
    import openai  # noqa: PLC0415 - an optional extra, and slow to import

    return openai.AsyncOpenAI(
        base_url=server.url,
        api_key=key or "none",
        max_retries=server.max_retries,
        timeout=openai.Timeout(server.timeout_seconds, connect=10.0),
        # A proxy from the environment cannot reach this machine's own ports.
        http_client=openai.DefaultAsyncHttpxClient(trust_env=not server.is_loopback),
    )
