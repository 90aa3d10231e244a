"""Completions: equal to transformers', independent of the batch, stopped and streamed right."""

import pytest
import torch

from tests.tiny_models import (
    FAMILIES,
    attach_trained,
    hidden_of,
    random_documents,
    tiny_decoder,
    tiny_model,
)
from tests.tokenizers import chatml
from thinktune.errors import DataError
from thinktune.generation.completion import Completion, GenerationConfig, Stop
from thinktune.generation.engine import generate
from thinktune.generation.text_stream import TextStream
from thinktune.model.decoder import Decoder
from thinktune.model.lora import base_only

GREEDY = GenerationConfig(max_new_tokens=23, temperature=0)
PROMPTS = [document.tolist() for document in random_documents((5, 1, 31, 2, 11))]
BY_FAMILY = pytest.mark.parametrize("name", FAMILIES)


def _complete(
    decoder: Decoder, prompts: list[list[int]], config: GenerationConfig = GREEDY, **options
) -> list[Completion]:
    options = {"stop_token_ids": ()} | options
    return generate(decoder, chatml(), prompts, config, **options)


def _tokens(*arguments, **options) -> list[tuple[int, ...]]:
    return [completion.tokens for completion in _complete(*arguments, **options)]


def _theirs(name: str, prompt: list[int], num: int, **options) -> tuple[int, ...]:
    """Greedy decoding by transformers, one prompt at a time."""
    prompt_1T = torch.tensor([prompt])
    out = tiny_model(name).generate(
        prompt_1T,
        attention_mask=torch.ones_like(prompt_1T),
        do_sample=False,
        max_new_tokens=num,
        pad_token_id=0,
        **options,
    )
    return tuple(out[0, len(prompt) :].tolist())


@BY_FAMILY
@pytest.mark.parametrize("batch_size", [1, 2, 32])
def test_greedy_completions_equal_those_of_transformers_token_by_token(name: str, batch_size: int):
    ours = _tokens(tiny_decoder(name), PROMPTS, batch_size=batch_size)
    assert ours == [_theirs(name, prompt, 23) for prompt in PROMPTS]


def test_a_completion_longer_than_two_blocks_of_the_cache_equals_that_of_transformers():
    config = GenerationConfig(max_new_tokens=300, temperature=0)
    prompts = PROMPTS[:2]
    ours = _tokens(tiny_decoder("llama_rope_scaled"), prompts, config)
    assert ours == [_theirs("llama_rope_scaled", prompt, 300) for prompt in prompts]
    assert len(set(ours[0])) > 20


@BY_FAMILY
def test_prompts_with_a_common_beginning_complete_as_they_do_alone(name: str):
    decoder = tiny_decoder(name, torch.float64)
    prompts = [[*range(1, 30), *prompt] for prompt in PROMPTS]
    assert _tokens(decoder, prompts) == [_tokens(decoder, [prompt])[0] for prompt in prompts]


@BY_FAMILY
def test_rows_that_stop_early_leave_the_others_as_they_were(name: str):
    decoder = tiny_decoder(name)
    free = _tokens(decoder, PROMPTS)
    stops = [free[0][3], free[2][7]]
    ended = _complete(decoder, PROMPTS, stop_token_ids=stops)
    for prompt, all_of_it, completion in zip(PROMPTS, free, ended, strict=True):
        places = [place for place, token in enumerate(all_of_it) if token in stops]
        wanted = all_of_it[: places[0]] if places else all_of_it
        assert completion.tokens == wanted
        assert completion.stop == (Stop.END_OF_TURN if places else Stop.TOKEN_LIMIT)
        theirs = _theirs(name, prompt, 23, eos_token_id=stops)
        assert completion.tokens == (theirs[:-1] if places else theirs)
    assert ended[0].stop == ended[2].stop == Stop.END_OF_TURN


def test_a_stop_as_the_first_token_gives_an_empty_completion():
    decoder, pieces = tiny_decoder("qwen2"), []
    first = _tokens(decoder, PROMPTS[:1])[0][0]
    (completion,) = _complete(
        decoder, PROMPTS[:1], stop_token_ids=[first], on_text=lambda *piece: pieces.append(piece)
    )
    assert completion == Completion((), "", Stop.END_OF_TURN)
    assert not pieces


@pytest.mark.parametrize("limit", [1, 7])
def test_no_completion_is_longer_than_the_limit_and_a_shorter_one_is_its_beginning(limit: int):
    decoder = tiny_decoder("qwen3")
    for temperature in (0, 1.0):
        short, long = (
            _complete(decoder, PROMPTS, GenerationConfig(max_new_tokens=n, temperature=temperature))
            for n in (limit, 23)
        )
        assert {len(completion.tokens) for completion in short} == {limit}
        assert [c.tokens for c in short] == [c.tokens[:limit] for c in long]
        assert {c.stop for c in short} == {Stop.TOKEN_LIMIT}


def test_a_prompt_and_its_completion_fill_the_context_and_no_more():
    decoder = tiny_decoder("qwen2")
    assert decoder.shape.max_position_embeddings == 512
    (prompt,) = [d.tolist() for d in random_documents((509,))]
    ours = _complete(decoder, [prompt, prompt[:508]])
    assert [len(c.tokens) for c in ours] == [3, 4]
    assert ours[0].stop == Stop.TOKEN_LIMIT
    assert ours[0].tokens == _theirs("qwen2", prompt, 3)


@pytest.mark.parametrize("length", [0, 512, 600])
def test_a_prompt_that_is_empty_or_fills_the_context_is_refused_by_its_place(length: int):
    prompts = [[1], [2] * length]
    with pytest.raises(DataError, match=f"prompt 1 has {length} tokens"):
        _complete(tiny_decoder("qwen2"), prompts)


def test_no_prompts_give_no_completions():
    assert _complete(tiny_decoder("qwen2"), []) == []


SAMPLED = GenerationConfig(max_new_tokens=19, temperature=1.3, top_p=0.9)


def test_the_seed_decides_the_draws():
    decoder = tiny_decoder("qwen2")
    torch.manual_seed(1)
    first = _tokens(decoder, PROMPTS, SAMPLED, seed=5)
    torch.manual_seed(2)
    assert _tokens(decoder, PROMPTS, SAMPLED, seed=5) == first
    other = _tokens(decoder, PROMPTS, SAMPLED, seed=6)
    assert not set(other) & set(first)


def test_the_same_prompt_twice_is_completed_in_two_ways():
    first, second = _tokens(tiny_decoder("qwen2"), [PROMPTS[0]] * 2, SAMPLED)
    assert first != second


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_sampled_completions_do_not_depend_on_the_batch(batch_size: int):
    # In float64, where the rounding that differs between batch sizes decides nothing.
    decoder = tiny_decoder("qwen3", torch.float64)
    assert _tokens(decoder, PROMPTS, SAMPLED, batch_size=batch_size) == _tokens(
        decoder, PROMPTS, SAMPLED
    )


def test_generating_leaves_the_global_random_state_and_the_mode_alone():
    decoder = tiny_decoder("qwen2").train()
    before = torch.get_rng_state()
    _complete(decoder, PROMPTS, SAMPLED)
    assert torch.equal(before, torch.get_rng_state())
    assert decoder.training


def test_an_adapter_changes_completions_and_base_only_gives_the_old_ones():
    decoder = tiny_decoder("qwen2")
    before = _tokens(decoder, PROMPTS)
    attach_trained(decoder)
    assert _tokens(decoder, PROMPTS) != before
    with base_only(decoder):
        assert _tokens(decoder, PROMPTS) == before


def test_generating_between_two_steps_leaves_training_possible():
    decoder = tiny_decoder("qwen2")
    adapter = attach_trained(decoder)
    _complete(decoder, PROMPTS)
    hidden_of(decoder, random_documents((5, 3))).sum().backward()
    assert all(parameter.grad is not None for parameter in adapter)


@BY_FAMILY
@pytest.mark.parametrize("config", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_the_pieces_of_a_stream_make_up_the_text(name: str, config: GenerationConfig):
    pieces: dict[int, str] = dict.fromkeys(range(len(PROMPTS)), "")
    ended: dict[int, Completion] = {}

    def take(index: int, piece: str) -> None:
        assert piece
        assert index not in ended
        pieces[index] += piece

    ours = _complete(
        tiny_decoder(name), PROMPTS, config, batch_size=2, on_text=take, on_done=ended.__setitem__
    )
    assert [ended[index] for index in range(len(PROMPTS))] == ours
    for index, completion in enumerate(ours):
        assert completion.text == chatml().decode(list(completion.tokens))
        assert pieces[index] == completion.text


TEXTS = {
    "plain": "The patient has a fever.",
    "characters over several tokens": "病人發燒😀、咳嗽🩺 ñ é 👩‍⚕️",
    "lines that end in the middle of characters": "一\n二\n\n三🩺\n🩺\n",
    "longer than a settled stretch": "體溫🌡️ 38.5 度，fever. " * 40,
    "replacement characters of its own": "a�b��c�",
    "spaces": "  a   b \n  c  ",
    "marks": "<|im_start|>user\n<|im_end|>\n",
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_a_stream_gives_every_character_once_and_none_by_halves(text: str):
    tokens = chatml().encode(text, add_special_tokens=False)
    stream, pieces = TextStream(chatml()), []
    for num in range(1, len(tokens) + 1):
        pieces.append(stream.push(tokens[:num], ended=False))
    pieces.append(stream.push(tokens, ended=True))
    assert "".join(pieces) == chatml().decode(tokens) == text
    if "�" not in text:
        assert not any("�" in piece for piece in pieces)


def test_a_stream_that_ends_within_a_character_shows_that_it_does():
    tokens = chatml().encode("a🩺", add_special_tokens=False)[:-1]
    stream = TextStream(chatml())
    pieces = [stream.push(tokens[:n], ended=n == len(tokens)) for n in range(1, len(tokens) + 1)]
    assert "".join(pieces) == chatml().decode(tokens)
    assert pieces[0] == "a"
