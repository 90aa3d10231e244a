"""What other draws would give: questions again, signs flipped, more questions, k of n samples."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, comb, fsum, sqrt
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from thinktune.errors import DataError

CONFIDENCE, POWER = 0.95, 0.8
NUM_RESAMPLES = 10_000
MAX_FLIPPED = 20
"""So many changed questions have every combination of signs tried; more are drawn by chance."""
MIN_QUESTIONS = 6
"""With five questions that all went one way the exact two-sided p is still 0.0625."""
_CHUNK_DRAWS = 2_000_000  # 16 MB of indices or signs at a time
_ROUNDING = 1e-9  # relative: sums of the same numbers in another order

Values = NDArray[np.float64]


def half_width(values: Sequence[float], *, least_square: float = 0.0, seed: int) -> float:
    """Give half the width of the interval of a mean: symmetric bootstrap-t, 10,000 resamples.

    Each resample is a draw of as many values, whose mean is told in its own standard errors; of
    these the 95 % quantile of the size, and never less than 1.96, is how many standard errors the
    mean itself may be off. A resample of equal values has no error of its own, so that one of n
    parts of its variance is taken from the sample. The order of the values does not matter, nor
    does the sign of them all. Memory stays under 100 MB.

    Args:
        values: one a question.
        least_square: the squares of the deviations sum up to this at least.
        seed: the same values and seed give the same width.

    Raises:
        DataError: there are no values.

    Source: Efron and Tibshirani (1993), An Introduction to the Bootstrap, section 12.5; Hall
    (1988), J. R. Stat. Soc. B 50:35, for the symmetric kind.
    """
    n = len(values)
    if n == 0:
        raise DataError("no values to resample; an interval needs at least one")
    if n == 1:
        return 0.0
    sample = np.array(max(sorted(values), sorted(-value for value in values)))
    sample -= sample.mean()
    variance = max(float(sample @ sample), least_square) / (n - 1)
    if variance == 0:
        return 0.0
    rng = np.random.default_rng(seed)
    sizes = []
    for rows in _chunks(n):
        drawn = sample[rng.integers(n, size=(rows, n))]
        means = drawn.mean(axis=1)
        squares = np.maximum(np.einsum("rn,rn->r", drawn, drawn) - n * means**2, 0)
        sizes.append(np.abs(means) / np.sqrt((squares + variance) / n))
    errors = float(np.quantile(np.concatenate(sizes), CONFIDENCE)) * sqrt(n)
    return max(errors, NormalDist().inv_cdf(0.5 + CONFIDENCE / 2)) * sqrt(variance / n)


def permutation_p(before: Sequence[float], after: Sequence[float], *, seed: int) -> float:
    """Test whether the mean changed: the two-sided p of the paired sign-flip permutation test.

    If training did nothing, each question's two values could as well have come the other way
    round: p is the share of all such swaps that move the mean at least as far as was seen. It is
    exact where at most 20 questions changed (then it is McNemar's exact p for yes and no), else
    (k + 1) / (m + 1) over 10,000 draws, so never under 0.0001. The order of the questions does not
    matter, nor which side is which. Memory stays under 100 MB.

    Source: Fisher (1935), The Design of Experiments, section 21; Phipson and Smyth (2010), Stat.
    Appl. Genet. Mol. Biol. 9:39, for the drawn p.

    >>> permutation_p([0.0] * 5, [1.0] * 5, seed=1)
    0.0625
    """
    differences = [b - a for a, b in zip(before, after, strict=True)]
    sizes = np.array(sorted(abs(difference) for difference in differences if difference))
    far = abs(fsum(differences)) - _ROUNDING * float(sizes.sum())
    if len(sizes) == 0:
        return 1.0
    if len(sizes) <= MAX_FLIPPED:
        sums = sizes[:1]  # the other sign of the first gives the same sums, negated
        for size in sizes[1:]:
            sums = np.concatenate((sums + size, sums - size))
        return float(np.mean(np.abs(sums) >= far))
    rng = np.random.default_rng(seed)
    num_far = 0
    for rows in _chunks(len(sizes)):
        flipped = rng.integers(2, size=(rows, len(sizes)), dtype=np.uint8).astype(np.float64)
        num_far += int(np.sum(np.abs(sizes.sum() - 2 * (flipped @ sizes)) >= far))
    return (num_far + 1) / (NUM_RESAMPLES + 1)


def questions_needed(
    before: Sequence[float], after: Sequence[float], *, difference: float | None = None
) -> int | None:
    """Say how many questions like these tell a difference in 80 of 100 evaluations, at p < 0.05.

    For yes and no it is the number for McNemar's test, for other values that for the sign-flip
    test. The spread of the differences is taken from the pairs: a guess where few of them changed.

    Args:
        before: one value a question; 0 or 1 for no and yes.
        after: the same questions in the same order.
        difference: the mean difference worth knowing; None: the one seen.

    Returns:
        At least 6, since p reaches 0.05 with no fewer; None where nothing is known to reckon with:
        no pair changed, or there is no difference to tell.

    Source: Connor (1987), Biometrics 43:207, with the mean squared difference where it has the
    share of pairs that changed (for yes and no they are one), and half of the usual correction for
    the steps in which results come.
    """
    changes = _changes(before, after)
    wanted = abs(fsum(changes) / len(changes) if difference is None else difference)
    if not changes.any() or not wanted:
        return None
    return max(MIN_QUESTIONS, ceil(_needed(changes, wanted)))


def smallest_detectable(before: Sequence[float], after: Sequence[float]) -> float | None:
    """Give the mean difference that so many questions would tell in 80 of 100 evaluations.

    ``questions_needed``, the other way round. None if no pair changed, or with under 6 questions.
    """
    changes = _changes(before, after)
    num = len(changes)
    if not changes.any() or num < MIN_QUESTIONS:
        return None
    low, high = 0.0, float(np.abs(changes).max())  # the largest change is told with 6
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (low, middle) if _needed(changes, middle) <= num else (middle, high)
    return high


def pass_at_k(num_samples: int, num_right: int, k: int) -> float:
    """Give the chance that k of a question's samples hold a right one, without bias.

    The mean over all choices of k samples, in whole numbers, so it is exact for any size.

    Raises:
        DataError: k is not between 1 and the number of samples, or more are right than there are.

    Source: Chen et al. (2021), arXiv:2107.03374, section 2.1.

    >>> pass_at_k(4, 1, 2)
    0.5
    """
    if not (1 <= k <= num_samples and 0 <= num_right <= num_samples):
        raise DataError(
            f"pass@{k} of {num_samples} samples, {num_right} right, does not exist; draw at least "
            "k samples a question"
        )
    choices = comb(num_samples, k)
    return (choices - comb(num_samples - num_right, k)) / choices


@dataclass(frozen=True, slots=True)
class Majority:
    """What most samples of one question answer."""

    winners: tuple[str, ...]
    """The answers with the most votes, the first given first; several if they tie."""
    agreement: float
    """Votes for one winner, as a share of all samples: those without an answer count."""


def majority(votes: Sequence[str | None]) -> Majority:
    """Count the votes of a question's samples; None is a sample without an answer.

    Where winners tie, maj@k is the share of them that are right: the chance of taking a right one.

    Raises:
        DataError: there are no samples.

    Source: Wang et al. (2022), arXiv:2203.11171, section 2.

    >>> majority(["flu", None, "cold", "flu"])
    Majority(winners=('flu',), agreement=0.5)
    """
    if not votes:
        raise DataError("no samples to count; draw at least one a question")
    counts = Counter(vote for vote in votes if vote is not None)
    most = max(counts.values(), default=0)
    winners = tuple(answer for answer, count in counts.items() if count == most)
    return Majority(winners, most / len(votes))


def _changes(before: Sequence[float], after: Sequence[float]) -> Values:
    changes = [a - b for b, a in zip(before, after, strict=True)]
    if not changes:
        raise DataError("no pairs of results; ask at least one question before and after")
    return np.array(changes, dtype=np.float64)


def _needed(changes: Values, wanted: float) -> float:
    """Solve Connor's formula for a mean difference ``wanted`` with the spread of ``changes``."""
    sizes = np.abs(changes[changes != 0])
    step, largest = float(sizes.min()), float(sizes.max())
    # What a change comes to squared, on average: at least wanted / step changes of a step.
    square = max(float(changes.var()) + wanted**2, step * wanted)
    square = max(min(square, largest**2), wanted**2)
    normal = NormalDist()
    errors = normal.inv_cdf(0.5 + CONFIDENCE / 2) * sqrt(square)
    errors += normal.inv_cdf(POWER) * sqrt(square - wanted**2)
    return ((errors + sqrt(errors**2 + 2 * step * wanted)) / (2 * wanted)) ** 2


def _chunks(num_values: int) -> list[int]:
    """Split the resamples so that each part is few enough numbers."""
    rows = max(1, _CHUNK_DRAWS // num_values)
    whole, rest = divmod(NUM_RESAMPLES, rows)
    return [rows] * whole + [rest] * bool(rest)
