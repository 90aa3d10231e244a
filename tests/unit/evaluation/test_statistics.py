import tracemalloc
from collections.abc import Callable
from math import exp, inf, sqrt

import numpy as np
import pytest

from thinktune.errors import DataError
from thinktune.evaluation import resampling
from thinktune.evaluation.resampling import (
    Majority,
    majority,
    pass_at_k,
    permutation_p,
    questions_needed,
    smallest_detectable,
)
from thinktune.evaluation.statistics import (
    Interval,
    PairCounts,
    bootstrap_interval,
    count_pairs,
    holm,
    mcnemar_p,
    paired_difference_interval,
    paired_rate_interval,
    reliability,
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
def test_wilson_equals_the_published_intervals(successes, trials, low, high) -> None:
    interval = wilson_interval(successes, trials)
    assert (round(interval.low, 4), round(interval.high, 4)) == (low, high)


def test_wilson_equals_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    for successes, trials in [(0, 1), (1, 1), (3, 7), (500, 1319), (72, 72)]:
        theirs = stats.binomtest(successes, trials).proportion_ci(0.95, method="wilson")
        ours = wilson_interval(successes, trials)
        assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_a_rate_of_no_trials_is_refused() -> None:
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
def test_the_paired_rate_interval_equals_the_published_ones(counts, low, high) -> None:
    interval = paired_rate_interval(counts)
    assert (round(interval.low, 4), round(interval.high, 4)) == (low, high)


def test_the_paired_rate_interval_has_width_when_every_question_changes_the_same_way() -> None:
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
def test_mcnemar_equals_the_sum_done_by_hand(only_before, only_after, p) -> None:
    assert mcnemar_p(only_before, only_after) == p


def test_mcnemar_equals_the_binomial_test_at_ten_thousand_pairs() -> None:
    stats = pytest.importorskip("scipy.stats")
    for few in (4700, 4900, 5000):
        theirs = stats.binomtest(few, 10_000).pvalue
        assert mcnemar_p(few, 10_000 - few) == pytest.approx(theirs, rel=1e-9)
    assert mcnemar_p(0, 10_000) == 0.0


def test_the_bootstrap_comes_near_the_students_interval_of_a_coin() -> None:
    # 100 throws: standard error 0.05025, and 1.984 of them by Student's t with 99 degrees.
    interval = bootstrap_interval([0.0, 1.0] * 50, seed=1)
    assert (interval.low, interval.high) == pytest.approx((0.4003, 0.5997), abs=0.006)


def test_the_bootstrap_comes_near_the_normal_interval_of_a_mean() -> None:
    values = [float(v) for v in range(101)]  # mean 50, standard error sqrt((101**2 - 1) / 12 / 100)
    half = 1.984 * sqrt((101**2 - 1) / 12 / 100)
    interval = bootstrap_interval(values, seed=5)
    assert (interval.low, interval.high) == pytest.approx((50 - half, 50 + half), abs=0.25)


def test_the_bootstrap_is_wider_than_students_where_one_of_twenty_is_far_off() -> None:
    values = [0.0] * 19 + [100.0]
    interval = bootstrap_interval(values, seed=5)
    assert interval.high > 5 + 2.093 * 5  # mean 5, standard error 5, 19 degrees
    assert interval.high == pytest.approx(25, abs=5)  # Clopper and Pearson for 1 of 20: 0.249


def test_the_bootstrap_is_the_same_for_the_same_seed_only() -> None:
    values = [float(v * v % 13) for v in range(40)]
    assert bootstrap_interval(values, seed=3) == bootstrap_interval(values, seed=3)
    assert bootstrap_interval(values, seed=3) != bootstrap_interval(values, seed=4)


def test_pairing_removes_what_both_have_in_common() -> None:
    before = [float(v) for v in range(0, 1000, 37)]
    interval = paired_difference_interval(before, [v + 2 for v in before], seed=1)
    assert interval == Interval(2.0, 2.0)
    with pytest.raises(ValueError, match="shorter"):
        paired_difference_interval(before, before[1:], seed=1)


def test_shares_that_all_changed_alike_have_an_interval_that_shrinks_with_their_number() -> None:
    widths = []
    for num in (1, 20, 72, 300):
        interval = paired_difference_interval([0.25] * num, [0.5] * num, seed=1, bounds=(0.0, 1.0))
        assert interval.low < 0.25 < interval.high
        widths.append(interval.high - interval.low)
    assert widths == sorted(widths, reverse=True)
    assert widths[0] == 2  # one question tells nothing
    # 1.96 standard errors where the squares sum up to 1.
    assert widths[1] == pytest.approx(2 * 1.96 * sqrt(1 / 19 / 20), abs=1e-4)


def test_the_interval_of_a_share_stays_within_its_bounds() -> None:
    assert bootstrap_interval([1.0] * 20, seed=1, bounds=(0.0, 1.0)).high == 1
    assert bootstrap_interval([0.0] * 19 + [0.25], seed=1, bounds=(0.0, 1.0)).low == 0
    assert paired_difference_interval([0.0] * 9, [1.0] * 9, seed=1, bounds=(0.0, 1.0)).high == 1
    assert bootstrap_interval([3.0, 900.0], seed=1, bounds=(0.0, inf)).low == 0


def held(
    draw: Callable[[np.random.Generator], list[float]], truth: float, **bounds: tuple[float, float]
) -> float:
    """How often the interval of 20 differences holds the true mean."""
    rng, num = np.random.default_rng(8), 0
    for seed in range(400):
        interval = bootstrap_interval(draw(rng), seed=seed, **bounds)
        num += interval.low <= truth <= interval.high
    return num / 400


def test_the_interval_holds_the_true_mean_about_as_often_as_it_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(resampling, "NUM_RESAMPLES", 500)  # 400 intervals in about a second

    def shares(rng: np.random.Generator) -> list[float]:
        before, after = rng.beta(1, 1, 20), rng.beta(2, 1, 20)
        return ((rng.binomial(4, after) - rng.binomial(4, before)) / 4).tolist()

    def rare_changes(rng: np.random.Generator) -> list[float]:
        return (rng.integers(1, 5, 20) / 4 * (rng.random(20) < 0.1)).tolist()

    def lengths(rng: np.random.Generator) -> list[float]:
        return rng.lognormal(5, 0.6, 20).tolist()

    # The percentile bootstrap: 0.92, 0.85 and 0.90.
    assert 0.93 <= held(shares, 2 / 3 - 1 / 2, bounds=(-1.0, 1.0)) <= 0.98
    assert held(rare_changes, 0.0625, bounds=(-1.0, 1.0)) >= 0.95
    assert 0.91 <= held(lengths, exp(5 + 0.6**2 / 2)) <= 0.97


def test_results_do_not_depend_on_how_many_draws_are_made_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before, after = [float(v * v % 13) for v in range(40)], [float(v * v % 17) for v in range(40)]

    def results() -> tuple[Interval, float]:
        interval = paired_difference_interval(before, after, seed=3)
        return interval, permutation_p(before, after, seed=3)

    at_once = results()
    monkeypatch.setattr(resampling, "_CHUNK_DRAWS", 40 * 1000)
    assert results()[0] == at_once[0]
    assert results()[1] == pytest.approx(at_once[1], abs=0.015)


def test_many_values_are_resampled_in_bounded_memory() -> None:
    zeros, values = [0.0] * 5000, [float(v) for v in range(5000)]
    tracemalloc.start()
    bootstrap_interval(values, seed=1)
    permutation_p(zeros, values, seed=1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100e6


def test_no_values_have_no_interval() -> None:
    with pytest.raises(DataError, match="at least one"):
        bootstrap_interval([], seed=1)
    with pytest.raises(DataError, match="at least one"):
        questions_needed([], [])


def test_every_pair_is_counted_once() -> None:
    counts = count_pairs([True, True, False, False, False], [True, False, True, True, False])
    assert counts == PairCounts(both=1, only_before=1, only_after=2, neither=1)
    assert counts.num == 5


def yes_no(only_before: int, only_after: int, same: int) -> tuple[list[float], list[float]]:
    """Results of so many questions before and after."""
    before = [1.0] * only_before + [0.0] * only_after + [1.0] * same
    return before, [0.0] * only_before + [1.0] * only_after + [1.0] * same


def test_the_permutation_test_by_hand() -> None:
    # Of the 8 ways to give 1, 2 and 4 a sign, only +++ and --- are 7 away from 0.
    assert permutation_p([0.0, 0.0, 0.0], [1.0, 2.0, 4.0], seed=1) == 2 / 8
    assert permutation_p([0.0, 1.0, 0.0], [1.0, 0.0, 5.0], seed=1) == 6 / 8  # 7, 5, 5
    assert permutation_p([3.0, 3.0], [3.0, 3.0], seed=1) == 1


def test_a_drawn_permutation_p_comes_near_the_exact_one_and_is_never_0() -> None:
    before, after = yes_no(9, 22, 40)
    drawn = permutation_p(before, after, seed=1)
    assert drawn != permutation_p(before, after, seed=2)
    assert drawn == permutation_p(before, after, seed=1)
    assert drawn == pytest.approx(mcnemar_p(9, 22), abs=0.006)
    assert permutation_p([0.0] * 300, [1.0] * 300, seed=1) == 1 / 10_001


def test_sums_that_differ_by_rounding_alone_count_as_equal() -> None:
    # Of 0.1, 0.2, 0.3 and -0.6 sixteen sums are two of 0; in floating point few of them are.
    differences = [0.1, 0.2, 0.3, -0.6]
    assert permutation_p([0.0] * 4, differences, seed=1) == 1
    assert permutation_p([0.0] * 3, [0.1, 0.2, 0.3], seed=1) == 2 / 8
    assert permutation_p([0.0] * 3, [0.3, 0.2, -0.1], seed=1) == 4 / 8


# Signs of 200 samples of a true null: p under 0.05 about 1 in 20 times.
def test_a_model_that_did_not_change_is_rarely_said_to_have() -> None:
    rng = np.random.default_rng(4)
    values = rng.lognormal(4, 1, (2, 200, 12))
    p = [permutation_p(b.tolist(), a.tolist(), seed=1) for b, a in zip(*values, strict=True)]
    assert 0.01 <= np.mean(np.array(p) <= 0.05) <= 0.09


def test_holm_steps_down_from_the_smallest_and_never_rises_back() -> None:
    # By hand: 4 * 0.005, 3 * 0.01, 2 * 0.03, then 0.04, which may not be under the one before.
    adjusted = holm({"d": 0.04, "a": 0.005, "c": 0.03, "b": 0.01})
    assert list(adjusted) == ["d", "a", "c", "b"]
    assert adjusted == pytest.approx({"a": 0.02, "b": 0.03, "c": 0.06, "d": 0.06})
    assert holm({"a": 0.9, "b": 0.8}) == {"a": 1.0, "b": 1.0}
    assert holm({}) == {}


@pytest.mark.parametrize("strange", [-0.1, 1.1, float("nan")])
def test_a_number_that_is_no_p_value_is_refused(strange: float) -> None:
    with pytest.raises(DataError, match="'broken'"):
        holm({"fine": 0.5, "broken": strange})


def test_no_number_of_questions_is_named_where_nothing_is_known() -> None:
    unchanged = yes_no(0, 0, 40)
    assert questions_needed(*unchanged) is None
    assert questions_needed(*unchanged, difference=0.1) is None
    assert smallest_detectable(*unchanged) is None
    assert questions_needed(*yes_no(3, 3, 40)) is None  # no difference was seen
    assert questions_needed(*yes_no(3, 3, 40), difference=0.1) is not None
    assert smallest_detectable([0.0] * 5, [1.0] * 5) is None  # five cannot reach p < 0.05


def test_no_fewer_than_six_questions_are_ever_enough() -> None:
    assert questions_needed([0.0] * 9, [1.0] * 9) == 6
    assert mcnemar_p(0, 5) > 0.05 > mcnemar_p(0, 6)


@pytest.mark.parametrize(
    ("only_before", "only_after", "same", "difference"),
    [
        (2, 6, 64, None),
        (2, 6, 64, 0.1),
        (10, 20, 42, None),
        (10, 20, 42, 0.05),
        (1, 40, 31, None),
        (20, 20, 32, -0.2),
        (0, 5, 67, 0.2),
    ],
)
def test_mcnemar_tells_the_difference_in_8_of_10_evaluations_with_the_questions_named(
    only_before: int, only_after: int, same: int, difference: float | None
) -> None:
    before, after = yes_no(only_before, only_after, same)
    num = questions_needed(before, after, difference=difference)
    assert num is not None
    seen = (only_after - only_before) / len(before)
    wanted = abs(seen if difference is None else difference)
    changed = (only_before + only_after) / len(before) - seen**2 + wanted**2
    changed = min(max(changed, wanted), 1)
    rates = [(changed - wanted) / 2, (changed + wanted) / 2, 1 - changed]
    counts = np.random.default_rng(1).multinomial(num, rates, size=3000).tolist()
    told = np.mean([mcnemar_p(worse, better) < 0.05 for worse, better, _ in counts])
    assert 0.7 <= told <= 0.9


@pytest.mark.parametrize("wanted", [0.08, 0.2])
def test_the_sign_flips_tell_a_share_or_length_in_8_of_10_evaluations_with_the_questions_named(
    wanted: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resampling, "NUM_RESAMPLES", 400)
    rng = np.random.default_rng(3)

    def shares(num: int) -> list[float]:
        before = rng.beta(1, 1, num) * (1 - 2 * wanted)
        difference = rng.binomial(4, before + 2 * wanted * (rng.random(num) < 0.5))
        return ((difference - rng.binomial(4, before)) / 4).tolist()

    def lengths(num: int) -> list[float]:
        return (100 * wanted + rng.normal(0, 30, num)).tolist()

    for draw, difference in ((shares, wanted), (lengths, 100 * wanted)):
        pilot = draw(2000)
        num = questions_needed([0.0] * 2000, pilot, difference=difference)
        assert num is not None
        tests = (permutation_p([0.0] * num, draw(num), seed=seed) for seed in range(300))
        assert 0.7 <= np.mean([p < 0.05 for p in tests]) <= 0.9


def test_the_smallest_detectable_difference_is_the_one_that_needs_as_many_questions() -> None:
    for before, after in (
        yes_no(2, 6, 64),
        yes_no(10, 20, 42),
        ([0.0] * 72, [2.0, 9.0, -4.0] * 24),
    ):
        smallest = smallest_detectable(before, after)
        assert smallest is not None
        assert questions_needed(before, after, difference=smallest) == len(before)
        assert questions_needed(before, after, difference=smallest * 0.9) > len(before)  # pyright: ignore


def test_the_number_of_questions_equals_connors_formula_by_hand_but_for_the_correction() -> None:
    # Half of the pairs change and the rates differ by 0.1:
    # (1.96 * sqrt(0.5) + 0.8416 * sqrt(0.5 - 0.01))^2 / 0.01 = 390.1; the correction adds 1 / 0.1.
    assert questions_needed(*yes_no(200, 300, 500)) == pytest.approx(390.1 + 10, abs=1)


def test_pass_at_k_by_hand() -> None:
    assert pass_at_k(10, 3, 1) == 0.3
    assert pass_at_k(10, 3, 8) == 1
    assert pass_at_k(5, 0, 5) == 0
    assert pass_at_k(100_000, 1, 50_000) == 0.5
    for num_samples, num_right, k in [(4, 1, 0), (4, 1, 5), (4, 5, 1), (4, -1, 1)]:
        with pytest.raises(DataError, match="draw at least k"):
            pass_at_k(num_samples, num_right, k)


def test_the_majority_is_of_all_samples_and_ties_give_every_winner() -> None:
    assert majority(["a", "b", "b", None]) == Majority(("b",), 0.5)
    assert majority(["b", "a", None, "a", "b"]) == Majority(("b", "a"), 0.4)
    assert majority([None, None, None, "a"]) == Majority(("a",), 0.25)
    assert majority([None, None]) == Majority((), 0.0)
    with pytest.raises(DataError, match="at least one"):
        majority([])


def test_the_calibration_error_by_hand() -> None:
    confidences = [0.0, 0.2, 0.25, 0.3, 1.0, 1.0]
    result = reliability(confidences, [False, False, True, False, True, False], num_bins=5)
    assert [(each.low, each.high, each.num) for each in result.bins] == [
        (0.0, 0.2, 2),
        (0.2, 0.4, 2),
        (0.8, 1.0, 2),
    ]
    assert [each.accuracy for each in result.bins] == [0, 0.5, 0.5]
    assert [each.mean_confidence for each in result.bins] == pytest.approx([0.1, 0.275, 1.0])
    assert result.bins[0].interval == wilson_interval(0, 2)
    error = (2 * 0.1 + 2 * 0.225 + 2 * 0.5) / 6
    assert result.expected_calibration_error == pytest.approx(error)


def test_a_confidence_on_an_edge_is_in_the_bin_below_it() -> None:
    for num_bins in (3, 7, 10, 100):
        edges = [place / num_bins for place in range(1, num_bins + 1)]
        result = reliability(edges, [True] * num_bins, num_bins=num_bins)
        assert [(each.high, each.num) for each in result.bins] == [(edge, 1) for edge in edges]


def test_confidences_that_are_none_or_no_shares_are_refused() -> None:
    for confidences in ([], [1.2], [-0.1], [float("nan")]):
        with pytest.raises(DataError, match="between 0 and 1"):
            reliability(confidences, [True] * len(confidences))
    with pytest.raises(ValueError, match="shorter"):
        reliability([0.5, 0.5], [True])
