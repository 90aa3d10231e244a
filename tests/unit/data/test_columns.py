from collections.abc import Mapping

import pytest

from thinktune.data.columns import find_columns
from thinktune.data.example import Example, Role, Turn
from thinktune.data.formats import Row
from thinktune.data.records import to_examples, to_row
from thinktune.errors import ConfigError, DataError


def rows(*cells: Mapping[str, object], label: str = "train.jsonl") -> list[Row]:
    return [Row(label, number, row) for number, row in enumerate(cells, start=1)]


def read_one(cells: Mapping[str, object], **mapping: str) -> Example:
    (example,) = to_examples(rows(cells), mapping)
    return example


def refusal(*cells: Mapping[str, object], **mapping: str) -> str:
    with pytest.raises(DataError) as caught:
        to_examples(rows(*cells), mapping)
    assert "\n" not in str(caught.value)
    return str(caught.value)


GOOD = {"question": "Q", "reasoning": "R", "answer": "A"}


@pytest.mark.parametrize(
    ("question", "reasoning", "answer"),
    [
        ("question", "reasoning", "answer"),
        ("Question", "Complex_CoT", "Response"),
        ("INSTRUCTION", "Chain of Thought", "output"),
        ("prompt", "chain-of-thought", "completion"),
        ("Input", "cot", "Solution"),
        ("query", "reasoning_content", "response"),
        ("problem", "ReasoningContent", "solution"),
        ("question ", "Rationale", "ANSWER"),
        ("question", "thinking", "answer"),
        ("question", "thought", "answer"),
    ],
)
def test_the_usual_column_names_are_recognised(question: str, reasoning: str, answer: str) -> None:
    example = read_one({"n": 7, answer: "A", question: "Q", reasoning: "R"})
    assert (example.question, example.reasoning, example.answer) == ("Q", "R", "A")
    assert example.metadata == {"n": 7}
    assert example.where == "train.jsonl row 1"


def test_our_own_name_is_preferred_to_another_spelling_which_becomes_metadata() -> None:
    example = read_one(GOOD | {"solution": "long", "prompt": "P"})
    assert example.answer == "A"
    assert example.metadata == {"solution": "long", "prompt": "P"}


def test_two_other_spellings_of_a_field_are_refused_until_the_user_says_which() -> None:
    row = {"question": "Q", "cot": "R", "response": "A1", "output": "A2"}
    assert refusal(row) == (
        "train.jsonl: answer could be any of response, output; say which: data.columns.answer=NAME"
    )
    example = read_one(row, answer="output")
    assert (example.answer, example.metadata) == ("A2", {"response": "A1"})
    assert "question could be any of question, Question" in refusal(GOOD | {"Question": "q"})


def test_alpaca_instruction_and_input_are_joined_and_an_empty_input_adds_nothing() -> None:
    alpaca = {"instruction": "Triage.", "input": "I cough.", "output": "A", "cot": "R"}
    examples = to_examples(rows(alpaca, alpaca | {"input": ""}, alpaca | {"input": None}), {})
    assert [e.question for e in examples] == ["Triage.\n\nI cough.", "Triage.", "Triage."]
    assert find_columns(alpaca, {}, "x")["input"] == "input"


def test_the_reference_the_system_prompt_and_the_id_have_their_places() -> None:
    row = GOOD | {"Label": 3, "System_Prompt": "You are a nurse.", "ID": "n-1"}
    example = read_one(row)
    assert (example.reference, example.system) == ("3", "You are a nurse.")
    assert example.metadata == {"id": "n-1"}
    assert read_one(GOOD | {"reference": " "}).reference is None


def test_a_metadata_object_is_taken_as_metadata_and_other_columns_join_it() -> None:
    example = read_one(GOOD | {"metadata": {"disease": "流感"}, "split": "train"})
    assert example.metadata == {"disease": "流感", "split": "train"}
    assert read_one(GOOD | {"metadata": "text"}).metadata == {"metadata": "text"}
    assert refusal(GOOD | {"metadata": {"n": 1}, "n": 2}) == (
        "train.jsonl: n that differs between its own column and metadata in 1 row: 1"
    )


def test_reasoning_inside_the_answer_needs_no_column_of_its_own() -> None:
    example = read_one({"question": "Q", "response": "<think>\nR\n</think>\n\nA"})
    assert (example.reasoning, example.answer) == ("R", "A")


def test_a_think_tag_in_a_question_is_text() -> None:
    assert read_one(GOOD | {"question": "What is <think>?"}).question == "What is <think>?"


MESSAGES = [
    {"role": "user", "content": "MQ"},
    {"role": "assistant", "content": "<think>MR</think>MA"},
]


def test_messages_are_read_where_the_three_columns_are_not_complete() -> None:
    example = read_one({"problem": "P", "solution": "S", "messages": MESSAGES, "label": "x"})
    assert (example.question, example.reasoning, example.answer) == ("MQ", "MR", "MA")
    assert example.reference == "x"
    assert example.metadata == {"problem": "P", "solution": "S"}


def test_complete_columns_are_preferred_to_messages_unless_messages_are_asked_for() -> None:
    row = GOOD | {"Messages": MESSAGES}
    assert read_one(row).question == "Q"
    with pytest.raises(DataError, match="another in the messages in 1 row: 1"):
        read_one(row, messages="Messages")
    assert read_one(row | {"reasoning": "MR"}, messages="Messages").question == "MQ"


def test_reasoning_and_system_columns_serve_messages_that_have_none() -> None:
    plain = [MESSAGES[0], {"role": "assistant", "content": "MA"}]
    assert read_one({"messages": plain, "cot": "R"}).reasoning == "R"
    assert refusal({"messages": plain}) == "train.jsonl: empty reasoning in 1 row: 1"
    assert read_one({"messages": MESSAGES, "system": "S"}).system == "S"
    with_system = [{"role": "system", "content": "T"}, *MESSAGES]
    assert "another in the messages" in refusal({"messages": with_system, "system": "S"})


def test_missing_columns_are_named_with_what_is_there_and_the_way_out() -> None:
    assert refusal({"question": "Q", "text": "T", "answer": "A"}) == (
        "train.jsonl: no column for reasoning; found: question, text, answer; accepted for "
        "reasoning: reasoning, complex_cot, cot, chain_of_thought, thought, thoughts, rationale, "
        "reasoning_content, thinking; or name yours: data.columns.reasoning=NAME"
    )
    assert "no column for question and reasoning and answer; found: a" in refusal({"a": 1})


def test_a_mapped_column_that_does_not_exist_is_refused() -> None:
    assert refusal(GOOD, answer="Reply") == (
        "train.jsonl: data.columns.answer=Reply, but there is no such column; "
        "found: question, reasoning, answer"
    )


def test_an_unknown_field_to_map_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"unknown setting data\.columns\.reply; known: question"):
        to_examples(rows(GOOD), {"reply": "answer"})


def test_every_empty_field_of_every_row_is_named() -> None:
    assert refusal(GOOD, GOOD | {"answer": None, "reasoning": " \n"}, GOOD | {"answer": " "}) == (
        "train.jsonl: empty reasoning in 1 row: 2; train.jsonl: empty answer in 2 rows: 2, 3"
    )


def test_a_row_that_lacks_a_column_others_have_is_empty_there() -> None:
    assert refusal(GOOD, {"question": "Q", "reasoning": "R"}) == (
        "train.jsonl: empty answer in 1 row: 2"
    )


def test_at_most_twenty_rows_are_named() -> None:
    message = refusal(*[GOOD | {"answer": ""}] * 25)
    assert message.startswith("train.jsonl: empty answer in 25 rows: 1, 2, 3,")
    assert message.endswith(" 19, 20, ...")


def test_rows_with_bad_think_tags_are_named_by_kind() -> None:
    unbalanced, nested = GOOD | {"answer": "R</think>A"}, GOOD | {"answer": "<think>" * 2}
    twice = GOOD | {"answer": "<think>a</think>b<think>c</think>"}
    assert refusal(GOOD, unbalanced, nested, twice) == (
        "train.jsonl: unbalanced think tags in the answer in 2 rows: 2, 3; "
        "train.jsonl: nested or repeated think tags in the answer in 1 row: 4"
    )


def test_a_row_of_another_file_is_named_with_its_file() -> None:
    parts = rows(GOOD, label="a.jsonl") + rows(GOOD, GOOD | {"answer": ""}, label="b.jsonl")
    with pytest.raises(DataError, match=r"^b\.jsonl: empty answer in 1 row: 2$"):
        to_examples(parts, {})


def test_held_out_questions_may_lack_reasoning_and_answer() -> None:
    (example,) = to_examples(rows({"question": "Q", "label": "x"}), {}, required=("question",))
    assert (example.reasoning, example.answer, example.reference) == ("", "", "x")
    messages = rows({"messages": MESSAGES[:1]})
    assert to_examples(messages, {}, required=("question",))[0].question == "MQ"


def test_a_history_that_cannot_be_read_is_refused_not_lost() -> None:
    assert "neither a list nor its JSON text as history in 1 row: 1" in refusal(
        GOOD | {"history": 5}
    )
    turn = {"role": "user", "content": "x"}
    assert "not user and assistant by turns in 1 row: 1" in refusal(GOOD | {"history": [turn]})


def test_an_example_written_as_a_row_reads_back_whole() -> None:
    example = Example(
        question="Q",
        reasoning="R",
        answer="A",
        reference="流感",
        system="S",
        history=(Turn(Role.USER, "q"), Turn(Role.ASSISTANT, "a", "r")),
        metadata={"question": "in metadata", "n": [1, 2]},
        where="train.jsonl row 1",
    )
    assert read_one(to_row(example)) == example
    assert to_row(Example("Q", "R", "A")) == GOOD
