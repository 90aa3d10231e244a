"""What a set of examples holds and how long it is, in one value."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from statistics import median
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from thinktune.data.example import Example
from thinktune.data.faults import Fault, find_faults, row_name
from thinktune.data.segments import Rendered, Segment
from thinktune.data.template import Overlong, Template, fit
from thinktune.words import count_words


@dataclass(frozen=True, slots=True)
class Quantiles:
    """Lengths of a set of texts."""

    minimum: int
    median: float
    p95: int
    """Nearest rank: 95 % of the texts are no longer than this."""
    maximum: int

    @classmethod
    def of(cls, lengths: Sequence[int]) -> "Quantiles":
        """Summarise at least one length.

        >>> Quantiles.of([4, 1, 2, 3])
        Quantiles(minimum=1, median=2.5, p95=4, maximum=4)
        """
        ordered = sorted(lengths)
        rank = -(-95 * len(ordered) // 100)
        return cls(ordered[0], float(median(ordered)), ordered[rank - 1], ordered[-1])


@dataclass(frozen=True, slots=True)
class TokenLengths:
    """Lengths as a template renders them, and what the length limit does."""

    segments: dict[str, Quantiles]
    """``prompt``, ``reasoning``, ``answer`` and ``row``, before anything is shortened."""
    max_length: int | None
    overlong: Overlong
    """What becomes of longer rows."""
    dropped: tuple[tuple[str, int], ...]
    """Rows that do not fit and cannot be made to, with their tokens."""
    shortened: tuple[tuple[str, int], ...]
    """Rows that fit once the middle of their reasoning is gone, with the tokens removed."""


@dataclass(frozen=True, slots=True)
class Inspection:
    """What ``thinktune data inspect`` shows."""

    num_examples: int
    num_with_reference: int
    num_with_system: int
    num_with_history: int
    references: dict[str, int]
    """How often each reference occurs, most frequent first."""
    words: dict[str, Quantiles]
    """By field: question, reasoning, answer. A Chinese or Japanese character is a word."""
    characters: dict[str, Quantiles]
    tokens: TokenLengths | None
    """None without a template."""
    faults: tuple[Fault, ...] = field(default=())
    """Errors first."""


class Span(NamedTuple):
    """A run of tokens of one segment, as text."""

    text: str
    segment: Segment
    carries_loss: bool


def inspect(
    examples: Sequence[Example],
    *,
    heldout: Sequence[Example] = (),
    template: Template | None = None,
    max_length: int | None = None,
) -> Inspection:
    """Count, measure and check ``examples``; nothing is changed.

    Args:
        examples: at least one.
        heldout: held-out questions, to find those that are also among the examples.
        template: renders the examples to measure them in tokens.
        max_length: most tokens of a row, beside the template's own limit.

    Raises:
        ValueError: there are no examples.
        DataError: the template cannot render an example (reasoning or answer is empty).
    """
    if not examples:
        raise ValueError("nothing to inspect: no examples")
    fields = ("question", "reasoning", "answer")
    texts = {name: [str(getattr(example, name)) for example in examples] for name in fields}
    references = Counter(e.reference for e in examples if e.reference is not None)
    return Inspection(
        num_examples=len(examples),
        num_with_reference=references.total(),
        num_with_system=sum(bool(example.system) for example in examples),
        num_with_history=sum(bool(example.history) for example in examples),
        references=dict(references.most_common()),
        words={name: Quantiles.of([count_words(t) for t in texts[name]]) for name in fields},
        characters={name: Quantiles.of([len(t) for t in texts[name]]) for name in fields},
        tokens=None if template is None else _measure(template, examples, max_length),
        faults=tuple(find_faults(examples, heldout)),
    )


def spans(
    rendered: Rendered,
    tokenizer: PreTrainedTokenizerBase,
    *,
    weights: Mapping[Segment, float] | None = None,
) -> list[Span]:
    """Text of a rendered row by segment, for colouring.

    Whole runs are decoded, never single tokens: a character may be several byte-level tokens.

    Args:
        rendered: the row.
        tokenizer: the one it was rendered with.
        weights: loss weight of each segment; None for the same weight after the prompt.
    """
    carries = [
        place >= rendered.prompt_length and (weights is None or weights.get(segment, 0.0) > 0)
        for place, segment in enumerate(rendered.segments)
    ]
    tokens = zip(rendered.segments, carries, rendered.tokens, strict=True)
    result: list[Span] = []
    for (segment, carries_loss), run in groupby(tokens, key=lambda token: token[:2]):
        ids = [number for _, _, number in run]
        text = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        result.append(Span(str(text), segment, carries_loss))
    return result


def _measure(
    template: Template, examples: Sequence[Example], max_length: int | None
) -> TokenLengths:
    limits = [n for n in (max_length, template.config.max_length) if n is not None]
    limit = min(limits, default=None)
    lengths: dict[str, list[int]] = defaultdict(list)
    dropped: list[tuple[str, int]] = []
    shortened: list[tuple[str, int]] = []
    for place, example in enumerate(examples, start=1):
        rendered = template.render(example)
        for kind in (Segment.PROMPT, Segment.REASONING, Segment.ANSWER):
            lengths[kind.name.lower()].append(rendered.segments.count(kind))
        lengths["row"].append(len(rendered.tokens))
        if limit is None or len(rendered.tokens) <= limit:
            continue
        fitted = fit(template, example, rendered, limit)
        if fitted is None:
            dropped.append((row_name(example, place), len(rendered.tokens)))
        else:
            shortened.append((row_name(example, place), fitted.removed_tokens))
    return TokenLengths(
        segments={kind: Quantiles.of(numbers) for kind, numbers in lengths.items()},
        max_length=limit,
        overlong=template.config.overlong,
        dropped=tuple(dropped),
        shortened=tuple(shortened),
    )
