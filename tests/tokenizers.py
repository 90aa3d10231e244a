"""Tiny real tokenizers, trained in a moment, with the marks of the real families.

Each is cached and shared: a test that changes one copies it first.
"""

from functools import cache

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

BOS, EOS, PAD = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>"
R1_MARKS = ("<｜User｜>", "<｜Assistant｜>", "<think>", "</think>")

CORPUS = [
    "The patient has a fever and a cough. First we look at the symptoms.\n",
    "Therefore the answer is 42.\n\nThe sum of 17 and 25 is 42. Wait, let me check it again.\n",
    "病人發燒、咳嗽，體溫 38.5 度。可能是流感。\n建議多休息，多喝水。\n",
    "system user assistant question reasoning answer think\n",
] * 3

# As published with DeepSeek-R1-Distill: an answer loses all up to </think>.
R1_TEMPLATE = (
    "{% set ns = namespace(system_prompt='') %}"
    "{%- for message in messages %}{%- if message['role'] == 'system' %}"
    "{% set ns.system_prompt = message['content'] %}{%- endif %}{%- endfor %}"
    "{{bos_token}}{{ns.system_prompt}}"
    "{%- for message in messages %}"
    "{%- if message['role'] == 'user' %}{{'<｜User｜>' + message['content']}}{%- endif %}"
    "{%- if message['role'] == 'assistant' and message['content'] is not none %}"
    "{% set content = message['content'] %}"
    "{% if '</think>' in content %}{% set content = content.split('</think>')[-1] %}{% endif %}"
    "{{'<｜Assistant｜>' + content + '<｜end▁of▁sentence｜>'}}{%- endif %}"
    "{%- endfor -%}"
    "{% if add_generation_prompt %}{{'<｜Assistant｜>THINK_OPEN'}}{% endif %}"
)
CHATML_TEMPLATE = (
    "{% for message in messages %}DEFAULT_SYSTEM"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SMOLLM2_SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
SMOLLM2_DEFAULT = (
    "{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\n" + SMOLLM2_SYSTEM + "<|im_end|>\n' }}{% endif %}"
)

LLAMA3_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN_WORDS = LLAMA3_WORDS.replace(r"\p{N}{1,3}", r"\p{N}")


def _train(words: str | None, marks: dict[str, bool]) -> Tokenizer:
    """Train byte-level BPE and add ``marks`` (content: special) behind the vocabulary."""
    backend = Tokenizer(models.BPE())
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=words is None)
    first = (
        pre_tokenizers.Digits(individual_digits=True)
        if words is None
        else pre_tokenizers.Split(Regex(words), behavior="isolated")
    )
    backend.pre_tokenizer = pre_tokenizers.Sequence([first, byte_level])
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(CORPUS, trainer)
    for content, special in marks.items():
        token = AddedToken(content, special=special, normalized=False)
        (backend.add_special_tokens if special else backend.add_tokens)([token])
    return backend


def _r1_marks(*others: str) -> dict[str, bool]:
    # In the real ones the turn marks and think tags are added tokens that are not special.
    return {BOS: True, EOS: True, **dict.fromkeys(R1_MARKS, False), PAD: True} | dict.fromkeys(
        others, True
    )


def _r1(backend: Tokenizer, think_open: str) -> PreTrainedTokenizerBase:
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        chat_template=R1_TEMPLATE.replace("THINK_OPEN", think_open),
    )


@cache
def r1_llama() -> PreTrainedTokenizerBase:
    """DeepSeek-R1-Distill-Llama: calling it adds a BOS; its prompt opens the reasoning."""
    backend = _train(LLAMA3_WORDS, _r1_marks("<|start_header_id|>", "<|eot_id|>"))
    backend.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A",
        pair=f"{BOS} $A {BOS} $B",
        special_tokens=[(BOS, backend.token_to_id(BOS))],
    )
    return _r1(backend, "<think>\\n")


@cache
def r1_qwen() -> PreTrainedTokenizerBase:
    """DeepSeek-R1-Distill-Qwen: composes characters (NFC) and splits numbers into digits."""
    backend = _train(QWEN_WORDS, _r1_marks("<|vision_start|>", "<|EOT|>"))
    backend.normalizer = normalizers.NFC()
    return _r1(backend, "<think>\\n")


@cache
def r1_0528() -> PreTrainedTokenizerBase:
    """DeepSeek-R1-0528-Qwen3-8B: the model writes the opening think tag itself."""
    marks = _r1_marks("<|vision_start|>") | {"<tool_response>": False, "</tool_response>": False}
    backend = _train(QWEN_WORDS, marks)
    backend.normalizer = normalizers.NFC()
    return _r1(backend, "")


@cache
def smollm2() -> PreTrainedTokenizerBase:
    """SmolLM2: ChatML with a default system text; BOS is the turn mark, pad is EOS."""
    marks = dict.fromkeys(("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<repo_name>"), True)
    return PreTrainedTokenizerFast(
        tokenizer_object=_train(None, marks),
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        unk_token="<|endoftext|>",
        chat_template=CHATML_TEMPLATE.replace("DEFAULT_SYSTEM", SMOLLM2_DEFAULT),
    )


@cache
def chatml() -> PreTrainedTokenizerBase:
    """Plain ChatML: no default system text, no BOS, pad distinct, no think tokens."""
    marks = dict.fromkeys(("<|endoftext|>", "<|im_start|>", "<|im_end|>"), True)
    return PreTrainedTokenizerFast(
        tokenizer_object=_train(QWEN_WORDS, marks),
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=CHATML_TEMPLATE.replace("DEFAULT_SYSTEM", ""),
    )


TOKENIZERS = {
    "r1_llama": r1_llama,
    "r1_qwen": r1_qwen,
    "r1_0528": r1_0528,
    "smollm2": smollm2,
    "chatml": chatml,
}
