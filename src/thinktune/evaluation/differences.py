"""After minus before, metric by metric over the same questions, and whether it can be chance."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from statistics import fmean

from thinktune.evaluation.metrics import Metric, Unit, Values
from thinktune.evaluation.resampling import permutation_p
from thinktune.evaluation.scores import bounds_of, is_yes_or_no
from thinktune.evaluation.statistics import (
    Interval,
    count_pairs,
    holm,
    mcnemar_p,
    paired_difference_interval,
    paired_rate_interval,
)

SIGNIFICANCE = 0.05


class Test(StrEnum):
    """How a difference was tested."""

    MCNEMAR = "exact McNemar"
    """Where each value before and after is 0 or 1."""
    PERMUTATION = "sign-flip permutation"

    __test__ = False  # pytest takes any class of this name for tests


@dataclass(frozen=True, slots=True)
class Difference:
    """After minus before, over the questions where both have the metric."""

    mean: float
    interval: Interval
    """Newcombe's where each value is 0 or 1, else the paired bootstrap's."""
    num: int
    """Pairs it is taken over."""
    test: Test
    p: float
    p_adjusted: float | None
    """Holm's, over the metrics of which one way is better but the main one; None for the rest."""

    @property
    def changed(self) -> bool:
        """The interval leaves out 0, and the test agrees."""
        p = self.p if self.p_adjusted is None else self.p_adjusted
        return p < SIGNIFICANCE and not self.interval.low <= 0 <= self.interval.high


def differences_of(
    before: Values, after: Values, metrics: Mapping[str, Metric], *, main: str, seed: int
) -> dict[str, Difference]:
    """Compare the values of the same questions; a metric that no pair has is left out.

    The main metric is one planned test. Of the others one in twenty would seem changed by chance;
    so all that say better or worse are adjusted together.
    """
    found = {
        name: _difference(pairs, metric.unit, seed=seed)
        for name, metric in metrics.items()
        if (pairs := pairs_of(before[name], after[name]))
    }
    secondary = {name: of.p for name, of in found.items() if metrics[name].better and name != main}
    adjusted = holm(secondary)
    return {name: replace(of, p_adjusted=adjusted.get(name)) for name, of in found.items()}


def pairs_of(
    before: Sequence[float | None], after: Sequence[float | None]
) -> list[tuple[float, float]]:
    """Keep the questions that have a value on both sides."""
    both = zip(before, after, strict=True)
    return [(old, new) for old, new in both if old is not None and new is not None]


def _difference(pairs: Sequence[tuple[float, float]], unit: Unit, *, seed: int) -> Difference:
    before, after = [old for old, _ in pairs], [new for _, new in pairs]
    mean = fmean(new - old for old, new in pairs)
    if is_yes_or_no([*before, *after], unit):
        counts = count_pairs([old == 1 for old in before], [new == 1 for new in after])
        interval = paired_rate_interval(counts)
        p = mcnemar_p(counts.only_before, counts.only_after)
        return Difference(mean, interval, len(pairs), Test.MCNEMAR, p, None)
    interval = paired_difference_interval(before, after, seed=seed, bounds=bounds_of(unit))
    p = permutation_p(before, after, seed=seed)
    return Difference(mean, interval, len(pairs), Test.PERMUTATION, p, None)
