"""Benchmarks get the shapes they name and documents of the lengths they ask for."""

import statistics

import pytest
from transformers import AutoConfig

from thinktune.data.segments import Segment
from thinktune.errors import ConfigError
from thinktune.model.shape import ARCHITECTURES, shape_from_config
from thinktune.workload import (
    LONGEST,
    SHAPES,
    SHORTEST,
    document_lengths,
    examples_of_timed_step,
    random_examples,
)


@pytest.mark.parametrize("name", SHAPES)
def test_a_shape_is_read_alike_by_transformers_and_by_us(name: str) -> None:
    values = {key: value for key, value in SHAPES[name].items() if key != "model_type"}
    theirs = AutoConfig.for_model(SHAPES[name]["model_type"], **values)
    ours = shape_from_config(SHAPES[name])
    assert ours.hidden_size == theirs.hidden_size
    assert ours.num_key_value_heads == theirs.num_key_value_heads
    assert ours.head_dim == (getattr(theirs, "head_dim", None) or ours.head_dim)
    assert ours.tie_word_embeddings == theirs.tie_word_embeddings
    assert ours.rope_theta == theirs.rope_parameters["rope_theta"]
    assert (ours.rope_scaling is None) == (theirs.rope_parameters["rope_type"] == "default")
    assert SHAPES[name]["architectures"] == [ARCHITECTURES[ours.model_type]]


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("llama-3.1-8b", 8.03),
        ("llama-3.1-70b", 70.55),
        ("qwen2.5-7b", 7.62),
        ("qwen2.5-14b", 14.77),
        ("qwen2.5-32b", 32.76),
        ("qwen3-8b", 8.19),
        ("qwen2.5-1.5b", 1.54),
    ],
)
def test_a_shape_has_as_many_weights_as_its_name_says(name: str, billions: float) -> None:
    shape = shape_from_config(SHAPES[name])
    width, head = shape.hidden_size, shape.head_dim
    attention = 2 * width * head * (shape.num_attention_heads + shape.num_key_value_heads)
    layer = attention + 3 * width * shape.intermediate_size
    embeddings = shape.vocab_size * width * (1 if shape.tie_word_embeddings else 2)
    count = shape.num_hidden_layers * layer + embeddings
    assert count / 1e9 == pytest.approx(billions, abs=0.01)


def test_equal_documents_are_as_many_and_as_long_as_asked() -> None:
    assert document_lengths("3x7", seed=0) == document_lengths("3x7", seed=1) == (7, 7, 7)


@pytest.mark.parametrize("tokens", [16, 17, 31, 32, 33, 1500, 8192, 8193, 8207, 8208, 16384, 40961])
def test_a_lognormal_pack_is_exactly_full_and_no_document_is_out_of_bounds(tokens: int) -> None:
    for seed in range(200):
        lengths = document_lengths(f"lognormal:{tokens}", seed)
        assert sum(lengths) == tokens
        assert min(lengths) >= SHORTEST
        assert max(lengths) <= min(LONGEST, tokens)


def test_lognormal_packs_have_the_lengths_of_long_chains_of_thought() -> None:
    packs = [document_lengths("lognormal:16384", seed) for seed in range(500)]
    assert statistics.mean(map(len, packs)) == pytest.approx(9, abs=0.5)
    whole = [length for pack in packs for length in pack[:-1]]
    assert statistics.median(whole) == pytest.approx(1500, rel=0.1)
    assert len(set(packs)) == len(packs)
    assert document_lengths("lognormal:16384", 3) == packs[3]


@pytest.mark.parametrize(
    "spec", ["", "4096", "4x", "0x4096", "4x0", "4x1", "4 x 4096", "lognormal", "lognormal:15"]
)
def test_documents_that_cannot_be_are_refused_with_the_forms_that_can(spec: str) -> None:
    with pytest.raises(ConfigError, match=r"4x4096.*lognormal:16384") as error:
        document_lengths(spec, seed=0)
    assert repr(spec) in str(error.value)


def test_every_token_but_the_first_is_a_target() -> None:
    examples = random_examples((5, 16), vocab_size=7, seed=0)
    assert [len(example.tokens) for example in examples] == [5, 16]
    for example in examples:
        assert example.prompt_length == 1
        assert example.segments[0] is Segment.PROMPT
        assert set(example.segments[1:]) == {Segment.REASONING}
        assert set(example.tokens) <= set(range(7))


@pytest.mark.parametrize(
    ("length", "fraction", "prompt"), [(10, 0.3, 3), (10, 0.99, 9), (2, 0.5, 1), (2, 0.0, 1)]
)
def test_a_prompt_takes_its_share_and_leaves_a_target(
    length: int, fraction: float, prompt: int
) -> None:
    (example,) = random_examples((length,), 7, 0, prompt_fraction=fraction)
    assert example.prompt_length == example.segments.count(Segment.PROMPT) == prompt


@pytest.mark.parametrize("fraction", [-0.1, 1.0, float("nan")])
def test_a_prompt_that_leaves_nothing_is_refused(fraction: float) -> None:
    with pytest.raises(ConfigError, match="prompt_fraction"):
        random_examples((4,), 7, 0, prompt_fraction=fraction)


def test_a_document_without_a_target_is_refused() -> None:
    with pytest.raises(ConfigError, match="none to predict"):
        random_examples((4, 1), 7, 0)


def test_steps_see_different_documents_and_everybody_the_same() -> None:
    first, second = (examples_of_timed_step("lognormal:64", 512, step) for step in (0, 1))
    assert first == examples_of_timed_step("lognormal:64", 512, 0)
    assert [e.tokens for e in first] != [e.tokens for e in second]
