import pytest

from thinktune.data.conversations import RowError
from thinktune.data.formats import Row
from thinktune.data.patterns import Pattern
from thinktune.data.records import to_examples
from thinktune.data.sources import DataConfig
from thinktune.errors import ConfigError, DataError
from thinktune.settings import parse_settings

SUM = "{reasoning}\\n#### {answer+reference}"


def test_a_column_of_reasoning_and_answer_becomes_three_fields() -> None:
    cells = {"question": "3 + 4?", "answer": "As #### marks:\n3 + 4 = 7\n#### 7\n", "id": 5}
    (example,) = to_examples([Row("a", 1, cells)], {}, {"answer": Pattern.parse(SUM)})
    assert example.question == "3 + 4?"
    assert example.reasoning == "As #### marks:\n3 + 4 = 7"
    assert (example.answer, example.reference) == ("7", "7")
    assert example.metadata == {"id": 5}


def test_what_stands_before_and_after_belongs_to_the_pattern() -> None:
    pattern = Pattern.parse("Q: {question} A: {answer}.")
    assert pattern.apply({"text": " Q: is it flu?  A: yes."}, "text") == {
        "question": "is it flu?",
        "answer": "yes",
    }
    with pytest.raises(RowError, match="text that is not as the pattern"):
        pattern.apply({"text": "Q: is it flu? A: yes"}, "text")


def test_rows_that_are_not_as_the_pattern_says_are_named() -> None:
    rows = [
        Row("a", n, {"question": "q", "answer": text}) for n, text in ((1, "r #### 7"), (2, "7"))
    ]
    with pytest.raises(DataError, match=r"a: answer that is not as the pattern .* in 1 row: 2"):
        to_examples(rows, {}, {"answer": Pattern.parse(SUM)})
    with pytest.raises(DataError, match=r"data\.patterns\.solution, but there is no such column"):
        to_examples(rows, {}, {"solution": Pattern.parse(SUM)})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no field", "no field in braces"),
        ("{reasoning}####{anwser}", "unknown field 'anwser'"),
        ("{answer}####{answer}", "named twice"),
        ("{reasoning} {answer}", "no text that parts them"),
    ],
)
def test_a_pattern_that_cannot_be_meant_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Pattern.parse(text)
    with pytest.raises(ConfigError, match=f"patterns=.*{message}"):
        parse_settings(DataConfig, {"train": "a", "patterns": {"answer": text}})
