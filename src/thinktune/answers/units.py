"""Units that may follow a number, and how they turn into each other."""

import re
import unicodedata
from dataclasses import dataclass
from fractions import Fraction

_TABLE: dict[str, dict[str, str]] = {
    "mass in g": {
        "1e-6": "µg, ug, mcg, microgram, micrograms, 微克",
        "1e-3": "mg, milligram, milligrams, 毫克",
        "1": "g, gram, grams, 克, 公克",
        "1e3": "kg, kilo, kilos, kilogram, kilograms, 公斤, 千克",
        "1e6": "t, tonne, tonnes, 公噸, 公吨, 噸, 吨",
        "28.349523125": "oz, ounce, ounces, 盎司",
        "453.59237": "lb, lbs, pound, pounds, 磅",
        "0.2": "carat, carats, 克拉",
    },
    "length in m": {
        "1e-6": "µm, um, micrometre, micrometres, micrometer, micrometers, 微米",
        "1e-3": "mm, millimetre, millimetres, millimeter, millimeters, 毫米, 公釐",
        "1e-2": "cm, centimetre, centimetres, centimeter, centimeters, 公分, 厘米",
        "1": "m, metre, metres, meter, meters, 公尺, 米",
        "1e3": "km, kilometre, kilometres, kilometer, kilometers, 公里, 千米",
        "0.0254": "inch, inches, 英寸, 英吋",
        "0.3048": "ft, foot, feet, 英尺, 英呎",
        "0.9144": "yd, yard, yards, 碼, 码",
        "1609.344": "mile, miles, 英里, 英哩",
    },
    "volume in L": {
        "1e-6": "µL, ul, microlitre, microlitres, microliter, microliters, 微升",
        "1e-3": "mL, ml, cc, millilitre, millilitres, milliliter, milliliters, 毫升, 西西",
        "1e-2": "cL, centilitre, centilitres, centiliter, centiliters",
        "0.1": "dL, decilitre, decilitres, deciliter, deciliters, 分升",
        "1": "L, l, litre, litres, liter, liters, 公升, 升",
    },
    "time in s": {
        "1e-3": "ms, millisecond, milliseconds, 毫秒",
        "1": "s, sec, secs, second, seconds, 秒, 秒鐘, 秒钟",
        "60": "min, mins, minute, minutes, 分鐘, 分钟",
        "3600": "h, hr, hrs, hour, hours, 小時, 小时, 個小時, 个小时, 鐘頭, 個鐘頭, 个钟头",
        "86400": "d, day, days, 天",
        "604800": "week, weeks, 週, 周, 星期, 個星期, 个星期, 個禮拜, 个礼拜",
    },
    "time in months": {
        "1": "month, months, 個月, 个月",
        "12": "year, years, 年",
    },
    "share in %": {
        "0.1": "‰, permille",
        "1": "%, percent, per cent",
    },
    "temperature in °C": {
        "1": "°C, ° C, celsius, degree celsius, degrees celsius, 攝氏度, 摄氏度",
        "5/9": "°F, ° F, fahrenheit, degree fahrenheit, degrees fahrenheit, 華氏度, 华氏度",
    },
}
"""What is measured, in what: size of a unit in it to the unit's names."""
_FAHRENHEIT_ZERO = Fraction(-160, 9)


@dataclass(frozen=True, slots=True)
class Unit:
    """A unit: what it measures, and how large it is."""

    measures: str
    """Units that measure the same can be turned into each other."""
    size: Fraction
    zero: Fraction = Fraction(0)
    """Where its scale begins."""

    def in_common(self, number: Fraction) -> Fraction:
        """Give a number of this unit in the unit that all of its measure share."""
        return number * self.size + self.zero


def _named_units() -> dict[str, Unit]:
    units = {}
    for measures, sizes in _TABLE.items():
        for size, names in sizes.items():
            zero = _FAHRENHEIT_ZERO if size == "5/9" else Fraction(0)
            for name in unicodedata.normalize("NFKC", names).split(", "):
                units[name] = Unit(measures, Fraction(size), zero)
    return units


_UNITS = _named_units()
_LOWER = {name.lower(): unit for name, unit in _UNITS.items() if len(name) > 1}
_NAME = "|".join(
    rf"(?-i:{re.escape(name)})" if len(name) == 1 else re.escape(name)
    for name in sorted(_UNITS, key=len, reverse=True)
)
_UNIT = re.compile(
    rf"[\s*_$-]{{0,4}}(?P<above>{_NAME})(?:\s?(?:/|\bper\b|每)\s?(?P<below>{_NAME}))?"
    r"(?:(?<![A-Za-z])|(?![A-Za-z0-9^\u00c0-\u024f\u0370-\u04ff]))(?!\s?/\s?\S)",
    re.IGNORECASE | re.ASCII,  # ASCII: a dotless i is no i
)


def unit_at(text: str, start: int) -> tuple[Unit, int] | None:
    """Read the unit at a place of an NFKC text, after space or a hyphen, and say its end.

    Names are those of the table, and two of them with a slash, "per" or 每 between. Abbreviations
    of one letter must be in their own case; letters, digits or another slash may not go on with
    it: m², mg/dose and mgs are no units here.

    >>> unit_at("5 mL/min", 1)
    (Unit(measures='volume in L / time in s', size=Fraction(1, 60000), zero=Fraction(0, 1)), 8)
    """
    match = _UNIT.match(text, start)
    if match is None:
        return None
    unit = _named(match["above"])
    if match["below"]:
        below = _named(match["below"])
        unit = Unit(f"{unit.measures} / {below.measures}", unit.size / below.size)
    return unit, match.end()


def _named(name: str) -> Unit:
    return _UNITS.get(name) or _LOWER[name.lower()]
