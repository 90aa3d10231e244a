"""One column that holds several fields, as in ``{reasoning} #### {answer}``."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from thinktune.data.conversations import RowError, as_text
from thinktune.errors import ConfigError

PATTERN_FIELDS = ("question", "reasoning", "answer", "reference", "system")
"""Fields that a pattern can name."""

_PLACE = re.compile(r"\{([^{}]*)\}")


@dataclass(frozen=True, slots=True)
class Pattern:
    """A text with fields in braces, and what finds them in a cell."""

    text: str
    fields: tuple[str, ...]
    """Every field it gives, in order."""
    _groups: tuple[tuple[str, ...], ...]
    _literals: tuple[str, ...]
    """What stands before, between and after the fields."""

    @classmethod
    def parse(cls, text: str) -> "Pattern":
        r"""Read a pattern: literal text, and fields in braces; ``{a+b}`` gives one text to two.

        White space around literal text does not matter. Where a literal occurs several times in a
        cell, the last occurrence counts. ``\\n`` and ``\\t`` may stand for what they mean.

        >>> pattern = Pattern.parse("{reasoning}####{answer+reference}")
        >>> pattern.apply({"answer": "3 + 4 = 7\n#### 7"}, "answer")
        {'reasoning': '3 + 4 = 7', 'answer': '7', 'reference': '7'}

        Raises:
            ConfigError: no field, an unknown field, a field named twice, or no text between two.
        """
        literals = _PLACE.split(text.replace("\\n", "\n").replace("\\t", "\t"))
        groups = tuple(tuple(name.strip() for name in inner.split("+")) for inner in literals[1::2])
        fields = tuple(name for group in groups for name in group)
        unknown = [name for name in fields if name not in PATTERN_FIELDS]
        if not fields or unknown:
            wrong = f"unknown field {unknown[0]!r}" if unknown else "no field in braces"
            raise ConfigError(
                f"pattern {text!r}: {wrong}; write, for example, {{reasoning}}####{{answer}}; "
                f"known: {', '.join(PATTERN_FIELDS)}"
            )
        if len(set(fields)) < len(fields):
            raise ConfigError(f"pattern {text!r}: a field is named twice")
        between = [literal.strip() for literal in literals[2:-1:2]]
        if not all(between):
            raise ConfigError(f"pattern {text!r}: two fields with no text that parts them")
        return cls(text, fields, groups, tuple(literal.strip() for literal in literals[::2]))

    def apply(self, cells: Mapping[str, object], name: str) -> dict[str, object]:
        """Put the fields found in the cell called ``name`` in its place.

        Raises:
            RowError: the cell is no text, or not as the pattern says.
        """
        found = self._between(as_text(cells.get(name), name).strip())
        if found is None:
            raise RowError(f"{name} that is not as the pattern {self.text!r} says")
        rest = {column: cell for column, cell in cells.items() if column != name}
        for group, text in zip(self._groups, found, strict=True):
            rest |= dict.fromkeys(group, text.strip())
        return rest

    def _between(self, text: str) -> list[str] | None:
        """What stands between the literals, each at its last place; linear, as no regex is."""
        first, *between, last = self._literals
        if not text.startswith(first) or not text.endswith(last):
            return None
        end, texts = len(text) - len(last), list[str]()
        for literal in reversed(between):
            place = text.rfind(literal, len(first), end)
            if place < 0:
                return None
            texts.append(text[place + len(literal) : end])
            end = place
        return [text[len(first) : end], *reversed(texts)] if end >= len(first) else None


NO_PATTERNS: Mapping[str, Pattern] = MappingProxyType({})
"""Every column is one field."""
