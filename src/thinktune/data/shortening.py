"""Shorten a text by whole sentences, from its middle."""

import re
from bisect import bisect_right
from collections.abc import Callable

SENTENCE = re.compile(
    r"""
    (?: [.!?]{2,}+ ["'”’)\]]*+ (?=\s)    # a sentence of nothing but its end; or
      | .+?                              # as little as possible, up to
    (?: [。！？…]+ [”’」』）】]*            # a full-width end, which needs no space after it,
      | (?<![.!?]) [.!?]++ ["'”’)\]]*+ (?=\s)    # a Western end before a space (3.14 is none),
      | (?=\n) | \Z ))                   # the end of the line, or of the text;
    \s*                                  # and the white space that follows belongs to it
    """,
    re.VERBOSE | re.DOTALL,
)


def split_sentences(text: str) -> list[str]:
    """Cut ``text`` into sentences that join up to it again.

    >>> split_sentences("體溫 38.5 度。可能是流感？ Next. Done")
    ['體溫 38.5 度。', '可能是流感？ ', 'Next. ', 'Done']
    """
    return SENTENCE.findall(text)


def shorten(text: str, count_tokens: Callable[[str], int], max_tokens: int) -> str | None:
    """Remove the fewest sentences so that ``text`` has at most ``max_tokens``.

    One run of sentences goes, from the middle: the first ones say what the question is, the last
    ones lead to the answer, and an answer that does not follow from the text before it would
    teach a model to jump. The end keeps one sentence more than the start.

    Args:
        text: what to shorten.
        count_tokens: number of tokens of a candidate.
        max_tokens: the limit.

    Returns:
        The shortened text, or None if not even the last sentence fits.
    """
    sentences = split_sentences(text)

    def ends(num_kept: int) -> str:
        num_head = num_kept // 2
        tail = sentences[len(sentences) - (num_kept - num_head) :]
        return "".join([*sentences[:num_head], *tail]).strip()

    # What is kept grows sentence by sentence, so the number of tokens is sorted.
    fits = range(1, len(sentences) + 1)
    num_kept = bisect_right(fits, max_tokens, key=lambda num: count_tokens(ends(num)))
    return ends(num_kept) if num_kept else None
