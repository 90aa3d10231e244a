"""Words of a text, in scripts with and without spaces between them."""

import re
from collections.abc import Sequence

UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af"
    "\uf900-\ufaff\U00020000-\U0003ffff"
)
"""Thai, Lao, Myanmar, Khmer, Kana, Han, Hangul: no space need stand around a word."""
_WORD = re.compile(rf"[{UNSPACED}]|[^\W{UNSPACED}]+(?:['’.][^\W{UNSPACED}]+)*")
_UNSPACED_RUN = re.compile(rf"[{UNSPACED}]+")
_SPACED_WORD = re.compile(rf"[^\W{UNSPACED}]+(?:['’.][^\W{UNSPACED}]+)*")
MOSTLY_ASCII = 1.1
"""Bytes a character of text that is English but for its quotation marks."""
_PLAIN = {ord("’"): "'", **dict.fromkeys(map(ord, "‘“”–—…•°×"), " ")}
"""Typographic signs of otherwise plain English, as ASCII that counts alike."""
_SHAPE = bytes(
    ord("w") if chr(byte).isalnum() or byte == ord("_") else ord(".") if byte in b"'." else ord(" ")
    for byte in range(256)
)
"""ASCII bytes as what they are in a word: a part of it, what may join two parts, or its end."""


def find_words(text: str) -> list[str]:
    """Words in order; in scripts written without spaces each character is one.

    >>> find_words("It's 38.5, not flu: 流感")
    ["It's", '38.5', 'not', 'flu', '流', '感']
    """
    return _WORD.findall(text)


def count_words(text: str) -> int:
    """How many words ``find_words`` finds, counted without making them.

    >>> count_words("It's 38.5, not flu: 流感")
    6
    """
    plain = text
    if not text.isascii() and len(text.encode(errors="replace")) < MOSTLY_ASCII * len(text):
        plain = text.translate(_PLAIN)  # slow, so not for text in another script
    if plain.isascii():
        shape = (" " + plain + " ").encode().translate(_SHAPE)
        if b".." not in shape and b" . " not in shape:
            return shape.count(b" w") + shape.count(b" .")
    unspaced = sum(map(len, _UNSPACED_RUN.findall(text)))
    return unspaced + len(_SPACED_WORD.findall(text))


def count_words_each(texts: Sequence[str]) -> list[int]:
    """Count the words of each text, all of them in one pass where they are plain ASCII.

    >>> count_words_each(["It's 38.5", "流感", ""])
    [2, 2, 0]
    """
    whole = " ".join(("", *texts, ""))
    if whole.isascii():
        shape = whole.encode().translate(_SHAPE)
        if b".." not in shape and b" . " not in shape:
            counts, start = [], 0
            for text in texts:
                end = start + 1 + len(text)
                counts.append(shape.count(b" w", start, end) + shape.count(b" .", start, end))
                start = end
            return counts
    return [count_words(text) for text in texts]
