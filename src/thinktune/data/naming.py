"""How messages name rows, columns and what is wrong with them: the first few, and a count."""

from collections.abc import Iterable, Sequence

NAMED_ROWS = 20
"""Messages name at most this many rows; the count is always there."""


def name_numbers(numbers: Sequence[int]) -> str:
    """Count rows and name the first of them.

    >>> name_numbers([2, 5])
    '2 rows: 2, 5'
    """
    named = ", ".join(str(number) for number in numbers[:NAMED_ROWS])
    more = ", ..." if len(numbers) > NAMED_ROWS else ""
    return f"{len(numbers)} {'row' if len(numbers) == 1 else 'rows'}: {named}{more}"


def name_reasons(reasons: Iterable[str]) -> str:
    """Join what is wrong; of more than ten things the others are counted.

    >>> name_reasons(["empty answer", "empty question"])
    'empty answer; empty question'
    """
    listed = list(reasons)
    more = f"; and {len(listed) - 10} things more" if len(listed) > 10 else ""
    return "; ".join(listed[:10]) + more


def name_columns(names: Iterable[str]) -> str:
    """Name columns, the first of very many and the start of very long ones.

    >>> name_columns(["question", "cot"])
    'question, cot'
    """
    listed = list(names)
    more = f", and {len(listed) - NAMED_ROWS} more" if len(listed) > NAMED_ROWS else ""
    return ", ".join(f"{name:.60}" for name in listed[:NAMED_ROWS]) + more
