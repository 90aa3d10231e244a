"""Wording: when two texts read the same, and where the words of one stand in another."""

import re
import unicodedata

from thinktune.words import UNSPACED

_LETTER = rf"[^\W_{UNSPACED}]"


def normalise(text: str) -> str:
    """Make texts comparable: case, width, spacing and punctuation at the ends do not matter.

    >>> normalise(" **The  Answer**. ")
    'the answer'
    """
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return re.sub(r"\s+", " ", text).strip(" .,;:!?*_`\"'“”‘’「」『』。、")


def wording_pattern(words: str) -> str:
    """Write a regular expression that finds words whose parts are parted by single spaces.

    A space, a hyphen and an underscore are one. Latin words must stand as words of their own, those
    of a script without spaces may stand inside other text.
    """
    pattern = r"[\s_-]+".join(re.escape(word) for word in words.split(" "))
    before = rf"(?<!{_LETTER})" if re.match(_LETTER, words) else ""
    after = rf"(?!{_LETTER})" if re.search(rf"{_LETTER}\Z", words) else ""
    return before + pattern + after
