import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thinktune.answers import find_labels
from thinktune.evaluation.statistics import (
    PairCounts,
    bootstrap_interval,
    mcnemar_p,
    paired_difference_interval,
    paired_rate_interval,
    wilson_interval,
)

VALUES = st.lists(st.floats(-1e6, 1e6, allow_subnormal=False), min_size=1, max_size=30)
COUNTS = st.builds(PairCounts, *[st.integers(0, 60)] * 4).filter(lambda counts: counts.num)
LABELS = {"influenza": ["flu"], "gastroenteritis": ["stomach flu"], "cold": ["common cold"]}


@given(VALUES, st.integers(0, 2**32))
@settings(max_examples=25, deadline=None)
def test_the_bootstrap_interval_holds_the_mean_and_stays_within_the_values(values, seed):
    interval = bootstrap_interval(values, seed=seed)
    slack = 1e-9 * max(1.0, *map(abs, values))
    assert interval.low <= sum(values) / len(values) + slack
    assert interval.high >= sum(values) / len(values) - slack
    assert min(values) - slack <= interval.low <= interval.high <= max(values) + slack


@given(st.lists(st.tuples(st.integers(0, 999), st.integers(0, 999)), min_size=1, max_size=20))
@settings(max_examples=25, deadline=None)
def test_swapping_before_and_after_flips_the_signs_of_a_length_difference(pairs):
    before, after = [float(b) for b, _ in pairs], [float(a) for _, a in pairs]
    forth = paired_difference_interval(before, after, seed=7)
    back = paired_difference_interval(after, before, seed=7)
    assert (back.low, back.high) == pytest.approx((-forth.high, -forth.low), abs=1e-9)


@given(COUNTS)
def test_swapping_before_and_after_flips_the_signs_of_a_rate_difference(counts):
    forth = paired_rate_interval(counts)
    swapped = PairCounts(counts.both, counts.only_after, counts.only_before, counts.neither)
    back = paired_rate_interval(swapped)
    assert (back.low, back.high) == pytest.approx((-forth.high, -forth.low), abs=1e-12)


@given(COUNTS)
def test_the_paired_rate_interval_holds_the_difference(counts):
    interval = paired_rate_interval(counts)
    difference = (counts.only_after - counts.only_before) / counts.num
    assert -1 <= interval.low <= difference + 1e-12
    assert difference - 1e-12 <= interval.high <= 1
    assert interval.low < interval.high


@given(st.integers(1, 3000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_holds_the_rate_and_mirrors_its_complement(rate):
    successes, trials = rate
    interval = wilson_interval(successes, trials)
    mirror = wilson_interval(trials - successes, trials)
    assert 0 <= interval.low <= successes / trials <= interval.high <= 1
    assert (interval.low, interval.high) == pytest.approx((1 - mirror.high, 1 - mirror.low))


@given(st.integers(0, 400), st.integers(0, 400))
def test_mcnemar_does_not_care_which_side_is_which(only_before, only_after):
    p = mcnemar_p(only_before, only_after)
    assert p == mcnemar_p(only_after, only_before)
    assert 0 < p <= 1


@given(
    st.lists(st.sampled_from(["flu", "stomach flu", "cold", "fluent", "rest", "influenza"])),
    st.sampled_from([", ", ". ", " / ", "; ", "\n- ", "！"]),
    st.sampled_from([str.lower, str.upper, str.title, "**{}**".format, "「{}」".format]),
)
def test_the_labels_found_do_not_depend_on_case_or_punctuation(words, separator, spelling):
    plain = find_labels(", ".join(words), LABELS)
    assert find_labels(separator.join(map(spelling, words)), LABELS) == plain
    named = {"flu", "stomach flu", "cold", "influenza"} & set(words)
    assert bool(plain) == bool(named)
