"""Which script a text is written in, Simplified and Traditional Chinese apart, and conversion."""

import re
from collections import Counter
from collections.abc import Callable, Iterable
from difflib import SequenceMatcher
from enum import StrEnum
from functools import cache, lru_cache
from itertools import groupby
from typing import TYPE_CHECKING

from thinktune.errors import ConfigError

if TYPE_CHECKING:
    from numpy import ndarray


class Script(StrEnum):
    """What a text is written in."""

    LATIN = "latin"
    TRADITIONAL = "traditional"
    SIMPLIFIED = "simplified"
    HAN = "han"
    """Han of which no character tells Traditional from Simplified."""
    MIXED_HAN = "mixed_han"
    """Han with characters only Simplified and characters only Traditional."""
    JAPANESE = "japanese"
    KOREAN = "korean"
    CYRILLIC = "cyrillic"
    GREEK = "greek"
    ARABIC = "arabic"
    HEBREW = "hebrew"
    THAI = "thai"
    DEVANAGARI = "devanagari"
    OTHER = "other"
    NONE = "none"
    """No letters."""

    __hash__ = str.__hash__  # an enum's own is slower and not that of the equal text


CHINESE = frozenset({Script.TRADITIONAL, Script.SIMPLIFIED, Script.HAN, Script.MIXED_HAN})


CONVERSIONS = {"traditional": "s2tw", "simplified": "tw2s", "taiwan": "s2twp"}
"""What ``to_script`` writes, and OpenCC's name of it.

``traditional`` has Taiwan's standard characters and keeps the words; ``taiwan`` changes the words
too (软件 becomes 軟體); ``simplified`` changes characters only.
"""

ALPHABETS = {
    Script.LATIN: "A-Za-z\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f\u1e00-\u1eff"
    "\uff21-\uff3a\uff41-\uff5a",
    Script.CYRILLIC: "\u0400-\u052f\u1c80-\u1c8f\u2de0-\u2dff\ua640-\ua69f",
    Script.GREEK: "\u0370-\u03ff\u1f00-\u1fff",
    Script.ARABIC: "\u0600-\u06ff\u0750-\u077f\u08a0-\u08ff\ufb50-\ufdff\ufe70-\ufeff",
    Script.HEBREW: "\u0590-\u05ff\ufb1d-\ufb4f",
    Script.DEVANAGARI: "\u0900-\u097f\ua8e0-\ua8ff",
    Script.KOREAN: "\u1100-\u11ff\u3130-\u318f\uac00-\ud7ff",
}
"""Scripts with spaces between words, as ranges of a character class."""

KANA = "\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\uff66-\uff9f"
HAN = "\u3005\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
UNSPACED = {Script.THAI: "\u0e00-\u0e7f", Script.JAPANESE: KANA, Script.HAN: HAN}

LETTERS_PER_SYLLABLE = 3
"""A Han or Kana character or Hangul syllable weighs as much as three letters of an alphabet."""
KANA_RATE = 0.2
"""Han with less Kana than this is Chinese that quotes a Japanese word."""
MIN_FOREIGN_WORDS, MIN_FOREIGN_SYLLABLES = 6, 10

TAIWAN_TOO = frozenset("凄厘昵栖沄涂瓮炖熏疱胜膻蒏蔂蝎跖")
"""Correct in Taiwan (胜肽, 疱疹, 跖骨, the surname 涂), yet outside Big5's common characters."""
TRADITIONAL_AFTER_ALL = frozenset("後於麽麴薹榘")
"""In GB 2312 for the sake of names; Simplified text does not use them."""


@cache
def tell_tales() -> tuple[frozenset[str], frozenset[str]]:
    """Characters that only Simplified, and that only Traditional Chinese has, by OpenCC's tables.

    Only Simplified: the conversion to Traditional changes it, and it is neither among the 5,401
    common characters of Big5 (as 后, 里, 台, 么 are) nor a form of Hong Kong's (温, 户).
    Only Traditional: the conversion to Simplified changes it, and GB 2312 lacks it (it has 乾, 著).
    Rare Han beyond U+FFFF are in neither. Takes about a quarter of a second, once.
    """
    characters = [chr(code) for code in (*range(0x3400, 0x4DC0), *range(0x4E00, 0xA000))]
    big5 = {each: each.encode("big5", "ignore") for each in characters}
    common = {each for each, code in big5.items() if b"\xa4\x40" <= code <= b"\xc6\x7e"}
    in_gb2312 = {each for each in characters if each.encode("gb2312", "ignore")}

    def changed(name: str) -> dict[str, str]:
        converted = _converter(name)("\n".join(characters)).split("\n")
        return {old: new for old, new in zip(characters, converted, strict=True) if old != new}

    hong_kong = {*changed("t2hk").values(), *changed("hk2t")}
    traditional = frozenset(changed("t2s")) - in_gb2312 | TRADITIONAL_AFTER_ALL
    correct_elsewhere = hong_kong | common | TAIWAN_TOO | TRADITIONAL_AFTER_ALL
    return frozenset(changed("s2t")) - correct_elsewhere, traditional


def simplified_only(text: str) -> list[str]:
    """Characters of ``text`` that only Simplified Chinese has, each once, in order.

    Kanji of Japanese text may be among them: ask ``script_of`` first.

    >>> simplified_only("皇后說：头痛、发烧、头晕")
    ['头', '发', '烧', '晕']
    """
    return [] if text.isascii() else list(dict.fromkeys(_tell_tale()[0].findall(text)))


def traditional_only(text: str) -> list[str]:
    """Characters of ``text`` that only Traditional Chinese has, each once, in order.

    >>> traditional_only("头痛跟發燒")
    ['發', '燒']
    """
    return [] if text.isascii() else list(dict.fromkeys(_tell_tale()[1].findall(text)))


def scripts_in(text: str) -> Counter[Script]:
    """Letters of ``text`` by script; all its Han counts as the one variety that the text is in.

    >>> scripts_in("發燒 38.5 度, PCR")
    Counter({<Script.LATIN: 'latin'>: 3, <Script.TRADITIONAL: 'traditional'>: 3})
    """
    return Counter(_letters(text))


def script_of(text: str) -> Script:
    """The script that most of ``text`` is in, a syllable or Han weighing three letters.

    >>> script_of("建議病人做 MRI，不用 CT"), script_of("38.5")
    (<Script.TRADITIONAL: 'traditional'>, <Script.NONE: 'none'>)
    """
    if text.isascii():
        return Script.LATIN if _ASCII_LETTER.search(text) else Script.NONE
    return _main(_letters(text))


def foreign_passages(text: str) -> list[tuple[Script, str]]:
    """Passages of ``text`` that are written in another script than most of it.

    A passage is 6 words with only white space between them, or 10 Han or Thai letters with at most
    a punctuation mark between two, or 10 Kana and Han that begin with Kana and have two more of it.
    Names, terms, abbreviations and lists of them are shorter: ``MRI 38.5 度`` is one script.

    >>> foreign_passages("他說 the patient has no fever today 喔，所以在家休息就好")
    [(<Script.LATIN: 'latin'>, 'the patient has no fever today')]
    """
    letters = {} if text.isascii() else _letters(text)
    if len(letters) < 2:
        return []
    main, passages = _main(letters), _passages()
    return [
        (script, found[0])
        for script, number in letters.items()
        if number >= _MIN_FOREIGN_LETTERS and script not in (main, Script.OTHER)
        for found in passages[Script.HAN if script in CHINESE else script].finditer(text)
    ]


def to_script(text: str, target: str) -> str:
    """Convert Chinese text with OpenCC; text that is already as wanted comes back unchanged.

    OpenCC takes each input to be wholly in the other script and would turn 公里的里長 or a Mr 范
    of Traditional text into something else. So Traditional text stays as it is, and of text that
    mixes both only those clauses are converted that hold a character of the other script.

    Raises:
        ConfigError: unknown target.

    >>> to_script("头发湿，用软件", "traditional"), to_script("头发湿，用软件", "taiwan")
    ('頭髮溼，用軟件', '頭髮溼，用軟體')
    """
    if target not in CONVERSIONS:
        raise ConfigError(f"unknown script {target}; known: {', '.join(CONVERSIONS)}")
    held = next((script for script in _letters(text) if script in CHINESE), None)
    wanted = Script.SIMPLIFIED if target == "simplified" else Script.TRADITIONAL
    if held in (None, wanted):
        return text
    convert = _converter(CONVERSIONS[target])
    if held is not Script.MIXED_HAN:
        return convert(text)
    strange = _tell_tale()[wanted is Script.SIMPLIFIED]
    return "".join(
        convert(clause) if strange.search(clause) else clause for clause in _CLAUSE.split(text)
    )


def differences(before: str, after: str) -> list[tuple[str, str]]:
    """What was replaced by what, in order of appearance, each as often as it was.

    Linear where the lengths agree, as after a conversion of characters; else quadratic at worst.

    >>> differences("头发干了", "頭髮乾了"), differences("用软件吧", "用軟體的吧")
    ([('头发干', '頭髮乾')], [('软件', '軟體的')])
    """
    if len(before) == len(after):
        pairs = groupby(zip(before, after, strict=True), key=lambda pair: pair[0] != pair[1])
        runs = [tuple(map("".join, zip(*run, strict=True))) for differ, run in pairs if differ]
        if all(len(old) <= _LONGEST_RUN for old, _ in runs):
            return [(old, new) for old, new in runs]
    matcher = SequenceMatcher(None, before, after, autojunk=False)
    return [
        (before[start:end], after[new_start:new_end])
        for tag, start, end, new_start, new_end in matcher.get_opcodes()
        if tag != "equal"
    ]


_ASCII_LETTER = re.compile("[A-Za-z]")
_ASCII_OTHERS = bytes(code for code in range(128) if not chr(code).isalpha())
_CLAUSE = re.compile(r"([，。！？；：、,!?;\n]+)")
_MIN_FOREIGN_LETTERS = 3
_LONGEST_RUN = 16  # of changed characters; a longer one is text that moved
_KINDS = (Script.NONE, *ALPHABETS, *UNSPACED, Script.OTHER, Script.SIMPLIFIED, Script.TRADITIONAL)
_WEIGHTS = dict.fromkeys((*CHINESE, Script.JAPANESE, Script.KOREAN), LETTERS_PER_SYLLABLE)


@cache
def _tell_tale() -> tuple[re.Pattern[str], re.Pattern[str]]:
    simplified, traditional = ("".join(sorted(characters)) for characters in tell_tales())
    return re.compile(f"[{simplified}](?<!拮据)"), re.compile(f"[{traditional}]")


@cache
def _passages() -> dict[Script, re.Pattern[str]]:
    most, words = MIN_FOREIGN_SYLLABLES - 1, MIN_FOREIGN_WORDS - 1
    passages: dict[Script, str] = {}
    for script, held in UNSPACED.items():
        passages[script] = rf"[{held}](?:[、，。！？；：「」]?[{held}]){{{most},}}"
    passages[Script.JAPANESE] = rf"[{KANA}](?=(?:[{HAN}]*[{KANA}]){{2}})[{KANA}{HAN}]{{{most},}}"
    for script, held in ALPHABETS.items():
        more = rf"[{held}]*(?:['’-][{held}]+)*"  # the rest of a word
        passages[script] = rf"[{held}](?<![{held}].){more}(?:\s+[{held}]{more}){{{words},}}"
    return {script: re.compile(pattern) for script, pattern in passages.items()}


@cache
def _converter(name: str) -> Callable[[str], str]:
    from opencc import OpenCC  # noqa: PLC0415 - slow to import

    return OpenCC(name).convert


@cache
def _kind_of_unit() -> "ndarray":
    """Each UTF-16 unit's place in ``_KINDS``; of a Han's two beyond 0xFFFF the first counts."""
    import numpy as np  # noqa: PLC0415 - slow to import

    kinds = np.zeros(1 << 16, dtype=np.uint8)

    def mark(script: Script, held: Iterable[str]) -> None:
        kinds[[ord(character) for character in held]] = _KINDS.index(script)

    letters = [chr(code) for code in range(1 << 16) if chr(code).isalpha()]
    mark(Script.OTHER, letters)
    for script, held in {**ALPHABETS, **UNSPACED}.items():
        mark(script, re.findall(f"[{held}]", "".join(letters)))
    mark(Script.NONE, "ªµº")
    kinds[0xD840:0xD8C0] = _KINDS.index(Script.HAN)
    for script, told in zip((Script.SIMPLIFIED, Script.TRADITIONAL), tell_tales(), strict=True):
        mark(script, told)
    return kinds


@lru_cache(maxsize=8)
def _letters(text: str) -> dict[Script, int]:
    """What ``scripts_in`` counts; kept, because several things are asked of one text."""
    if text.isascii():
        letters = len(text.encode().translate(None, _ASCII_OTHERS))
        return {Script.LATIN: letters} if letters else {}
    import numpy as np  # noqa: PLC0415 - slow to import

    units = np.frombuffer(text.encode("utf-16-le", "surrogatepass"), dtype=np.uint16)
    numbers = np.bincount(_kind_of_unit().take(units), minlength=len(_KINDS)).tolist()
    counts = {_KINDS[place]: number for place, number in enumerate(numbers) if number}
    counts.pop(Script.NONE, None)
    simplified, traditional = counts.pop(Script.SIMPLIFIED, 0), counts.pop(Script.TRADITIONAL, 0)
    num_han = counts.pop(Script.HAN, 0) + simplified + traditional
    if num_han:
        if counts.get(Script.JAPANESE, 0) >= KANA_RATE * num_han:
            han = Script.JAPANESE
        elif simplified and _tell_tale()[0].search(text):  # not only in a word of Traditional's
            han = Script.MIXED_HAN if traditional else Script.SIMPLIFIED
        else:
            han = Script.TRADITIONAL if traditional else Script.HAN
        counts[han] = counts.get(han, 0) + num_han
    return counts


def _main(letters: dict[Script, int]) -> Script:
    if len(letters) < 2:
        return next(iter(letters), Script.NONE)
    return max(letters, key=lambda script: letters[script] * _WEIGHTS.get(script, 1))
