from dataclasses import replace

import pytest

from tests.tokenizers import r1_0528, r1_llama, smollm2
from thinktune.data.example import Example, Role, Turn
from thinktune.data.inspection import Quantiles, inspect
from thinktune.data.segments import Rendered, Segment
from thinktune.data.spans import spans
from thinktune.data.template import Overlong, Template, TemplateConfig

EXAMPLES = [
    Example(
        question="病人發燒三天，咳嗽。",
        reasoning="體溫 38.5 度。全身痠痛！可能是流感。先排除急症。",
        answer="可能是流感 🤒，請多休息。",
        reference="流感",
        where="train.jsonl row 1",
    ),
    Example(
        question="I cough.",
        reasoning="No fever so far. Only a cough. A cold is the most likely.",
        answer="A cold.",
        reference="感冒",
        system="You are a nurse.",
        where="train.jsonl row 2",
    ),
    Example(
        question="And now?",
        reasoning="Still a cold.",
        answer="Rest.",
        reference="感冒",
        history=(Turn(Role.USER, "I cough."), Turn(Role.ASSISTANT, "A cold.", "No fever.")),
        where="train.jsonl row 3",
    ),
    Example(question="Hm?", reasoning="R.", answer="A.", where="train.jsonl row 4"),
]


def template(**settings: object) -> Template:
    return Template.from_tokenizer(r1_llama(), TemplateConfig(**settings))


def test_rows_fields_and_references_are_counted() -> None:
    found = inspect(EXAMPLES)
    assert found.num_examples == 4
    assert (found.num_with_reference, found.num_with_system, found.num_with_history) == (3, 1, 1)
    assert list(found.references.items()) == [("感冒", 2), ("流感", 1)]
    assert found.tokens is None


def test_lengths_are_in_words_and_in_characters() -> None:
    found = inspect(EXAMPLES)
    assert found.characters["answer"] == Quantiles(2, 6.0, 13, 13)
    assert found.words["question"] == Quantiles(1, 2.0, 8, 8)


def test_the_95th_percentile_is_the_nearest_rank() -> None:
    assert Quantiles.of(list(range(100, 0, -1))) == Quantiles(1, 50.5, 95, 100)
    assert Quantiles.of([7]) == Quantiles(7, 7.0, 7, 7)
    assert Quantiles.of([0] * 19 + [9]).p95 == 0
    assert Quantiles.of([0] * 18 + [9]).p95 == 9


def test_nothing_to_inspect_is_refused() -> None:
    with pytest.raises(ValueError, match="no examples"):
        inspect([])


def test_held_out_examples_reach_the_faults() -> None:
    assert inspect(EXAMPLES, heldout=EXAMPLES[:1]).faults[0].rows == (
        "train.jsonl row 1 = train.jsonl row 1",
    )


def test_tokens_are_counted_by_segment_as_the_template_renders_them() -> None:
    rows = [template().render(example) for example in EXAMPLES]
    tokens = inspect(EXAMPLES, template=template()).tokens
    assert tokens is not None
    assert tokens.segments["row"] == Quantiles.of([len(row.tokens) for row in rows])
    assert tokens.segments["reasoning"] == Quantiles.of(
        [row.segments.count(Segment.REASONING) for row in rows]
    )
    assert set(tokens.segments) == {"prompt", "reasoning", "answer", "row"}
    assert (tokens.max_length, tokens.dropped, tokens.shortened) == (None, (), ())


@pytest.mark.parametrize("policy", list(Overlong))
def test_rows_over_the_limit_are_named_with_what_the_policy_does(policy: Overlong) -> None:
    renderer = template(overlong=policy, max_length=10_000)
    lengths = {e.where: len(renderer.render(e).tokens) for e in EXAMPLES}
    limit = max(lengths.values()) - 1
    longest = max(lengths, key=lambda where: lengths[where])
    tokens = inspect(EXAMPLES, template=renderer, max_length=limit).tokens
    assert tokens is not None
    assert (tokens.max_length, tokens.overlong) == (limit, policy)
    assert tokens.segments["row"].maximum == limit + 1
    if policy is Overlong.SHORTEN_REASONING:
        ((where, removed),) = tokens.shortened
        assert (where, tokens.dropped) == (longest, ())
        assert 0 < removed < limit
    else:
        assert (tokens.dropped, tokens.shortened) == (((longest, limit + 1),), ())


def test_the_templates_own_limit_counts_where_it_is_lower() -> None:
    tokens = inspect(EXAMPLES, template=template(max_length=12), max_length=500).tokens
    assert tokens is not None
    assert tokens.max_length == 12
    assert tokens.dropped


@pytest.mark.parametrize("tokenizer", [r1_llama, r1_0528, smollm2])
def test_spans_hold_every_character_of_the_row_once(tokenizer) -> None:
    renderer = Template.from_tokenizer(tokenizer(), TemplateConfig())
    for example in EXAMPLES:
        rendered = renderer.render(example)
        found = spans(rendered, tokenizer())
        whole = tokenizer().decode(rendered.tokens, clean_up_tokenization_spaces=False)
        assert "".join(span.text for span in found) == whole
        assert "\ufffd" not in whole
        texts = {span.segment: span.text for span in found}
        assert texts[Segment.ANSWER] == example.answer
        assert texts[Segment.REASONING].rstrip() == example.reasoning


def test_characters_of_several_tokens_are_not_broken() -> None:
    rendered = template().render(replace(EXAMPLES[0], answer="🤒"))
    assert rendered.segments.count(Segment.ANSWER) > 1
    assert [s.text for s in spans(rendered, r1_llama()) if s.segment is Segment.ANSWER] == ["🤒"]


@pytest.mark.parametrize(("think_open", "carries"), [("prompt", False), ("completion", True)])
def test_an_opening_think_tag_carries_loss_only_outside_the_prompt(
    think_open: str, carries: bool
) -> None:
    found = spans(template(think_open=think_open).render(EXAMPLES[1]), r1_llama())
    assert [(span.segment, span.carries_loss) for span in found] == [
        (Segment.PROMPT, False),
        (Segment.THINK_OPEN, carries),
        (Segment.REASONING, True),
        (Segment.THINK_CLOSE, True),
        (Segment.ANSWER, True),
        (Segment.EOS, True),
    ]


def test_a_segment_without_weight_carries_no_loss() -> None:
    rendered = template().render(EXAMPLES[1])
    found = spans(rendered, r1_llama(), weights={Segment.ANSWER: 0.5, Segment.REASONING: 0.0})
    assert [span.segment for span in found if span.carries_loss] == [Segment.ANSWER]


def test_a_row_without_tokens_has_no_spans() -> None:
    assert spans(Rendered((), (), 0), r1_llama()) == []
