"""Faults of a text that can be put right without knowing what it says."""

import html
import re
import unicodedata
from collections.abc import Callable, Sequence

from thinktune.data.conversations import THINK_TAG
from thinktune.errors import ConfigError

_BLOCK_TAGS = "address|article|blockquote|br|dd|div|dl|dt|h[1-6]|hr|li|ol|p|pre|section|table|tr|ul"
_INLINE_TAGS = (
    "a|abbr|b|big|body|center|code|del|em|figure|font|head|html|i|img|ins|kbd|label|link|main|mark|"
    "meta|nav|s|small|span|strike|strong|sub|sup|tbody|td|tfoot|th|thead|title|tt|u|var"
)
_ATTRIBUTES = r"""(?:\s+[\w:-]+\s*=\s*(?:"[^"<>]*"|'[^'<>]*'|[^\s"'<>=]+))*"""
_HIDDEN = re.compile(r"<!--.*?-->|<(script|style)\b[^<>]*>.*?</\1\s*>", re.DOTALL | re.IGNORECASE)
_BLOCK = re.compile(rf"[^\S\n]*\n?</?(?:{_BLOCK_TAGS}){_ATTRIBUTES}\s*/?>", re.IGNORECASE)
_INLINE = re.compile(rf"</?(?:{_INLINE_TAGS}){_ATTRIBUTES}\s*/?>", re.IGNORECASE)
_MARKUP = re.compile(r"<[/!A-Za-z]")
_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][\da-fA-F]{1,6}|[A-Za-z][A-Za-z\d]{1,31});")

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f]")
_INVISIBLE = re.compile("[\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff]")
_CALCULATOR = re.compile(r"<<[-+*/()\d\s.,%$]*=[-+*/()\d\s.,%$]*>>")
_LINE_END = re.compile(r"\r\n?|[\u0085\u2028\u2029]")
_BLANK_LINES = re.compile(r"\n{3,}")


def fix_mojibake(text: str) -> str:
    """Put right UTF-8 that was read as Windows-1252 or Latin-1; what is lost (U+FFFD) stays lost.

    Only runs that are whole UTF-8 characters change, and none that could be a letter and the quotes
    or dots after it: proper French or Portuguese stays as it is.

    >>> fix_mojibake("cafÃ© â€“ å¤§, CAFÉ”…")
    'café – 大, CAFÉ”…'
    """
    if text.isascii():
        return text
    for _ in range(3):  # some text went through it more than once
        fixed = _MOJIBAKE.sub(_decoded, text)
        if fixed == text:
            break
        text = fixed
    return text


def fix_html(text: str) -> str:
    r"""Take out HTML tags and comments, and write entities as what they stand for.

    Only tags that HTML has: ``a < b``, ``List<String>`` and ``<think>`` stay. Paragraphs, list
    items and the like become lines. An entity needs its semicolon.

    >>> fix_html("5&nbsp;mg<br/>if a &lt; b, a < b or <b>bold</b>")
    '5 mg\nif a < b, a < b or bold'
    """
    if _MARKUP.search(text):
        text = _HIDDEN.sub("", text)
        text = _INLINE.sub("", _BLOCK.sub("\n", text))
    if "&" in text:
        text = _ENTITY.sub(lambda found: html.unescape(found[0]).replace("\xa0", " "), text)
    return text


def fix_control(text: str) -> str:
    """Take out control characters, but for tabs and line ends."""
    return text if text.isprintable() else _CONTROL.sub("", text)


def fix_invisible(text: str) -> str:
    """Take out soft hyphens, zero-width spaces, byte order marks and marks of direction.

    Joiners stay: Persian, Indic scripts and emoji need them.
    """
    return text if text.isascii() else _INVISIBLE.sub("", text)


def fix_calculator(text: str) -> str:
    """Take out the calculator marks of GSM8K.

    >>> fix_calculator("She sells 16-3 = <<16-3=13>>13 eggs")
    'She sells 16-3 = 13 eggs'
    """
    return _CALCULATOR.sub("", text) if "<<" in text else text


def fix_unicode(text: str) -> str:
    """Write letters with marks as one character (Unicode's NFC)."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def fix_whitespace(text: str) -> str:
    r"""Strip the text and its lines' ends; line ends become ``\n``, at most one blank line."""
    if "\r" in text or not text.isascii():
        text = _LINE_END.sub("\n", text)
    if "\n" in text:
        text = "\n".join(map(str.rstrip, text.split("\n")))
        text = _BLANK_LINES.sub("\n\n", text)
    return text.strip()


FIXES: dict[str, Callable[[str], str]] = {
    "mojibake": fix_mojibake,
    "html": fix_html,
    "control": fix_control,
    "invisible": fix_invisible,
    "calculator": fix_calculator,
    "unicode": fix_unicode,
    "whitespace": fix_whitespace,
}
"""By name, in the order they are made whatever order they are asked for in."""


def choose_fixes(names: Sequence[str]) -> dict[str, Callable[[str], str]]:
    """Take the named fixes, in their own order.

    Raises:
        ConfigError: there is no fix of that name.
    """
    unknown = sorted(set(names) - set(FIXES))
    if unknown:
        raise ConfigError(f"no fix is called {unknown[0]!r}; known: {', '.join(FIXES)}")
    return {name: fix for name, fix in FIXES.items() if name in names}


def apply_fix(fix: Callable[[str], str], text: str) -> str:
    """Fix a text, unless that would write a think tag into it (``&lt;think&gt;``)."""
    fixed = fix(text)
    made_tag = fixed is not text and THINK_TAG.search(fixed) and not THINK_TAG.search(text)
    return text if made_tag else fixed


def _as_read(byte: int) -> str:
    """A byte as Windows-1252 shows it; its five undefined bytes as Latin-1 does."""
    try:
        return bytes([byte]).decode("cp1252")
    except UnicodeDecodeError:
        return chr(byte)


_BYTE_OF = {_as_read(byte): byte for byte in range(0x80, 0x100)} | {
    chr(byte): byte for byte in range(0x80, 0x100)
}
_TYPOGRAPHIC = frozenset("‘’‚“”„«»‹›…–—")
"""Punctuation that may well follow a letter with an accent."""


def _class(first: int, last: int) -> str:
    """A character class of all that bytes may be read as."""
    held = sorted(character for character, byte in _BYTE_OF.items() if first <= byte <= last)
    return f"[{''.join(map(re.escape, held))}]"


_CONTINUED = _class(0x80, 0xBF)
# Two bytes: only what starts with C2 or C3, Western letters and signs; the other leads are
# letters that proper text has before quotes.
_MOJIBAKE = re.compile(
    f"(?:{_class(0xC2, 0xC3)}{_CONTINUED}|{_class(0xE0, 0xEF)}{_CONTINUED}{{2}}"
    f"|{_class(0xF0, 0xF4)}{_CONTINUED}{{3}})+"
)


def _decoded(found: re.Match[str]) -> str:
    run = found[0]
    continued = [character for character in run if 0x80 <= _BYTE_OF[character] <= 0xBF]
    if _TYPOGRAPHIC.issuperset(continued) and found.string[: found.start()][-1:].isalpha():
        return run
    if _TYPOGRAPHIC.issuperset(continued) and len(run) == 3 and run[0] != "â":
        return run
    try:
        return bytes(_BYTE_OF[character] for character in run).decode()
    except UnicodeDecodeError:
        return run
