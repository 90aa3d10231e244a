"""Training in float16: a stream in float32, a scaled loss, and overflow that is found and named."""

from collections.abc import Sequence

import peft
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from transformers import AutoModelForCausalLM

from tests.op_cases import EPS, randn
from tests.tiny_models import (
    FAMILIES,
    attach_trained,
    hidden_of,
    random_documents,
    relative_error,
    tiny_decoder,
    tiny_model,
)
from tests.tokenizers import chatml
from thinktune.data.loader import PackedRow, SegmentConfig, pack, segment_weights
from thinktune.data.segments import Rendered, Segment
from thinktune.errors import TrainingError
from thinktune.generation.completion import GenerationConfig
from thinktune.generation.engine import generate
from thinktune.kernels.language import as_capability, capability
from thinktune.model.decoder import Decoder
from thinktune.model.kept import Keep
from thinktune.model.lora import ALL_LINEAR, LoRAConfig, adapter_parameters
from thinktune.ops.attention import Kernel, PackedAttention
from thinktune.ops.cuda_attention import even_runs
from thinktune.ops.linear_cross_entropy import linear_cross_entropy
from thinktune.ops.rms_norm import add_rms_norm, residual_add, rms_norm_backward
from thinktune.training.optimizer import AdapterOptimizer, OptimizerConfig
from thinktune.training.step import train_step

HALF = torch.float16
# Relative Frobenius errors against float64, of everything in float16.
TOLERANCE = {"op": 2**-10, "loss": 2**-10}  # measured up to 2.4e-4 and 4.2e-5
# How much further from the truth our gradient may be than that of transformers and PEFT under
# autocast, whose stream is in float32 too.
FP16_RATIO = 1.5  # measured 0.92, 0.95 and 1.13
LENGTHS = (29, 13, 7)
BY_FAMILY = pytest.mark.parametrize("name", FAMILIES)


def _decoder(name: str, dtype: torch.dtype = HALF, **lora: object) -> Decoder:
    """Weights that float16 holds, whatever they are computed in."""
    decoder = tiny_decoder(name, HALF)
    decoder = decoder if dtype == HALF else decoder.to(dtype)
    attach_trained(decoder, LoRAConfig.model_validate({"rank": 3, "alpha": 5.0} | lora))
    return decoder.train()


def _optimizer(decoder: Decoder, scale: float = 2.0**12, rate: float = 2e-4) -> AdapterOptimizer:
    assert decoder.adapter is not None
    config = OptimizerConfig(learning_rate=rate)
    optimizer = AdapterOptimizer(decoder.adapter.weights, config, decoder.dtype)
    if optimizer.loss_scale is not None:
        optimizer.loss_scale.value.fill_(scale)
    return optimizer


def _rows(documents: Sequence[Tensor]) -> list[PackedRow]:
    """All but the first token of each carries loss."""
    examples = []
    for place, document in enumerate(documents):
        segments = (Segment.PROMPT,) + (Segment.ANSWER,) * (len(document) - 1)
        examples.append(Rendered(tuple(document.tolist()), segments, 1, f"row {place}"))
    return pack(examples, segment_weights(SegmentConfig(), SegmentConfig()), 100)


def _gradient(decoder: Decoder, documents: Sequence[Tensor]) -> tuple[float, Tensor]:
    launched = train_step(
        decoder, _optimizer(decoder), _rows(documents), max_grad_norm=float("inf")
    )
    assert decoder.adapter is not None
    return launched.read().losses.loss, decoder.adapter.gradient.clone()


def _peft_gradient(decoder: Decoder, documents: Sequence[Tensor], name: str) -> Tensor:
    """That of transformers and PEFT under autocast, with a scaled loss."""
    model = AutoModelForCausalLM.from_config(tiny_model(name).config, dtype=torch.float32)
    model.load_state_dict({k: v.half().float() for k, v in tiny_model(name).state_dict().items()})
    config = peft.LoraConfig(
        r=3, lora_alpha=5, target_modules=list(ALL_LINEAR), task_type="CAUSAL_LM"
    )
    model = peft.get_peft_model(model, config).eval()
    theirs = {
        key.removeprefix("base_model.model.").replace(".default.weight", ""): parameter
        for key, parameter in model.named_parameters()
        if parameter.requires_grad
    }
    for key, parameter in adapter_parameters(decoder).items():
        theirs[key].data = parameter.detach().float()
    count = sum(len(document) - 1 for document in documents)
    for document in documents:
        with torch.autocast("cpu", HALF):
            logits = model(input_ids=document[None]).logits[0, :-1]
        loss = F.cross_entropy(logits.float(), document[1:], reduction="sum") / count
        (loss * 2.0**12).backward()
    names = adapter_parameters(decoder)  # all A before all B, as the flat vector has them
    ordered = [key for part in ("lora_A", "lora_B") for key in names if key.endswith(part)]
    return torch.cat([theirs[key].grad.flatten() for key in ordered]) / 2.0**12


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
@BY_FAMILY
def test_gradients_are_as_near_the_truth_as_those_of_peft_under_autocast(name: str):
    documents = random_documents(LENGTHS)
    loss, ours = _gradient(_decoder(name), documents)
    true_loss, truth = _gradient(_decoder(name, torch.float64), documents)
    theirs = _peft_gradient(_decoder(name), documents, name)
    assert loss == pytest.approx(true_loss, rel=TOLERANCE["loss"])
    assert relative_error(theirs, truth) > 2**-12  # it is in float16
    assert relative_error(ours, truth) <= FP16_RATIO * relative_error(theirs, truth)


@pytest.mark.parametrize("share", [0.0, 0.3])
@BY_FAMILY
def test_whatever_is_kept_the_gradient_is_the_same_bit_for_bit(name: str, share: float):
    documents, found = random_documents(LENGTHS), []
    for keep in Keep:
        decoder = _decoder(name, dropout=share)
        decoder.plan((keep,) * 2, sum(LENGTHS))
        torch.manual_seed(11)
        found.append(_gradient(decoder, documents))
    assert found[0][1].isfinite().all()
    for loss, gradient in found[1:]:
        assert loss == found[0][0]
        assert torch.equal(gradient, found[0][1])


def test_a_sum_of_the_stream_that_float16_could_not_hold_is_kept_in_float32():
    x, base = torch.full((3, 5), 6e4), torch.full((3, 5), 3e4, dtype=HALF)
    weight = torch.ones(5, dtype=HALF)
    out, h, _ = add_rms_norm(x, base.clone(), None, weight, EPS)
    assert out.dtype == torch.float32
    assert torch.equal(out, torch.full((3, 5), 9e4))
    assert torch.equal(residual_add(x, base, None), out)
    assert torch.equal(h, torch.ones(3, 5, dtype=HALF))


def test_the_gradient_through_a_norm_of_the_stream_is_in_float32():
    x, grad, residual = randn(7, 31).float() * 1e5, randn(7, 31).half(), randn(7, 31).float()
    weight = (1 + randn(31)).half()
    leaf = x.double().requires_grad_()
    rrms = (leaf.pow(2).mean(-1) + EPS).rsqrt()
    truth = leaf * rrms[:, None] * weight
    (grad_x,) = torch.autograd.grad(truth, leaf, grad.double())
    nothing = torch.zeros_like(residual)
    ours, again = rms_norm_backward(grad.clone(), None, x, weight, rrms.float().detach(), nothing)
    assert ours.dtype == torch.float32
    assert relative_error(ours, grad_x) <= TOLERANCE["op"]
    assert again.dtype == HALF
    assert relative_error(again, truth.detach()) <= TOLERANCE["op"]


def test_tokens_of_little_probability_have_their_part_in_the_gradient():
    hidden, head = randn(3, 4).half(), randn(60_000, 4).half()
    targets, weights = torch.tensor([5, 0, 59_999]), torch.ones(3)
    # Without the target the gradient is a mean of what is improbable: 2e-5 each, and less.
    found = []
    for dtype in (HALF, torch.float64):
        leaf = hidden.to(dtype).requires_grad_()
        loss, _ = linear_cross_entropy(leaf, head.to(dtype), targets, weights)
        (grad,) = torch.autograd.grad(loss, leaf)
        found.append(grad.double() + head[targets].double())
    assert relative_error(*found) <= 4 * TOLERANCE["op"]
    assert found[1].abs().mean() > 0.1


def _held(decoder: Decoder, optimizer: AdapterOptimizer) -> list[Tensor]:
    assert decoder.adapter is not None
    state = optimizer.state[decoder.adapter.weights].values()
    return [x.clone() for x in (decoder.adapter.weights.detach(), *state)]


def test_a_step_whose_gradient_overflows_changes_nothing_is_counted_and_training_goes_on():
    decoder, rows = _decoder("qwen2"), _rows(random_documents(LENGTHS))
    optimizer = _optimizer(decoder)
    scale = optimizer.loss_scale
    assert scale is not None
    first = train_step(decoder, optimizer, rows, max_grad_norm=1.0).read()
    assert (first.loss_scale, first.skipped_steps) == (2.0**12, 0)
    before = _held(decoder, optimizer)
    scale.value.fill_(2.0**40)
    # Launched before anybody looks at the one before, as on a GPU.
    skipped = [train_step(decoder, optimizer, rows, max_grad_norm=1.0) for _ in range(2)]
    numbers = [step.read() for step in skipped]
    assert [(n.loss_scale, n.skipped_steps) for n in numbers] == [(2.0**40, 1), (2.0**39, 2)]
    assert numbers[0].losses.loss == pytest.approx(numbers[1].losses.loss)
    assert not any(torch.tensor(n.grad_norm).isfinite() for n in numbers)
    assert all(map(torch.equal, before, _held(decoder, optimizer)))
    assert optimizer.num_steps() == 3
    scale.value.fill_(2.0**12)
    after = train_step(decoder, optimizer, rows, max_grad_norm=1.0).read()
    assert after.skipped_steps == 2
    assert not torch.equal(before[0], _held(decoder, optimizer)[0])
    assert optimizer.num_steps() == 4


def test_the_gradient_does_not_depend_on_the_scale():
    rows, found = _rows(random_documents(LENGTHS)), []
    for power in (9, 12):
        decoder = _decoder("qwen2")
        optimizer = _optimizer(decoder, scale=2.0**power)
        found.append(train_step(decoder, optimizer, rows, max_grad_norm=1.0).read().grad_norm)
    assert found[0] == pytest.approx(found[1], rel=1e-3)


def test_an_overflow_that_no_scale_mends_is_refused_with_the_way_out():
    decoder, rows = _decoder("qwen2"), _rows(random_documents((2,)))  # one target has it all
    optimizer = _optimizer(decoder, scale=1.0)
    with torch.no_grad():  # A hides a B from the forward pass that is too large for backward
        down = decoder.model.layers[1].mlp.down_proj
        down.lora_A.zero_()
        down.lora_B.copy_(3.8e4 * down.lora_B.sign())
    with pytest.raises(TrainingError, match=r"overflows float16 on row 0.*base_dtype=float32"):
        train_step(decoder, optimizer, rows, max_grad_norm=1.0).read()


def test_the_loss_of_30_steps_follows_float32s():
    found = []
    for dtype in (HALF, torch.float32):
        decoder = _decoder("qwen3", dtype)
        optimizer, losses = _optimizer(decoder, rate=5e-3), []
        for step in range(30):
            rows = _rows(random_documents((19, 5), seed=step % 3))
            metrics = train_step(decoder, optimizer, rows, max_grad_norm=1.0).read()
            losses.append(metrics.losses.loss)
        found.append(torch.tensor(losses))
    assert found[1][-3:].mean() < found[1][:3].mean() - 1
    assert ((found[0] - found[1]).abs() / found[1]).max() < 0.02


@pytest.mark.parametrize(
    ("dtype", "projection", "message"),
    [
        (HALF, "layers.1.mlp.down_proj", r"layer 1's feed-forward overflows float16 \(largest"),
        (HALF, "layers.0.self_attn.o_proj", "layer 0's attention overflows float16"),
        (torch.float32, "layers.1.self_attn.o_proj", "layer 1's attention gives the first result"),
        (torch.bfloat16, "layers.0.mlp.down_proj", "layer 0's feed-forward gives the first result"),
    ],
)
def test_a_loss_that_is_not_finite_is_traced_to_its_layer(
    dtype: torch.dtype, projection: str, message: str
):
    decoder = _decoder("llama_rope_scaled", dtype)
    weight = decoder.model.get_submodule(projection).weight
    weight.fill_(6e4 if dtype == HALF else float("inf"))
    launched = train_step(
        decoder, _optimizer(decoder), _rows(random_documents(LENGTHS)), max_grad_norm=1.0
    )
    with pytest.raises(TrainingError, match=f"not finite on row .*nothing was updated; {message}"):
        launched.read()
    assert decoder.training


def test_greedy_completions_are_those_of_float32():
    prompts = [document.tolist() for document in random_documents((5, 1, 9))]
    config = GenerationConfig(max_new_tokens=8, temperature=0)
    found = []
    for dtype in (HALF, torch.float32):
        decoder = _decoder("qwen3", dtype)
        done = generate(decoder, chatml(), prompts, config, stop_token_ids=[0], batch_size=2)
        found.append([completion.tokens for completion in done])
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("card", "dtype", "width", "kernel"),
    [
        ((7, 5), HALF, 64, Kernel.EFFICIENT),
        ((7, 5), HALF, 128, Kernel.EFFICIENT),
        ((7, 5), torch.float32, 64, Kernel.TRACED),
        ((7, 5), HALF, 20, Kernel.TRACED),
        ((8, 0), HALF, 64, Kernel.FLASH),
        ((8, 0), torch.bfloat16, 256, Kernel.EFFICIENT),
    ],
    ids=str,
)
def test_a_card_without_flash_attention_takes_the_memory_efficient_kernel(
    card: tuple[int, int], dtype: torch.dtype, width: int, kernel: Kernel
):
    with FakeTensorMode(), as_capability(card):
        q = torch.empty(9, 4, width, dtype=dtype, device="cuda")
        assert capability(q.device) == card
        assert PackedAttention((4, 5)).kernel(q) is kernel


def test_the_stream_of_other_types_is_their_own():
    for dtype in (torch.bfloat16, torch.float32):
        assert _decoder("llama_rope_scaled", dtype).stream_dtype == dtype
    decoder = _decoder("llama_rope_scaled")
    assert decoder.stream_dtype == torch.float32
    assert hidden_of(decoder, random_documents((3,))).dtype == HALF


@given(st.lists(st.integers(1, 3000), min_size=1, max_size=40))
def test_runs_of_documents_never_take_more_than_one_document_as_long_as_the_row(lengths: list[int]):
    runs = even_runs(lengths)
    assert [length for run in runs for length in run] == lengths
    assert all(len(run) * max(run) <= sum(lengths) for run in runs)
    assert len(even_runs([max(lengths)] * len(lengths))) == 1
