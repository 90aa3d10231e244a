import pytest

from thinktune.answers.phrases import find_phrases, read_phrases
from thinktune.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "phrase", "found"),
    [
        ("Please SEE  a\nDoctor today", "see a doctor", True),
        ("an X-ray", "x ray", True),
        ("an X ray", "X-ray", True),
        ("Ｐａｒｉｓ", "paris", True),
        ("in Parisian style", "Paris", False),
        ("comparison", "paris", False),
        ("多喝水，多休息", "休息", True),
        ("請盡快就醫。", "看醫生|就醫", True),
        ("多喝水", "休息", False),
        ("CO₂", "carbon dioxide|CO2", True),
        ("It is H_2O.", "H2O|H_2O", True),
        ("16 of them", "6", False),
        ("共7天", "7", True),
        ("", "rest", False),
        ("do not see a doctor", "see a doctor", True),
    ],
)
def test_a_phrase_is_found_as_words_whatever_its_case_and_width(text, phrase, found):
    assert find_phrases(text, [phrase]) == (found,)


def test_every_phrase_is_told_apart():
    assert find_phrases("rest and water", ["rest", "doctor", "water"]) == (True, False, True)
    assert find_phrases("rest", []) == ()


def test_phrases_are_read_from_a_list_or_a_text():
    assert read_phrases(["rest ", "", "a; b"]) == ("rest", "a; b")
    assert read_phrases("rest; a|b\n\n就醫；休息") == ("rest", "a|b", "就醫", "休息")
    assert read_phrases(None) == read_phrases("") == ()


@pytest.mark.parametrize("value", [3, ["rest", 3], {"a": "b"}])
def test_what_is_no_text_is_no_phrase(value):
    with pytest.raises(ConfigError, match="phrases must be a list of texts"):
        read_phrases(value)


@pytest.mark.parametrize("phrase", ["rest|", "|", "a| . |b", "..."])
def test_an_empty_alternative_is_refused(phrase):
    with pytest.raises(ConfigError, match="empty alternative"):
        read_phrases([phrase])
