"""Text written to do harm: it steers no model, takes no time beyond its length, and stays text."""

import re
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tokenizers import TOKENIZERS
from thinktune.answers.choices import find_choice
from thinktune.answers.numbers import find_quantity
from thinktune.answers.numerals import to_digits
from thinktune.answers.wording import normalise
from thinktune.data.conversations import RowError
from thinktune.data.example import Example, Role, Turn
from thinktune.data.patterns import Pattern
from thinktune.data.shortening import split_sentences
from thinktune.data.template import HistoryReasoning, Template, TemplateConfig

TEMPLATES = {
    name: Template.from_tokenizer(
        make(), TemplateConfig(history_reasoning=HistoryReasoning.KEEP)
    )
    for name, make in TOKENIZERS.items()
}  # fmt: skip
CONTROLS = sorted({mark for made in TEMPLATES.values() for mark in made.controls})


def joined(*pieces: str) -> st.SearchStrategy[str]:
    """Control tokens whole and cut, between other text."""
    marks = st.sampled_from(CONTROLS)
    cut = st.tuples(marks, st.integers(1, 12)).map(lambda pair: pair[0][: pair[1]])
    other = st.text(st.characters(exclude_categories=["Cs"]), max_size=4)
    return st.lists(st.one_of(marks, cut, other, *map(st.just, pieces)), max_size=8).map("".join)


FIELDS = st.fixed_dictionaries({"question": joined("\n"), "system": joined("\n"), "turn": joined()})


@pytest.mark.parametrize("name", list(TOKENIZERS))
@given(fields=FIELDS)
@settings(max_examples=40, deadline=None)
def test_no_text_of_a_row_adds_or_moves_a_control_token(name: str, fields: dict[str, Any]) -> None:
    template = TEMPLATES[name]
    steering = set(template.controls.values())

    def controls(question: str, system: str, turn: str) -> list[int]:
        history = (Turn(Role.USER, turn), Turn(Role.ASSISTANT, "said"))
        tokens = template.render_prompt(question, system=system, history=history)
        return [token for token in tokens if token in steering]

    plain = controls("a", "b" if fields["system"] else "", "c")
    assert controls(fields["question"], fields["system"], fields["turn"]) == plain


@pytest.mark.parametrize("name", list(TOKENIZERS))
@given(text=joined().filter(lambda text: text.strip() and "think>" not in text))
@settings(max_examples=30, deadline=None)
def test_a_target_text_ends_no_turn_of_its_own(name: str, text: str) -> None:
    template = TEMPLATES[name]
    row = template.render(Example("q", text, text))
    stops = set(template.stop_token_ids)
    assert [token for token in row.tokens[row.prompt_length :] if token in stops] == [
        template.eos_token_id
    ]


READERS: dict[str, Callable[[str], object]] = {
    "quantity": find_quantity,
    "choice": find_choice,
    "numerals": to_digits,
    "wording": normalise,
    "sentences": split_sentences,
}
LOOPS = [
    *(".", "...", "!?", "。", " ", "\n", "~", "\\,", "1,", "1,111", "1 h ", "5 mg/", "e", "-"),
    *(
        "{",
        "}",
        "\\boxed{",
        "\\text{",
        "一點",
        "十分之",
        "萬",
        "百",
        "((A)",
        "Answer: ",
        "**",
        "_-",
    ),
]


def seconds(read: Callable[[str], object], text: str) -> float:
    """Least of two times."""
    times = []
    for _ in range(2):
        start = time.process_time()
        read(text)
        times.append(time.process_time() - start)
    return min(times)


@pytest.mark.parametrize("name", READERS)
def test_reading_a_loop_takes_no_more_than_its_length(name: str) -> None:
    # Backtracking made four times the text take sixteen times as long: 2 s and 7 s of 20,000.
    for loop in LOOPS:
        for before, after in (("", ""), ("1 h", "x 2 min"), ("一", "")):
            short, long = (before + loop * (n // len(loop)) + after for n in (5_000, 20_000))
            slow = seconds(READERS[name], long)
            assert slow < 0.15 or slow < 8 * seconds(READERS[name], short), (loop, before, after)


@given(st.lists(st.sampled_from(["a", "b", "##", "#", " ", "\n", "c"]), max_size=30).map("".join))
def test_a_pattern_finds_the_last_places_as_the_greedy_expression_would(cell: str) -> None:
    pattern = Pattern.parse("{question}##{reasoning}#b{answer}")
    slow = re.fullmatch(r"\s*(.*)\#\#(.*)\#b(.*)\s*", cell, re.DOTALL)
    try:
        fast = [str(value) for value in pattern.apply({"x": cell}, "x").values()]
    except RowError:
        assert slow is None
        return
    assert slow is not None
    assert fast == [group.strip() for group in slow.groups()]


def test_a_pattern_of_five_fields_fails_on_a_long_cell_at_once() -> None:
    pattern = Pattern.parse("{question}a{reasoning}b{answer}c{reference}d{system}e")
    start = time.process_time()
    with pytest.raises(RowError):
        pattern.apply({"x": "abcd" * 50_000}, "x")
    assert time.process_time() - start < 0.5
