"""Tiny random models of the three families, as transformers writes them.

Every switch of the decoder is on in at least one of them, and no weight is zero or one: biases
and norms are random too. Models and folders are cached and shared; a test that changes a model
copies it first, one that changes a folder saves its own.
"""

import atexit
import shutil
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from tests.tokenizers import chatml
from thinktune.model.checkpoint_io import load_decoder
from thinktune.model.decoder import Decoder
from thinktune.model.lora import LoRAConfig, adapted_layers, adapter_parameters, attach
from thinktune.ops.attention import PackedAttention
from thinktune.training.optimizer import AdapterOptimizer, OptimizerConfig

CPU = torch.device("cpu")

_SIZES = {"hidden_size": 48, "intermediate_size": 67, "num_hidden_layers": 2}
_GROUPED = {"num_attention_heads": 6, "num_key_value_heads": 2}
_FULL = {"num_attention_heads": 4, "num_key_value_heads": 4}
_ONE_KEY = {"num_attention_heads": 3, "num_key_value_heads": 1}
# Positions beyond 16 are in the stretched range, and between the two factors lies a blend.
_LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
# As DeepSeek-R1-0528-Qwen3-8B has it, for a shorter context.
_YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 128,
    "attention_factor": 0.8782488562869419,
}

_MODELS: dict[str, tuple[type, type, dict[str, Any]]] = {
    "llama": (LlamaConfig, LlamaForCausalLM, _GROUPED),
    "llama_rope_scaled": (
        LlamaConfig,
        LlamaForCausalLM,
        _GROUPED | {"rope_parameters": _LLAMA3_ROPE, "tie_word_embeddings": True},
    ),
    "llama_biased": (
        LlamaConfig,
        LlamaForCausalLM,
        _FULL | {"attention_bias": True, "mlp_bias": True, "head_dim": 10},
    ),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM, _GROUPED | {"rms_norm_eps": 1e-5}),
    "qwen2_tied": (Qwen2Config, Qwen2ForCausalLM, _FULL | {"tie_word_embeddings": True}),
    "qwen2_yarn": (
        Qwen2Config,
        Qwen2ForCausalLM,
        _FULL | {"rope_parameters": {k: v for k, v in _YARN.items() if "attention" not in k}},
    ),
    "qwen3_yarn": (
        Qwen3Config,
        Qwen3ForCausalLM,
        _GROUPED | {"head_dim": 32, "rope_parameters": _YARN},
    ),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM, _GROUPED | {"head_dim": 14}),
    "qwen3_biased": (
        Qwen3Config,
        Qwen3ForCausalLM,
        _ONE_KEY | {"head_dim": 22, "attention_bias": True, "tie_word_embeddings": True},
    ),
}
MODELS = tuple(_MODELS)
FAMILIES = ("llama_rope_scaled", "qwen2", "qwen3")
"""One of each family, for what costs more."""


def make_model(name: str, seed: int = 0, **changes: Any) -> PreTrainedModel:
    """A new model; ``changes`` go into its configuration."""
    config_class, model_class, options = _MODELS[name]
    config = config_class(
        **_SIZES | options | {"vocab_size": len(chatml()), "max_position_embeddings": 512} | changes
    )
    # Eager attention is the plain formula, with none of the kernels we use ourselves.
    config._attn_implementation = "eager"
    generator = torch.Generator().manual_seed(seed)
    model = model_class(config)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim == 2:
                parameter.copy_(noise * 1.3 / parameter.shape[1] ** 0.5)
            else:
                is_norm = bool((parameter == 1).all())
                parameter.copy_(noise * 0.3 + float(is_norm))
    return model.eval()


@cache
def tiny_model(name: str) -> PreTrainedModel:
    """The transformers model of that name, in float32."""
    return make_model(name)


def save_model(model: PreTrainedModel, folder: Path, **options: Any) -> Path:
    """Write model and tokenizer to ``folder``; options such as ``max_shard_size``."""
    model.save_pretrained(folder, **options)
    chatml().save_pretrained(folder)
    return folder


@cache
def tiny_checkpoint(name: str) -> Path:
    """A folder with the model of that name; it goes when the tests end."""
    folder = Path(tempfile.mkdtemp(prefix=f"{name}-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return save_model(tiny_model(name), folder)


def tiny_decoder(name: str, dtype: torch.dtype = torch.float32) -> Decoder:
    """Our decoder with the weights of that model; new each time."""
    return load_decoder(tiny_checkpoint(name), dtype=dtype, device=CPU)


def attach_trained(
    decoder: Decoder, config: LoRAConfig | None = None, *, seed: int = 1
) -> list[nn.Parameter]:
    """Attach an adapter that does something: B is random."""
    attach(decoder, config or LoRAConfig(rank=3, alpha=5.0), seed=seed)
    generator = torch.Generator().manual_seed(seed + 1)
    for layer in adapted_layers(decoder).values():
        with torch.no_grad():
            layer.lora_B.copy_(torch.randn(layer.lora_B.shape, generator=generator) * 0.3)
    return [p for layer in adapted_layers(decoder).values() for p in (layer.lora_A, layer.lora_B)]


class KeepGradients(AdapterOptimizer):
    """Takes no step; keeps the gradients it was given, by the names of the matrices."""

    def __init__(self, decoder: Decoder) -> None:
        """Watch the adapter of a decoder."""
        assert decoder.adapter is not None
        super().__init__(decoder.adapter.weights, OptimizerConfig())
        self.decoder, self.kept = decoder, dict[str, Tensor]()

    def step(self, closure: None = None) -> None:
        """Copy them."""
        parameters = adapter_parameters(self.decoder)
        self.kept = {n: p.grad.clone() for n, p in parameters.items() if p.grad is not None}


def random_documents(lengths: Sequence[int], seed: int = 0) -> list[Tensor]:
    """Documents of random tokens."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(len(chatml()), (n,), generator=generator) for n in lengths]


def hidden_of(decoder: Decoder, documents: Sequence[Tensor]) -> Tensor:
    """Hidden states of documents packed into one row."""
    lengths = [len(document) for document in documents]
    positions = torch.cat([torch.arange(n) for n in lengths])
    return decoder(torch.cat(list(documents)), positions, PackedAttention(lengths))


def logits_of(decoder: Decoder, documents: Sequence[Tensor]) -> Tensor:
    """Logits at every token of documents packed into one row."""
    return decoder.logits(hidden_of(decoder, documents))


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    """Frobenius norm of the difference over that of the right one."""
    difference = (ours.double() - theirs.double()).norm()
    return float(difference / theirs.double().norm().clamp_min(1e-300))
