"""The five points hold for every family, and each can be seen to fail."""

import copy
from dataclasses import replace
from pathlib import Path

import pytest
from tokenizers import normalizers

from tests.tokenizers import TOKENIZERS, chatml, r1_llama, r1_qwen, smollm2
from thinktune.data.contract import (
    PROBES,
    Rows,
    check_contract,
    eos_is_labelled,
    one_bos,
    prompts_agree,
    reasoning_is_labelled,
    require_contract,
    survives_saving,
)
from thinktune.data.family import TemplateFamily
from thinktune.data.template import HistoryReasoning, Segment, Template, TemplateConfig, ThinkOpen
from thinktune.errors import TemplateError

CONFIG = TemplateConfig()


def rows_of(template: Template) -> Rows:
    return [(example, template.render(example)) for example in PROBES]


@pytest.mark.parametrize("name", list(TOKENIZERS))
@pytest.mark.parametrize("think_open", list(ThinkOpen))
@pytest.mark.parametrize("history", list(HistoryReasoning))
def test_all_five_points_hold(name: str, think_open: ThinkOpen, history: HistoryReasoning):
    config = TemplateConfig(
        think_open=think_open, history_reasoning=history, system_prompt="Be brief."
    )
    report = require_contract(TOKENIZERS[name](), config)
    assert [finding.point for finding in report.findings] == ["i", "ii", "iii", "iv", "v"]
    assert report.ok


@pytest.mark.parametrize("name", ["r1_llama", "r1_qwen", "r1_0528"])
def test_the_report_says_that_r1s_own_template_deletes_all_reasoning(name: str):
    report = check_contract(TOKENIZERS[name](), CONFIG)
    num_tokens = report.findings[0].evidence.split(" ")[0]
    assert f"deletes {num_tokens} of {num_tokens} reasoning tokens" in report.notes[0]


def test_a_template_that_keeps_reasoning_is_not_accused():
    assert not [note for note in check_contract(chatml(), CONFIG).notes if "deletes" in note]


def test_the_report_says_that_quoted_marks_would_be_obeyed():
    # </think>, <｜User｜>, <｜Assistant｜> and <｜end▁of▁sentence｜>
    assert "obeys 4 control tokens" in check_contract(r1_llama(), CONFIG).notes[1]


def test_the_report_says_that_no_chat_template_is_shipped():
    tokenizer = copy.deepcopy(r1_qwen())
    tokenizer.chat_template = None
    report = check_contract(tokenizer, CONFIG)
    assert report.ok
    assert "6 have none to compare with" in report.findings[1].evidence
    assert "ships no chat template" in report.notes[0]


def test_the_evidence_counts_prompts_equal_and_equal_up_to_the_tag():
    config = TemplateConfig(think_open=ThinkOpen.COMPLETION)
    r1, ours, small = (
        check_contract(r1_llama(), CONFIG),
        check_contract(r1_llama(), config),
        check_contract(smollm2(), CONFIG),
    )
    assert "5 of the prompts equal the checkpoint's own, 0 equal it up" in r1.findings[1].evidence
    for report in (ours, small):
        assert "0 of the prompts equal" in report.findings[1].evidence
        assert "5 equal it up to the opening think tag" in report.findings[1].evidence


def test_a_pad_token_that_equals_eos_is_said_and_harmless():
    finding = check_contract(smollm2(), CONFIG).findings[3]
    assert finding.ok
    assert "equal to EOS" in finding.evidence
    assert "not EOS" in check_contract(r1_llama(), CONFIG).findings[3].evidence


def test_a_tokenizer_that_adds_bos_is_said():
    assert "adds one by itself" in check_contract(r1_llama(), CONFIG).findings[2].evidence
    assert "adds one by itself" not in check_contract(r1_qwen(), CONFIG).findings[2].evidence


def test_point_i_fails_when_the_vocabulary_changes_characters():
    tokenizer = copy.deepcopy(r1_llama())
    backend = tokenizer.backend_tokenizer  # pyright: ignore[reportAttributeAccessIssue]
    backend.normalizer = normalizers.NFKC()  # full-width marks become ASCII
    finding = check_contract(tokenizer, CONFIG).findings[0]
    assert not finding.ok
    assert finding.failures[0].startswith("a Chinese row reads")


def test_point_i_allows_composing_characters():
    template = Template.from_tokenizer(r1_qwen(), CONFIG)
    example = replace(PROBES[0], reasoning="caf" + "e\u0301", answer="e\u0301")
    assert reasoning_is_labelled(template, [(example, template.render(example))]).ok


def test_point_i_fails_when_a_reasoning_token_is_in_the_prompt():
    template = Template.from_tokenizer(r1_qwen(), CONFIG)
    rows = [(e, replace(r, prompt_length=r.prompt_length + 1)) for e, r in rows_of(template)]
    finding = reasoning_is_labelled(template, rows)
    assert len(finding.failures) == len(PROBES)
    assert finding.evidence.startswith("186 of 192")


def test_point_i_fails_when_the_answer_is_not_parsed_back():
    template = Template.from_tokenizer(r1_qwen(), CONFIG)
    rows = [(replace(e, answer="other"), r) for e, r in rows_of(template)]
    failures = reasoning_is_labelled(template, rows).failures
    assert failures[0].startswith("a short row is parsed back as Parsed(")


def test_point_ii_fails_when_training_and_inference_prompts_differ():
    template = Template.from_tokenizer(r1_qwen(), CONFIG)
    other = replace(template, think_in_prompt=False)
    assert len(prompts_agree(other, rows_of(template)).failures) == len(PROBES)


@pytest.mark.parametrize(
    ("old", "new"),
    [("message['content']", "message['content'] | trim"), ("<think>", "Think: <think>")],
)
def test_point_ii_fails_when_the_checkpoints_own_prompt_differs(old: str, new: str):
    tokenizer = copy.deepcopy(r1_qwen())
    tokenizer.chat_template = str(tokenizer.chat_template).replace(old, new)
    failures = check_contract(tokenizer, CONFIG).findings[1].failures
    assert failures[-1].startswith("a row with white space around its texts is asked otherwise")


def test_point_ii_fails_when_the_chat_template_refuses_system_text():
    tokenizer = copy.deepcopy(chatml())
    refuse = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    tokenizer.chat_template = refuse + str(tokenizer.chat_template)
    failures = check_contract(tokenizer, CONFIG).findings[1].failures
    assert failures == ("a row with system: the checkpoint's own chat template fails: no system",)


@pytest.mark.parametrize("name", ["r1_llama", "smollm2", "chatml"])
def test_point_iii_fails_on_a_bos_too_many(name: str):
    tokenizer = copy.deepcopy(TOKENIZERS[name]())
    if name == "chatml":
        tokenizer.add_special_tokens({"bos_token": "<s>"})
    template = Template.from_tokenizer(tokenizer, CONFIG)
    bos = tokenizer.bos_token_id
    rows = [
        (e, replace(r, tokens=(bos, *r.tokens), segments=(Segment.PROMPT, *r.segments)))
        for e, r in rows_of(template)
    ]
    finding = one_bos(template, rows)
    if name == "smollm2":  # its BOS is the turn mark, so the prompts are what shows it
        assert finding.ok
        assert not prompts_agree(template, rows).ok
    else:
        assert len(finding.failures) == len(PROBES)


def test_point_iii_fails_without_bos_in_front():
    template = Template.from_tokenizer(r1_llama(), CONFIG)
    rows = rows_of(template)
    without = [(e, replace(r, tokens=r.tokens[1:])) for e, r in rows]
    late = [(e, replace(r, tokens=(*r.tokens[1:], r.tokens[0]))) for e, r in rows]
    for broken in (without, late):
        assert len(one_bos(template, broken).failures) == len(PROBES)


def test_point_iv_fails_without_a_labelled_eos():
    template = Template.from_tokenizer(r1_llama(), CONFIG)
    rows = rows_of(template)
    cut = [(e, replace(r, tokens=r.tokens[:-1], segments=r.segments[:-1])) for e, r in rows]
    masked = [(e, replace(r, segments=(*r.segments[:-1], Segment.PROMPT))) for e, r in rows]
    assert len(eos_is_labelled(template, masked).failures) == len(PROBES)
    assert len(eos_is_labelled(template, cut).failures) == 2 * len(PROBES)
    early = [(e, replace(r, tokens=(*r.tokens[:-2], r.tokens[-1], r.tokens[-2]))) for e, r in rows]
    assert len(eos_is_labelled(template, early).failures) == len(PROBES)


def test_point_v_fails_when_the_reloaded_rows_differ():
    template = Template.from_tokenizer(r1_llama(), CONFIG)
    rows = [(e, replace(r, tokens=(*r.tokens[:-1], 0))) for e, r in rows_of(template)]
    assert len(survives_saving(template, rows).failures) == len(PROBES)


class Forgetful(type(r1_llama())):
    """A tokenizer class that leaves its chat template behind when it is saved."""

    def save_pretrained(self, save_directory: str, **others: object) -> tuple[str, ...]:  # pyright: ignore
        files = super().save_pretrained(save_directory, **others)
        Path(save_directory, "chat_template.jinja").unlink()
        return files


def test_point_v_fails_when_the_chat_template_is_lost():
    tokenizer = copy.deepcopy(r1_llama())
    tokenizer.__class__ = Forgetful
    finding = check_contract(tokenizer, CONFIG).findings[4]
    assert "the chat template is another after reloading" in finding.failures


class Unloadable(type(r1_llama())):
    """A tokenizer class that saves nothing."""

    def save_pretrained(self, save_directory: str, **others: object) -> tuple[str, ...]:  # pyright: ignore
        return ()


def test_a_broken_contract_names_its_points_and_the_way_out():
    tokenizer = copy.deepcopy(r1_llama())
    tokenizer.__class__ = Unloadable
    with pytest.raises(TemplateError, match=r"\(v\) .* does not load again: .*template\.family"):
        require_contract(tokenizer, CONFIG)


def test_a_tokenizer_without_template_is_refused():
    with pytest.raises(TemplateError, match=r"needs <\|im_start\|>"):
        check_contract(r1_llama(), TemplateConfig(family=TemplateFamily.CHATML))
