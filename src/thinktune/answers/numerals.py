"""Chinese numerals written as digits, where they are numbers and not parts of words."""

import re
from decimal import Decimal

_DIGITS = {digit: value for value, digit in enumerate("零一二三四五六七八九")}
_DIGITS |= {"〇": 0, "兩": 2, "两": 2}
_UNITS = {"十": 10, "百": 100, "千": 1000}
_MYRIADS = {"萬": 10**4, "万": 10**4, "億": 10**8, "亿": 10**8}
_ONES = "一二兩两三四五六七八九"
_HAN_NUMERAL = f"零〇十百千萬万億亿{_ONES}"
_ARABIC = r"\d++(?:,\d{3})*+(?:\.\d++)?+"
_TOKEN = (  # 一 is part of a word in 一些, 一起 and the like, and of no number before them
    rf"(?:(?!一[些般起定樣样直切旦])[{_HAN_NUMERAL}]|{_ARABIC}(?:\ (?=[萬万億亿]))?+)"
)
_MEASURE = (
    "(?:[個个隻只天歲岁次顆颗粒人位名條条張张本支枝杯瓶倍元塊块箱包盒袋朵棵層层間间台輛辆件]"
    "|[週周秒克米種种]|年(?![級级])|[小鐘钟]?[時时頭头]|分[鐘钟]|[公毫][斤克分尺里升米]|千[克米])"
)
_HAN = "\u3400-\u4dbf\u4e00-\u9fff"

_NUMERAL = re.compile(
    rf"""(?<![{_HAN_NUMERAL}\d.,])(?<![{_HAN_NUMERAL}][點点])
    (?P<sign>(?<![勝胜])[負负]|零下)?
    (?:
        (?P<of>{_TOKEN}++)分之(?P<part>{_TOKEN}++(?:[點点][零〇{_ONES}]++)?+)
      | (?P<whole>百分百)
      | (?<![數数幾几第])(?!十二指[腸肠]|五十肩)
        (?P<integer>{_TOKEN}++)(?![幾几數数])
        (?:[點点](?P<decimals>[零〇{_ONES}]++)
           (?:(?P<myriad>[萬万億亿])  # or what a word does not go on with
             |(?![十百千分刻整鐘钟])(?=\s*[^\s{_HAN}]|\s*\Z|[的倍]|{_MEASURE})))?
    )""",
    re.VERBOSE,
)
_ALONE = re.compile(
    rf"""(?P<cue>答案[是為为]?:?\s*|等[於于]\s*|=\s*)
        (?P<after_cue>[零〇十{_ONES}])(?={_MEASURE}|\s*[^\w\s]|\s*\Z)
      | \A\W*(?P<all>[零〇十{_ONES}])(?={_MEASURE}?[^\w]*\Z)
      | (?<![{_HAN_NUMERAL}第數数幾几初週周期拜])(?P<counting>[兩两三四五六七八九十])(?={_MEASURE})
    """,
    re.VERBOSE,
)


def to_digits(text: str) -> str:
    """Write the Chinese numerals of a text as digits, each after a space.

    Read are numerals of two characters and more that are whole (一百零二, 兩千三百, 三千五 as
    3500, 3萬5千, 二〇二四), decimals (三點五), fractions (三分之一 as 1/3, 百分之五十 as 50%)
    and the signs 負 and 零下. A single numeral is read only in a text that has no other number:
    where it is all of the text, follows 答案是 or 等於, or counts something (五個, 三天; 一 and 二
    count too little to tell: 一個 is an article, 二次 means secondary).

    Left as they are: words (一些, 萬一, 十分, 三明治, 十二指腸), what is only about a number (數十,
    十幾, 七八個, 半), ordinals (第三), weekdays (星期五), and times of day (三點五十分).

    >>> to_digits("共三萬五千元，是百分之五十")
    '共 35000元，是 50%'
    """
    if not re.search(f"[{_HAN_NUMERAL}負负]", text):
        return text
    text = _NUMERAL.sub(_written, text)
    return text if re.search(r"\d", text) else _ALONE.sub(_written_alone, text)


def read_numeral(text: str) -> Decimal | None:
    """Read a whole numeral, of Chinese characters, digits or both; None if it is not well formed.

    >>> read_numeral("一億零五十萬"), read_numeral("兩萬五"), read_numeral("七八十")
    (Decimal('100500000'), Decimal('25000'), None)
    """
    total = section = Decimal(0)  # above and below the last 萬 or 億
    waiting: Decimal | None = None  # a digit before its unit
    limit = last = 10**4  # units fall within a section
    top = 10**16
    zero = False
    for token in re.findall(rf"{_ARABIC}|[^\s\d]", text):
        if token in ("零", "〇"):
            if waiting is not None or zero:
                return None
            zero = True
        elif token in _UNITS:
            unit = _UNITS[token]
            if unit >= limit or (waiting is None and unit != 10):
                return None
            section += (1 if waiting is None else waiting) * unit
            waiting, limit, last, zero = None, unit, unit, False
        elif token in _MYRIADS:
            unit = _MYRIADS[token]
            section += waiting or 0
            if unit == top or not section + (total if unit > top else 0):
                return None
            total = (total + section) * unit if unit > top else total + section * unit
            section, waiting, limit, last, zero = Decimal(0), None, 10**4, unit, False
            top = max(unit, 10**4) if unit < top else 10**8
        elif waiting is not None:
            return None
        else:
            waiting = Decimal(_DIGITS[token]) if token in _DIGITS else _decimal(token)
    if waiting is None:
        return total + section if total + section else (Decimal(0) if zero else None)
    if waiting < 10 and not zero and last > 10 and (total or section):  # 三千五 is 3500
        waiting *= last // 10
    return total + section + waiting


def _decimal(token: str) -> Decimal:
    return Decimal(token.replace(",", ""))


def _written(match: re.Match[str]) -> str:
    """The digits of a numeral; what turns out not to be one stays."""
    digits = _unsigned(match)
    if digits is None:
        return match[0]
    return f" -{digits}" if match["sign"] else f" {digits}"


def _unsigned(match: re.Match[str]) -> str | None:
    if match["whole"]:
        return "100%"
    if match["of"]:
        of = {"百": Decimal(100), "千": Decimal(1000), "萬": Decimal(10**4), "万": Decimal(10**4)}
        below = of.get(match["of"]) or read_numeral(match["of"])
        whole, _, decimals = re.sub("点", "點", match["part"]).partition("點")
        part = of.get(whole) or read_numeral(whole)
        if not below or part is None:
            return None
        shown = _plain(part + _fraction(decimals))
        sign = {"百": "%", "千": "‰"}.get(match["of"])
        return f"{shown}{sign}" if sign else f"{shown}/{_plain(below)}"
    integer, decimals = match["integer"], match["decimals"] or ""
    after = match.string[match.end() :][:1]
    if re.fullmatch(rf"[零〇{_ONES}]{{2,}}", integer):
        if decimals or not (_is_year(integer, after) or _has_inner_zero(integer)):
            return None
        return "".join(str(_DIGITS[digit]) for digit in integer)
    few = re.fullmatch(r"[\d.,]+|.", integer) and not decimals and not match["sign"]
    grams = re.fullmatch(r"(?:[\d.,]+|.)千", integer) and after in tuple("克米瓦卡赫帕焦伏")
    value = read_numeral(integer)
    if few or grams or value is None:
        return None
    return _plain((value + _fraction(decimals)) * _MYRIADS.get(match["myriad"] or "", 1))


def _is_year(digits: str, after: str) -> bool:
    return len(digits) == 4 and after == "年"


def _has_inner_zero(digits: str) -> bool:
    zeros = sum(digit in "零〇" for digit in digits)
    return len(digits) > 2 and 0 < zeros < len(digits) and not re.search("[兩两]", digits)


def _fraction(decimals: str) -> Decimal:
    return Decimal("0." + ("".join(str(_DIGITS[digit]) for digit in decimals) or "0"))


def _plain(value: Decimal) -> str:
    text = f"{value:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _written_alone(match: re.Match[str]) -> str:
    digit = match["after_cue"] or match["all"] or match["counting"]
    value = 10 if digit == "十" else _DIGITS[digit]
    return f"{match['cue'] or ''} {value}"
