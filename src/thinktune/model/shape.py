"""What a checkpoint's config.json says about its shape, and which shapes this build can run."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from thinktune.errors import CheckpointError
from thinktune.ops.rope import Llama3Scaling, RopeScaling, YarnScaling

ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}
"""Model types one decoder covers, and their class names on the Hub."""


@dataclass(frozen=True, slots=True)
class DecoderShape:
    """Sizes and switches of a Llama, Qwen2 or Qwen3 decoder."""

    model_type: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    rms_norm_eps: float
    rope_theta: float
    rope_scaling: RopeScaling | None
    tie_word_embeddings: bool
    qkv_bias: bool
    o_bias: bool
    mlp_bias: bool
    qk_norm: bool
    max_position_embeddings: int


def _number(values: Mapping[str, Any], key: str, where: str, default: float | None = None) -> float:
    value = values.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise CheckpointError(f"{where}: {key} is {value!r}, not a number")
    return float(value)


def _rope(config: Mapping[str, Any], where: str) -> tuple[float, RopeScaling | None]:
    """Read theta and scaling in the old spelling (two keys) or the new (rope_parameters)."""
    rope = {**(config.get("rope_scaling") or {}), **(config.get("rope_parameters") or {})}
    theta = _number({**config, **rope}, "rope_theta", where, 10000.0)
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return theta, None
    if kind not in ("llama3", "yarn"):
        raise CheckpointError(
            f"{where}: rope scaling {kind!r} is not supported; this build knows 'default', "
            "'llama3' and 'yarn'"
        )
    factor = _number(rope, "factor", where)
    context = int(_number(rope, "original_max_position_embeddings", where))
    if kind == "llama3":
        low, high = (_number(rope, f"{end}_freq_factor", where) for end in ("low", "high"))
        return theta, Llama3Scaling(factor, low, high, context)
    return theta, YarnScaling(
        factor=factor,
        original_max_position_embeddings=context,
        attention_factor=_yarn_attention_factor(rope, factor),
        beta_fast=_number(rope, "beta_fast", where, 32.0),
        beta_slow=_number(rope, "beta_slow", where, 1.0),
        truncate=bool(rope.get("truncate", True)),
    )


def _yarn_attention_factor(rope: Mapping[str, Any], factor: float) -> float:
    if rope.get("attention_factor") is not None:
        return float(rope["attention_factor"])

    def grown(scale: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * scale * math.log(factor) + 1

    top, bottom = rope.get("mscale"), rope.get("mscale_all_dim")
    return grown(top) / grown(bottom) if top and bottom else grown(1.0)


def stored_as_nf4(config: Mapping[str, Any]) -> bool:
    """Whether a checkpoint's configuration says that bitsandbytes quantised it to NF4."""
    how = config.get("quantization_config")
    if not isinstance(how, Mapping):
        return False
    return (how.get("quant_method"), how.get("bnb_4bit_quant_type")) == ("bitsandbytes", "nf4")


def _refuse_unsupported(config: Mapping[str, Any], where: str) -> None:
    kind = config.get("model_type")
    if kind not in ARCHITECTURES:
        raise CheckpointError(
            f"{where}: model_type {kind!r} is not supported; this build runs "
            f"{', '.join(ARCHITECTURES)}"
        )
    if (act := config.get("hidden_act", "silu")) != "silu":
        raise CheckpointError(f"{where}: hidden_act {act!r} is not supported; only 'silu' is")
    if config.get("use_sliding_window"):
        raise CheckpointError(f"{where}: sliding-window attention is not supported")
    quantised = config.get("quantization_config")
    if quantised and not stored_as_nf4(config):
        method = quantised.get("quant_method") if isinstance(quantised, Mapping) else quantised
        raise CheckpointError(
            f"{where}: the checkpoint is quantised ({method or 'unknown method'}); this build "
            "loads 16- or 32-bit safetensors, and NF4 as bitsandbytes writes it: use the "
            "unquantised repository, with base_dtype=nf4 for a small card"
        )
    missing = [
        key
        for key in (
            "vocab_size",
            "hidden_size",
            "intermediate_size",
            "num_hidden_layers",
            "num_attention_heads",
        )
        if not isinstance(config.get(key), int)
    ]
    if missing:
        raise CheckpointError(f"{where}: no {', '.join(missing)}; not a complete decoder config")


def shape_from_config(config: Mapping[str, Any], where: str = "config.json") -> DecoderShape:
    """Read the decoder's shape from a Hub configuration.

    Args:
        config: the parsed ``config.json``.
        where: names the file in errors.

    Raises:
        CheckpointError: the architecture, or an option of it, is not one this decoder runs.
    """
    _refuse_unsupported(config, where)
    kind = config["model_type"]
    theta, scaling = _rope(config, where)
    heads = config["num_attention_heads"]
    bias = bool(config.get("attention_bias", False))
    return DecoderShape(
        model_type=kind,
        vocab_size=config["vocab_size"],
        hidden_size=config["hidden_size"],
        intermediate_size=config["intermediate_size"],
        num_hidden_layers=config["num_hidden_layers"],
        num_attention_heads=heads,
        num_key_value_heads=config.get("num_key_value_heads") or heads,
        head_dim=config.get("head_dim")
        or (128 if kind == "qwen3" else config["hidden_size"] // heads),
        rms_norm_eps=_number(config, "rms_norm_eps", where, 1e-6),
        rope_theta=theta,
        rope_scaling=scaling,
        tie_word_embeddings=bool(config.get("tie_word_embeddings", False)),
        qkv_bias=kind == "qwen2" or bias,
        o_bias=kind != "qwen2" and bias,
        mlp_bias=bool(config.get("mlp_bias", False)),
        qk_norm=kind == "qwen3",
        max_position_embeddings=int(_number(config, "max_position_embeddings", where, 2048.0)),
    )
