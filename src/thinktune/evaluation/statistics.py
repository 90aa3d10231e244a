"""How sure a number is: intervals for means, rates and paired differences, and McNemar's test."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist

import numpy as np

from thinktune.errors import DataError

CONFIDENCE = 0.95
NUM_RESAMPLES = 10_000
_CHUNK_DRAWS = 4_000_000  # 32 MB of indices at a time


@dataclass(frozen=True, slots=True)
class Interval:
    """A 95% confidence interval."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class PairCounts:
    """How the same questions went before and after; each question is in one of the four."""

    both: int = 0
    only_before: int = 0
    only_after: int = 0
    neither: int = 0

    @property
    def num(self) -> int:
        """Number of questions."""
        return self.both + self.only_before + self.only_after + self.neither


def count_pairs(before: Sequence[bool], after: Sequence[bool]) -> PairCounts:
    """Count the four outcomes of paired yes/no results.

    >>> count_pairs([True, False, False], [True, True, False])
    PairCounts(both=1, only_before=0, only_after=1, neither=1)
    """
    pairs = list(zip(before, after, strict=True))
    return PairCounts(
        both=sum(b and a for b, a in pairs),
        only_before=sum(b and not a for b, a in pairs),
        only_after=sum(a and not b for b, a in pairs),
        neither=sum(not b and not a for b, a in pairs),
    )


def wilson_interval(num_successes: int, num_trials: int) -> Interval:
    """Give the interval of a rate by Wilson's score method, without continuity correction.

    Unlike the textbook interval it is never empty at 0 or 1 and never leaves [0, 1].

    Source: Wilson (1927), J. Am. Stat. Assoc. 22:209; method 3 of Newcombe (1998),
    Stat. Med. 17:857.
    """
    if not 0 <= num_successes <= num_trials or num_trials == 0:
        raise DataError(f"{num_successes} of {num_trials} is not a rate; count at least one trial")
    n, rate = num_trials, num_successes / num_trials
    z = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2)
    centre = rate + z * z / (2 * n)
    half = z * sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    # At 0 and 1 one end is exact; rounding must not move it past the rate.
    return Interval(
        min((centre - half) / scale, rate) if num_successes else 0.0,
        max((centre + half) / scale, rate) if num_successes < n else 1.0,
    )


def paired_rate_interval(counts: PairCounts) -> Interval:
    """Give the interval of the rate after minus the rate before, over the same questions.

    The bootstrap has zero width when every question changes the same way (0 of 72 before, 72 of
    72 after), which a small test set reaches easily; this interval stays honest there.

    Source: method 10 of Newcombe (1998), Stat. Med. 17:2635: two Wilson intervals, joined with the
    correlation of the pairs.
    """
    n = counts.num
    num_after, num_before = counts.both + counts.only_after, counts.both + counts.only_before
    after, before = num_after / n if n else 0.0, num_before / n if n else 0.0
    of_after, of_before = wilson_interval(num_after, n), wilson_interval(num_before, n)
    covariance: float = counts.both * counts.neither - counts.only_before * counts.only_after
    if covariance > 0:
        covariance = max(covariance - n / 2, 0.0)
    spread = sqrt(num_after * (n - num_after)) * sqrt(num_before * (n - num_before))
    phi = covariance / spread if spread else 0.0

    def joined(x: float, y: float) -> float:
        return sqrt(max(x * x - 2 * phi * x * y + y * y, 0.0))

    difference = after - before
    return Interval(
        max(difference - joined(after - of_after.low, of_before.high - before), -1.0),
        min(difference + joined(of_after.high - after, before - of_before.low), 1.0),
    )


def bootstrap_interval(values: Sequence[float], *, seed: int) -> Interval:
    """Give the interval of a mean by the percentile bootstrap with 10,000 resamples.

    For a paired difference, pass the differences: resampling questions keeps the pairs together.
    The same values and seed give the same interval. Memory stays under 100 MB.

    Source: Efron and Tibshirani (1993), An Introduction to the Bootstrap, section 13.3.
    """
    sample = np.asarray(values, dtype=np.float64)
    n = len(sample)
    if n == 0:
        raise DataError("no values to resample; an interval needs at least one")
    rng = np.random.default_rng(seed)
    num_rows = max(1, _CHUNK_DRAWS // n)
    means = np.concatenate(
        [
            sample[rng.integers(n, size=(min(num_rows, NUM_RESAMPLES - start), n))].mean(axis=1)
            for start in range(0, NUM_RESAMPLES, num_rows)
        ]
    )
    low, high = np.quantile(means, [0.5 - CONFIDENCE / 2, 0.5 + CONFIDENCE / 2])
    mean = sample.mean()  # rounding of equal values must not leave the mean outside
    return Interval(float(min(low, mean)), float(max(high, mean)))


def paired_difference_interval(
    before: Sequence[float], after: Sequence[float], *, seed: int
) -> Interval:
    """Give the bootstrap interval of the mean of after minus before over the same questions."""
    return bootstrap_interval([a - b for b, a in zip(before, after, strict=True)], seed=seed)


def mcnemar_p(num_only_before: int, num_only_after: int) -> float:
    """Test whether as many questions went wrong as went right: McNemar's exact two-sided p.

    Only questions whose outcome changed count. The sum of binomials is done in whole numbers, so
    it is exact for any size; p-values under 1e-308 come out as 0.

    >>> mcnemar_p(0, 5)
    0.0625

    Source: McNemar (1947), Psychometrika 12:153; exact form as in Fagerland, Lydersen and Laake
    (2013), BMC Med. Res. Methodol. 13:91.
    """
    n = num_only_before + num_only_after
    term = tail = 1  # term is n choose k
    for k in range(min(num_only_before, num_only_after)):
        term = term * (n - k) // (k + 1)
        tail += term
    return min(1.0, 2 * tail / 2**n)
