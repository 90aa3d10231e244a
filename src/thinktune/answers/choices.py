"""Choices: the letter of the option that a text decides for."""

import re
import unicodedata

from thinktune.answers.boxes import find_boxed

_LETTER = r"[*_(\[（「 ]{0,4}(?P<letter>[A-HJ]|I(?!['’]|\s+[a-z]))(?![A-Za-z'’])"
_CHOSEN = re.compile(  # bounded, for a looping model writes "the answer is" ten thousand times
    r"(?:(?i:answer|option|choice)|答案|選項|选项|應選|应选|故選|故选)"
    r"(?:[ *:：=是為为]|(?i:is|the|correct|option|choice|answer|most likely)\b){0,12}" + _LETTER
)
_LEADING = re.compile(rf"{_LETTER}[*_\s]*(?:[)\]）」.:：,、].*)?\Z", re.DOTALL)
_IN_BRACKETS = re.compile(r"[(（](?P<letter>[A-J])[)）]")


def find_choice(text: str) -> str | None:
    r"""Read the letter, A to J, that a text decides for; None if it decides for none.

    In this order: the last ``\boxed{}``; the last "Answer: C", "option C" or 答案是 C; a text that
    is a letter or starts with one, as "C. Paris" does, or has one in brackets, and no other so.

    >>> find_choice("A is too early and (B) too late, so the answer is (C).")
    'C'
    """
    text = " ".join(text.upper().split() if len(text.strip()) == 1 else text.split())
    text = unicodedata.normalize("NFKC", re.sub(r"\\(?:text\w*|math\w+)\s*\{", "{", text))
    if (boxed := find_boxed(text)) is not None:
        alone = _LEADING.match(boxed.strip("{} "))
        return alone["letter"] if alone else None
    if decided := [match["letter"] for match in _CHOSEN.finditer(text)]:
        return decided[-1]
    letters = {match["letter"] for match in _IN_BRACKETS.finditer(text)}
    if alone := _LEADING.match(text):
        letters.add(alone["letter"])
    return letters.pop() if len(letters) == 1 else None
