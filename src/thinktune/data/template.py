"""Render prompts and training rows from the same pieces, and parse completions back.

The only file that knows ``<think>``. A checkpoint's own chat template is read for what it says
about prompts, and never used for training: R1's deletes the reasoning.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import groupby
from typing import Literal

from pydantic import PositiveInt
from transformers import PreTrainedTokenizerBase

from thinktune.data.example import Example, Role, Turn
from thinktune.data.family import (
    END_TOKENS,
    MARKUP,
    TemplateFamily,
    detect_family,
    read_own_prompt,
)
from thinktune.data.plain_text import PlainTokenizer, control_tokens
from thinktune.data.segments import Parsed, Rendered, RenderedSet, Segment
from thinktune.data.shortening import shorten
from thinktune.errors import DataError, TemplateError
from thinktune.settings import Settings

OPEN, CLOSE = "<think>", "</think>"
MAX_NAMED = 20  # rows an error names; more would hide the way out


class ThinkOpen(StrEnum):
    """Who writes ``<think>``."""

    AUTO = "auto"
    PROMPT = "prompt"
    COMPLETION = "completion"


class HistoryReasoning(StrEnum):
    """What becomes of the reasoning of earlier turns."""

    DROP = "drop"
    KEEP = "keep"


class Overlong(StrEnum):
    """What becomes of a row that is longer than the limit."""

    DROP = "drop"
    SHORTEN_REASONING = "shorten_reasoning"
    FAIL = "fail"


class TemplateConfig(Settings):
    """How question, reasoning and answer become one row of tokens."""

    family: TemplateFamily | Literal["auto"] = "auto"
    """Who writes turns how; auto reads it from the tokenizer."""
    system_prompt: str = ""
    """System prompt of examples that have none of their own."""
    history_reasoning: HistoryReasoning = HistoryReasoning.DROP
    """Whether earlier turns show their reasoning; R1 drops it at inference."""
    think_open: ThinkOpen = ThinkOpen.AUTO
    """Whether the opening think tag belongs to the prompt or is generated. Auto follows the
    checkpoint's own prompt for R1 families, and is the prompt for others."""
    max_length: PositiveInt | None = None
    """Most tokens of an example, prompt included; none for no limit of its own."""
    overlong: Overlong = Overlong.SHORTEN_REASONING
    """Longer examples: drop them, remove sentences from the middle of the reasoning, or fail."""


@dataclass(frozen=True, eq=False)
class Template:
    """One tokenizer's way to write question, reasoning and answer."""

    tokenizer: PreTrainedTokenizerBase
    config: TemplateConfig
    family: TemplateFamily
    plain: PlainTokenizer
    controls: dict[str, int]
    """Ids of the control tokens, by content."""
    bos: str
    """BOS token; empty where the checkpoint's own prompt has none."""
    default_system: str
    """System text the checkpoint's own chat template writes when it is given none."""
    think_in_prompt: bool
    """Whether the prompt ends with the opening think tag."""

    @classmethod
    def from_tokenizer(
        cls, tokenizer: PreTrainedTokenizerBase, config: TemplateConfig
    ) -> "Template":
        """Read family, BOS, default system text and think tag from the tokenizer.

        Raises:
            TemplateError: the family is unknown, or a token of it is missing.
        """
        controls = control_tokens(tokenizer)
        source = str(tokenizer.chat_template or "")
        family = detect_family(controls, source) if config.family == "auto" else config.family
        markup = MARKUP[family]
        if missing := [token for token in markup.tokens if token not in controls]:
            raise TemplateError(
                f"template.family={family} needs {', '.join(missing)}, which this tokenizer lacks; "
                "set template.family=auto or choose another checkpoint"
            )
        own = read_own_prompt(tokenizer, markup)
        opens = config.think_open is ThinkOpen.PROMPT
        if config.think_open is ThinkOpen.AUTO:
            own_opens = OPEN in own.after if own else family is not TemplateFamily.R1_0528
            opens = own_opens or family is TemplateFamily.CHATML
        return cls(
            tokenizer=tokenizer,
            config=config,
            family=family,
            plain=PlainTokenizer.from_tokenizer(tokenizer),
            controls=controls,
            bos=markup.bos or (own.bos if own else ""),
            default_system=own.system if own else "",
            think_in_prompt=opens,
        )

    @property
    def eos_token_id(self) -> int:
        """The last label of every row: the token that ends an answer."""
        return self.controls[MARKUP[self.family].end]

    @property
    def stop_token_ids(self) -> list[int]:
        """Tokens that end a generation; the last label comes first."""
        own = self.controls.get(str(self.tokenizer.eos_token))
        others = [self.controls.get(token) for token in END_TOKENS]
        return list(dict.fromkeys(n for n in (self.eos_token_id, own, *others) if n is not None))

    @property
    def description(self) -> str:
        """The template in one line, for people."""
        opens = "in the prompt" if self.think_in_prompt else "generated"
        tag = "one token" if OPEN in self.controls else "ordinary text"
        own = "with" if self.tokenizer.chat_template else "without"
        return f"{self.family}, {OPEN} {opens} ({tag}), {own} a chat template of its own"

    def render_prompt(
        self, question: str, *, system: str = "", history: Sequence[Turn] = ()
    ) -> list[int]:
        """Token ids a model is given for ``question``, the think tag included if it opens there.

        Text is never read as markup: ``</think>`` or ``<｜User｜>`` in a question is characters.
        """
        ids = self._prompt(question, system, history)
        return ids + self._think_open() if self.think_in_prompt else ids

    def render(self, example: Example) -> Rendered:
        """The row of ``example``: its prompt, then what the model is to generate.

        White space around reasoning and answer is dropped; the template has its own.

        Raises:
            DataError: reasoning or answer is empty, or holds a think tag.
        """
        _check(example)
        prompt = self._prompt(example.question, example.system, example.history)
        opening = self._think_open()
        parts = {
            Segment.PROMPT: prompt,
            Segment.THINK_OPEN: opening,
            Segment.REASONING: self._reasoning(example.reasoning),
            Segment.THINK_CLOSE: self._ids(self._marks(f"{CLOSE}\n\n")),
            Segment.ANSWER: self.plain.encode(example.answer.strip()),
            Segment.EOS: [self.eos_token_id],
        }
        return Rendered(
            tokens=tuple(token for ids in parts.values() for token in ids),
            segments=tuple(segment for segment, ids in parts.items() for _ in ids),
            prompt_length=len(prompt) + (len(opening) if self.think_in_prompt else 0),
            where=example.where,
        )

    def parse(self, completion: str) -> Parsed:
        """Take a completion apart; the opening think tag may be in the prompt or in the text."""
        before, close, after = completion.partition(CLOSE)
        reasoning = before.strip().removeprefix(OPEN).strip()
        return Parsed(reasoning=reasoning, answer=after.strip(), closed=bool(close))

    def parse_ids(self, ids: Sequence[int]) -> Parsed:
        """Take generated tokens apart, up to the first that ends a generation."""
        stops = set(self.stop_token_ids)
        end = next((place for place, token in enumerate(ids) if token in stops), len(ids))
        text = self.tokenizer.decode(
            list(ids[:end]), skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        return self.parse(str(text))

    def _prompt(self, question: str, system: str, history: Sequence[Turn]) -> list[int]:
        markup = MARKUP[self.family]
        system = system or self.config.system_prompt or self.default_system
        parts: list[int | str] = [*self._marks(self.bos)]
        if system:
            parts += [*self._marks(markup.system[0]), system, *self._marks(markup.system[1])]
        for turn in (*history, Turn(Role.USER, question)):
            opens, closes = markup.user if turn.role is Role.USER else markup.assistant
            parts += self._marks(opens)
            if turn.reasoning and self.config.history_reasoning is HistoryReasoning.KEEP:
                parts += self._ids(self._marks(f"{OPEN}\n")) + self._reasoning(turn.reasoning)
                parts += self._ids(self._marks(f"{CLOSE}\n\n"))
            parts += [turn.content, *self._marks(closes)]
        return self._ids([*parts, *self._marks(markup.assistant[0])])

    def _think_open(self) -> list[int]:
        return self._ids(self._marks(f"{OPEN}\n"))

    def _reasoning(self, text: str) -> list[int]:
        # With its newline: a full stop and the newline before </think> are one token in these
        # vocabularies, and a model has only ever seen them as one.
        return self.plain.encode(f"{text.strip()}\n")

    def _marks(self, markup: str) -> list[int | str]:
        """Our own markup: the control token it begins with as an id, the rest as text."""
        end = markup.find(">") + 1
        if markup[:end] in self.controls:
            return [self.controls[markup[:end]], *([markup[end:]] if markup[end:] else [])]
        return [markup] if markup else []

    def _ids(self, parts: Iterable[int | str]) -> list[int]:
        """Tokenise each run of text between control tokens as one, as a chat template does."""
        ids: list[int] = []
        for is_text, run in groupby(parts, key=lambda part: isinstance(part, str)):
            whole = list(run)
            ids += self.plain.encode("".join(map(str, whole))) if is_text else map(int, whole)
        return ids


def _check(example: Example) -> None:
    where = example.where or "an example"
    texts = {"reasoning": example.reasoning, "answer": example.answer}
    for name, text in texts.items():
        if not text.strip():
            raise DataError(
                f"{where}: the {name} is empty, and such a row teaches a model to leave it out; "
                "fill it in or drop the row"
            )
    spoken = (turn for turn in example.history if turn.role is Role.ASSISTANT)
    texts["history"] = "\n".join(f"{turn.reasoning}\n{turn.content}" for turn in spoken)
    for name, text in texts.items():
        if OPEN in text or CLOSE in text:
            raise DataError(f"{where}: the {name} holds a think tag; write the text without tags")


def fit(
    template: Template, example: Example, rendered: Rendered, max_length: int
) -> Rendered | None:
    """Bring a row within ``max_length`` by the length policy; None for a row that must go.

    Prompt, think tags, answer and EOS are never cut: only whole sentences of the reasoning go,
    from its middle, and one always stays.
    """
    if len(rendered.tokens) <= max_length:
        return rendered
    if template.config.overlong is not Overlong.SHORTEN_REASONING:
        return None
    others = sum(segment is not Segment.REASONING for segment in rendered.segments)
    budget = max_length - others
    reasoning = shorten(example.reasoning, lambda text: len(template._reasoning(text)), budget)
    if reasoning is None:
        return None
    fitted = template.render(replace(example, reasoning=reasoning))
    return replace(fitted, removed_tokens=len(rendered.tokens) - len(fitted.tokens))


def render_all(
    template: Template, examples: Iterable[Example], max_length: int | None = None
) -> RenderedSet:
    """Render ``examples`` within ``max_length`` and the template's own limit, if either is set.

    Raises:
        DataError: a row is longer and ``overlong`` is fail; names every such row.
    """
    limits = [n for n in (max_length, template.config.max_length) if n is not None]
    result = RenderedSet(rows=[], dropped=[], shortened=[])
    for number, example in enumerate(examples, start=1):
        where = example.where or f"example {number}"
        rendered = template.render(example)
        fitted = fit(template, example, rendered, min(limits)) if limits else rendered
        if fitted is None:
            result.dropped.append((where, f"{len(rendered.tokens)} tokens, over {min(limits)}"))
            continue
        result.rows.append(fitted)
        if fitted.removed_tokens:
            result.shortened.append((where, fitted.removed_tokens))
    if result.dropped and template.config.overlong is Overlong.FAIL:
        rows = "; ".join(f"{where}: {why}" for where, why in result.dropped[:MAX_NAMED])
        raise DataError(
            f"{len(result.dropped)} rows are too long ({rows}); "
            "raise template.max_length or set template.overlong=shorten_reasoning or drop"
        )
    return result
