"""Training in float16 on a CUDA device that plays a card without bfloat16 and FlashAttention."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from tests.tiny_models import relative_error
from tests.tokenizers import chatml
from thinktune.data.loader import PackedRow, SegmentConfig, pack, segment_weights
from thinktune.data.segments import Rendered, Segment
from thinktune.errors import TrainingError
from thinktune.generation.completion import GenerationConfig
from thinktune.generation.engine import generate
from thinktune.kernels.language import as_capability
from thinktune.model.checkpoint_io import load_decoder
from thinktune.model.decoder import Decoder
from thinktune.model.kept import Keep
from thinktune.model.lora import LoRAConfig, attach
from thinktune.ops.attention import Kernel, PackedAttention
from thinktune.training.optimizer import AdapterOptimizer, OptimizerConfig
from thinktune.training.step import train_step

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
    pytest.mark.filterwarnings("ignore:Synchronization debug mode:UserWarning"),
]
# cuBLAS reads it once; without it PyTorch refuses products where everything is to be repeatable.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
CUDA, HALF = torch.device("cuda"), torch.float16
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
BY_MODEL = pytest.mark.parametrize("name", MODELS)
PACKS = {
    "one document": (4, 2, 64, (300,)),
    "one token": (4, 4, 64, (1,)),
    "many": (8, 2, 128, (97, 1, 300, 64, 13, 32, 33)),
    "one key head": (3, 1, 80, (128, 5)),
    "one token apart": (4, 2, 64, (1, 70, 2)),
    "a long one among short ones": (4, 1, 64, (3,) * 60 + (2047,)),
    "wide heads": (2, 1, 256, (65, 200)),
}


@pytest.fixture(autouse=True)
def turing() -> Iterator[None]:
    """All tests here choose their kernels as a T4 would."""
    with as_capability((7, 5)):
        yield


def _decoder(name: str, folder: Path, dtype: torch.dtype = HALF, dropout: float = 0.0) -> Decoder:
    """Weights that float16 holds, whatever they are computed in."""
    torch.manual_seed(1)
    kind, config = MODELS[name]
    kind(config).to(HALF).save_pretrained(folder)
    decoder = load_decoder(folder, dtype=dtype, device=CUDA)
    attach(decoder, LoRAConfig(rank=8, alpha=16, dropout=dropout), seed=3)
    assert decoder.adapter is not None
    generator = torch.Generator(CUDA).manual_seed(4)
    with torch.no_grad():
        decoder.adapter.weights.normal_(std=0.05, generator=generator)
    return decoder.train()


def _rows(step: int, lengths: Sequence[int] = (97, 1, 300, 64, 13)) -> list[PackedRow]:
    """Counting in steps of 1 to 5: something that can be learned."""
    examples = []
    for place, length in enumerate(lengths):
        start, stride = 7 * step + 31 * place, 1 + (step + place) % 5
        tokens = tuple((start + stride * i) % 500 for i in range(length))
        segments = (Segment.PROMPT,) + (Segment.REASONING,) * (length - 1)
        examples.append(Rendered(tokens, segments, 1, f"row {place}"))
    return pack(examples, segment_weights(SegmentConfig(), SegmentConfig()), 1024)


def _optimizer(decoder: Decoder, rate: float = 1e-3) -> AdapterOptimizer:
    assert decoder.adapter is not None
    config = OptimizerConfig(learning_rate=rate)
    return AdapterOptimizer(decoder.adapter.weights, config, decoder.dtype)


def _there(rows: Sequence[PackedRow]) -> list[PackedRow]:
    return [row.to(CUDA) for row in rows]


def _attend(
    kernel: Kernel, qkv: Tensor, grad: Tensor, shape: tuple[int, int, int], lengths: Sequence[int]
) -> list[Tensor]:
    heads, kv_heads, width = shape
    parts = qkv.unflatten(1, (-1, width)).split((heads, kv_heads, kv_heads), dim=1)
    attend = PackedAttention(lengths, kernel=kernel)
    q, k, v = parts
    with torch.no_grad():
        out, saved = attend.forward(0, q, k, v)
    room = torch.empty_like(qkv).unflatten(1, (-1, width))[:, :heads]
    grads = attend.backward(grad, (q, k, v), out, saved, room)
    return [out, *grads]


@pytest.mark.parametrize("dtype", [HALF, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", PACKS.values(), ids=PACKS)
def test_the_efficient_kernel_is_as_near_the_truth_as_pytorchs_own_choice(
    case: tuple[int, int, int, tuple[int, ...]], dtype: torch.dtype
) -> None:
    *shape, lengths = case
    heads, kv_heads, width = shape
    torch.manual_seed(0)
    qkv = torch.randn(sum(lengths), (heads + 2 * kv_heads) * width, device=CUDA).to(dtype)
    grad = torch.randn(sum(lengths), heads, width, device=CUDA).to(dtype)
    sizes = (heads, kv_heads, width)
    truth = _attend(Kernel.TRACED, qkv.double(), grad.double(), sizes, lengths)
    plain = _attend(Kernel.TRACED, qkv, grad, sizes, lengths)
    ours = _attend(Kernel.EFFICIENT, qkv, grad, sizes, lengths)
    rounding = torch.finfo(dtype).eps
    for mine, theirs, true in zip(ours, plain, truth, strict=True):
        assert mine.shape == true.shape
        assert mine.isfinite().all()
        if true.norm() > 1e-6:  # a document of one token gives query and key no gradient
            assert relative_error(mine, true) <= 1.5 * relative_error(theirs, true) + rounding


def test_a_document_has_no_part_in_another_not_even_a_rounding() -> None:
    lengths = (97, 64, 300)
    torch.manual_seed(0)
    qkv = torch.randn(sum(lengths), 8 * 64, device=CUDA).half()
    grad = torch.randn(sum(lengths), 4, 64, device=CUDA).half()
    before = _attend(Kernel.EFFICIENT, qkv, grad, (4, 2, 64), lengths)
    changed = qkv.clone()
    changed[97:161] = 9.0
    after = _attend(Kernel.EFFICIENT, changed, grad, (4, 2, 64), lengths)
    for mine, other in zip(before, after, strict=True):
        assert torch.equal(mine[:97], other[:97])
        assert torch.equal(mine[161:], other[161:])


@BY_MODEL
def test_the_gradient_is_nearer_float32s_than_bfloat16s_is(name: str, tmp_path: Path) -> None:
    losses, gradients = [], []
    for dtype in (torch.float32, HALF, torch.bfloat16):
        decoder = _decoder(name, tmp_path, dtype)
        assert decoder.adapter is not None
        step = train_step(
            decoder, _optimizer(decoder), _there(_rows(0)), max_grad_norm=float("inf")
        )
        losses.append(step.read().losses.loss)
        gradients.append(decoder.adapter.gradient.clone())
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    exact, ours, bf16 = gradients
    print(f"{name}: fp16 {relative_error(ours, exact):.1e}, bf16 {relative_error(bf16, exact):.1e}")
    assert relative_error(ours, exact) < 0.5 * relative_error(bf16, exact)


@pytest.mark.parametrize(("name", "dropout"), [("llama", 0.0), ("llama", 0.1), ("qwen3", 0.0)])
def test_whatever_is_kept_three_steps_give_the_same_bits(
    name: str, dropout: float, tmp_path: Path
) -> None:
    decoder = _decoder(name, tmp_path, dropout=dropout)
    assert decoder.adapter is not None
    start, results = decoder.adapter.weights.detach().clone(), []
    torch.use_deterministic_algorithms(True)
    try:
        for keep in (*Keep, Keep.ALL):
            with torch.no_grad():
                decoder.adapter.weights.copy_(start)
            decoder.plan((keep,) * 5, 1024)
            optimizer = _optimizer(decoder)
            for step in range(3):
                torch.manual_seed(step)
                train_step(decoder, optimizer, _there(_rows(step)), max_grad_norm=1.0).read()
            results.append(decoder.adapter.weights.detach().clone())
    finally:
        torch.use_deterministic_algorithms(False)
    assert not torch.equal(results[0], start)
    kinds = (*Keep, "again")
    assert not [k for k, x in zip(kinds, results, strict=True) if not torch.equal(x, results[0])]


def test_a_step_waits_for_nothing(tmp_path: Path) -> None:
    decoder = _decoder("llama", tmp_path)
    decoder.plan((Keep.ALL, Keep.HOST, Keep.HOST, Keep.HOST, Keep.NO_MLP), 1024)
    optimizer = _optimizer(decoder)
    for step in range(2):
        train_step(decoder, optimizer, _there(_rows(step)), max_grad_norm=1.0).read()
    new = _rows(5, (40, 77, 3))  # lengths that were not there before
    try:
        torch.cuda.set_sync_debug_mode("error")
        launched = train_step(decoder, optimizer, _there(new), max_grad_norm=1.0)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert launched.read().grad_norm > 0


def test_overflowing_steps_are_skipped_and_counted_though_read_late(tmp_path: Path) -> None:
    decoder, rows = _decoder("qwen3", tmp_path), _there(_rows(0))
    optimizer = _optimizer(decoder)
    assert optimizer.loss_scale is not None
    assert decoder.adapter is not None
    train_step(decoder, optimizer, rows, max_grad_norm=1.0).read()
    before = decoder.adapter.weights.detach().clone()
    optimizer.loss_scale.value.fill_(2.0**60)
    launched = [train_step(decoder, optimizer, rows, max_grad_norm=1.0) for _ in range(2)]
    numbers = [step.read() for step in launched]
    assert [(n.loss_scale, n.skipped_steps) for n in numbers] == [(2.0**60, 1), (2.0**59, 2)]
    assert torch.equal(decoder.adapter.weights, before)
    optimizer.loss_scale.value.fill_(2.0**12)
    assert train_step(decoder, optimizer, rows, max_grad_norm=1.0).read().skipped_steps == 2
    assert not torch.equal(decoder.adapter.weights, before)
    assert optimizer.num_steps() == 4


def test_a_layer_that_overflows_is_named(tmp_path: Path) -> None:
    decoder = _decoder("llama", tmp_path)
    with torch.no_grad():
        decoder.model.get_submodule("layers.3.mlp.down_proj").weight.fill_(6e4)
    launched = train_step(decoder, _optimizer(decoder), _there(_rows(0)), max_grad_norm=1.0)
    with pytest.raises(TrainingError, match="layer 3's feed-forward overflows float16"):
        launched.read()


@BY_MODEL
def test_the_loss_of_60_steps_follows_float32s_and_no_step_is_skipped(
    name: str, tmp_path: Path
) -> None:
    curves = []
    for dtype in (HALF, torch.float32):
        decoder = _decoder(name, tmp_path, dtype)
        optimizer = _optimizer(decoder)
        launched = [
            train_step(decoder, optimizer, _there(_rows(step % 4)), max_grad_norm=1.0)
            for step in range(60)
        ]
        metrics = [step.read() for step in launched]
        curves.append(torch.tensor([m.losses.loss for m in metrics]))
        assert metrics[-1].skipped_steps == (0 if dtype == HALF else None)
    ours, exact = curves
    assert exact[-4:].mean() < exact[:4].mean() - 0.3
    assert ((ours - exact).abs() / exact).max() < 0.03


@BY_MODEL
def test_greedy_completions_take_what_float32_puts_first_or_as_good_as_first(
    name: str, tmp_path: Path
) -> None:
    prompts = [[5, 6, 7], [11] * 40, [3]]
    config = GenerationConfig(max_new_tokens=8, temperature=0, top_p=1)
    done = generate(
        _decoder(name, tmp_path), chatml(), prompts, config, stop_token_ids=[0], batch_size=2
    )
    exact = _decoder(name, tmp_path, torch.float32)
    for prompt, completion in zip(prompts, done, strict=True):
        tokens = torch.tensor([*prompt, *completion.tokens], device=CUDA)[:-1]
        places = torch.arange(len(tokens), device=CUDA)
        with torch.no_grad():
            hidden = exact(tokens, places, PackedAttention([len(tokens)]))
        logits = exact.logits(hidden[len(prompt) - 1 :])
        taken = logits.gather(1, torch.tensor(completion.tokens, device=CUDA)[:, None])[:, 0]
        # The choices of random weights lie close together, other tokens several deviations below.
        assert (logits.amax(1) - taken).max() < 0.05 * logits.std()
