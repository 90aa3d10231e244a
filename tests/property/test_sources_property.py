from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from thinktune.data.conversations import RowError, split_think
from thinktune.data.example import Example, Role, Turn
from thinktune.data.sources import read_examples, write_examples

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20).filter(str.strip)
tagged = st.lists(st.sampled_from(["<think>", "</think>", "a", "流", " ", "\n"]), max_size=8)
exchanges = st.lists(
    st.tuples(
        texts.map(lambda text: Turn(Role.USER, text)),
        st.builds(Turn, st.just(Role.ASSISTANT), texts, st.just("") | texts),
    ),
    max_size=2,
)
scalars = st.none() | st.booleans() | st.integers() | texts | st.floats(allow_nan=False, width=32)
values = st.recursive(
    scalars.filter(lambda value: value not in (float("inf"), float("-inf"))),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)
# Fields, not examples: the type checks of a dataclass sample containers, which a strategy may not.
fields = st.fixed_dictionaries(
    {
        "question": texts,
        "reasoning": texts,
        "answer": texts,
        "reference": st.none() | texts,
        "system": st.just("") | texts,
        "history": exchanges.map(lambda pairs: tuple(turn for pair in pairs for turn in pair)),
        "metadata": st.dictionaries(texts, values, max_size=3),
    }
)


@given(st.lists(fields, min_size=1, max_size=3))
@settings(max_examples=40, deadline=None)
def test_any_examples_read_back_as_they_were_written(records: list[dict[str, Any]]) -> None:
    written = [Example(**record) for record in records]
    with TemporaryDirectory() as folder:
        path = Path(folder) / "out.jsonl"
        write_examples(path, written)
        read = read_examples(str(path))
    numbered = enumerate(written, start=1)
    assert read == [replace(e, where=f"out.jsonl row {n}") for n, e in numbered]


@given(texts, texts)
def test_reasoning_and_answer_joined_with_think_tags_come_apart_again(
    reasoning: str, answer: str
) -> None:
    joined = f"<think>\n{reasoning}\n</think>\n\n{answer}"
    assert split_think(joined, "answer") == (reasoning.strip(), answer.strip())


@given(tagged)
def test_splitting_never_leaves_a_think_tag_behind(pieces: list[str]) -> None:
    text = "".join(pieces)
    try:
        parts = split_think(text, "answer")
    except RowError:
        return
    assert "<think>" not in "".join(parts)
    assert "</think>" not in "".join(parts)
    assert "".join("".join(parts).split()) == "".join(
        text.replace("<think>", "").replace("</think>", "").split()
    )
