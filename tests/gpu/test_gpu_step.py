"""The same step on a CUDA device: equal to the CPU's in float32, and training in bf16."""

from pathlib import Path

import pytest
import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from tests.tokenizers import chatml
from thinktune.data.loader import SegmentConfig, pack, segment_weights
from thinktune.data.segments import Rendered, Segment
from thinktune.generation.completion import GenerationConfig
from thinktune.generation.engine import generate
from thinktune.model.checkpoint_io import load_decoder
from thinktune.model.lora import LoRAConfig, adapter_parameters, attach
from thinktune.training.optimizer import AdapterOptimizer, OptimizerConfig
from thinktune.training.step import train_step

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]

SIZES = {
    "vocab_size": 512,
    "hidden_size": 128,
    "intermediate_size": 320,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
FAMILIES = {
    "llama": (LlamaForCausalLM, LlamaConfig(**SIZES, tie_word_embeddings=True)),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config(**SIZES, tie_word_embeddings=False)),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config(**SIZES, head_dim=32, tie_word_embeddings=False)),
}


def _folder(family: str, folder: Path) -> Path:
    torch.manual_seed(1)
    kind, config = FAMILIES[family]
    kind(config).save_pretrained(folder)
    return folder


def _examples() -> list[Rendered]:
    generator = torch.Generator().manual_seed(2)
    rows = []
    for length in (37, 1000, 5, 211):
        tokens = tuple(torch.randint(1, 512, (length,), generator=generator).tolist())
        prompt = length // 3
        segments = (Segment.PROMPT,) * prompt + (Segment.REASONING,) * (length - prompt)
        rows.append(Rendered(tokens, segments, prompt, f"row {length}"))
    return rows


def _steps(folder: Path, device: str, dtype: torch.dtype) -> tuple[list[float], dict]:
    decoder = load_decoder(folder, dtype=dtype, device=torch.device(device))
    attach(decoder, LoRAConfig(rank=8, alpha=16), seed=3)
    assert decoder.adapter is not None
    optimizer = AdapterOptimizer(decoder.adapter.weights, OptimizerConfig(learning_rate=1e-3))
    rows = pack(_examples(), segment_weights(SegmentConfig(), SegmentConfig()), 1100)
    rows = [row.to(torch.device(device)) for row in rows]
    decoder.train()
    # All are launched before the first is read, as the loop does it.
    launched = [train_step(decoder, optimizer, rows, max_grad_norm=1.0) for _ in range(4)]
    losses = [step.read().losses.loss for step in launched]
    return losses, {n: p.detach().cpu() for n, p in adapter_parameters(decoder).items()}


@pytest.mark.parametrize("family", FAMILIES)
def test_float32_steps_equal_the_cpus(family: str, tmp_path: Path) -> None:
    folder = _folder(family, tmp_path)
    on_cpu, adapter_cpu = _steps(folder, "cpu", torch.float32)
    on_gpu, adapter_gpu = _steps(folder, "cuda", torch.float32)
    assert on_gpu == pytest.approx(on_cpu, rel=1e-5)
    for name, value in adapter_cpu.items():
        torch.testing.assert_close(adapter_gpu[name], value, rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_bf16_steps_lower_the_loss(family: str, tmp_path: Path) -> None:
    losses, _ = _steps(_folder(family, tmp_path), "cuda", torch.bfloat16)
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0] - 0.01


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_completions_equal_the_cpus(family: str, tmp_path: Path) -> None:
    folder = _folder(family, tmp_path)
    prompts = [[5, 6, 7], [11] * 40, [3]]
    config = GenerationConfig(max_new_tokens=150, temperature=0, top_p=1)

    texts = []
    for device in ("cpu", "cuda"):
        decoder = load_decoder(folder, dtype=torch.float32, device=torch.device(device))
        done = generate(decoder, chatml(), prompts, config, stop_token_ids=[0], batch_size=2)
        texts.append([completion.tokens for completion in done])
    assert texts[0] == texts[1]
