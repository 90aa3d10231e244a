"""The layer's backward written by hand against autograd through the plain decoder."""

import copy
from collections.abc import Sequence
from dataclasses import fields
from itertools import pairwise
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModelForCausalLM

from tests.plain_decoder import plain_hidden
from tests.tiny_models import (
    CPU,
    FAMILIES,
    MODELS,
    attach_trained,
    hidden_of,
    make_model,
    random_documents,
    relative_error,
    save_model,
    tiny_decoder,
    tiny_model,
)
from thinktune.model.checkpoint_io import load_decoder
from thinktune.model.decoder import Decoder
from thinktune.model.kept import Keep, Kept
from thinktune.model.lora import ALL_LINEAR, LoRAConfig, adapted_layers, adapter_parameters
from thinktune.ops.linear_cross_entropy import linear_cross_entropy

# Relative Frobenius errors in float64.
TOLERANCE = {
    "hidden": 1e-12,  # measured 2.8e-15
    "gradient": 1e-12,  # measured 8.7e-15
    "packed and alone": 1e-12,  # measured 2.1e-15
    "difference quotient": 1e-6,  # measured 4.3e-9, of the largest entry
}
# How much further from the truth our gradient in bf16 may be than that of transformers and PEFT.
BF16_RATIO = 1.5  # measured 1.01
LENGTHS = (5, 1, 9, 2)
TARGETS = {
    "all seven": ALL_LINEAR,
    "attention alone": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "key and down": ("k_proj", "down_proj"),
    "query, value and gate": ("q_proj", "v_proj", "gate_proj"),
    "output alone": ("o_proj",),
    "one of the first layer": ("layers.0.mlp.up_proj",),
    "one of the last layer": ("layers.1.mlp.up_proj",),
    "value of the last layer": ("layers.1.self_attn.v_proj",),
    "different ones in each layer": ("layers.0.self_attn.k_proj", "layers.1.mlp.down_proj"),
}
BY_FAMILY = pytest.mark.parametrize("name", FAMILIES)


def _decoder(name: str, dtype: torch.dtype = torch.float64, **lora: object) -> Decoder:
    decoder = tiny_decoder(name, dtype)
    config = LoRAConfig.model_validate({"rank": 3, "alpha": 5.0} | lora)
    attach_trained(decoder, config)
    return decoder


def _cotangent(hidden: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    return torch.randn(hidden.shape, generator=generator, dtype=torch.float64).to(hidden.dtype)


def _parameters(decoder: Decoder) -> list[nn.Parameter]:
    return list(adapter_parameters(decoder).values())


def _ours(
    decoder: Decoder, documents: Sequence[Tensor], keep: Sequence[Keep] | Keep = Keep.ALL
) -> tuple[Tensor, list[Tensor]]:
    """Hidden states and the gradient of every adapter matrix."""
    layers = decoder.shape.num_hidden_layers
    decoder.plan((keep,) * layers if isinstance(keep, Keep) else keep, sum(map(len, documents)))
    assert decoder.adapter is not None
    decoder.adapter.gradient.zero_()
    hidden = hidden_of(decoder, documents)
    (hidden * _cotangent(hidden)).sum().backward()
    decoder.adapter.scale_gradient()
    return hidden.detach(), [p.grad.clone() for p in _parameters(decoder) if p.grad is not None]


def _plain(decoder: Decoder, documents: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
    hidden = plain_hidden(decoder, list(documents))
    total = (hidden * _cotangent(hidden)).sum()
    return hidden.detach(), list(torch.autograd.grad(total, _parameters(decoder)))


def _assert_equals_the_plain_decoder(decoder: Decoder, documents: Sequence[Tensor]) -> None:
    (hidden, ours), (plain, theirs) = _ours(decoder, documents), _plain(decoder, documents)
    assert relative_error(hidden, plain) <= TOLERANCE["hidden"]
    assert len(ours) == len(theirs) == 2 * len(adapted_layers(decoder))
    for mine, wanted in zip(ours, theirs, strict=True):
        assert wanted.any()
        assert relative_error(mine, wanted) <= TOLERANCE["gradient"]


@pytest.mark.parametrize("name", MODELS)
def test_states_and_gradients_equal_those_of_the_plain_decoder(name: str):
    _assert_equals_the_plain_decoder(_decoder(name), random_documents(LENGTHS))


@pytest.mark.parametrize("targets", TARGETS.values(), ids=TARGETS)
@BY_FAMILY
def test_with_an_adapter_on_some_layers_gradients_equal_the_plain_decoders(
    name: str, targets: tuple[str, ...]
):
    decoder = _decoder(name, target_modules=targets)
    _assert_equals_the_plain_decoder(decoder, random_documents(LENGTHS))


@pytest.mark.parametrize("rank", [1, 4, 64, 256])
@BY_FAMILY
def test_at_every_rank_gradients_equal_the_plain_decoders(name: str, rank: int):
    _assert_equals_the_plain_decoder(_decoder(name, rank=rank), random_documents(LENGTHS))


@pytest.mark.parametrize("lengths", [(1,), (1, 1, 1), (29,), (1, 28)], ids=str)
@BY_FAMILY
def test_whatever_the_lengths_gradients_equal_the_plain_decoders(
    name: str, lengths: tuple[int, ...]
):
    decoder, documents = _decoder(name), random_documents(lengths)
    (hidden, ours), (plain, theirs) = _ours(decoder, documents), _plain(decoder, documents)
    assert relative_error(hidden, plain) <= TOLERANCE["hidden"]
    # As one vector: where a document is one token, query and key have no gradient at all.
    mine, wanted = (torch.cat([g.flatten() for g in grads]) for grads in (ours, theirs))
    assert relative_error(mine, wanted) <= TOLERANCE["gradient"]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("share", [0.0, 0.3])
@BY_FAMILY
def test_whatever_is_kept_states_and_gradients_are_the_same_bit_for_bit(
    name: str, share: float, dtype: torch.dtype
):
    decoder, documents = _decoder(name, dtype, dropout=share).train(), random_documents(LENGTHS)
    found = []
    for keep in Keep:
        torch.manual_seed(11)
        hidden, gradients = _ours(decoder, documents, keep)
        found.append([hidden, *gradients])
    assert all(gradient.any() for gradient in found[0])
    for others in found[1:]:
        assert all(map(torch.equal, found[0], others))


@pytest.mark.parametrize("targets", TARGETS.values(), ids=TARGETS)
def test_whatever_is_kept_some_layers_have_the_same_gradients_bit_for_bit(
    targets: tuple[str, ...],
):
    decoder, documents = _decoder("qwen3", target_modules=targets), random_documents(LENGTHS)
    found = [_ours(decoder, documents, keep)[1] for keep in Keep]
    for others in found[1:]:
        assert all(map(torch.equal, found[0], others))


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of seven layers: more than have a place on the device at the same time."""
    return save_model(make_model("llama", num_hidden_layers=7), tmp_path_factory.mktemp("deep"))


@pytest.mark.parametrize(
    "keep",
    [
        (Keep.HOST,) * 7,
        (Keep.HOST, Keep.ALL, Keep.HOST, Keep.NO_MLP, Keep.HOST, Keep.HOST, Keep.INPUT),
        (Keep.ALL, Keep.INPUT, Keep.ATTENTION, Keep.NO_MLP, Keep.HOST, Keep.ALL, Keep.INPUT),
    ],
    ids=["all on the host", "some on the host", "one on the host"],
)
def test_layers_that_keep_different_things_have_the_same_gradients(
    deep: Path, keep: tuple[Keep, ...]
):
    decoder = load_decoder(deep, dtype=torch.float32, device=CPU)
    attach_trained(decoder)
    long, short = random_documents((17, 5)), random_documents((3, 2), seed=1)
    wanted = [_ours(decoder, documents)[1] for documents in (long, short, long)]
    decoder.plan(keep, 22)
    for documents, expected in zip((long, short, long), wanted, strict=True):
        assert decoder.adapter is not None
        decoder.adapter.gradient.zero_()
        hidden = hidden_of(decoder, documents)
        (hidden * _cotangent(hidden)).sum().backward()
        decoder.adapter.scale_gradient()
        found = [p.grad for p in _parameters(decoder)]
        assert all(map(torch.equal, found, expected))


@BY_FAMILY
def test_the_gradient_of_packed_documents_is_the_sum_of_each_alone(name: str):
    decoder, documents = _decoder(name), random_documents(LENGTHS)
    hidden, packed = _ours(decoder, documents)
    cotangent = _cotangent(hidden)
    ends = torch.tensor((0, *LENGTHS)).cumsum(0).tolist()
    assert decoder.adapter is not None
    decoder.adapter.gradient.zero_()
    for document, (first, last) in zip(documents, pairwise(ends), strict=True):
        alone = hidden_of(decoder, [document])
        error = relative_error(hidden[first:last], alone.detach())
        assert error <= TOLERANCE["packed and alone"]
        (alone * cotangent[first:last]).sum().backward()
    decoder.adapter.scale_gradient()
    for mine, parameter in zip(packed, _parameters(decoder), strict=True):
        assert parameter.grad is not None
        assert relative_error(mine, parameter.grad) <= TOLERANCE["packed and alone"]


@BY_FAMILY
def test_not_even_nan_in_one_document_reaches_another(name: str):
    decoder, documents = _decoder(name), random_documents(LENGTHS)
    documents[2][3] = 402
    others = [place for place in range(sum(LENGTHS)) if not 6 <= place < 15]
    before = hidden_of(decoder, documents)
    decoder.model.embed_tokens.weight[402] = float("nan")
    after = hidden_of(decoder, documents)
    assert torch.equal(before[others], after[others])
    assert after[9:15].isnan().all()


def _loss(decoder: Decoder, documents: Sequence[Tensor]) -> Tensor:
    """Mean over all next tokens of all documents."""
    hidden = hidden_of(decoder, documents)
    last = torch.tensor([len(d) for d in documents]).cumsum(0) - 1
    places = [place for place in range(len(hidden)) if place not in last.tolist()]
    targets = torch.cat([document[1:] for document in documents])
    weights = torch.full((len(targets),), 1 / len(targets))
    return linear_cross_entropy(hidden[places], decoder.lm_head.weight, targets, weights)[0]


@pytest.mark.parametrize("share", [0.0, 0.4])
@BY_FAMILY
def test_gradients_of_the_loss_equal_difference_quotients(name: str, share: float):
    decoder = _decoder(name, dropout=share).train()
    documents = random_documents((11, 7))
    assert decoder.adapter is not None
    weights = decoder.adapter.weights

    def value() -> Tensor:
        torch.manual_seed(3)  # the same masks
        return _loss(decoder, documents)

    decoder.adapter.gradient.zero_()
    value().backward()
    decoder.adapter.scale_gradient()
    gradient = decoder.adapter.gradient.clone()
    generator = torch.Generator().manual_seed(0)
    entries = torch.randint(len(weights), (12,), generator=generator).tolist()
    for entry in entries:
        difference = []
        for step in (1e-5, -2e-5):  # there and back, past where it was
            with torch.no_grad():
                weights[entry] += step
            difference.append(value().detach())
        with torch.no_grad():
            weights[entry] += 1e-5
        quotient = (difference[0] - difference[1]) / 2e-5
        error = abs((quotient - gradient[entry]).item())
        assert error <= TOLERANCE["difference quotient"] * gradient.abs().max().item()


def test_dropout_changes_the_gradient_and_its_seed_decides_which():
    decoder, documents = _decoder("qwen2", dropout=0.3).train(), random_documents(LENGTHS)
    found = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        found.append(_ours(decoder, documents)[1])
    assert all(map(torch.equal, found[0], found[1]))
    assert not any(torch.equal(a, b) for a, b in zip(found[0], found[2], strict=True))


def test_layers_and_their_projections_draw_masks_of_their_own():
    decoder, documents = _decoder("llama", dropout=0.5).train(), random_documents((7,))
    seeds = []
    for stack in decoder.stacks:
        project = stack.project

        def noted(x: Tensor, seed: int, *room: Tensor | None, project=project):
            seeds.append(seed)
            return project(x, seed, *room)

        stack.project = noted
    hidden_of(decoder, documents)
    assert len(set(seeds)) == len(seeds) == 8


def _peft_gradients(decoder: Decoder, documents: Sequence[Tensor], name: str) -> Tensor:
    """Those of transformers and PEFT in bf16, the adapter in float32 as PEFT has it."""
    low = AutoModelForCausalLM.from_config(tiny_model(name).config, dtype=torch.bfloat16)
    low.load_state_dict(copy.deepcopy(tiny_model(name).state_dict()))
    config = peft.LoraConfig(
        r=3, lora_alpha=5, target_modules=list(ALL_LINEAR), task_type="CAUSAL_LM"
    )
    model = peft.get_peft_model(low, config).eval()
    theirs = {
        key.removeprefix("base_model.model.").replace(".default.weight", ""): parameter
        for key, parameter in model.named_parameters()
        if parameter.requires_grad
    }
    for key, parameter in adapter_parameters(decoder).items():
        theirs[key].data = parameter.detach().float()
    count = sum(len(document) - 1 for document in documents)
    for document in documents:
        logits = model(input_ids=document[None]).logits[0, :-1]
        (F.cross_entropy(logits.float(), document[1:], reduction="sum") / count).backward()
    names = adapter_parameters(decoder)  # all A before all B, as the flat vector has them
    ordered = [key for part in ("lora_A", "lora_B") for key in names if key.endswith(part)]
    return torch.cat([theirs[key].grad.flatten() for key in ordered])


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
@BY_FAMILY
def test_in_bf16_gradients_of_the_loss_are_as_near_the_truth_as_those_of_peft(name: str):
    documents = random_documents((29, 13, 3))
    found = []
    for decoder in (_decoder(name, torch.bfloat16), _decoder(name, torch.bfloat16).double()):
        assert decoder.adapter is not None
        decoder.adapter.gradient.zero_()
        _loss(decoder, documents).backward()
        decoder.adapter.scale_gradient()
        found.append(decoder.adapter.gradient.clone())
    ours, truth = found
    theirs = _peft_gradients(_decoder(name, torch.bfloat16), documents, name)
    assert relative_error(theirs, truth) > 2**-9  # it is in bf16
    assert relative_error(ours, truth) <= BF16_RATIO * relative_error(theirs, truth)


KEPT = {
    Keep.ALL: "x rrms_x S_qkv qkv attended saved S_o mid rrms_mid S_gate_up gate_up S_down",
    Keep.HOST: "x rrms_x S_qkv qkv attended saved S_o mid rrms_mid S_gate_up S_down",
    Keep.NO_MLP: "x rrms_x S_qkv qkv attended saved S_o mid rrms_mid S_gate_up S_down",
    Keep.ATTENTION: "x rrms_x S_qkv attended saved S_o mid rrms_mid S_gate_up S_down",
    Keep.INPUT: "x rrms_x S_down",
    Keep.NOTHING: "rrms_x S_down",
}


@pytest.mark.parametrize("keep", Keep)
def test_a_layer_keeps_what_its_policy_says_and_nothing_after_backward(keep: Keep):
    decoder = _decoder("qwen3")
    decoder.plan((keep,) * 2, sum(LENGTHS))
    hidden = hidden_of(decoder, random_documents(LENGTHS))
    assert hidden.grad_fn is not None
    node: Any = hidden.grad_fn.next_functions[0][0]
    parts = {f.name: getattr(node.kept, f.name) for f in fields(Kept)}
    parts["x"] = parts["x"] if len(parts["x"]) else None
    held = [name for name, part in parts.items() if part is not None]
    assert held == KEPT[keep].split()
    hidden.sum().backward()
    assert node.kept is None


@pytest.mark.parametrize("keep", Keep)
def test_a_second_backward_is_refused(keep: Keep):
    decoder = _decoder("qwen3")
    decoder.plan((keep,) * 2, 17)
    total = hidden_of(decoder, random_documents(LENGTHS)).sum()
    total.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="backward runs once"):
        total.backward()


@BY_FAMILY
def test_backward_passes_add_to_the_gradient(name: str):
    decoder, documents = _decoder(name), random_documents(LENGTHS)
    _, once = _ours(decoder, documents)
    assert decoder.adapter is not None
    decoder.adapter.gradient.zero_()
    for _ in range(2):
        hidden = hidden_of(decoder, documents)
        (hidden * _cotangent(hidden)).sum().backward()
    decoder.adapter.scale_gradient()
    for gradient, parameter in zip(once, _parameters(decoder), strict=True):
        assert parameter.grad is not None
        assert relative_error(parameter.grad, 2 * gradient) <= TOLERANCE["gradient"]
