"""A rendered row as text, run by run of one segment, for colouring."""

from collections.abc import Mapping
from itertools import groupby
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from thinktune.data.segments import Rendered, Segment


class Span(NamedTuple):
    """A run of tokens of one segment, as text."""

    text: str
    segment: Segment
    carries_loss: bool


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
