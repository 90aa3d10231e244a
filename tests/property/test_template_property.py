"""Whatever people write: rows parse back, prompts are prefixes, limits hold."""

from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.tokenizers import TOKENIZERS
from thinktune.data.example import Example, Role, Turn
from thinktune.data.shortening import shorten, split_sentences
from thinktune.data.template import Rendered, Segment, Template, TemplateConfig, render_all

MARKS = [
    "<｜User｜>",
    "<｜end▁of▁sentence｜>",
    "<|im_end|>",
    "<|im_start|>",
    "\n\n",
    "。",
    ". ",
    "3.14",
]
TAGS = ["<think>", "</think>"]


def texts(*extra: str) -> st.SearchStrategy[str]:
    """Free text mixed with marks; no lone surrogates, which are no text."""
    pieces = st.one_of(
        st.text(st.characters(exclude_categories=["Cs"]), max_size=8), st.sampled_from(MARKS)
    )
    if extra:
        pieces = st.one_of(pieces, st.sampled_from(extra))
    return st.lists(pieces, max_size=8).map("".join)


def spoken(text: str) -> bool:
    """Whether a row may hold ``text`` as reasoning or answer."""
    return bool(text.strip()) and not any(tag in text for tag in TAGS)


# Built in the test: the checker of types draws from random, which strategies must not.
FIELDS = st.fixed_dictionaries(
    {
        "question": texts(*TAGS),
        "reasoning": texts().filter(spoken),
        "answer": texts().filter(spoken),
        "system": texts(*TAGS),
        "history": st.sampled_from([(), (Turn(Role.USER, "a"), Turn(Role.ASSISTANT, "b"))]),
    }
)
TEMPLATES = {
    name: Template.from_tokenizer(make(), TemplateConfig()) for name, make in TOKENIZERS.items()
}


@pytest.mark.parametrize("name", ["r1_llama", "smollm2", "chatml"])
@given(fields=FIELDS)
@settings(max_examples=60, deadline=None)
def test_a_row_parses_back_to_its_reasoning_and_answer(name: str, fields: dict[str, Any]):
    template, example = TEMPLATES[name], Example(**fields)
    row = template.render(example)
    parsed = template.parse_ids(row.tokens[row.prompt_length :])
    assert parsed.closed
    assert (parsed.reasoning, parsed.answer) == (example.reasoning.strip(), example.answer.strip())


@pytest.mark.parametrize("name", list(TOKENIZERS))
@given(fields=FIELDS)
@settings(max_examples=30, deadline=None)
def test_a_row_is_its_prompt_and_then_labels_in_order(name: str, fields: dict[str, Any]):
    template, example = TEMPLATES[name], Example(**fields)
    row = template.render(example)
    prompt = template.render_prompt(
        example.question, system=example.system, history=example.history
    )
    assert list(row.tokens[: row.prompt_length]) == prompt
    assert len(row.tokens) == len(row.segments)
    assert list(row.segments) == sorted(row.segments)
    assert set(row.segments) == set(Segment)
    assert row.tokens.count(template.eos_token_id) == prompt.count(template.eos_token_id) + 1


@pytest.mark.parametrize("name", list(TOKENIZERS))
@given(question=texts(*TAGS), system=texts(*TAGS))
@settings(max_examples=30, deadline=None)
def test_no_text_adds_a_control_token(name: str, question: str, system: str):
    template = TEMPLATES[name]
    marks = set(template.controls.values())
    said = template.render_prompt(question, system=f"s{system}")
    calm = template.render_prompt("q", system="s")
    assert [t for t in said if t in marks] == [t for t in calm if t in marks]


def without_reasoning(row: Rendered) -> list[tuple[int, Segment]]:
    pairs = zip(row.tokens, row.segments, strict=True)
    return [(token, segment) for token, segment in pairs if segment is not Segment.REASONING]


@pytest.mark.parametrize("name", ["r1_llama", "chatml"])
@given(fields=FIELDS, shortfall=st.integers(1, 60))
@settings(max_examples=40, deadline=None)
def test_a_limit_holds_and_costs_only_reasoning(name: str, fields: dict[str, Any], shortfall: int):
    template, example = TEMPLATES[name], Example(**fields, where="row 1")
    whole = template.render(example)
    limit = len(whole.tokens) - shortfall
    assume(limit > 0)
    result = render_all(template, [example], limit)
    assert len(result.rows) + len(result.dropped) == 1
    for row in result.rows:
        assert len(row.tokens) <= limit
        assert result.shortened == [("row 1", len(whole.tokens) - len(row.tokens))]
        assert without_reasoning(row) == without_reasoning(whole)


@given(text=texts(), limit=st.integers(0, 60))
def test_sentences_join_up_and_shortening_keeps_whole_ones(text: str, limit: int):
    sentences = split_sentences(text)
    assert "".join(sentences) == text
    short = shorten(text, len, limit)
    if short is None:
        assert not sentences or len(sentences[-1].strip()) > limit
        return
    assert len(short) <= limit
    splits = [
        ("".join(sentences[:i]) + "".join(sentences[j:])).strip()
        for i in range(len(sentences) + 1)
        for j in range(i, len(sentences) + 1)
    ]
    assert short in splits
