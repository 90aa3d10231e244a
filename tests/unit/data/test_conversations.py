import json

import pytest

from thinktune.data.conversations import (
    RowError,
    as_text,
    merge_reasoning,
    read_messages,
    split_think,
)
from thinktune.data.example import Role, Turn

OPENAI = [
    {"role": "system", "content": "You are a nurse."},
    {"role": "user", "content": "I cough."},
    {"role": "assistant", "content": "<think>\nno fever\n</think>\n\nSince when?"},
    {"role": "user", "content": "A week."},
    {"role": "assistant", "content": "Bronchitis.", "reasoning_content": "a week is long"},
]


def test_openai_messages_give_the_last_question_and_the_turns_before_it() -> None:
    read = read_messages(OPENAI, answered=True)
    assert (read.system, read.question) == ("You are a nurse.", "A week.")
    assert (read.reasoning, read.answer) == ("a week is long", "Bronchitis.")
    assert read.history == (
        Turn(Role.USER, "I cough."),
        Turn(Role.ASSISTANT, "Since when?", "no fever"),
    )


def test_sharegpt_messages_and_their_json_text_read_the_same() -> None:
    names = {"system": "system", "user": "human", "assistant": "gpt"}
    sharegpt = [
        {"from": names[m["role"]], "value": m["content"]}
        | ({"reasoning_content": m["reasoning_content"]} if "reasoning_content" in m else {})
        for m in OPENAI
    ]
    assert read_messages(sharegpt, answered=True) == read_messages(OPENAI, answered=True)
    assert read_messages(json.dumps(OPENAI), answered=True) == read_messages(OPENAI, answered=True)


def test_text_parts_of_a_message_are_joined() -> None:
    parts = [{"type": "text", "text": "I "}, {"type": "text", "text": "cough."}]
    messages = [{"role": "user", "content": parts}, {"role": "assistant", "content": "Rest."}]
    assert read_messages(messages, answered=True).question == "I cough."


def test_messages_may_end_with_the_question_only_where_no_answer_is_needed() -> None:
    read = read_messages(OPENAI[:2], answered=False)
    assert (read.question, read.answer, read.history) == ("I cough.", "", ())
    with pytest.raises(RowError, match="no answer of the assistant"):
        read_messages(OPENAI[:2], answered=True)


USER, ASSISTANT = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([], "no answer of the assistant"),
        ("not JSON", "neither a list nor its JSON text"),
        ({"role": "user"}, "neither a list nor its JSON text"),
        (["text"], "not all objects with role and content"),
        ([ASSISTANT], "no question of the user"),
        ([USER, ASSISTANT, ASSISTANT], "no question of the user"),
        ([USER, USER, ASSISTANT], "not user and assistant by turns"),
        ([ASSISTANT, USER, ASSISTANT], "not user and assistant by turns"),
        ([USER, {"role": "tool", "content": "x"}, ASSISTANT], "a message by 'tool'"),
        ([USER, {"role": "system", "content": "x"}, ASSISTANT], "a message by 'system'"),
        ([USER, ASSISTANT | {"tool_calls": [{}]}], "calls tools"),
        ([USER | {"content": [{"type": "image"}]}, ASSISTANT], "parts that are not text"),
        ([USER | {"content": " "}, ASSISTANT, USER, ASSISTANT], "an empty earlier turn"),
        ([USER, ASSISTANT | {"content": {"a": 1}}], "message is an object, not text"),
    ],
)
def test_messages_that_cannot_be_read_are_refused_with_the_reason(
    messages: object, reason: str
) -> None:
    with pytest.raises(RowError, match=reason):
        read_messages(messages, answered=True)


def test_think_tags_part_reasoning_and_answer_and_lose_no_inner_space() -> None:
    assert split_think("<think>\nR 1\n\nR 2\n</think>\n\nA 1\n\nA 2\n", "answer") == (
        "R 1\n\nR 2",
        "A 1\n\nA 2",
    )
    assert split_think(" untouched \n", "answer") == ("", " untouched \n")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("<think>R", "unbalanced think tags in the answer"),
        ("R</think>A", "unbalanced think tags in the answer"),
        ("</think><think>", "unbalanced think tags in the answer"),
        ("<think><think>R</think>A", "unbalanced think tags in the answer"),
        ("<think>R<think>r</think></think>A", "nested or repeated think tags in the answer"),
        ("<think>R</think>A<think>R</think>", "nested or repeated think tags in the answer"),
        ("Sure.<think>R</think>A", "text before the think tag of the answer"),
    ],
)
def test_think_tags_other_than_one_pair_at_the_start_are_refused(text: str, reason: str) -> None:
    with pytest.raises(RowError, match=f"^{reason}$"):
        split_think(text, "answer")


def test_reasoning_wrapped_in_its_own_tags_is_unwrapped() -> None:
    assert merge_reasoning("<think>\nR\n</think>", "A") == ("R", "A")
    with pytest.raises(RowError, match="text after the think tags"):
        merge_reasoning("<think>R</think>rest", "A")


def test_reasoning_in_both_fields_must_be_the_same() -> None:
    assert merge_reasoning("R", "<think>R</think>A") == ("R", "A")
    assert merge_reasoning("  ", "<think>R</think>A") == ("R", "A")
    with pytest.raises(RowError, match="one reasoning in its own field and another"):
        merge_reasoning("R", "<think>other</think>A")


def test_numbers_become_text_none_becomes_empty_and_lists_are_refused() -> None:
    assert [as_text(v, "answer") for v in (5, 2.5, True, None, "x")] == [
        "5",
        "2.5",
        "True",
        "",
        "x",
    ]
    with pytest.raises(RowError, match="answer is a list, not text"):
        as_text(["x"], "answer")
    with pytest.raises(RowError, match="lone surrogate"):
        as_text("\ud800", "answer")
