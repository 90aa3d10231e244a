"""What shows in a text alone: that it repeats itself, and which script and language it is in."""

import re
from functools import cache

import numpy as np
from numpy.typing import NDArray

from thinktune.data.scripts import (
    ALPHABETS,
    CHINESE,
    HAN,
    KANA,
    LETTERS_PER_SYLLABLE,
    Script,
    foreign_passages,
    script_of,
    scripts_in,
    simplified_only,
    traditional_only,
)
from thinktune.data.word_runs import first_of_equals, mix, run_hashes

RUN_CHARACTERS, RUN_SYLLABLES = 40, 16
"""A run that comes again: about 8 words, in Han and Kana of two characters each."""
MIN_RUNS = 32
"""A text with fewer whole runs is too short to tell a loop from a phrase."""


def repetition(text: str) -> float | None:
    """Give the share of a text that says what it has said before, word for word.

    It is the share of runs that occurred earlier in the text, where a run of 40 characters (16, if
    it begins with Han, Kana or Hangul) begins at each character; white space counts as one
    space. So a loop of words, digits or signs gives near 1, wherever it stands, and a text that
    ends in one gives the part that the loop takes. None for less than about 70 characters (50 of
    Chinese). Takes n log n steps and 100 bytes a character.

    Source: seq-rep-n of Welleck et al. (2019), arXiv:1908.04319, on characters.

    >>> repetition("Rest and drink plenty. See a doctor if it gets worse within a week.")
    >>> round(repetition("The answer is 42, so I check it again. " * 20), 2)
    0.95
    """
    plain = " ".join(text.split())
    codes = np.frombuffer(plain.encode("utf-32-le", "surrogatepass"), "<u4")
    hashes = mix(codes + np.uint64(1)) & ~np.uint64(1)  # the lowest bit says: a syllable
    if not plain.isascii():
        hashes |= _syllables().take(codes, mode="clip")  # beyond U+FFFF: none
    runs, ends = run_hashes(hashes, RUN_CHARACTERS, RUN_SYLLABLES)
    whole = np.sort(runs[ends <= len(hashes)])
    if len(whole) < MIN_RUNS:
        return None
    return 1 - int(first_of_equals(whole).sum()) / len(whole)


def expected_script(question: str, reference_text: str) -> Script:
    """Say which script an answer should be in: the reference's, or the question's if that is mute.

    A reference that is a number, a letter or an abbreviation is mute; one of Han without a
    tell-tale character is of the question's variety of Chinese, or Japanese. Text that mixes
    Simplified and Traditional counts as that of which it has more.

    >>> expected_script("發燒三天，喉嚨痛", "普通感冒"), expected_script("How many?", "42")
    (<Script.TRADITIONAL: 'traditional'>, <Script.LATIN: 'latin'>)
    """
    asked = _script_or_variety(question)
    reference = _script_or_variety(_SIGN.sub(" ", reference_text))
    if reference is Script.NONE:
        return asked
    if reference is Script.HAN and asked in CHINESE:
        return asked
    return asked if reference in CHINESE and asked is Script.JAPANESE else reference


def script_consistency(text: str, expected: Script) -> float | None:
    """Give the share of a text's letters that are in the script it should be in.

    A Han or Kana character or Hangul syllable weighs three letters. In text that should be in
    another script, Latin abbreviations (MRI, SpO2, COVID-19), units and LaTeX commands do not
    count, nor do letters that stand alone; in Latin text a Greek letter alone does not. Han are
    foreign in the proportion in which those of the other variety are among the characters that
    tell the two apart: Simplified text gives 0 where Traditional is expected. Ask for reasoning
    and answer apart.

    Returns:
        None if there is no letter, or ``expected`` names no script.

    >>> script_consistency("建議照 MRI，头痛時喝溫水 500 ml", Script.TRADITIONAL)
    0.75
    >>> script_consistency("I think 發燒", Script.LATIN)
    0.5
    """
    if expected in (Script.NONE, Script.OTHER):
        return None
    counts = scripts_in(_without_signs(text, expected))
    weights = {
        script: number * (LETTERS_PER_SYLLABLE if script in _SYLLABIC else 1)
        for script, number in counts.items()
    }
    total = sum(weights.values())
    if not total:
        return None
    if expected not in CHINESE:
        fitting = weights.get(expected, 0)
        if expected is Script.JAPANESE:  # a short answer may have no Kana
            fitting += weights.get(Script.HAN, 0)
        return fitting / total
    fitting = sum(weight for script, weight in weights.items() if script in CHINESE)
    simplified, traditional = _tell_tales_in(text)
    strange = {Script.TRADITIONAL: simplified, Script.SIMPLIFIED: traditional}.get(expected, 0)
    return fitting * (1 - strange / max(simplified + traditional, 1)) / total


def mixes_scripts(text: str) -> bool | None:
    """Say whether a text changes its language or variety of Chinese on the way.

    It does if it holds both characters only Simplified and only Traditional Chinese has, or a
    passage in another script (6 words or 10 syllables), or, in text that is mostly Latin, a letter
    of Han, Kana, Hangul, Cyrillic, Arabic, Hebrew, Thai or Devanagari. A text wholly in the wrong
    script does not mix: ``script_consistency`` tells. None if there is no letter.

    >>> mixes_scripts("First check the 體溫."), mixes_scripts("先做 PCR 與 MRI，再看 CT")
    (True, False)
    """
    main = script_of(text)
    if main is Script.NONE:
        return None
    if text.isascii():
        return False
    scripts = scripts_in(text)
    if Script.MIXED_HAN in scripts or (main is Script.LATIN and not _STRANGE.isdisjoint(scripts)):
        return True
    return bool(foreign_passages(text))


_SYLLABIC = CHINESE | {Script.JAPANESE, Script.KOREAN}
_STRANGE = frozenset(Script) - {Script.LATIN, Script.GREEK, Script.OTHER, Script.NONE}
"""What no English text holds; it has Greek letters and mathematical ones."""
_LATIN, _GREEK = ALPHABETS[Script.LATIN], ALPHABETS[Script.GREEK]
_UNITS = (
    "mg|kg|ng|pg|mcg|ml|dl|fl|mm|cm|km|nm|mmol|mol|mmHg|kcal|cal|kJ|kPa|Hz|kHz|bpm|mEq|min|hr|sec|"
    "ms|ppm|kWh|dB|lb|oz"
)
_GREEK_SIGN = re.compile(rf"(?<![{_LATIN}{_GREEK}])[{_GREEK}](?![{_LATIN}{_GREEK}])")
_SIGN = re.compile(
    r"\\[A-Za-z]+"  # a LaTeX command
    rf"|(?<![{_LATIN}{_GREEK}])(?:[{_LATIN}{_GREEK}](?!['’])"  # a letter alone
    rf"|[μµ]?(?:{_UNITS})|[μµ][A-Za-z]"
    # An abbreviation: up to 8 letters and digits, one after the first a capital or a digit.
    rf"|[A-Za-z](?=[A-Za-z0-9]{{0,6}}[A-Z0-9])[A-Za-z0-9]{{1,7}})(?![{_LATIN}{_GREEK}])"
)


def _without_signs(text: str, expected: Script) -> str:
    """Leave out what is no language: letters alone, and in other scripts Latin abbreviations."""
    if expected is not Script.LATIN:
        return _SIGN.sub(" ", text)
    return text if text.isascii() else _GREEK_SIGN.sub(" ", text)


def _tell_tales_in(text: str) -> tuple[int, int]:
    """Count the characters that only Simplified, and that only Traditional Chinese has."""
    simplified, traditional = simplified_only(text), traditional_only(text)
    return sum(map(text.count, simplified)), sum(map(text.count, traditional))


def _script_or_variety(text: str) -> Script:
    script = script_of(text)
    if script is not Script.MIXED_HAN:
        return script
    simplified, traditional = _tell_tales_in(text)
    if simplified == traditional:
        return Script.HAN
    return Script.SIMPLIFIED if simplified > traditional else Script.TRADITIONAL


@cache
def _syllables() -> NDArray[np.uint64]:
    """1 for each Han, Kana and Hangul up to U+FFFF, else 0."""
    held = re.findall(f"[{HAN}{KANA}\uac00-\ud7af]", "".join(map(chr, range(1 << 16))))
    table = np.zeros(1 << 16, np.uint64)
    table[[ord(character) for character in held]] = 1
    return table
