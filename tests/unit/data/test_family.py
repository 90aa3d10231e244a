"""Which family a tokenizer belongs to, and what its own prompt says."""

import copy

import pytest
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from tests.tokenizers import SMOLLM2_SYSTEM, TOKENIZERS, chatml, r1_0528, r1_llama, smollm2
from thinktune.data.family import TemplateFamily
from thinktune.data.template import Template, TemplateConfig
from thinktune.errors import TemplateError


def template_of(tokenizer: PreTrainedTokenizerBase, **settings: object) -> Template:
    return Template.from_tokenizer(tokenizer, TemplateConfig.model_validate(settings))


def test_the_default_system_text_is_the_checkpoints_own():
    assert template_of(smollm2()).default_system == SMOLLM2_SYSTEM
    assert template_of(chatml()).default_system == ""
    assert template_of(r1_llama()).default_system == ""


@pytest.mark.parametrize(
    ("name", "family", "opens_in_prompt"),
    [
        ("r1_llama", TemplateFamily.R1_LLAMA, True),
        ("r1_qwen", TemplateFamily.R1_QWEN, True),
        ("r1_0528", TemplateFamily.R1_0528, False),
        ("smollm2", TemplateFamily.CHATML, True),
        ("chatml", TemplateFamily.CHATML, True),
    ],
)
@pytest.mark.parametrize("has_chat_template", [True, False])
def test_families_are_told_apart(
    name: str, family: TemplateFamily, opens_in_prompt: bool, has_chat_template: bool
):
    tokenizer = copy.deepcopy(TOKENIZERS[name]())
    if not has_chat_template:
        tokenizer.chat_template = None
    template = template_of(tokenizer)
    assert (template.family, template.think_in_prompt) == (family, opens_in_prompt)


def test_the_first_published_r1_template_leaves_the_tag_to_the_model():
    tokenizer = copy.deepcopy(r1_llama())
    tokenizer.chat_template = r1_0528().chat_template
    assert not template_of(tokenizer).think_in_prompt


def test_a_bos_of_its_own_is_kept_before_chatml_turns():
    tokenizer = copy.deepcopy(chatml())
    tokenizer.add_special_tokens({"bos_token": "<s>"})
    assert template_of(tokenizer).bos == ""
    tokenizer.chat_template = "{{ bos_token }}" + str(tokenizer.chat_template)
    template = template_of(tokenizer)
    assert template.bos == "<s>"
    assert template.render_prompt("hi")[0] == tokenizer.bos_token_id


def test_an_unknown_tokenizer_is_refused_with_the_families_there_are():
    backend = copy.deepcopy(chatml().backend_tokenizer)  # pyright: ignore[reportAttributeAccessIssue]
    state = backend.to_str().replace("<|im_start|>", "<|turn|>")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=type(backend).from_str(state))
    with pytest.raises(TemplateError, match=r"unknown tokenizer.*r1-distill-llama.*chatml"):
        template_of(tokenizer)
    with pytest.raises(TemplateError, match=r"template.family=chatml needs <\|im_start\|>"):
        template_of(tokenizer, family=TemplateFamily.CHATML)


def test_a_failing_chat_template_is_named():
    tokenizer = copy.deepcopy(chatml())
    tokenizer.chat_template = "{{ raise_exception('no users here') }}"
    with pytest.raises(TemplateError, match="own chat template fails: no users here"):
        template_of(tokenizer)


def test_the_chat_template_decides_where_a_vocabulary_has_the_marks_of_both():
    tokenizer = copy.deepcopy(r1_llama())
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    assert template_of(tokenizer).family is TemplateFamily.R1_LLAMA
    tokenizer.chat_template = chatml().chat_template
    assert template_of(tokenizer).family is TemplateFamily.CHATML


def test_text_outside_a_system_turn_is_no_system_text():
    tokenizer = copy.deepcopy(chatml())
    tokenizer.chat_template = "Today: " + str(tokenizer.chat_template)
    assert template_of(tokenizer).default_system == ""


def test_generation_also_stops_at_the_tokenizers_own_end():
    tokenizer = copy.deepcopy(chatml())
    tokenizer.add_special_tokens({"eos_token": "</s>"})
    template = template_of(tokenizer)
    assert template.eos_token_id == tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert tokenizer.eos_token_id in template.stop_token_ids
