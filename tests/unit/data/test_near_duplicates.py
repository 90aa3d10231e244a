import random
from collections.abc import Sequence
from functools import cache
from itertools import combinations
from statistics import mean, pstdev

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thinktune.data import near_duplicates
from thinktune.data.near_duplicates import (
    NUM_BANDS,
    NUM_HASHES,
    SKETCH,
    Likeness,
    NearDuplicates,
    across,
)
from thinktune.errors import ConfigError

WORDS = [f"word{number}" for number in range(500)]
HAN = [chr(0x4E00 + number) for number in range(2000)]


@cache
def shingles(text: str) -> set[tuple[str, ...]]:
    """The definition, for texts of single spaces: 3 words, 4 from a Han character on."""
    words = text.split()
    return {tuple(words[i : i + 3 + (words[i] >= "一")]) for i in range(len(words))}


def jaccard(one: str, other: str) -> float:
    first, second = shingles(one), shingles(other)
    return len(first & second) / max(len(first | second), 1)


def collected(texts: Sequence[str]) -> NearDuplicates:
    near = NearDuplicates()
    for text in texts:
        near.add(text)
    return near


def groups_by_brute_force(texts: Sequence[str], threshold: float) -> list[list[int]]:
    group = {place: {place} for place in range(len(texts))}
    for one, other in combinations(range(len(texts)), 2):
        if jaccard(texts[one], texts[other]) >= threshold:
            group[one] |= group[other]
            for place in group[one]:
                group[place] = group[one]
    return sorted({tuple(sorted(g)): sorted(g) for g in group.values() if len(g) > 1}.values())


def changed(words: list[str], places: Sequence[int]) -> list[str]:
    return [f"new{place}" if place in places else word for place, word in enumerate(words)]


def family(chance: random.Random, length: int, changes: Sequence[int]) -> list[str]:
    """A text, and copies of it with so many words changed."""
    words = chance.sample(WORDS, length)
    spots = (chance.sample(range(length), min(number, length)) for number in changes)
    copies = (changed(words, places) for places in spots)
    return [" ".join(text) for text in (words, *copies)]


def test_groups_are_those_of_brute_force() -> None:
    chance = random.Random(1)
    texts = [
        text
        for length in (2, 3, 5, 12, 40, 45, 90, 200)
        for _ in range(4)
        for text in family(chance, length, (0, 1, 1, 2, 3, 6))
    ]
    chance.shuffle(texts)
    for threshold in (0.8, 0.9, 1.0):
        expected = groups_by_brute_force(texts, threshold)
        assert len(expected) >= 20
        assert collected(texts).groups(threshold) == expected


@settings(max_examples=60)
@given(
    st.lists(
        st.lists(st.sampled_from(("a", "b", "流", "感")), max_size=12).map(" ".join), max_size=25
    )
)
def test_no_group_holds_a_text_unlike_all_the_others(texts: list[str]) -> None:
    found = collected(texts).groups(0.8)
    expected = groups_by_brute_force(texts, 0.8)
    whole = {place: set(group) for group in expected for place in group}
    assert all(set(group) <= whole.get(group[0], set()) for group in found)
    same = groups_by_brute_force(texts, 1.0)
    assert all(any(set(group) <= set(larger) for larger in found) for group in same)


def test_nearly_every_pair_is_found_from_0_8_and_every_one_from_0_9() -> None:
    chance = random.Random(2)
    pairs = [family(chance, 60, (number,)) for number in (1, 2) for _ in range(700)]
    groups = collected([text for pair in pairs for text in pair]).groups(0.8)
    found = {tuple(group) for group in groups}
    missed = {0.8: 0, 0.9: 0}
    asked = {0.8: 0, 0.9: 0}
    for number, (one, other) in enumerate(pairs):
        alike = jaccard(one, other)
        if alike >= 0.8:
            low = 0.9 if alike >= 0.9 else 0.8
            asked[low] += 1
            missed[low] += (2 * number, 2 * number + 1) not in found
    assert asked[0.8] > 400
    assert asked[0.9] > 400
    assert missed[0.9] == 0
    assert missed[0.8] <= 0.005 * asked[0.8]


def test_signatures_estimate_as_random_permutations_would() -> None:
    chance = random.Random(3)
    errors = []
    for _ in range(300):
        one, other = family(chance, 60, (3,))
        near = collected([one, other])
        first, second = near._distinct().signatures
        alike = jaccard(one, other)
        agree = np.count_nonzero(first == second) / NUM_HASHES
        errors.append((agree - alike) / (alike * (1 - alike) / NUM_HASHES) ** 0.5)
    assert abs(mean(errors)) < 0.25
    assert 0.85 < pstdev(errors) < 1.15


def test_texts_that_a_third_one_links_are_one_group() -> None:
    words = WORDS[:40]
    chain = [" ".join(changed(words, range(number))) for number in range(8)]
    assert jaccard(chain[0], chain[-1]) < 0.8 <= jaccard(chain[0], chain[1])
    assert collected(chain).groups(0.8) == [list(range(8))]


@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_the_texts_changes_the_places_only(seed: int) -> None:
    chance = random.Random(4)
    texts = [t for _ in range(30) for t in family(chance, 30, (0, 1, 1, 2, 2, 3))]
    order = list(range(len(texts)))
    random.Random(seed).shuffle(order)
    shuffled = collected([texts[place] for place in order]).groups()
    back = sorted(sorted(order[place] for place in group) for group in shuffled)
    assert back == collected(texts).groups()
    assert len(back) >= 30


def test_a_large_group_takes_no_time_to_speak_of_and_is_whole() -> None:
    words = WORDS[:60]
    same = [" ".join(words)] * 3000
    similar = [" ".join([*words[:30], f"case{number}", *words[30:]]) for number in range(1500)]
    near = collected([*same, "something else", *similar])
    [group] = near.groups(0.8)
    assert group == [place for place in range(4501) if place != 3000]


def test_a_few_neighbours_stand_in_for_all_texts_of_equal_key(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Hundreds of texts of one template have the same keys; those with the same names are alike."""
    chance = random.Random(8)
    filled = [tuple(f"name{chance.randrange(20)}" for _ in range(4)) for _ in range(600)]
    filled += filled[:40]
    texts = []
    for place, names in enumerate(filled):
        words = list(WORDS[:200])
        words[20], words[70], words[120], words[170] = names
        words[0] = "first" if place < 600 else "another"
        texts.append(" ".join(words))
    places = {names: [n for n, other in enumerate(filled) if other == names] for names in filled}
    monkeypatch.setattr(near_duplicates, "WINDOW", 8)
    assert collected(texts).groups(0.98) == [g for g in places.values() if len(g) > 1]


def test_of_equally_near_texts_the_earliest_is_named() -> None:
    words = WORDS[:60]
    near = [" ".join(changed(words, [spot])) for spot in range(5, 55)]
    for order in (near, near[::-1]):
        [found] = across(collected([" ".join(words)]), collected(order))
        assert (found.first, found.second) == (0, 0)


def test_chinese_texts_are_compared_by_their_characters() -> None:
    chance = random.Random(5)
    text = chance.sample(HAN, 80)
    other = [*text[:40], "某", *text[41:]]
    texts = ["".join(text), "，".join(("".join(other[:20]), "".join(other[20:]))), "流感", "流感。"]
    near = collected([*texts, "感流", "".join(chance.sample(HAN, 80))])
    assert near.groups(0.8) == [[0, 1], [2, 3]]


def test_texts_without_words_are_like_no_other() -> None:
    assert collected(["", "?", "", " \n", "flu", "!", "Flu"]).groups() == [[4, 6]]
    assert collected(["", ""]).groups() == []
    assert NearDuplicates().groups() == []
    assert across(collected(["", "?"]), collected(["", "a"])) == []
    assert across(collected(["a"]), NearDuplicates()) == []
    assert across(NearDuplicates(), collected(["a"])) == []


def test_long_texts_are_estimated_within_the_stated_error() -> None:
    chance = random.Random(6)
    errors = []
    for _ in range(40):
        words = [f"w{chance.randrange(10**6)}" for _ in range(4 * SKETCH)]
        spots = chance.sample(range(len(words)), len(words) // 30)
        one, other = " ".join(words), " ".join(changed(words, spots))
        [found] = across(collected([one]), collected([other]), 0.7)
        errors.append(found.similarity - jaccard(one, other))
    assert 0.005 < pstdev(errors) < 0.022
    assert abs(mean(errors)) < 0.008
    assert across(collected([one]), collected([one])) == [Likeness(0, 0, 1.0)]


def test_a_long_text_is_compared_with_a_short_one() -> None:
    words = [f"w{number}" for number in range(SKETCH + 60)]
    longer, shorter = " ".join(words), " ".join(words[: SKETCH - 10])
    [found] = across(collected([longer]), collected([shorter]), 0.8)
    assert found.similarity == pytest.approx(jaccard(longer, shorter), abs=0.05)


def test_across_gives_each_text_its_nearest_and_exact_similarity() -> None:
    chance = random.Random(7)
    families = [family(chance, 50, (0, 1, 2, 1, 3)) for _ in range(20)]
    first = [text for one in families for text in one[:3]]
    second = [text for one in families for text in one[3:]] + ["flu", "flu"]
    expected = []
    for place, text in enumerate(["flu", *first]):
        alike = [jaccard(text, other) for other in second]
        if max(alike) >= 0.8:
            expected.append((place, alike.index(max(alike)), max(alike)))
    assert len(expected) > 40
    assert across(collected(["flu", *first]), collected(second), 0.8) == expected


def test_many_copies_across_two_sets_give_one_result_each() -> None:
    text = " ".join(WORDS[:30])
    found = across(collected([text] * 600), collected(["flu", *[text] * 600]))
    assert found == [Likeness(place, 1, 1.0) for place in range(600)]


def test_texts_can_be_added_after_a_search() -> None:
    near = collected(["flu", "cold"])
    assert near.groups() == []
    near.add("Flu")
    assert near.groups() == [[0, 2]]
    assert len(near) == 3


def test_progress_is_told_band_by_band() -> None:
    told: list[tuple[int, int]] = []
    collected(["a", "b"]).groups(progress=lambda done, of: told.append((done, of)))
    assert told == [(band, NUM_BANDS) for band in range(1, NUM_BANDS + 1)]


@pytest.mark.parametrize("threshold", [0.5, 1.01, float("nan")])
def test_a_threshold_that_bands_cannot_serve_is_refused(threshold: float) -> None:
    with pytest.raises(ConfigError, match=r"out of 0\.7 to 1"):
        NearDuplicates().groups(threshold)
    with pytest.raises(ConfigError, match=r"out of 0\.7 to 1"):
        across(NearDuplicates(), NearDuplicates(), threshold)
