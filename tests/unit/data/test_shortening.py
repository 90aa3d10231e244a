"""Sentences of mixed scripts, and which of them go."""

import pytest

from thinktune.data.shortening import shorten, split_sentences


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("One. Two! Three?", ["One. ", "Two! ", "Three?"]),
        ("體溫高。要多喝水！嗎？", ["體溫高。", "要多喝水！", "嗎？"]),
        ("他說：「發燒。」再看。", ["他說：「發燒。」", "再看。"]),
        ("pi is 3.14 or so", ["pi is 3.14 or so"]),
        ("a = 1\n\n  b = 2\n", ["a = 1\n\n  ", "b = 2\n"]),
        ("Wait... no.", ["Wait... ", "no."]),
        ("", []),
    ],
)
def test_sentences_end_where_a_reader_says(text: str, sentences: list[str]):
    assert split_sentences(text) == sentences


def test_the_end_outlives_the_start():
    text = "A. B. C. D. E."
    kept = [shorten(text, len, limit) for limit in (14, 13, 10, 8, 5, 2, 1)]
    assert kept == [text, "A. B. D. E.", "A. D. E.", "A. D. E.", "A. E.", "E.", None]


def test_no_more_goes_than_must():
    text = "A. " + "B" * 50 + ". C. D."
    assert shorten(text, len, 20) == "A. C. D."
