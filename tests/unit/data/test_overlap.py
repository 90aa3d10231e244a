import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thinktune.data.overlap import BOILERPLATE_TEXTS, Contamination

CHANCE = random.Random(0)
QUESTION = (
    "Natalia sold clips to 48 of her friends in April, and then she sold half as many clips in "
    "May. How many clips did Natalia sell altogether in April and May?"
)
CHINESE = "我昨天晚上開始發燒到三十八度五，喉嚨痛、全身痠痛，今天早上還咳嗽，請問這樣要看醫生嗎？"
SHORT = "How many days are there in a leap year?"


def test_a_run_of_13_words_shows_a_copy_and_12_do_not() -> None:
    words = QUESTION.split()
    contamination = Contamination([QUESTION])
    thirteen, twelve = " ".join(words[3:16]), " ".join(words[3:15])
    assert contamination.overlap(f"He said: {thirteen}; I forgot.") == thirteen
    assert contamination.overlap(f"He said: {twelve}; I forgot.") is None


def test_the_whole_shared_stretch_is_given_as_it_stands_in_the_text() -> None:
    copied = QUESTION.upper().replace(" ", "  ")
    found = Contamination([QUESTION]).overlap(f"Think: **{copied}** So 72.")
    assert found == copied.rstrip("?")


def test_a_run_of_20_characters_shows_a_copy_in_chinese_and_19_do_not() -> None:
    contamination = Contamination([CHINESE])
    assert contamination.overlap("病人說：" + CHINESE[:22]) == CHINESE[:22].rstrip("、")
    letters = [place for place, character in enumerate(CHINESE) if character not in "，、？"]
    nineteen = CHINESE[: letters[18] + 1]
    assert contamination.overlap(nineteen + "怎麼辦") is None
    assert contamination.overlap(CHINESE[: letters[19] + 1] + "怎麼辦") is not None


def test_answers_count_by_their_runs_only() -> None:
    contamination = Contamination(["What is it like?"], ["flu", "a b c d e f g h", QUESTION])
    assert contamination.overlap("flu") is None
    assert contamination.overlap("a b c d e f g h") is None
    assert contamination.overlap(QUESTION) is not None


def test_a_short_question_counts_where_it_stands_whole() -> None:
    contamination = Contamination([SHORT])
    assert contamination.overlap(f"Question: {SHORT.lower()} Answer: 366") == SHORT.lower()[:-1]
    assert contamination.overlap("How many days are there in a leap month?") is None
    assert contamination.overlap("How many days are there in a leap") is None


def test_a_shorter_question_counts_where_it_is_all_there_is() -> None:
    contamination = Contamination(["What is 3 + 4?", "感冒是什麼？"])
    assert contamination.overlap(" what is 3+4 ") == "what is 3+4"
    assert contamination.overlap("What is 3 - 4?") is None
    assert contamination.overlap("First, what is 3 + 4?") is None
    assert contamination.overlap("感冒是什麼") == "感冒是什麼"


def test_short_questions_that_differ_in_a_sign_are_two() -> None:
    contamination = Contamination(["Tell me what the value is of 3 - 4"])
    assert contamination.overlap("Tell me what the value is of 3 + 4") is None
    assert contamination.overlap("Tell me what the value is of 3 - 4!") is not None


def test_a_calculation_is_no_copy() -> None:
    sums = "1 + 2 + 3 + 4 + 5 + 6 + 7 + 8 + 9 + 10 + 11 + 12 + 13 + 14 = 105"
    assert Contamination([f"Add {sums}"]).overlap(f"So {sums}") is None


def test_boilerplate_of_the_evaluation_file_counts_for_nothing() -> None:
    order = "Think step by step and then write only the letter of the right choice at the end"
    questions = [f"{order}: {' '.join(CHANCE.sample(LETTERS, 20))}" for _ in range(11)]
    assert len(questions) == BOILERPLATE_TEXTS + 1
    contamination = Contamination(questions)
    assert contamination.overlap(f"{order}: what is one and one?") is None
    assert contamination.num_boilerplate == 17 - 13 + 1
    assert all(contamination.overlap(question) is not None for question in questions)
    assert Contamination(questions[:10]).overlap(order) is not None


LETTERS = [f"{one}{other}" for one in "abcdefg" for other in "hijklmn"]


def test_the_same_question_again_and_again_is_no_boilerplate() -> None:
    contamination = Contamination([QUESTION] * 50, [QUESTION] * 50)
    assert contamination.num_boilerplate == 0
    assert contamination.overlap(QUESTION) is not None


@pytest.mark.parametrize("questions", [[], [""], ["?"], ["", QUESTION]])
def test_texts_without_words_match_nothing(questions: list[str]) -> None:
    contamination = Contamination(questions)
    assert contamination.overlap("") is None
    assert contamination.overlap("?!") is None
    assert contamination.overlap("nothing of the kind") is None


WORD = st.sampled_from(("a", "b", "c", "流", "感", "7"))


@given(st.lists(WORD, min_size=1, max_size=60), st.lists(WORD, max_size=8))
def test_any_text_that_holds_an_evaluation_question_is_found(
    question: list[str], around: list[str]
) -> None:
    text = " ".join([*around, *question, *around])
    letters = sum(word != "7" for word in question)
    found = Contamination([" ".join(question)]).overlap(text)
    if len(question) >= 12 and letters == len(question):
        assert found is not None
    assert found is None or found in text


@given(st.lists(WORD, max_size=40), st.lists(WORD, max_size=40))
def test_what_is_found_is_in_both_texts(question: list[str], text: list[str]) -> None:
    """By the definition: 13 words in a row from some word on, 20 from an unspaced character."""
    found = Contamination((), [" ".join(question)]).overlap(" ".join(text))
    shared = [
        run
        for run in (window(text, start) for start in range(len(text)))
        if run is not None and run in [window(question, place) for place in range(len(question))]
    ]
    said = [run for run in shared if 2 * run.count("7") <= len(run)]
    assert (found is not None) == bool(said)
    if found is not None:
        assert found.split()[: len(said[0])] == said[0]


def window(words: list[str], start: int) -> list[str] | None:
    length = 20 if words[start] in "流感" else 13
    return words[start : start + length] if start + length <= len(words) else None
