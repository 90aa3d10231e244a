from collections import Counter
from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from thinktune.data.drawing import allot, choose_groups, choose_rows, how_many, lots
from thinktune.errors import ConfigError


def test_lots_are_the_same_everywhere() -> None:
    assert lots(7, 3).tolist() == [
        11530976094092348043,
        16550673365885938325,
        14308875409591826786,
    ]
    assert lots(7, 3, stream=1).tolist() != lots(7, 3).tolist()
    with pytest.raises(ConfigError, match="seed=-1"):
        lots(-1, 3)


@given(st.integers(0, 1000), st.lists(st.integers(0, 50), min_size=1).filter(any))
def test_parts_add_up_and_miss_their_share_by_less_than_one(total: int, weights: list[int]) -> None:
    parts = allot(total, weights, range(len(weights)))
    assert sum(parts) == total
    for part, weight in zip(parts, weights, strict=True):
        assert abs(part - Fraction(total * weight, sum(weights))) < 1


def test_a_fraction_is_taken_as_it_is_written() -> None:
    names = ("--count", "--fraction")
    assert how_many(None, 0.29, 100, names) == 29  # 0.29 * 100 is 28.999999999999996
    assert how_many(None, 0.5, 5, names) == 3
    assert how_many(4, None, 5, names) == 4


@pytest.mark.parametrize(
    ("count", "fraction", "message"),
    [
        (None, None, "say either --count N or --fraction F"),
        (1, 0.5, "say either --count N or --fraction F"),
        (6, None, "--count 6, but there are 5 usable rows"),
        (None, 1.5, "--fraction 1.5 is not between 0 and 1"),
        (None, 0.01, "--fraction 0.01 of 5 rows is no row"),
    ],
)
def test_an_impossible_number_of_rows_is_refused(
    count: int | None, fraction: float | None, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        how_many(count, fraction, 5, ("--count", "--fraction"))


@given(st.lists(st.integers(0, 3), min_size=1, max_size=60), st.integers(0, 99), st.data())
def test_every_stratum_gives_exactly_its_quota(
    strata: list[int], seed: int, data: st.DataObject
) -> None:
    sizes = np.bincount(strata).tolist()
    quotas = [data.draw(st.integers(0, size)) for size in sizes]
    chosen = choose_rows(np.array(strata), quotas, seed)
    assert np.bincount(np.array(strata)[chosen], minlength=len(sizes)).tolist() == quotas


def test_every_row_is_as_likely_as_any_other() -> None:
    drawn = Counter(
        int(place)
        for seed in range(2000)
        for place in np.flatnonzero(choose_rows(np.zeros(7, np.int32), [3], seed))
    )
    expected, sigma = 2000 * 3 / 7, (2000 * 3 / 7 * 4 / 7) ** 0.5
    assert all(abs(drawn[place] - expected) < 5 * sigma for place in range(7))


@given(
    st.lists(st.tuples(st.integers(1, 6), st.integers(0, 2)), min_size=1, max_size=9),
    st.integers(0, 99),
    st.data(),
)
def test_groups_are_whole_and_totals_exact_where_groups_allow(
    units: list[tuple[int, int]], seed: int, data: st.DataObject
) -> None:
    used = sorted({stratum for _, stratum in units})
    strata = np.array([used.index(s) for size, s in units for _ in range(size)])
    groups = np.array([unit for unit, (size, _) in enumerate(units) for _ in range(size)])
    total = data.draw(st.integers(0, len(strata)))
    chosen = choose_groups(strata, groups, total, seed)
    for unit in range(len(units)):
        assert len(set(chosen.rows[groups == unit].tolist())) == 1
    assert sum(chosen.wanted) == total
    assert sum(chosen.got) == chosen.rows.sum() <= total
    for stratum, wanted in enumerate(chosen.wanted):
        sizes = [size for size, s in units if used.index(s) == stratum]
        sums = {sum(some) for n in range(len(sizes) + 1) for some in combinations(sizes, n)}
        if wanted in sums and chosen.got[stratum] < wanted:
            pytest.fail(f"stratum {stratum} could have had {wanted} of {sizes}: {chosen}")


def test_another_stratum_makes_up_for_one_whose_groups_do_not_fit() -> None:
    strata = np.array([0] * 6 + [1] * 6)
    groups = np.array([0, 0, 0, 1, 1, 1, 2, 3, 4, 5, 6, 7])
    chosen = choose_groups(strata, groups, 4, seed=0)
    assert (chosen.wanted, chosen.got) == ((2, 2), (0, 4))


def test_a_group_over_two_strata_stays_whole_and_counts_in_both() -> None:
    strata = np.array([0, 1] * 50)
    groups = np.arange(100) // 2
    groups[40:] = 20 + np.arange(60)
    sides = [choose_groups(strata, groups, 30, seed) for seed in range(20)]
    for chosen in sides:
        assert chosen.got == chosen.wanted == (15, 15)
        assert all(chosen.rows[2 * unit] == chosen.rows[2 * unit + 1] for unit in range(20))
    assert any(chosen.rows[:40].any() for chosen in sides)
