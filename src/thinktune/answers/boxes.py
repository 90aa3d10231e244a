r"""What a text puts in its last ``\boxed{}``, where models of maths put their final answer."""

import re

_BRACE = re.compile(r"\\f?boxed\s*\{|(?<!\\)[{}]")


def find_boxed(text: str) -> str | None:
    r"""Give what the last ``\boxed{}`` holds, braces inside it too; None if there is none.

    >>> find_boxed(r"so \boxed{\frac{1}{2}}.")
    '\\frac{1}{2}'
    """
    last: str | None = None
    starts: list[int] = []
    for match in _BRACE.finditer(text):
        if match[0] != "}":
            starts.append(match.end() if len(match[0]) > 1 else 0)
        elif starts and (start := starts.pop()):
            last = text[start : match.start()]
    return last


def final_text(text: str) -> str:
    r"""Give what the last ``\boxed{}`` holds, or the whole text where there is none."""
    boxed = find_boxed(text)
    return text if boxed is None else boxed
