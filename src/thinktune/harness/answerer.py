"""A model that is asked in texts and answers in texts, with or without its reasoning."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from pydantic import NonNegativeInt, PositiveInt

from thinktune.data.example import Role, Turn
from thinktune.data.template import CLOSE, OPEN
from thinktune.errors import ConfigError, DataError
from thinktune.generation.completion import Completion, GenerationConfig
from thinktune.generation.engine import generate
from thinktune.loading import Model, load_adapted, load_config_model, load_run_model
from thinktune.paths import user_path
from thinktune.run_folder import open_run
from thinktune.settings import Settings


class Think(StrEnum):
    """What is scored of a completion."""

    STRIP = "strip"
    """The answer: what follows ``</think>``, and nothing if that never came."""
    KEEP = "keep"
    """All of it, the reasoning and its tags too."""


class Side(StrEnum):
    """Which side of a run is scored."""

    BEFORE = "before"
    """Its base model, with the run's template and types."""
    AFTER = "after"


class HarnessConfig(Settings):
    """What stands in ``--model_args``, with what the harness adds to it."""

    model: str
    """A run folder, or a base model: a folder, a Hub id, or wheel:NAME."""
    side: Side = Side.AFTER
    """For a run: with its adapter, or its base model alone."""
    adapter: str | None = None
    """For a base model: the folder of an adapter."""
    think: Think = Think.STRIP
    """Whether the reasoning is taken away before anything is scored."""
    seed: NonNegativeInt = 0
    """Of sampled completions."""
    batch_size: PositiveInt | Literal["auto"] = "auto"
    """Completions under way at a time; auto for as many as there is room for."""


@dataclass(slots=True)
class Answerer:
    """A loaded model, and the count of what it left unfinished."""

    model: Model
    config: HarnessConfig
    num_generated: int = 0
    """Completions so far."""
    num_unclosed: int = 0
    """Those whose reasoning was still open when they ended: empty answers, if stripped."""

    def render(self, messages: Sequence[Mapping[str, str]], *, asks: bool) -> str:
        """Render a conversation by our template, as text that `encode` reads back.

        Args:
            messages: each with role and content; the last is the question, or begins its answer.
            asks: it is the question. An answer that is begun has no reasoning before it.

        Raises:
            DataError: the question is not the user's.
        """
        *earlier, last = messages if asks else messages[:-1]
        if last["role"] != Role.USER:
            raise DataError(f"the question is a turn of {last['role']!r}, not of the user")
        system = "\n\n".join(m["content"] for m in earlier if m["role"] == "system")
        history = [Turn(Role(m["role"]), m["content"]) for m in earlier if m["role"] != "system"]
        template = self.model.template
        prompt = template.render_prompt(last["content"], system=system, history=history)
        text = self.model.tokenizer.decode(
            prompt, skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        return str(text) if asks else self.close(str(text)) + messages[-1]["content"]

    def encode(self, text: str, *, adds_special: bool | None = None) -> list[int]:
        """Token ids of a text, markup read as markup.

        Args:
            text: as `render` gives it, or any other.
            adds_special: whether the tokenizer adds what it adds; None: unless BOS is there.
        """
        tokenizer = self.model.tokenizer
        if adds_special is None:
            adds_special = not (tokenizer.bos_token and text.startswith(str(tokenizer.bos_token)))
        return tokenizer.encode(text, add_special_tokens=adds_special)

    def close(self, context: str) -> str:
        """End the reasoning that a context has just opened, so that an answer follows."""
        if self.config.think is Think.KEEP or not _opens(context):
            return context
        return f"{context.rstrip()}\n\n{CLOSE}\n\n"

    def answer(
        self,
        contexts: Sequence[str],
        config: GenerationConfig,
        until: Sequence[Sequence[str]],
        on_done: Callable[[int, str], None],
    ) -> None:
        """Complete contexts, and tell the index and text of each as it ends.

        A completion in which no reasoning was opened is an answer as it stands. Stop strings are
        sought in what is scored alone: a blank line in the reasoning ends nothing.

        Args:
            contexts: as `encode` reads them.
            config: limits and sampling.
            until: the stop strings of each.
            on_done: is told.
        """
        model = self.model

        def read(index: int, completion: Completion) -> None:
            text = completion.text
            parsed = model.template.parse(text)
            opened = OPEN in text or _opens(contexts[index])
            self.num_generated += 1
            self.num_unclosed += opened and not parsed.closed
            if self.config.think is Think.STRIP and (opened or parsed.closed):
                text = parsed.answer if parsed.closed else ""
            for stop in filter(None, until[index]):
                text = text.partition(stop)[0]
            on_done(index, text)

        generate(
            model.decoder,
            model.tokenizer,
            [self.encode(context) for context in contexts],
            config,
            stop_token_ids=model.template.stop_token_ids,
            seed=self.config.seed,
            batch_size=None if self.config.batch_size == "auto" else self.config.batch_size,
            on_done=read,
        )


def open_answerer(config: HarnessConfig) -> Answerer:
    """Load the model that is to be scored.

    Raises:
        ConfigError: an option has no effect.
        ThinktuneError: the run or the model cannot be loaded.
    """
    is_run = (user_path(config.model) / "run.json").is_file()
    if is_run and config.adapter is not None:
        raise ConfigError("adapter goes with a base model; a run has its own adapter")
    if is_run and config.side is Side.BEFORE:
        return Answerer(load_config_model(open_run(config.model)[1]), config)
    if is_run:
        return Answerer(load_run_model(config.model)[0], config)
    if config.side is Side.BEFORE:
        raise ConfigError(f"side=before goes with a run folder, and {config.model} is none")
    adapter = None if config.adapter is None else user_path(config.adapter)
    return Answerer(load_adapted(config.model, adapter), config)


def _opens(context: str) -> bool:
    return context.rstrip().endswith(OPEN)
