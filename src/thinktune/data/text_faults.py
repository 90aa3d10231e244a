"""Faults that show in one text: lost encodings, markup, control characters, personal data."""

import re
from collections.abc import Callable, Iterable, Iterator
from enum import StrEnum
from ipaddress import ip_address
from typing import NamedTuple


class FaultKind(StrEnum):
    """What is in a text that should not be, or that should be looked at."""

    CONTROL = "control character"
    """Of ASCII or Latin-1, but line breaks and tabs; and U+FFFD, which stands for lost text."""
    INVISIBLE = "invisible character"
    """Zero-width and direction marks; harmless to read, tokens to a model."""
    MOJIBAKE = "text read in the wrong encoding"
    HTML = "HTML"
    EMAIL = "e-mail address"
    PHONE = "phone number"
    ID_NUMBER = "ID number"
    CARD = "card number"
    IBAN = "bank account"
    IP_ADDRESS = "IP address"
    NAME = "name with a title"


PERSONAL = frozenset(tuple(FaultKind)[4:])
"""Kinds of personal data: to be looked at, never removed in silence."""


class TextFault(NamedTuple):
    """A fault and the piece of text that shows it."""

    kind: FaultKind
    snippet: str


def find_text_faults(text: str) -> list[TextFault]:
    """All faults of one text, kind by kind in order of place; empty for most texts.

    Each kind first has a test that costs next to nothing on text without it.

    >>> find_text_faults("Write to Dr. Jane Doe, jane@example.org<br>")[1].snippet
    'jane@example.org'
    """
    faults: list[TextFault] = []
    narrow = text.encode("latin-1", "ignore").translate(_SHAPES)
    if b"\1" in narrow or "\ufffd" in text:
        faults += _found(FaultKind.CONTROL, _CONTROL.finditer(text))
    wide = not text.isascii() and _SUSPECT.search(text) is not None
    if wide:
        faults += _found(FaultKind.INVISIBLE, _INVISIBLE.finditer(text))
        faults += _found(FaultKind.MOJIBAKE, _MISREAD.finditer(text))
    if not narrow.isascii():
        runs = list(filter(_is_mojibake, _UTF8_AS_LATIN.finditer(text)))
        runs = runs or filter(_is_garbled, _LATIN_RUN.finditer(text))
        faults += _found(FaultKind.MOJIBAKE, runs)
    if b"<" in narrow:
        faults += _found(FaultKind.HTML, _TAG.finditer(text))
    if b"&" in narrow:
        faults += _found(FaultKind.HTML, _ENTITY.finditer(text))
    if b"@" in narrow:
        faults += _found(FaultKind.EMAIL, _EMAIL.finditer(text))
    if b"000" in narrow and _LONG_SHAPE.search(narrow) and _LONG_NUMBER.search(text):
        faults += _numbers(text)
    dotted = narrow.count(b".0") >= 3 and _DOTTED_SHAPE.search(narrow)
    if dotted or b"::" in narrow or narrow.count(b":") >= 7:
        faults += _found(FaultKind.IP_ADDRESS, filter(_is_address, _ADDRESS.finditer(text)))
    if _TITLE.search(narrow):
        faults += _found(FaultKind.NAME, _TITLE_AND_NAME.finditer(text))
    if wide:
        faults += _found(FaultKind.NAME, filter(_is_name, _NAME_AND_TITLE.finditer(text)))
    return faults


Found = re.Match[str]


def _found(kind: FaultKind, matches: Iterable[Found]) -> Iterator[TextFault]:
    return (TextFault(kind, match[0]) for match in matches)


def _is_mojibake(run: Found) -> bool:
    """Whether characters that could be bytes of UTF-8 are no letters, quotes and dashes instead."""
    text, start, end = run[0], run.start(), run.end()
    if text.startswith("â€"):
        return True
    if len(text) == 2:
        around = run.string[max(0, start - 1) : start], run.string[end : end + 1]
        return text[0] in "ÂÃ" and (text[1] in _AFTER_A or any(map(str.islower, around)))
    return not _ODD.isdisjoint(text) and (len(text) > 3 or text[1] != "\xa0")


def _is_garbled(run: Found) -> bool:
    """Whether Latin-1 letters and signs in a row are Chinese in GBK or Big5: ÄãºÃ, ¤T¤Ñ¡A³ï."""
    letters, signs = _ACCENTED & set(run[0]), _SIGNS & set(run[0])
    return len(signs) > 2 if "@" <= min(run[0]) <= "~" else bool(letters and signs)


def _is_name(name: Found) -> bool:
    """Not the last character of a word before a title: 緊張醫師, 任何醫師."""
    return name.string[max(0, name.start() - 1) : name.start() + 1] not in _WORDS


def _is_address(address: Found) -> bool:
    """A machine elsewhere, and neither a section (4.1.2.3) nor a time (10:20:30)."""
    try:
        known = ip_address(address[0])
    except ValueError:
        return False
    if known.version == 4 and all(len(part) == 1 for part in address[0].split(".")):
        return False
    return not (known.is_loopback or known.is_unspecified)


def _numbers(text: str) -> Iterator[TextFault]:
    """Numbers that belong to a person; a stretch of text is of one kind, the strictest."""
    taken: list[tuple[int, int]] = []
    near = [(max(0, long.start() - 2), long.end() + 3) for long in _LONG_NUMBER.finditer(text)]
    for kind, pattern, is_right in _NUMBERS:
        places = near if pattern.pattern.startswith(_FROM) else [(0, len(text))]
        for found in (match for place in places for match in pattern.finditer(text, *place)):
            start, end = found.span()
            free = all(end <= other or other_end <= start for other, other_end in taken)
            if free and is_right(found[0]):
                taken.append((start, end))
                yield TextFault(kind, found[0])


def _digits(number: str) -> list[int]:
    return [int(character) for character in number if character.isdecimal()]


def _is_card(number: str) -> bool:
    """Luhn's check (ISO/IEC 7812-1), and not the same few digits over and over."""
    digits = _digits(number)
    doubled = sum(sum(divmod(2 * digit, 10)) for digit in digits[-2::-2])
    return (sum(digits[::-2]) + doubled) % 10 == 0 and len(set(digits)) > 2


def _is_iban(account: str) -> bool:
    """ISO 13616: country and check digits moved to the end, letters as 10 to 35, modulo 97."""
    plain = account.replace(" ", "")
    moved = plain[4:] + plain[:4]
    return 15 <= len(plain) <= 34 and int("".join(str(int(each, 36)) for each in moved)) % 97 == 1


def _is_taiwanese_id(number: str) -> bool:
    """The letter as two digits, weights 1, 9, 8, ... 1, 1; a multiple of ten."""
    code = "ABCDEFGHJKLMNPQRSTUVXYWZIO".index(number[0]) + 10
    weighed = zip(_digits(number), (8, 7, 6, 5, 4, 3, 2, 1, 1), strict=True)
    return (code // 10 + code % 10 * 9 + sum(a * b for a, b in weighed)) % 10 == 0


def _is_chinese_id(number: str) -> bool:
    """GB 11643: seventeen digits and a check character, modulo 11."""
    total = sum(int(digit) * pow(2, 17 - place, 11) for place, digit in enumerate(number[:17]))
    return "10X98765432"[total % 11] == number[17].upper()


def _is_phone(number: str) -> bool:
    """9 to 12 digits, or 15 with the country's; not a decimal or one grouped by thousands."""
    if number[0] != "+":
        return 9 <= len(_digits(number)) <= 12
    groups = re.split(r"[^0-9]+", number[1:])
    by_thousands = len(groups) > 2 and all(len(group) == 3 for group in groups[1:])
    is_decimal = len(groups) == 2 and "." in number
    return 9 <= sum(map(len, groups)) <= 15 and not by_thousands and not is_decimal


def _shape(code: int) -> int:
    """A digit as 0, a control character as 1, anything else as itself."""
    if 0x30 <= code <= 0x39:
        return 0x30
    is_control = code < 0x20 and code not in b"\n\r\t"
    return 1 if is_control or 0x7F <= code < 0xA0 else code


_SHAPES = bytes(map(_shape, range(256)))
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufffd]+")
_HIDDEN = "\xad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff"
# Joiners belong between emoji and in Arabic and Indic words, not after these letters.
_INVISIBLE = re.compile(rf"[{_HIDDEN}]|(?<=[\x00-\u024f\u3000-\u9fff])[\u200c\u200d]")

_CP1252 = "€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ"  # what the bytes 0x80 to 0x9f become, with five gaps
_NEXT = rf"[\x80-\xbf{_CP1252}]"
_UTF8_AS_LATIN = re.compile(
    rf"[Â-ô](?={_NEXT})(?:(?<=[Â-ß]){_NEXT}|(?<=[à-ï]){_NEXT}{{2}}|(?<=[ð-ô]){_NEXT}{{3}}|(?<=â)€)"
    rf"(?:[Â-ß]{_NEXT}|[à-ï]{_NEXT}{{2}}|[ð-ô]{_NEXT}{{3}})*"
)
_ODD = frozenset("¢£¤¥¦§¨¬¯±²³´µ¶¸¹¼½¾€ƒ†‡ˆ‰˜" + "".join(map(chr, range(0x80, 0xA0))))
"""Of ``_NEXT``, what proper text does not have right after an accented letter."""
_AFTER_A = _ODD | frozenset("¡¿©®°ªº«·•")
_LATIN_RUN = re.compile(
    "[\xa1-\xff](?:[\xa1-\xff]{3,}|[@-~\xa1-\xff](?:[\xa1-\xff][@-~\xa1-\xff]){3,})"
)
_SIGNS = frozenset("¢£¤¥¦§¨¬¯±²³´µ¶¸¹º¼½¾×÷")
_ACCENTED = frozenset(map(chr, range(0xC0, 0x100))) - _SIGNS
# UTF-8 read as GBK, Big5, EUC-KR and Shift JIS; uninitialised memory read as GBK.
_MISREAD = re.compile("锟斤拷|嚙踝蕭|占쏙옙|烫烫烫|屯屯屯|[鈥銆锛].|縺|(?:[繧繝][^繧繝\\s]){2}")

_TAGS = (
    "a|b|blockquote|body|br|center|del|div|dl|dt|dd|em|font|footer|head|h[1-6]|hr|html|i|iframe|"
    "img|ins|li|meta|nav|ol|p|pre|script|small|span|strong|style|sub|sup|svg|table|tbody|td|tfoot|"
    "th|thead|tr|u|ul"
)
_ATTRIBUTES = r"(?:\s+[\w:-]+\s*=\s*(?:\"[^\"<>]*\"|'[^'<>]*'|[^\s\"'<>]+))"
_TAG = re.compile(
    rf"<(?:/?(?:{_TAGS}|{_TAGS.upper()}){_ATTRIBUTES}*\s*/?>|[a-zA-Z][\w-]*{_ATTRIBUTES}+\s*/?>"
    r"|!--|!DOCTYPE\b|!doctype\b)"
)
_ENTITY = re.compile(
    r"&(?:[a-z]{2,8}[0-9]{0,2}|[A-Z][a-z]{2,7}|#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6});"
)
_EMAIL = re.compile(
    r"(?<![\w.%+-])[A-Za-z0-9_%+-][\w.%+-]{0,63}@(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24}\b",
    re.ASCII,
)
_DOTTED_SHAPE = re.compile(rb"0\.0{1,3}\.0{1,3}\.0")
_ADDRESS = re.compile(
    r"(?<![\w.:-])(?<!ersion )"
    r"(?:(?:[0-9]{1,3}\.){3}[0-9]{1,3}|[0-9A-Fa-f]{1,4}(?:::?[0-9A-Fa-f]{1,4}){2,7})"
    r"(?![\w:-]|\.[0-9])",
    re.ASCII,
)

_LONG_SHAPE = re.compile(rb"0(?:[ ()/.-]{0,2}0){6}")
_LONG_NUMBER = re.compile(r"[0-9](?:[ ()/.-]{0,2}[0-9]){6,}")
_PART = "[0-9A-Za-z.,$€£¥+=*×<-]"  # before a number that does not stand alone
_FROM, _TO = rf"(?<!{_PART})", r"(?![0-9A-Za-z]|[.,-][0-9]|\s?[=*/+×])"


def _number(pattern: str) -> re.Pattern[str]:
    """Compile the pattern of a number that stands alone and is no part of a sum."""
    return re.compile(rf"{_FROM}(?:{pattern}){_TO}")


_PHONE = _number(
    r"\+[1-9][0-9]*(?:(?:[ .-]|[ ]?\(|\)[ ]?)[0-9]+){0,6}"
    r"|09[0-9]{2}([ -]?)[0-9]{3}\1[0-9]{3}"  # Taiwan: mobile, then landline
    r"|(?:\(0[2-8][0-9]?\)[ ]?|0[2-8][0-9]?-)[0-9]{3,4}-?[0-9]{4}|0[2-8] [0-9]{4} [0-9]{4}"
    r"|(?:1[ .-])?(?:\([2-9][0-9]{2}\)[ ]?|[2-9][0-9]{2}[.-])[2-9][0-9]{2}[.-][0-9]{4}"  # US
    r"|01[5-7][0-9]{8,9}"  # Germany: mobile, then any with its area apart
    r"|0[1-9][0-9]{1,4}(?:[ ]?/[ ]?|[ -])[1-9](?:[0-9]{4,7}|[0-9]{1,3}(?: [0-9]{2,4}){1,3})"
    r"|1[3-9][0-9]([ -])[0-9]{4}\2[0-9]{4}|(?:(?<=[机機话話])|(?<=[机機话話][:：是]))1[3-9][0-9]{9}"
)
_IBAN = re.compile(
    rf"[A-Z](?<!{_PART}.)[A-Z][0-9]{{2}}"
    rf"(?:[A-Z0-9]{{11,30}}|(?: [A-Z0-9]{{4}}){{2,7}}(?: [A-Z0-9]{{1,3}})?){_TO}"
)
_CARD = _number(
    r"(?:[4-6][0-9]{3}|2[2-7][0-9]{2}|35[0-9]{2})([ -]?)[0-9]{4}\1[0-9]{4}\1[0-9]{4}"
    r"|3[47][0-9]{2}([ -]?)[0-9]{6}\2[0-9]{5}"
)
_TAIWANESE_ID = re.compile(rf"[A-Z](?<!{_PART}.)[1289][0-9]{{8}}{_TO}")
_CHINESE_ID = _number("[1-9][0-9]{5}(?:19|20)[0-9]{2}(?:0[1-9]|1[0-2])[0-3][0-9]{4}[0-9Xx]")
_US_SOCIAL_SECURITY = _number("(?!000|666|9)[0-9]{3}-(?!00)[0-9]{2}-(?!0000)[0-9]{4}")
_NUMBERS: tuple[tuple[FaultKind, re.Pattern[str], Callable[[str], bool]], ...] = (
    (FaultKind.IBAN, _IBAN, _is_iban),
    (FaultKind.CARD, _CARD, _is_card),
    (FaultKind.ID_NUMBER, _TAIWANESE_ID, _is_taiwanese_id),
    (FaultKind.ID_NUMBER, _CHINESE_ID, _is_chinese_id),
    (FaultKind.ID_NUMBER, _US_SOCIAL_SECURITY, bool),
    (FaultKind.PHONE, _PHONE, _is_phone),
)

_TITLES = "Mr|Mrs|Ms|Miss|Dr|Prof|Professor|Herr|Frau|Mme|Mlle"
_TITLE = re.compile(rf"(?:{_TITLES})\b".encode())
_CAPITALISED = r"[A-ZÀ-ÖØ-Þ][\w'’-]+"
_TITLE_AND_NAME = re.compile(
    rf"(?<![\w&])(?:{_TITLES})\b\.?[ \xa0](?:(?:{_TITLES})\.?[ \xa0])*(?:[A-Z]\.[ ])?"
    rf"{_CAPITALISED}(?:[ \xa0]{_CAPITALISED}){{0,2}}"
)
_SURNAMES = (
    "王李張张陳陈林黃黄吳吴劉刘蔡楊杨許许鄭郑謝谢洪郭邱曾廖賴赖徐周葉叶蘇苏莊庄呂吕江何蕭萧羅罗高潘簡简"
    "朱鍾钟彭游詹胡施沈余盧卢梁趙赵顏颜柯翁魏孫孙戴范方宋鄧邓杜侯曹薛傅丁馬马卓藍蓝溫温姚董紀纪歐欧唐袁"
    "姜姜韓韩馮冯魯鲁錢钱秦尤孔嚴严龔龚湯汤邵賈贾倪陶鄒邹熊孟龍龙陸陆"
)
_COURTESY = "先生|小姐|女士|太太"
_CALLING = (
    "醫師|醫生|医师|医生|大夫|護理師|護士|护士|藥師|药师|老師|老师|教授|律師|律师|主任|經理|经理"
)
_NAME_AND_TITLE = re.compile(
    rf"(?:歐陽|欧阳|司馬|司马|上官|諸葛|诸葛|張簡|[{_SURNAMES}])(?:{_COURTESY}|{_CALLING})"
    rf"|(?<![一-鿿])[{_SURNAMES}][一-鿿]{{2}}(?:{_COURTESY})"
)
_ENDINGS = """
緊張 主張 誇張 擴張 紧张 主张 夸张 扩张 任何 如何 為何 为何 允許 也許 或許 少許 些許 允许 也许
或许 少许 些许 地方 對方 雙方 院方 校方 警方 處方 配方 对方 双方 处方 一周 每周 上周 下周 這周
这周 四周 感謝 多謝 謝謝 代謝 感谢 多谢 谢谢 代谢 森林 其余 業余 业余 人馬 立馬 人马 立马 體溫
高溫 保溫 体温 高温 保温 规范 示范 模范 防范 大陸 大陆 年紀 世紀 經紀 年纪 世纪 经纪 金錢 金钱
"""
_WORDS = frozenset(_ENDINGS.split())
# One pass over text beyond ASCII: what only faults have, a surname and a title, or a title alone.
_RARE = f"{_HIDDEN}\u200c\u200d锟嚙占烫屯鈥銆锛縺繧繝"
_SUSPECT = re.compile(
    rf"[{_RARE}{_SURNAMES}陽阳司官葛生士姐太]"
    rf"(?:(?<=[{_RARE}])|{_COURTESY}|{_CALLING}|(?<={_COURTESY}))"
)
