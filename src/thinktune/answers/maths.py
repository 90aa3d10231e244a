"""Maths: expressions that are equal by value, as Math-Verify and SymPy see it."""

import logging
import re
from decimal import Context, Decimal, InvalidOperation
from typing import Any

from thinktune.answers.boxes import find_boxed
from thinktune.answers.numbers import number_text
from thinktune.answers.wording import normalise
from thinktune.errors import ConfigError

_DIGITS = 30
"""Digits of a number's value that make its key; two ways to it may differ after them."""


def same_maths(reference: str, answer: str, *, seconds: int = 5) -> bool:
    """Say whether an answer's final expression equals the reference's, as Math-Verify sees it.

    A reference without marks is read as LaTeX. A comparison ends after ``seconds``, as unequal;
    that limit is a Unix alarm and needs the main thread.

    Raises:
        ConfigError: Math-Verify is missing, or the reference holds no maths.
    """
    math_verify = _math_verify()
    marked = re.search(r"(?<!\\)\$|\\[(\[]|\\f?boxed", reference)
    boxes = (find_boxed(reference) if marked else reference, find_boxed(answer))
    gold, found = (
        math_verify.parse(text if box is None else f"$\\boxed{{{box}}}$", parsing_timeout=seconds)
        for text, box in zip((reference, answer), boxes, strict=True)
    )
    if not gold:
        raise ConfigError(f"reference {reference!r} holds no maths that can be read")
    return bool(math_verify.verify(gold, found, timeout_seconds=seconds))


def maths_key(text: str, *, seconds: int = 5) -> str | None:
    r"""Write the final expression of a text so that equal ones read the same, for counting votes.

    A number becomes its value to thirty digits, other maths is expanded by SymPy, and what takes
    longer than ``seconds`` or cannot be worked out stays as written. Equal expressions may still
    differ here (trigonometry, say); ``same_maths`` is the judge of two. The limit is a Unix alarm
    and needs the main thread.

    >>> maths_key(r"so \boxed{\frac{2}{4}}"), maths_key("$0.5$")
    ('0.5', '0.5')

    Raises:
        ConfigError: Math-Verify is missing.
    """
    math_verify = _math_verify()
    from math_verify.errors import TimeoutException  # noqa: PLC0415 - an optional extra
    from math_verify.utils import timeout  # noqa: PLC0415 - an optional extra

    boxed = find_boxed(text)
    shown = text if boxed is None else f"$\\boxed{{{boxed}}}$"
    parsed = math_verify.parse(shown, parsing_timeout=seconds)
    if not parsed:
        return None if boxed is None else normalise(boxed) or None
    try:
        return timeout(seconds)(_canonical)(parsed[0])
    except (Exception, TimeoutException):  # SymPy raises what it likes
        return normalise(str(parsed[-1]))


def _canonical(expression: Any) -> str:
    """One text for all ways of writing an expression that plain algebra can tell are equal."""
    import sympy  # noqa: PLC0415 - comes with Math-Verify, and slow to import

    if isinstance(expression, str):
        return normalise(expression)
    if isinstance(expression, sympy.Eq) and isinstance(expression.lhs, sympy.Symbol):
        expression = expression.rhs  # x = 3 is the answer 3
    if not isinstance(expression, sympy.Expr):
        return str(expression)
    floats = expression.atoms(sympy.Float)
    expression = expression.xreplace({float_: sympy.Rational(str(float_)) for float_ in floats})
    if expression.is_number:
        value = sympy.N(expression, _DIGITS + 5)
        parts = (_number_key(str(part)) for part in (sympy.re(value), sympy.im(value)))
        return " + i ".join(part for part in parts if part != "0") or "0"
    return str(sympy.expand(expression.doit()))


def _number_key(value: str) -> str:
    try:
        return number_text(Context(prec=_DIGITS).create_decimal(Decimal(value)))
    except InvalidOperation:  # infinite, or undefined
        return value


def _math_verify() -> Any:
    try:
        import math_verify  # noqa: PLC0415 - an optional extra, and slow to import
    except ImportError as error:
        raise ConfigError("maths answers need: pip install thinktune[teacher]") from error
    logging.getLogger("math_verify").setLevel(logging.CRITICAL)  # it warns of each time-out
    return math_verify
