"""What people write never becomes a control token."""

import copy

from tests.tokenizers import chatml, r1_llama, r1_qwen
from thinktune.data.plain_text import PlainTokenizer, control_tokens


def test_split_special_tokens_would_not_protect_a_question():
    ids = r1_llama()("</think>", add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert r1_llama().convert_tokens_to_ids("</think>") in ids


def test_runs_of_spaces_that_are_added_tokens_keep_their_ids():
    tokenizer = copy.deepcopy(chatml())
    tokenizer.add_tokens(["<tag>", "        "])
    plain = PlainTokenizer.from_tokenizer(tokenizer)
    assert tokenizer.convert_tokens_to_ids("        ") in plain.encode("a        b")
    assert tokenizer.convert_tokens_to_ids("<tag>") not in plain.encode("a<tag>b")


def test_tags_are_controls_even_where_they_are_not_special():
    assert {"<think>", "</think>", "<｜User｜>", "<｜end▁of▁sentence｜>"} <= control_tokens(
        r1_llama()
    ).keys()


def test_ordinary_text_has_the_checkpoints_own_ids():
    text = "Fever 38.5 度。\n\n  <b> a < b</b>"
    for tokenizer in (r1_llama(), r1_qwen(), chatml()):
        own = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert PlainTokenizer.from_tokenizer(tokenizer).encode(text) == own
