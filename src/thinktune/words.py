"""Words of a text, in scripts with and without spaces between them."""

import re

UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af"
    "\uf900-\ufaff\U00020000-\U0003ffff"
)
"""Thai, Lao, Myanmar, Khmer, Kana, Han, Hangul: no space need stand around a word."""
_WORD = re.compile(rf"[{UNSPACED}]|[^\W{UNSPACED}]+(?:['’.][^\W{UNSPACED}]+)*")


def find_words(text: str) -> list[str]:
    """Words in order; in scripts written without spaces each character is one.

    >>> find_words("It's 38.5, not flu: 流感")
    ["It's", '38.5', 'not', 'flu', '流', '感']
    """
    return _WORD.findall(text)


def count_words(text: str) -> int:
    """How many words ``find_words`` finds."""
    return sum(1 for _ in _WORD.finditer(text))
