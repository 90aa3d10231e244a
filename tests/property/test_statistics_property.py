from collections import Counter
from itertools import combinations, product
from math import isclose, sqrt
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thinktune.answers.labels import find_labels
from thinktune.evaluation.resampling import (
    majority,
    pass_at_k,
    permutation_p,
    questions_needed,
    smallest_detectable,
)
from thinktune.evaluation.statistics import (
    PairCounts,
    bootstrap_interval,
    holm,
    mcnemar_p,
    paired_difference_interval,
    paired_rate_interval,
    reliability,
    wilson_interval,
)

VALUES = st.lists(st.floats(-1e6, 1e6, allow_subnormal=False), min_size=1, max_size=30)
COUNTS = st.builds(PairCounts, *[st.integers(0, 60)] * 4).filter(lambda counts: counts.num)
LABELS = {"influenza": ["flu"], "gastroenteritis": ["stomach flu"], "cold": ["common cold"]}


SHARES = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])
SHARE_PAIRS = st.lists(st.tuples(SHARES, SHARES), min_size=2, max_size=40)
LENGTH = st.integers(0, 999).map(float)
LENGTH_PAIRS = st.lists(st.tuples(LENGTH, LENGTH), min_size=2, max_size=40)
PAIRS = SHARE_PAIRS | LENGTH_PAIRS


def unzip(pairs: list[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [before for before, _ in pairs], [after for _, after in pairs]


@given(VALUES, st.integers(0, 2**32))
@settings(max_examples=25, deadline=None)
def test_the_bootstrap_interval_holds_the_mean_in_its_middle(values, seed):
    interval = bootstrap_interval(values, seed=seed)
    slack = 1e-9 * max(1.0, *map(abs, values))
    mean = sum(values) / len(values)
    assert interval.low - slack <= mean <= interval.high + slack
    assert (interval.low + interval.high) / 2 == pytest.approx(mean, abs=slack)


@given(SHARE_PAIRS, st.integers(0, 2**32))
@settings(max_examples=25, deadline=None)
def test_the_interval_of_shares_has_width_and_stays_within_their_bounds(pairs, seed):
    before, after = unzip(pairs)
    interval = paired_difference_interval(before, after, seed=seed, bounds=(0.0, 1.0))
    assert -1 <= interval.low < interval.high <= 1
    # At least as wide, on one side, as if one question had changed from one bound to the other.
    mean = (sum(after) - sum(before)) / len(pairs)
    least = 1.95 / sqrt(len(pairs) * (len(pairs) - 1))
    assert max(interval.high - mean, mean - interval.low) >= min(least, 1)


@given(PAIRS)
@settings(max_examples=25, deadline=None)
def test_results_do_not_depend_on_the_order_of_questions_and_flip_with_the_sides(pairs):
    shuffled = Random(1).sample(pairs, len(pairs))
    forth = paired_difference_interval(*unzip(pairs), seed=7)
    assert paired_difference_interval(*unzip(shuffled), seed=7) == forth
    back = paired_difference_interval(*reversed(unzip(pairs)), seed=7)
    assert (back.low, back.high) == (-forth.high, -forth.low)
    p = permutation_p(*unzip(pairs), seed=7)
    assert p == permutation_p(*unzip(shuffled), seed=7)
    assert p == permutation_p(*reversed(unzip(pairs)), seed=7)
    for number in (questions_needed, smallest_detectable):
        one, other = number(*unzip(pairs)), number(*reversed(unzip(shuffled)))
        assert one == other or isclose(one, other, rel_tol=1e-9)


@given(LENGTH_PAIRS, st.integers(-3, 3))
@settings(max_examples=25, deadline=None)
def test_lengths_in_another_unit_have_the_interval_in_that_unit(pairs, power):
    before, after = unzip(pairs)
    scale = 2.0**power  # without rounding
    plain = paired_difference_interval(before, after, seed=7)
    scaled = paired_difference_interval(
        [scale * b for b in before], [scale * a for a in after], seed=7
    )
    ends = (scale * plain.low, scale * plain.high)
    assert (scaled.low, scaled.high) == pytest.approx(ends, rel=1e-9, abs=1e-9)


@given(st.lists(st.integers(-9, 9), min_size=1, max_size=9))
@settings(deadline=None)
def test_the_permutation_test_equals_the_count_over_all_signs(differences):
    sums = [
        sum(s * d for s, d in zip(signs, differences, strict=True))
        for signs in product((1, -1), repeat=len(differences))
    ]
    far = sum(abs(each) >= abs(sum(differences)) for each in sums)
    before = [0.3] * len(differences)  # so that most sums are rounded
    after = [0.3 + 0.1 * d for d in differences]
    assert permutation_p(before, after, seed=1) == far / len(sums)


@given(st.integers(0, 10), st.integers(0, 10), st.integers(0, 30))
@settings(deadline=None)
def test_the_permutation_test_of_yes_and_no_is_mcnemars(only_before, only_after, same):
    before = [1.0] * only_before + [0.0] * (only_after + same)
    after = [0.0] * only_before + [1.0] * only_after + [0.0] * same
    p = permutation_p(before, after, seed=1)
    assert p == pytest.approx(mcnemar_p(only_before, only_after), rel=1e-12)


@given(st.dictionaries(st.text(max_size=3), st.floats(0, 1), max_size=12))
@settings(deadline=None)
def test_holm_rejects_what_the_procedure_rejects_step_by_step(p_values):
    adjusted = holm(p_values)
    assert list(adjusted) == list(p_values)
    for name, p in p_values.items():
        assert p <= adjusted[name] <= min(1, len(p_values) * p)
    for level in (0.01, 0.05, 0.3):
        rejected, left = set(), sorted(p_values, key=lambda name: p_values[name])
        while left and p_values[left[0]] * len(left) <= level:
            rejected.add(left.pop(0))
        assert {name for name, p in adjusted.items() if p <= level} == rejected


@given(PAIRS.filter(lambda pairs: any(b != a for b, a in pairs)), st.floats(0.01, 0.5))
@settings(deadline=None)
def test_a_larger_difference_needs_fewer_questions(pairs, difference):
    before, after = unzip(pairs)
    larger = questions_needed(before, after, difference=2 * difference)
    assert 6 <= larger <= questions_needed(before, after, difference=difference)
    assert larger == questions_needed(before, after, difference=-2 * difference)


@given(PAIRS.filter(lambda pairs: any(b != a for b, a in pairs) and len(pairs) >= 6))
@settings(deadline=None)
def test_the_smallest_detectable_difference_is_one_that_these_questions_tell(pairs):
    before, after = unzip(pairs)
    smallest = smallest_detectable(before, after)
    assert 0 < smallest <= max(abs(a - b) for b, a in pairs)
    assert questions_needed(before, after, difference=smallest) <= len(pairs)
    if len(pairs) > 6:
        assert questions_needed(before, after, difference=0.99 * smallest) >= len(pairs)


@given(st.lists(st.booleans(), min_size=1, max_size=9), st.integers(1, 9))
@settings(deadline=None)
def test_pass_at_k_equals_the_count_over_all_choices_of_k_samples(right, k):
    k = min(k, len(right))
    choices = [any(choice) for choice in combinations(right, k)]
    assert pass_at_k(len(right), sum(right), k) == sum(choices) / len(choices)


@given(st.integers(1, 10_000), st.data())
@settings(deadline=None)
def test_pass_at_k_rises_with_k_and_with_right_samples(num_samples, data):
    num_right = data.draw(st.integers(0, num_samples))
    k = data.draw(st.integers(1, num_samples))
    value = pass_at_k(num_samples, num_right, k)
    assert 0 <= value <= 1
    assert value >= num_right / num_samples
    assert value >= pass_at_k(num_samples, num_right, max(k - 1, 1))
    assert value >= pass_at_k(num_samples, max(num_right - 1, 0), k)


@given(st.lists(st.sampled_from(["flu", "cold", "7", None]), min_size=1))
@settings(deadline=None)
def test_no_answer_has_more_votes_than_a_winner(votes):
    result = majority(votes)
    counts = Counter(votes)
    assert set(result.winners) == {
        vote for vote in set(votes) - {None} if all(counts[vote] >= counts[o] for o in counts if o)
    }
    assert all(counts[winner] == result.agreement * len(votes) for winner in result.winners)


@given(
    st.lists(st.tuples(st.integers(0, 8).map(lambda n: n / 8), st.booleans()), min_size=1),
    st.integers(1, 20),
)
@settings(deadline=None)
def test_every_question_is_in_one_bin_and_the_calibration_error_is_between_0_and_1(
    questions, num_bins
):
    confidences, outcomes = [c for c, _ in questions], [right for _, right in questions]
    result = reliability(confidences, outcomes, num_bins=num_bins)
    assert sum(each.num for each in result.bins) == len(questions)
    for each in result.bins:
        inside = [c for c in confidences if each.low < c <= each.high or c == each.low == 0]
        assert len(inside) == each.num
        assert each.interval.low <= each.accuracy <= each.interval.high
    assert 0 <= result.expected_calibration_error <= 1
    shuffled = Random(1).sample(questions, len(questions))
    again = reliability([c for c, _ in shuffled], [r for _, r in shuffled], num_bins=num_bins)
    assert again == result


@given(COUNTS)
@settings(deadline=None)
def test_swapping_before_and_after_flips_the_signs_of_a_rate_difference(counts):
    forth = paired_rate_interval(counts)
    swapped = PairCounts(counts.both, counts.only_after, counts.only_before, counts.neither)
    back = paired_rate_interval(swapped)
    assert (back.low, back.high) == pytest.approx((-forth.high, -forth.low), abs=1e-12)


@given(COUNTS)
@settings(deadline=None)
def test_the_paired_rate_interval_holds_the_difference(counts):
    interval = paired_rate_interval(counts)
    difference = (counts.only_after - counts.only_before) / counts.num
    assert -1 <= interval.low <= difference + 1e-12
    assert difference - 1e-12 <= interval.high <= 1
    assert interval.low < interval.high


@given(st.integers(1, 3000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
@settings(deadline=None)
def test_wilson_holds_the_rate_and_mirrors_its_complement(rate):
    successes, trials = rate
    interval = wilson_interval(successes, trials)
    mirror = wilson_interval(trials - successes, trials)
    assert 0 <= interval.low <= successes / trials <= interval.high <= 1
    assert (interval.low, interval.high) == pytest.approx((1 - mirror.high, 1 - mirror.low))


@given(st.integers(0, 400), st.integers(0, 400))
@settings(deadline=None)
def test_mcnemar_does_not_care_which_side_is_which(only_before, only_after):
    p = mcnemar_p(only_before, only_after)
    assert p == mcnemar_p(only_after, only_before)
    assert 0 < p <= 1


@given(
    st.lists(st.sampled_from(["flu", "stomach flu", "cold", "fluent", "rest", "influenza"])),
    st.sampled_from([", ", ". ", " / ", "; ", "\n- ", "！"]),
    st.sampled_from([str.lower, str.upper, str.title, "**{}**".format, "「{}」".format]),
)
@settings(deadline=None)
def test_the_labels_found_do_not_depend_on_case_or_punctuation(words, separator, spelling):
    plain = find_labels(", ".join(words), LABELS)
    assert find_labels(separator.join(map(spelling, words)), LABELS) == plain
    named = {"flu", "stomach flu", "cold", "influenza"} & set(words)
    assert bool(plain) == bool(named)
