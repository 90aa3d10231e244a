"""Our statistics against published worked examples, and against scipy where it is installed."""

from math import prod

import numpy as np
import pytest

from thinktune.evaluation.resampling import pass_at_k, permutation_p, questions_needed
from thinktune.evaluation.statistics import bootstrap_interval, holm, mcnemar_p, reliability

# Darwin's maize, crossed minus self-fertilised, in eighths of an inch.
MAIZE = [49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48]


def test_fishers_test_of_darwins_maize() -> None:
    # Fisher (1935), The Design of Experiments, section 21: 863 of the 32,768 sums are at least as
    # large as the one seen, as many are as small: 5.267 %.
    p = permutation_p([0.0] * 15, [float(difference) for difference in MAIZE], seed=1)
    assert p == 1726 / 32768


@pytest.mark.parametrize("num", [4, 9, 13])
def test_an_exact_permutation_p_equals_scipys(num: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(num)
    for after in (rng.binomial(4, 0.6, num) / 4, rng.lognormal(3, 1, num)):
        before = after * 0 + rng.permutation(after) * 0.8
        theirs = stats.permutation_test(
            (after, before),
            lambda x, y, axis: np.mean(x - y, axis=axis),
            permutation_type="samples",
            vectorized=True,
            n_resamples=np.inf,
        ).pvalue
        assert permutation_p(before.tolist(), after.tolist(), seed=1) == pytest.approx(theirs)


def test_a_drawn_permutation_p_equals_the_t_test_of_many_normal_differences() -> None:
    stats = pytest.importorskip("scipy.stats")
    differences = np.random.default_rng(2).normal(0.15, 1, 200)
    theirs = stats.ttest_1samp(differences, 0).pvalue
    ours = permutation_p([0.0] * 200, differences.tolist(), seed=1)
    assert 0.01 < theirs < 0.2
    assert ours == pytest.approx(theirs, abs=0.01)


def test_holm_equals_rs() -> None:
    # R 4: p.adjust(c(0.01, 0.02, 0.03, 0.04, 0.05), "holm")
    adjusted = holm({"a": 0.01, "b": 0.02, "c": 0.03, "d": 0.04, "e": 0.05})
    assert list(adjusted.values()) == pytest.approx([0.05, 0.08, 0.09, 0.09, 0.09])


@pytest.mark.parametrize("num", [20, 72, 300])
def test_the_interval_of_normal_values_comes_near_students(num: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    values = np.random.default_rng(num).normal(50, 10, num)
    theirs = stats.t.interval(0.95, num - 1, values.mean(), stats.sem(values))
    ours = bootstrap_interval(values.tolist(), seed=1)
    assert ours.high - ours.low == pytest.approx(theirs[1] - theirs[0], rel=0.06)
    assert (ours.low + ours.high) / 2 == pytest.approx(values.mean())


@pytest.mark.parametrize("num_better", [8, 30, 60])
@pytest.mark.parametrize("num_worse", [0, 2])
def test_mcnemars_exact_power_with_the_questions_named_is_about_80_percent(
    num_better: int, num_worse: int
) -> None:
    stats = pytest.importorskip("scipy.stats")
    before = [1.0] * num_worse + [0.0] * (100 - num_worse)
    after = [0.0] * num_worse + [1.0] * num_better + [0.0] * (100 - num_worse - num_better)
    num = questions_needed(before, after)
    assert num is not None
    power, changed_share = 0.0, (num_better + num_worse) / 100
    for changed in range(num + 1):
        told = [k for k in range(changed + 1) if mcnemar_p(k, changed - k) < 0.05]
        better = stats.binom.pmf(told, changed, num_better / (num_better + num_worse)).sum()
        power += stats.binom.pmf(changed, num, changed_share) * better
    assert 0.75 <= power <= 0.9


def test_pass_at_k_equals_the_papers_product_and_the_hypergeometric_law() -> None:
    hypergeometric = pytest.importorskip("scipy.stats").hypergeom
    for num_samples, num_right, k in [(4, 1, 2), (16, 3, 8), (200, 7, 100), (200, 150, 100)]:
        ours = pass_at_k(num_samples, num_right, k)
        # arXiv:2107.03374, figure 3
        few = num_samples - num_right < k
        terms = (1 - k / i for i in range(num_samples - num_right + 1, num_samples + 1))
        assert ours == pytest.approx(1.0 if few else 1 - prod(terms))
        assert ours == pytest.approx(hypergeometric.sf(0, num_samples, num_right, k))


def test_the_calibration_error_equals_a_plain_sum_over_bins() -> None:
    # The published code of arXiv:1706.04599: bins over their lower edge, up to their upper one.
    rng = np.random.default_rng(6)
    confidences = rng.beta(4, 1, 500)
    right = rng.random(500) < confidences**2
    error = 0.0
    for low, high in zip(np.linspace(0, 1, 16)[:-1], np.linspace(0, 1, 16)[1:], strict=True):
        held = (confidences > low) & (confidences <= high)
        if held.any():
            error += abs(confidences[held].mean() - right[held].mean()) * held.mean()
    ours = reliability(confidences.tolist(), right.tolist(), num_bins=15)
    assert ours.expected_calibration_error == pytest.approx(error)
