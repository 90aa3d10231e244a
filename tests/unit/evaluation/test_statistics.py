from math import sqrt

import pytest

from thinktune.errors import DataError
from thinktune.evaluation.statistics import (
    Interval,
    PairCounts,
    bootstrap_interval,
    count_pairs,
    mcnemar_p,
    paired_difference_interval,
    paired_rate_interval,
    wilson_interval,
)


# Newcombe (1998), Stat. Med. 17:857, table I, method 3.
@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_equals_the_published_intervals(successes, trials, low, high):
    interval = wilson_interval(successes, trials)
    assert (round(interval.low, 4), round(interval.high, 4)) == (low, high)


def test_wilson_equals_scipy():
    stats = pytest.importorskip("scipy.stats")
    for successes, trials in [(0, 1), (1, 1), (3, 7), (500, 1319), (72, 72)]:
        theirs = stats.binomtest(successes, trials).proportion_ci(0.95, method="wilson")
        ours = wilson_interval(successes, trials)
        assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_a_rate_of_no_trials_is_refused():
    for successes, trials in [(0, 0), (2, 1), (-1, 3)]:
        with pytest.raises(DataError, match="is not a rate"):
            wilson_interval(successes, trials)


# Newcombe (1998), Stat. Med. 17:2635, and Fagerland, Lydersen and Laake (2013), BMC Med. Res.
# Methodol. 13:91 (airway hyper-responsiveness), written as after minus before.
@pytest.mark.parametrize(
    ("counts", "low", "high"),
    [
        (PairCounts(both=36, only_before=2, only_after=12, neither=0), 0.0569, 0.3404),
        (PairCounts(both=1, only_before=7, only_after=1, neither=12), -0.5069, -0.0256),
    ],
)
def test_the_paired_rate_interval_equals_the_published_ones(counts, low, high):
    interval = paired_rate_interval(counts)
    assert (round(interval.low, 4), round(interval.high, 4)) == (low, high)


def test_the_paired_rate_interval_has_width_when_every_question_changes_the_same_way():
    interval = paired_rate_interval(PairCounts(only_after=72))
    # Each Wilson interval is z^2 / (n + z^2) = 0.05065 wide; they join as a hypotenuse.
    assert interval.low == pytest.approx(1 - sqrt(2) * 0.0506512, abs=1e-6)
    assert interval.high == 1.0


# n discordant pairs, k of them one way: 2 * P(X <= k), by hand.
@pytest.mark.parametrize(
    ("only_before", "only_after", "p"),
    [
        (0, 0, 1.0),
        (1, 0, 1.0),
        (0, 5, 2 / 32),
        (1, 7, 2 * (1 + 8) / 256),
        (2, 8, 2 * (1 + 10 + 45) / 1024),
        (5, 5, 1.0),
    ],
)
def test_mcnemar_equals_the_sum_done_by_hand(only_before, only_after, p):
    assert mcnemar_p(only_before, only_after) == p


def test_mcnemar_equals_the_binomial_test_at_ten_thousand_pairs():
    stats = pytest.importorskip("scipy.stats")
    for few in (4700, 4900, 5000):
        theirs = stats.binomtest(few, 10_000).pvalue
        assert mcnemar_p(few, 10_000 - few) == pytest.approx(theirs, rel=1e-9)
    assert mcnemar_p(0, 10_000) == 0.0


def test_the_bootstrap_equals_the_exact_interval_of_a_resampled_coin():
    # The mean of 100 resamples of fifty 0s and fifty 1s is Binomial(100, 1/2) / 100, whose
    # 2.5 % and 97.5 % points are 40 and 60.
    interval = bootstrap_interval([0.0, 1.0] * 50, seed=1)
    assert (interval.low, interval.high) == pytest.approx((0.40, 0.60), abs=0.005)


def test_the_bootstrap_comes_near_the_normal_interval_of_a_mean():
    values = [float(v) for v in range(101)]  # mean 50, standard error sqrt((101**2 - 1) / 12 / 101)
    half = 1.96 * sqrt((101**2 - 1) / 12 / 101)
    interval = bootstrap_interval(values, seed=5)
    assert (interval.low, interval.high) == pytest.approx((50 - half, 50 + half), abs=0.25)


def test_the_bootstrap_is_the_same_for_the_same_seed_only():
    values = [float(v * v % 13) for v in range(40)]
    assert bootstrap_interval(values, seed=3) == bootstrap_interval(values, seed=3)
    assert bootstrap_interval(values, seed=3) != bootstrap_interval(values, seed=4)


def test_pairing_removes_what_both_have_in_common():
    before = [float(v) for v in range(0, 1000, 37)]
    interval = paired_difference_interval(before, [v + 2 for v in before], seed=1)
    assert interval == Interval(2.0, 2.0)
    with pytest.raises(ValueError, match="shorter"):
        paired_difference_interval(before, before[1:], seed=1)


def test_the_bootstrap_does_not_depend_on_how_many_draws_are_made_at_a_time(monkeypatch):
    values = [float(v * v % 13) for v in range(40)]
    at_once = bootstrap_interval(values, seed=3)
    monkeypatch.setattr("thinktune.evaluation.statistics._CHUNK_DRAWS", 40 * 999)
    assert bootstrap_interval(values, seed=3) == at_once


def test_many_values_are_resampled_in_bounded_memory():
    tracemalloc = pytest.importorskip("tracemalloc")
    tracemalloc.start()
    bootstrap_interval([float(v) for v in range(5000)], seed=1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100e6


def test_no_values_have_no_interval():
    with pytest.raises(DataError, match="at least one"):
        bootstrap_interval([], seed=1)


def test_every_pair_is_counted_once():
    counts = count_pairs([True, True, False, False, False], [True, False, True, True, False])
    assert counts == PairCounts(both=1, only_before=1, only_after=2, neither=1)
    assert counts.num == 5
