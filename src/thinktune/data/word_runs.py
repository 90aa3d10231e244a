"""Words of a text as numbers, and the runs of them that tell texts apart."""

import re
import unicodedata
from functools import cache
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from thinktune.words import UNSPACED, find_words

SHINGLE_WORDS, SHINGLE_CHARACTERS = 3, 4
VOCABULARY = 1 << 18
"""Word hashes kept, about 50 MB at most; then they are forgotten and made again."""

Hashes = NDArray[np.uint64]
Places = NDArray[np.int64]
Shingles = NDArray[np.uint32]

_SIGN = re.compile("[+/^=<>×÷%*−–-]")
_SIGN_NAMES = {
    **{"+": "plus", "-": "minus", "−": "minus", "–": "minus", "*": "times", "×": "times"},
    **{"/": "over", "÷": "over", "^": "power", "%": "percent"},
    **{"=": "equals", "<": "less", ">": "greater"},
}
_ASCII = re.compile(r"[a-z0-9]+(?:['.][a-z0-9]+)*")
# What find_words takes as words beside the unspaced characters (the tests hold them together).
_SPACED = re.compile(rf"[^\W{UNSPACED}]+(?:['’.][^\W{UNSPACED}]+)*")
_BETWEEN = re.compile(rf"[^{UNSPACED}\0]+")
_UNSPACED, _NUMBER = np.uint64(1), np.uint64(2)
# Odd, so that it can be divided by modulo 2**64; 5 modulo 8, so that its powers take 2**62 values.
_BASE = 0x9E3779B97F4A7C15


def plain_words(text: str, *, signs: bool = True) -> list[str]:
    """Words that tell one text from another: case, width, spacing and punctuation are gone.

    Simplified and Traditional characters stay different.

    Args:
        text: any text.
        signs: read signs of arithmetic out, since 3 + 4 and 3 - 4 are two questions.

    >>> plain_words("What’s **３ + 4**? 流感！")
    ["what's", '3', 'plus', '4', '流', '感']
    """
    return find_words(_plain(text, signs))


def word_hashes(text: str, *, signs: bool = True) -> Hashes:
    """Hash the plain words of a text, the same in every process and on every machine.

    The lowest bit is 1 for a character of a script without spaces, the next for a number.
    """
    text = _plain(text, signs)
    if text.isascii():
        words = _ASCII.findall(text)
        return np.fromiter(map(_VOCABULARY.__getitem__, words), np.uint64, len(words))
    # One number a word: unspaced characters are their own, a spaced word leaves a zero.
    text = text.replace("\0", " ")
    words = _SPACED.findall(text)
    characters = _BETWEEN.sub("", _SPACED.sub("\0", text))
    hashes = np.frombuffer(characters.encode("utf-32-le"), "<u4").astype(np.uint64)
    spaced = np.flatnonzero(hashes == 0)
    hashes = mix(hashes * np.uint64(_BASE)) & ~_NUMBER | _UNSPACED
    hashes[spaced] = np.fromiter(map(_VOCABULARY.__getitem__, words), np.uint64, len(words))
    return hashes


def are_numbers(words: Hashes) -> NDArray[np.bool_]:
    """Tell from their hashes which words begin with a digit."""
    return (words & _NUMBER) != 0


def mix(values: Hashes) -> Hashes:
    """Let every bit depend on every other (splitmix64); what differs stays different."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _plain(text: str, signs: bool) -> str:
    if text.isascii():
        text = text.lower()
    else:
        text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
        text = text.replace("’", "'")
    text = text.replace("_", " ")
    return _SIGN.sub(_read_sign, text) if signs else text


def _read_sign(found: re.Match[str]) -> str:
    """Name a sign; a bullet's or a compound's hyphen, bold type and a ruled line are none."""
    sign, text, place = found[0], found.string, found.start()
    before, after = text[max(place - 1, 0) : place], text[place + 1 : place + 3]
    if sign == before or (sign == "*" and after[:1] == "*"):
        return " "
    if sign in "-−–" and not after.lstrip()[:1].isdigit():
        return " "
    return f" {_SIGN_NAMES[sign]} "


class _Vocabulary(dict[str, int]):
    """Spaced words to 62 random but fixed bits and the two that ``word_hashes`` explains."""

    def __missing__(self, word: str) -> int:
        if len(self) >= VOCABULARY:
            self.clear()
        digest = blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        value = int.from_bytes(digest, "little") & ~3 | (int(_NUMBER) if word[0].isdecimal() else 0)
        self[word] = value
        return value


_VOCABULARY = _Vocabulary()


def run_hashes(words: Hashes, spaced: int, unspaced: int) -> tuple[Hashes, Places]:
    """Hash the run that begins at each word.

    A run is ``spaced`` words long, or ``unspaced`` if it begins with a character of a script
    without spaces; where the text ends before, the run ends with it.

    Args:
        words: what ``word_hashes`` gives.
        spaced: length of a run that begins with a spaced word.
        unspaced: length of a run that begins with an unspaced character.

    Returns:
        The hashes, and where each run would end in a text long enough: runs whose end is past
        the last word are cut short.
    """
    size = len(words)
    powers, inverses = _powers(1 << size.bit_length())
    sums = np.zeros(size + 1, np.uint64)
    np.cumsum(words * powers[:size], out=sums[1:])
    lengths = np.array((spaced, unspaced))
    ends = np.arange(size) + lengths[(words & _UNSPACED).view(np.int64)]
    return (sums[np.minimum(ends, size)] - sums[:-1]) * inverses[:size], ends


@cache
def _powers(size: int) -> tuple[Hashes, Hashes]:
    def powers_of(base: int) -> Hashes:
        bases = np.full(size, base, np.uint64)
        bases[0] = 1
        return np.cumprod(bases, dtype=np.uint64)

    return powers_of(_BASE), powers_of(pow(_BASE, -1, 1 << 64))


def shingles_of(text: str) -> Shingles:
    """Hash the different shingles of a text, ascending.

    A shingle begins at each word and has 3 words (4 characters in a script without spaces), or
    what is left at the end, so that a text of one word has one.
    """
    hashes, _ = run_hashes(word_hashes(text), SHINGLE_WORDS, SHINGLE_CHARACTERS)
    shingles = (mix(hashes) >> np.uint64(32)).astype(np.uint32)
    shingles.sort()
    return shingles[first_of_equals(shingles)]


def first_of_equals(ascending: NDArray[np.unsignedinteger]) -> NDArray[np.bool_]:
    """Mark the first of each run of equal numbers."""
    first = np.ones(len(ascending), bool)
    np.not_equal(ascending[1:], ascending[:-1], out=first[1:])
    return first


def similarity(first: str, second: str) -> float:
    """Give the share of shingles two texts have in common, exactly; 0 for one without words.

    >>> similarity("Do I have the flu?", "do I have the FLU")
    1.0
    """
    one, other = shingles_of(first), shingles_of(second)
    common = len(np.intersect1d(one, other, assume_unique=True))
    return common / max(len(one) + len(other) - common, 1)
