"""Rows drawn by lot: the same for a seed on every machine, and exactly as many as asked for."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction

import numpy as np

from thinktune.errors import ConfigError


class Shares(StrEnum):
    """How much of a sample each stratum gets."""

    PROPORTIONAL = "proportional"
    """As large a part as it is of the source."""
    EQUAL = "equal"
    """As many rows as any other."""

    @classmethod
    def named(cls, name: str) -> "Shares":
        """Give the choice of that name; there being none is a ConfigError."""
        if name not in list(cls):
            raise ConfigError(f"--shares {name}; known: {', '.join(cls)}")
        return cls(name)


@dataclass(frozen=True, slots=True)
class Chosen:
    """Rows chosen in whole groups."""

    rows: np.ndarray
    """For each row whether it is chosen."""
    wanted: tuple[int, ...]
    """Rows that the largest remainder gives to each stratum."""
    got: tuple[int, ...]
    """Rows that were chosen of each; the same, unless groups stood in the way."""


def lots(seed: int, num: int, stream: int = 0) -> np.ndarray:
    """Draw 64 random bits for each of ``num`` things: PCG64's, which numpy promises not to change.

    Raises:
        ConfigError: the seed is negative.
    """
    if seed < 0:
        raise ConfigError(f"seed={seed}: a seed is 0 or more")
    return np.random.PCG64(np.random.SeedSequence([seed, stream])).random_raw(num)


def how_many(count: int | None, fraction: float | None, num: int, names: tuple[str, str]) -> int:
    """Say how many of ``num`` rows are meant by a count or a fraction, whichever is given.

    A fraction is taken as it is written: 0.29 of 100 is 29. Halves are rounded up.

    Raises:
        ConfigError: none or both are given, or it is not from 1 to ``num``.
    """
    option_count, option_fraction = names
    if (count is None) == (fraction is None):
        raise ConfigError(f"say either {option_count} N or {option_fraction} F")
    if fraction is not None:
        if not 0 < fraction <= 1:
            raise ConfigError(f"{option_fraction} {fraction:g} is not between 0 and 1")
        count = int(Fraction(str(fraction)) * num + Fraction(1, 2))
        if count == 0:
            raise ConfigError(f"{option_fraction} {fraction:g} of {num:,} rows is no row")
    if count is None or not 1 <= count <= num:
        raise ConfigError(f"{option_count} {count}, but there are {num:,} usable rows")
    return count


def allot(total: int, weights: Sequence[int | Fraction], ties: Iterable[int]) -> list[int]:
    """Part a total by weights, exactly: rounded down, and the rest to the largest remainders.

    Args:
        total: what is parted.
        weights: of the parts; their sum is above 0.
        ties: of parts with equal remainders, the one with the smaller number comes first.

    >>> allot(10, [1, 1, 1], [5, 2, 9])
    [3, 4, 3]
    """
    whole = sum(weights)
    shares = [divmod(total * weight, whole) for weight in weights]
    parts = [int(share) for share, _ in shares]
    places = zip([-rest for _, rest in shares], ties, range(len(parts)), strict=True)
    for _, _, place in sorted(places)[: total - sum(parts)]:
        parts[place] += 1
    return parts


def choose_rows(strata: np.ndarray, quotas: Sequence[int], seed: int) -> np.ndarray:
    """Choose exactly ``quotas[s]`` rows of every stratum s; each row of one is equally likely."""
    order = np.lexsort((lots(seed, len(strata)), strata))
    sizes = np.bincount(strata, minlength=len(quotas))
    rank = np.arange(len(strata)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    chosen = np.zeros(len(strata), bool)
    chosen[order] = rank < np.repeat(np.asarray(quotas), sizes)
    return chosen


def choose_groups(strata: np.ndarray, groups: np.ndarray, total: int, seed: int) -> Chosen:
    """Choose ``total`` rows, proportionally of every stratum, and groups whole or not at all.

    Groups that reach over several strata are drawn first, then each stratum is filled exactly if
    its groups can be added up so. Where they cannot, another stratum makes up the total if one can.

    Args:
        strata: number of each row's stratum, from 0.
        groups: rows with equal numbers, from 0, stay together.
        total: rows to choose.
        seed: of the draw.
    """
    sizes = np.bincount(strata)
    quotas = allot(total, sizes.tolist(), lots(seed, len(sizes), 1).tolist())
    left = np.array(quotas)
    members = np.bincount(groups)
    pairs, counts = np.unique(groups * len(sizes) + strata, return_counts=True)
    units, home = np.divmod(pairs, len(sizes))
    num_strata = np.bincount(units, minlength=len(members))
    starts = np.cumsum(num_strata) - num_strata
    draw = lots(seed, len(members))
    taken = np.zeros(len(members), bool)
    for unit in _by_lot(np.flatnonzero(num_strata > 1), draw):
        of = slice(starts[unit], starts[unit] + num_strata[unit])
        likely = int(draw[unit]) * len(strata) < total << 64
        if likely and (counts[of] <= left[home[of]]).all():
            left[home[of]] -= counts[of]
            taken[unit] = True
    single = num_strata[units] == 1
    home, units = home[single], units[single]
    order = np.argsort(home, kind="stable")
    cuts = np.searchsorted(home[order], np.arange(len(sizes) + 1))
    for stratum in range(len(sizes)):
        own = units[order[cuts[stratum] : cuts[stratum + 1]]]
        chosen = _fill(_by_lot(own, draw), members, int(left[stratum]))
        taken[chosen] = True
        left[stratum] -= int(members[chosen].sum())
    missing = int(left.sum())
    if missing:
        free = _by_lot(units[~taken[units]], draw)
        taken[_fill(free, members, missing)] = True
    rows = taken[groups]
    got = np.bincount(strata[rows], minlength=len(sizes))
    return Chosen(rows, tuple(quotas), tuple(got.tolist()))


def _by_lot(units: np.ndarray, draw: np.ndarray) -> np.ndarray:
    return units[np.argsort(draw[units], kind="stable")]


def _fill(units: np.ndarray, members: np.ndarray, quota: int) -> list[int]:
    """Take units whose members add up to the quota, or come as near to it from below as any can.

    In the order given, each that still fits; only if that misses, the sizes are added up anew.
    """
    taken: list[int] = []
    left = quota
    for unit, size in zip(units.tolist(), members[units].tolist(), strict=True):
        if left == 0:
            return taken
        if size <= left:
            taken.append(unit)
            left -= size
    if left == 0:
        return taken
    by_size: dict[int, list[int]] = {}
    for unit, size in zip(units.tolist(), members[units].tolist(), strict=True):
        by_size.setdefault(size, []).append(unit)
    counts = _add_up({size: len(held) for size, held in by_size.items()}, quota)
    return [unit for size, number in counts.items() for unit in by_size[size][:number]]


def _add_up(available: dict[int, int], quota: int) -> dict[int, int]:
    """How many of each size give the largest sum up to the quota.

    Sums that can be reached are bits of a number: time and memory are the quota's times the
    different sizes' times the logarithm of how many there are of each.
    """
    pieces: list[tuple[int, int]] = []  # a size, and how many of it are taken together
    for size, number in sorted(available.items()):
        together = 1
        while number:
            step = min(together, number)
            pieces.append((size, step))
            number -= step
            together *= 2
    within = (1 << (quota + 1)) - 1
    reached = [1]
    for size, step in pieces:
        reached.append((reached[-1] | reached[-1] << size * step) & within)
    total = reached[-1].bit_length() - 1
    counts: dict[int, int] = {}
    for (size, step), before in zip(reversed(pieces), reversed(reached[:-1]), strict=True):
        if not before >> total & 1:
            counts[size] = counts.get(size, 0) + step
            total -= size * step
    return counts
