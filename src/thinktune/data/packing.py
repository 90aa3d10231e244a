"""Put many short sequences into few rows, without letting them see each other."""

from bisect import bisect_left, insort
from collections.abc import Sequence

from pydantic import PositiveInt

from thinktune.errors import DataError
from thinktune.settings import Settings


class PackingConfig(Settings):
    """How examples share a packed row."""

    max_tokens: PositiveInt = 4096
    """Most tokens of a packed row, which is one micro-batch: lower it to save memory."""


MIN_SHARED_TOKENS = 16
"""A shorter common beginning is not worth the trouble."""


def shared_prefix(sequences: Sequence[Sequence[int]], limit: int) -> int:
    """How many first tokens all sequences have in common, and can be computed once for all.

    Args:
        sequences: token ids; a single one shares nothing.
        limit: share no more than this many.

    >>> shared_prefix([[7] * 20 + [1], [7] * 20 + [2]], limit=100)
    20
    """
    if len(sequences) < 2:
        return 0
    longest = min(limit, *(len(sequence) for sequence in sequences))
    first = sequences[0]
    num = next((i for i in range(longest) if any(s[i] != first[i] for s in sequences[1:])), longest)
    return num if num >= MIN_SHARED_TOKENS else 0


def plan_rows(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Assign every sequence to a row by best-fit decreasing.

    Args:
        lengths: tokens in each sequence.
        max_tokens: capacity of a row.

    Returns:
        Rows of indices into ``lengths``; each index appears exactly once.

    Raises:
        DataError: a sequence is longer than a row. Packing never truncates.

    >>> plan_rows([5, 3, 4, 2], max_tokens=8)
    [[0, 1], [2, 3]]
    """
    rows: list[list[int]] = []
    free: list[tuple[int, int]] = []  # (room, row), sorted
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        length = lengths[index]
        if length > max_tokens:
            raise DataError(
                f"example {index} has {length} tokens; a packed row holds {max_tokens}: raise "
                "packing.max_tokens or lower template.max_length"
            )
        place = bisect_left(free, (length, -1))
        if place == len(free):
            room, row = max_tokens, len(rows)
            rows.append([])
        else:
            room, row = free.pop(place)
        rows[row].append(index)
        insort(free, (room - length, row))
    return rows
