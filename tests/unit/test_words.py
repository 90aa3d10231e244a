"""Words are counted alike wherever lengths are shown."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thinktune.words import count_words, count_words_each, find_words


@pytest.mark.parametrize(
    ("text", "num"),
    [
        ("", 0),
        (" \n…!", 0),
        ("It's the flu, isn't it?", 5),
        ("It's 38.5 degrees.", 3),
        ("患有流感", 4),
        ("流感 is flu", 4),
        ("流感 (influenza A) です", 6),
        ("- **a**", 1),
    ],
)
def test_words_are_counted_in_scripts_with_and_without_spaces(text: str, num: int) -> None:
    assert count_words(text) == num
    assert len(find_words(text)) == num


@given(st.text(alphabet="ab1_'.’“—° ,-\n流感éก", max_size=14))
def test_counting_and_finding_agree(text: str) -> None:
    assert count_words(text) == len(find_words(text))


@given(st.lists(st.text(alphabet="ab_'. ,-", max_size=9), max_size=4))
def test_texts_counted_together_are_counted_apart(texts: list[str]) -> None:
    assert count_words_each(texts) == [len(find_words(text)) for text in texts]
