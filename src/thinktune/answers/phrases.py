"""Phrases: what free text must say, and what it must not."""

import re
from collections.abc import Sequence

from thinktune.answers.wording import normalise, wording_pattern
from thinktune.errors import ConfigError

ALTERNATIVES = "|"
"""Parts the ways of putting one phrase: ``see a doctor|go to hospital``."""


def find_phrases(text: str, phrases: Sequence[str]) -> tuple[bool, ...]:
    """Say of each phrase whether a text has it, in one of its alternatives.

    Case, width and spacing do not matter; a space, a hyphen and an underscore are one. Latin words
    must stand as words of their own, those of a script without spaces may stand inside other text.
    Meaning is not read: "do not see a doctor" has the phrase "see a doctor".

    >>> find_phrases("Rest, and see a doctor if it gets worse.", ["rest", "hospital|see a doctor"])
    (True, True)

    Raises:
        ConfigError: an alternative is empty.
    """
    text = normalise(text)
    return tuple(re.search(_pattern(phrase), text) is not None for phrase in phrases)


def read_phrases(value: object) -> tuple[str, ...]:
    """Read phrases as a record holds them: a list, or a text parted by newlines or semicolons.

    >>> read_phrases("rest; see a doctor|go to hospital")
    ('rest', 'see a doctor|go to hospital')

    Raises:
        ConfigError: it is neither, or an alternative is empty.
    """
    if value is None:
        return ()
    listed = re.split(r"[\n;；]", value) if isinstance(value, str) else value
    if not isinstance(listed, Sequence) or not all(isinstance(phrase, str) for phrase in listed):
        raise ConfigError(f"phrases must be a list of texts, or one text with ';', not {value!r}")
    phrases = tuple(phrase.strip() for phrase in listed if phrase.strip())
    for phrase in phrases:
        _pattern(phrase)
    return phrases


def _pattern(phrase: str) -> str:
    words = [
        re.sub(r"[\s_-]+", " ", normalise(words)).strip() for words in phrase.split(ALTERNATIVES)
    ]
    if not all(words):
        raise ConfigError(f"phrase {phrase!r} has an empty alternative; remove it")
    return "|".join(map(wording_pattern, words))
