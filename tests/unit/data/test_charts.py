import re
from itertools import pairwise

import pytest

from thinktune.data.charts import bars, bin_rows, histogram, is_skewed, share, stacked
from thinktune.data.inspection import Quantiles


@pytest.mark.parametrize("logarithmic", [False, True])
@pytest.mark.parametrize(
    "counts",
    [
        {0: 1},
        {1: 5},
        {7: 2, 8: 3},
        {0: 3, 9999: 1},
        dict.fromkeys(range(1, 3001, 7), 1),
        {10**9: 2},
    ],
)
def test_bins_are_adjacent_and_hold_every_row(counts: dict[int, int], logarithmic: bool) -> None:
    bins = bin_rows(counts, logarithmic=logarithmic)
    assert 1 <= len(bins) <= 26
    assert all(one.stop == other.start for one, other in pairwise(bins))
    for of in bins:
        assert of.start < of.stop
        assert of.num_rows == sum(n for k, n in counts.items() if of.start <= k < of.stop)
    assert sum(of.num_rows for of in bins) == sum(counts.values())


@pytest.mark.parametrize(
    "counts", [{0: 1}, {41: 3}, {0: 3, 9999: 1}, {n: n for n in range(5, 500)}, {1: 99, 400: 1}]
)
def test_a_histogram_stays_within_its_drawing(counts: dict[int, int]) -> None:
    drawn = histogram("words", "Words", counts, Quantiles.of(counts))
    bars = re.findall(
        r'"bar" x="([-.\d]+)" y="([-.\d]+)" width="([-.\d]+)" height="([-.\d]+)"', drawn
    )
    assert len(bars) >= 1
    for x, y, width, height in (tuple(map(float, bar)) for bar in bars):
        assert 46 <= x < x + width <= 351
        assert width >= 1
        assert 40 <= y < y + height <= 190
    marks = [float(x) for x in re.findall(r'class="(?:median|p95)" d="M([.\d]+) ', drawn)]
    assert len(marks) == 2
    assert 46 <= marks[1] <= 350
    assert 46 <= marks[0] <= 350


def test_only_lengths_with_a_long_tail_are_skewed() -> None:
    assert not is_skewed(Quantiles(10, 40.0, 120, 300))
    assert is_skewed(Quantiles(10, 40.0, 161, 300))
    assert is_skewed(Quantiles(10, 40.0, 50, 401))
    assert not is_skewed(Quantiles(0, 0.0, 1, 3))


def test_bars_are_as_wide_as_their_rows_and_long_labels_are_cut() -> None:
    drawn = bars("references", "References", [("流" * 60, 8), ("cold", 2)], 10, 8)
    widths = re.findall(r'class="bar" y="\d+" width="([.\d]+)"', drawn)
    assert [float(width) for width in widths] == [240, 60]
    assert f">{'流' * 24}…<" in drawn
    assert f"<title>{'流' * 60}: 8 rows</title>" in drawn
    assert "8 (80.0%)" in drawn


def test_a_row_of_stacked_bars_is_full_and_rare_kinds_are_drawn_together() -> None:
    kinds = ("Latin", "Greek", "Arabic", "Thai", "Korean", "Hebrew", "Cyrillic")
    counts = {kind: 90 - 10 * n for n, kind in enumerate(kinds)}
    drawn = stacked("scripts", "Scripts", {"question": counts, "answer": {"Thai": 7}})
    assert "<title>others: 70 rows</title>" in drawn
    assert f"others {share(70, sum(counts.values()))}<" in drawn
    assert "Hebrew" not in drawn
    assert "Thai 100%<" in drawn
    widths = re.findall(r'width="([.\d]+)" height="14"', drawn)
    assert sum(map(float, widths)) == pytest.approx(2 * 360, abs=0.5)
