import subprocess
import sys

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from thinktune.data.word_runs import (
    are_numbers,
    plain_words,
    run_hashes,
    similarity,
    word_hashes,
)

FROZEN = [17121640559783894572, 9407870976149377254, 6051621168108742293]
TEXTS = st.text(
    st.one_of(
        st.sampled_from("ab1. '’_-+*%=\0\n，。（）ＡｂＣé流感鼻カ한ไทยßﬁ½²"),
        st.characters(codec="utf-8"),
    )
)
SCRIPT = "from thinktune.data.word_runs import word_hashes; print(word_hashes({!r}).tolist())"


@given(TEXTS)
def test_words_have_equal_hashes_exactly_if_they_are_equal(text: str) -> None:
    for signs in (True, False):
        words, hashes = plain_words(text, signs=signs), word_hashes(text, signs=signs).tolist()
        assert len(words) == len(hashes)
        assert len(set(words)) == len(set(hashes)) == len(set(zip(words, hashes, strict=True)))


@given(TEXTS, TEXTS)
def test_a_word_has_the_same_hash_in_every_text(one: str, other: str) -> None:
    hash_of = dict(zip(plain_words(one), word_hashes(one).tolist(), strict=True))
    for word, value in zip(plain_words(other), word_hashes(other).tolist(), strict=True):
        assert hash_of.get(word, value) == value


def test_case_width_spacing_and_punctuation_do_not_matter() -> None:
    assert plain_words("  **Don’t**  PANIC!! ＡＢ１２，流感。\n") == plain_words(
        "don't panic ab12 流感"
    )
    assert plain_words("well-known _fact_") == plain_words("Well known: fact")


def test_signs_of_arithmetic_are_words_and_marks_of_layout_are_not() -> None:
    assert len({tuple(plain_words(f"3 {sign} 4")) for sign in "+-*/^=<>%"}) == 9
    assert plain_words("x -5") == ["x", "minus", "5"]
    assert plain_words("- **a** - b\n=====\n-----") == ["a", "b", "equals"]
    assert plain_words("3 + 4 = 7", signs=False) == ["3", "4", "7"]


def test_numbers_and_unspaced_characters_are_known_by_their_hashes() -> None:
    words = word_hashes("38.5 度 fever ３ times")
    assert are_numbers(words).tolist() == [True, False, False, True, False]
    assert (words & np.uint64(1)).tolist() == [0, 1, 0, 0, 0]


@given(st.lists(st.sampled_from(["a", "b", "c", "流", "感"]), max_size=30), st.integers(1, 5))
def test_runs_are_equal_exactly_if_their_words_are(words: list[str], length: int) -> None:
    hashes, ends = run_hashes(word_hashes(" ".join(words)), length, length + 2)
    runs = [tuple(words[start:end]) for start, end in enumerate(ends.tolist())]
    assert [end - start for start, end in enumerate(ends.tolist())] == [
        length + 2 * (word in "流感") for word in words
    ]
    assert len(set(runs)) == len(set(hashes.tolist())) == len(set(zip(runs, hashes, strict=True)))


def test_hashes_are_the_same_in_every_process() -> None:
    text = "Is it 38.5? 流感 or a cold"
    printed = {
        subprocess.run(
            [sys.executable, "-c", SCRIPT.format(text)],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert printed == {str(word_hashes(text).tolist())}


def test_hashes_are_the_same_on_every_machine() -> None:
    assert word_hashes("flu 7 流").tolist() == FROZEN


@given(TEXTS, TEXTS)
def test_similarity_is_the_jaccard_of_the_shingles(one: str, other: str) -> None:
    first, second = shingles(one), shingles(other)
    expected = len(first & second) / max(len(first | second), 1)
    assert similarity(one, other) == expected == similarity(other, one)


def shingles(text: str) -> set[tuple[str, ...]]:
    """The definition, word by word."""
    words = plain_words(text)
    unspaced = (word_hashes(text) & np.uint64(1)).tolist()
    return {tuple(words[i : i + 3 + unspaced[i]]) for i in range(len(words))}


def test_a_short_text_differs_by_every_word() -> None:
    assert similarity("flu", "Flu.") == 1
    assert similarity("What is 3 + 4?", "What is 3 + 5?") < 0.5
    assert similarity("a b", "b") == 0.5
    assert similarity("", "") == similarity("?!", "?!") == 0
