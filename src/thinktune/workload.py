"""Shapes and random documents for timing: what every side of a benchmark is given."""

import math
import random
import re
from collections.abc import Sequence
from typing import Any

from thinktune.data.segments import Rendered, Segment
from thinktune.errors import ConfigError

SHORTEST, LONGEST = 16, 8192
"""Tokens of the shortest and of the longest document in a lognormal pack."""
MEDIAN, SIGMA = 1500, 0.75
"""Of a document's length; packs of 16,384 tokens then hold about nine."""

_LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "attention_bias": False,
    "mlp_bias": False,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}
_LLAMA_3_1 = _LLAMA | {
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "rope_theta": 500000.0,
    "rope_scaling": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
    "bos_token_id": 128000,
    "eos_token_id": 128001,
}
_QWEN2 = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "num_hidden_layers": 28,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "max_position_embeddings": 131072,
    "use_sliding_window": False,
    "bos_token_id": 151643,
    "eos_token_id": 151643,
    "torch_dtype": "bfloat16",
}
SHAPES: dict[str, dict[str, Any]] = {
    "llama-3.1-8b": _LLAMA_3_1
    | {
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
    },
    "llama-3.1-70b": _LLAMA_3_1
    | {
        "hidden_size": 8192,
        "intermediate_size": 28672,
        "num_hidden_layers": 80,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
    },
    "qwen2.5-7b": _QWEN2
    | {
        "vocab_size": 152064,
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "tie_word_embeddings": False,
    },
    "qwen2.5-14b": _QWEN2
    | {
        "vocab_size": 152064,
        "hidden_size": 5120,
        "intermediate_size": 13824,
        "num_hidden_layers": 48,
        "num_attention_heads": 40,
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
    },
    "qwen2.5-32b": _QWEN2
    | {
        "vocab_size": 152064,
        "hidden_size": 5120,
        "intermediate_size": 27648,
        "num_hidden_layers": 64,
        "num_attention_heads": 40,
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
    },
    "qwen3-8b": {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "vocab_size": 151936,
        "hidden_size": 4096,
        "intermediate_size": 12288,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "attention_bias": False,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "max_position_embeddings": 40960,
        "use_sliding_window": False,
        "tie_word_embeddings": False,
        "bos_token_id": 151643,
        "eos_token_id": 151645,
        "torch_dtype": "bfloat16",
    },
    "qwen2.5-1.5b": _QWEN2
    | {
        "vocab_size": 151936,
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
    },
    "tiny": _LLAMA
    | {
        "vocab_size": 512,
        "hidden_size": 64,
        "intermediate_size": 176,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 4096,
        "rope_theta": 10000.0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
}
"""Configurations as they stand in ``config.json`` on the Hub; ``tiny`` is for tests on a CPU."""


def document_lengths(spec: str, seed: int) -> tuple[int, ...]:
    """Tokens of each document of one step.

    Args:
        spec: ``4x4096``, documents times tokens; or ``lognormal:16384``, one pack of exactly that
            many tokens with the lengths of long chains of thought.
        seed: decides the lengths of a lognormal pack.

    Raises:
        ConfigError: the specification is not one of these.

    >>> document_lengths("4x4096", seed=0)
    (4096, 4096, 4096, 4096)
    """
    if found := re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", spec):
        num_documents, tokens = int(found[1]), int(found[2])
        if tokens > 1:
            return (tokens,) * num_documents
    elif found := re.fullmatch(r"lognormal:([1-9]\d*)", spec):
        tokens = int(found[1])
        if tokens >= SHORTEST:
            return _lognormal_pack(tokens, random.Random(seed))
    raise ConfigError(
        f"documents {spec!r} are neither DOCUMENTSxTOKENS, like 4x4096, of at least 2 tokens each, "
        f"nor lognormal:TOKENS, like lognormal:16384, of at least {SHORTEST} tokens"
    )


def _lognormal_pack(tokens: int, source: random.Random) -> tuple[int, ...]:
    """Draw documents until the pack is full; the last is cut to what is left."""
    longest = min(LONGEST, tokens)
    lengths: list[int] = []
    left = tokens
    while left:
        drawn = round(source.lognormvariate(math.log(MEDIAN), SIGMA))
        length = min(max(drawn, SHORTEST), longest, left)
        rest = left - length
        if 0 < rest < SHORTEST:
            # Too little for one more document: take it in, or leave one room.
            length += rest if length + rest <= longest else rest - SHORTEST
        lengths.append(length)
        left -= length
    return tuple(lengths)


def random_examples(
    lengths: Sequence[int], vocab_size: int, seed: int, *, prompt_fraction: float = 0.0
) -> list[Rendered]:
    """Documents of random tokens; all but the prompt is reasoning, so carries loss.

    Args:
        lengths: tokens of each document, at least 2.
        vocab_size: tokens are below it.
        seed: decides the tokens.
        prompt_fraction: share of each document that is its prompt, from 0 to below 1. The first
            token always is, the last never.

    Raises:
        ConfigError: the share is out of range, or a document has no token to predict.
    """
    if not 0 <= prompt_fraction < 1:
        raise ConfigError(f"prompt_fraction={prompt_fraction} is not from 0 to below 1")
    if min(lengths, default=2) < 2:
        raise ConfigError(f"a document of {min(lengths)} tokens has none to predict; at least 2")
    source, vocabulary = random.Random(seed), range(vocab_size)
    examples = []
    for number, length in enumerate(lengths):
        prompt = min(max(1, round(prompt_fraction * length)), length - 1)
        segments = (Segment.PROMPT,) * prompt + (Segment.REASONING,) * (length - prompt)
        tokens = tuple(source.choices(vocabulary, k=length))
        examples.append(Rendered(tokens, segments, prompt, f"random document {number}"))
    return examples


def examples_of_timed_step(spec: str, vocab_size: int, step: int) -> list[Rendered]:
    """What step ``step`` (from 0, warm-up counted) of a benchmark trains on, whoever is timed."""
    return random_examples(document_lengths(spec, seed=step), vocab_size, seed=step)
