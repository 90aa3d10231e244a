"""On one GPU, deterministic steps are equal bit for bit; skipped ones change nothing, unseen."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import Qwen2Config, Qwen2ForCausalLM

from thinktune.data.loader import PackedRow, SegmentConfig, pack, segment_weights
from thinktune.data.segments import Rendered, Segment
from thinktune.determinism import Level, deterministic, guarantee
from thinktune.model.checkpoint_io import load_decoder
from thinktune.model.kept import Keep
from thinktune.model.lora import LoRAConfig, attach
from thinktune.ops.attention import Kernel, PackedAttention
from thinktune.training.fitting import fit
from thinktune.training.optimizer import AdapterOptimizer, OptimizerConfig
from thinktune.training.schedule import OnSpike
from thinktune.training.spikes import SpikeWatch
from thinktune.training.step import train_step

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
    pytest.mark.filterwarnings("ignore:Synchronization debug mode:UserWarning"),
]

CUDA = torch.device("cuda")
LORA = LoRAConfig(rank=8, alpha=16.0, dropout=0.1)
LENGTHS = (37, 1000, 5, 211, 640)


@pytest.fixture(autouse=True)
def _workspace(monkeypatch: pytest.MonkeyPatch) -> None:
    # Other tests have started CUDA; on one stream cuBLAS adds in one order all the same.
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


@pytest.fixture(scope="module", params=[64, 160], ids=["heads of 64", "heads of 160"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model; heads wider than 128 take the memory-efficient kernel."""
    torch.manual_seed(1)
    path, heads = tmp_path_factory.mktemp("model"), 4
    config = Qwen2Config(
        vocab_size=512,
        hidden_size=heads * request.param,
        intermediate_size=768,
        num_hidden_layers=3,
        num_attention_heads=heads,
        num_key_value_heads=2,
    )
    Qwen2ForCausalLM(config).save_pretrained(path)
    return path


def _rows() -> list[PackedRow]:
    generator = torch.Generator().manual_seed(2)
    examples = []
    for length in LENGTHS:
        tokens = tuple(torch.randint(1, 512, (length,), generator=generator).tolist())
        prompt = length // 3
        segments = (Segment.PROMPT,) * prompt + (Segment.REASONING,) * (length - prompt)
        examples.append(Rendered(tokens, segments, prompt, f"row {length}"))
    weights = segment_weights(SegmentConfig(), SegmentConfig())
    return [row.to(CUDA) for row in pack(examples, weights, 2048)]


def _train(folder: Path, dtype: torch.dtype, keep: Keep | None = None) -> list[Tensor]:
    """Numbers of six steps, then the weights."""
    decoder = load_decoder(folder, dtype=dtype, device=CUDA)
    attach(decoder, LORA, seed=3)
    assert decoder.adapter is not None
    rows = _rows()
    fit(decoder, LORA, max(row.num_tokens for row in rows), None, keep=keep)
    config = OptimizerConfig(learning_rate=1e-2)
    optimizer = AdapterOptimizer(decoder.adapter.weights, config, decoder.dtype, OnSpike.SKIP)
    decoder.train()
    launched = []
    for step in range(6):
        torch.manual_seed(step)
        launched.append(train_step(decoder, optimizer, rows, max_grad_norm=1.0))
    for step in launched:
        step.read()
    return [*(step.sums.clone() for step in launched), decoder.adapter.weights.detach().cpu()]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_deterministic_steps_are_equal_bit_for_bit(folder: Path, dtype: torch.dtype) -> None:
    with deterministic(True):
        assert guarantee(CUDA).level is Level.BITWISE
        runs = [_train(folder, dtype) for _ in range(3)]
    for again in runs[1:]:
        assert all(map(torch.equal, runs[0], again))


def test_what_a_layer_keeps_changes_no_bit(folder: Path) -> None:
    with deterministic(True):
        runs = [_train(folder, torch.bfloat16, keep) for keep in Keep]
    for other in runs[1:]:
        assert all(map(torch.equal, runs[0], other))


def test_deterministic_attention_takes_a_kernel_that_adds_in_one_order(folder: Path) -> None:
    width = load_decoder(folder, dtype=torch.bfloat16, device=CUDA).shape.head_dim
    q = torch.zeros(8, 4, width, dtype=torch.bfloat16, device=CUDA)
    with deterministic(True):
        kernel = PackedAttention([8]).kernel(q)
    assert kernel in (Kernel.FLASH, Kernel.EFFICIENT)


def test_the_watch_waits_for_nothing_and_agrees_with_the_cpus() -> None:
    generator = torch.Generator().manual_seed(0)
    numbers = torch.randn(80, 2, generator=generator).mul(0.2).exp()
    numbers[50, 0] *= 10
    numbers[70, 1] *= 10
    there, watch, here = numbers.to(CUDA), SpikeWatch(CUDA, OnSpike.WARN), []
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = [watch.look(step) for step in there]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    apart = SpikeWatch(torch.device("cpu"), OnSpike.WARN)
    here = [apart.look(step) for step in numbers]
    torch.testing.assert_close(torch.stack(found).cpu(), torch.stack(here), rtol=1e-4, atol=0)
    assert [step for step, times in enumerate(here) if times.any()] == [50, 70]


@pytest.mark.parametrize("on_spike", [OnSpike.SKIP, OnSpike.STOP])
def test_a_spike_changes_nothing_though_nobody_has_looked(folder: Path, on_spike: OnSpike) -> None:
    decoder = load_decoder(folder, dtype=torch.bfloat16, device=CUDA)
    attach(decoder, LORA, seed=3)
    assert decoder.adapter is not None
    weights = decoder.adapter.weights
    optimizer = AdapterOptimizer(weights, OptimizerConfig(), decoder.dtype, on_spike)
    decoder.train()
    train_step(decoder, optimizer, _rows(), max_grad_norm=1.0).read()
    assert optimizer.spikes is not None
    # As after many steps with a loss and gradient a hundred times smaller.
    optimizer.spikes.state["spikes_seen"].fill_(-5.0)
    before = [weights.detach().clone(), *(x.clone() for x in optimizer.state[weights].values())]
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        numbers = torch.tensor([5.0, 5.0], dtype=torch.float64).pin_memory()
        optimizer.look(numbers.to(CUDA, non_blocking=True))
        optimizer.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    after = [weights.detach(), *optimizer.state[weights].values()]
    assert all(map(torch.equal, before, after))
