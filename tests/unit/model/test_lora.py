"""Attaching an adapter: where it goes, how it starts, what dropout does to it."""

import pytest
import torch

from tests.tiny_models import (
    attach_trained,
    hidden_of,
    logits_of,
    random_documents,
    relative_error,
    tiny_decoder,
)
from thinktune.errors import ConfigError
from thinktune.model.decoder import Decoder
from thinktune.model.lora import (
    ALL_LINEAR,
    LoRAConfig,
    adapted_layers,
    adapter_parameters,
    attach,
    base_only,
    detach,
    match_targets,
    merge,
    unmerge,
)
from thinktune.settings import parse_settings

# Relative error of a mean over 30000 masks, whose standard error is 0.017.
TOLERANCE = {"expectation": 0.08}  # measured 0.020


def _decoder() -> Decoder:
    return tiny_decoder("qwen3")


def test_all_seven_projections_of_every_layer_are_adapted_by_default():
    decoder = _decoder()
    parameters = attach(decoder, LoRAConfig(rank=3), seed=0)
    names = {name.rsplit(".", 1)[-1] for name in adapted_layers(decoder)}
    assert names == set(ALL_LINEAR)
    assert len(parameters) == 2 * 7 * 2
    assert [id(p) for p in parameters] == [id(p) for p in adapter_parameters(decoder).values()]
    assert {p.dtype for p in parameters} == {torch.float32}
    assert all(p.requires_grad for p in parameters)


def test_a_fresh_adapter_changes_no_bit_of_the_output():
    decoder, documents = _decoder(), random_documents((5, 3))
    with torch.no_grad():
        before = logits_of(decoder, documents)
        attach(decoder, LoRAConfig(rank=3), seed=0)
        assert torch.equal(before, logits_of(decoder, documents))


def test_a_starts_uniform_within_its_bound_and_b_zero():
    decoder = _decoder()
    attach(decoder, LoRAConfig(rank=31), seed=0)
    for layer in adapted_layers(decoder).values():
        values = layer.lora_A.detach()
        bound = layer.weight.shape[1] ** -0.5
        assert 0.95 * bound < values.abs().max() <= bound
        assert values.std().item() == pytest.approx(bound / 3**0.5, rel=0.1)
        assert abs(values.mean().item()) < 0.1 * bound
        assert not layer.lora_B.any()


@pytest.mark.parametrize("targets", [("q_proj",), ("down_proj", "k_proj"), ("0.mlp.up_proj",)])
def test_only_the_layers_named_are_adapted(targets: tuple[str, ...]):
    decoder = _decoder()
    attach(decoder, LoRAConfig(target_modules=targets), seed=0)
    assert adapted_layers(decoder)
    assert all(name.endswith(targets) for name in adapted_layers(decoder))
    assert len(adapted_layers(decoder)) == (1 if "0" in targets[0] else 2 * len(targets))


def test_a_full_name_targets_one_layer():
    name = "model.layers.1.self_attn.v_proj"
    assert list(match_targets(_decoder(), (name,))) == [name]


@pytest.mark.parametrize("target", ["fc1", "proj", "_proj", "lm_head", "", "Q_PROJ", "norm"])
def test_a_target_that_matches_nothing_is_refused_and_the_known_names_listed(target: str):
    decoder = _decoder()
    with pytest.raises(ConfigError) as caught:
        attach(decoder, LoRAConfig(target_modules=("q_proj", target)), seed=0)
    assert repr(target) in str(caught.value)
    assert all(name in str(caught.value) for name in ALL_LINEAR)
    assert not adapted_layers(decoder)


@pytest.mark.parametrize(
    "values",
    [{"rank": 0}, {"alpha": 0.0}, {"dropout": 1.0}, {"dropout": -0.1}, {"target_modules": []}],
    ids=str,
)
def test_settings_that_make_no_adapter_are_refused(values: dict):
    with pytest.raises(ConfigError):
        parse_settings(LoRAConfig, values)


def test_the_scale_is_alpha_over_rank_or_over_its_root():
    assert LoRAConfig(rank=4, alpha=6.0).scale == 1.5
    assert LoRAConfig(rank=4, alpha=6.0, use_rslora=True).scale == 3.0


def test_attaching_twice_is_refused_and_the_first_adapter_stays():
    decoder = _decoder()
    first = attach(decoder, LoRAConfig(rank=2), seed=0)
    with pytest.raises(ConfigError, match="carries an adapter already"):
        attach(decoder, LoRAConfig(rank=3), seed=1)
    assert [id(p) for p in first] == [id(p) for p in adapter_parameters(decoder).values()]


def test_the_start_depends_on_the_seed_and_on_nothing_else():
    runs = []
    for seed, noise in ((0, 1), (0, 2), (1, 1)):
        torch.manual_seed(noise)
        runs.append([p.detach().clone() for p in attach(_decoder(), LoRAConfig(), seed=seed)])
    assert all(map(torch.equal, runs[0], runs[1]))
    assert not any(torch.equal(a, b) for a, b in zip(runs[0][::2], runs[2][::2], strict=True))
    q_proj, k_proj = runs[0][0], runs[0][2]
    assert not torch.equal(q_proj, k_proj)


def test_attaching_leaves_the_global_random_state_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    attach(_decoder(), LoRAConfig(), seed=0)
    assert torch.equal(before, torch.get_rng_state())


def test_detaching_restores_the_model_and_another_can_be_attached():
    decoder = _decoder()
    before = decoder.state_dict()
    attach_trained(decoder)
    detach(decoder)
    after = decoder.state_dict()
    assert before.keys() == after.keys()
    assert all(before[key].data_ptr() == after[key].data_ptr() for key in before)
    assert not adapter_parameters(decoder)
    assert len(attach(decoder, LoRAConfig(), seed=0)) == 28


def test_merging_changes_the_adapted_weights_alone():
    decoder = _decoder()
    before = {key: value.clone() for key, value in decoder.state_dict().items()}
    attach_trained(decoder, LoRAConfig(rank=2, target_modules=("o_proj",)))
    originals = merge(decoder)
    changed = {
        key for key, value in decoder.state_dict().items() if not torch.equal(value, before[key])
    }
    assert changed == {f"model.layers.{layer}.self_attn.o_proj.weight" for layer in range(2)}
    assert not any(p.requires_grad for p in decoder.parameters())
    unmerge(decoder, originals)
    assert len(adapter_parameters(decoder)) == 4


def test_base_only_gives_the_adapter_back_after_an_error():
    decoder = _decoder()
    attach_trained(decoder, LoRAConfig(rank=2, alpha=3.0))
    with pytest.raises(RuntimeError), base_only(decoder):
        raise RuntimeError
    assert {layer.scale for layer in adapted_layers(decoder).values()} == {1.5}


def _with_dropout(rate: float) -> Decoder:
    decoder = tiny_decoder("qwen2", torch.float64)
    attach_trained(decoder, LoRAConfig(rank=2, dropout=rate, target_modules=("down_proj",)))
    return decoder


def test_dropout_does_nothing_outside_training():
    documents = random_documents((7, 2))
    with torch.no_grad():
        without, dropping = (hidden_of(_with_dropout(rate), documents) for rate in (0.0, 0.5))
    assert torch.equal(without, dropping)


def test_dropout_leaves_the_base_path_whole():
    documents, decoder = random_documents((7, 2)), _with_dropout(0.5)
    decoder.train()
    with torch.no_grad(), base_only(decoder):
        in_training = hidden_of(decoder, documents)
        decoder.eval()
        assert torch.equal(in_training, hidden_of(decoder, documents))


def test_each_pass_draws_another_mask_and_the_seed_decides_which():
    documents, decoder = random_documents((7, 2)), _with_dropout(0.5)
    decoder.train()
    torch.manual_seed(0)
    first, second = hidden_of(decoder, documents), hidden_of(decoder, documents)
    torch.manual_seed(0)
    again = hidden_of(decoder, documents)
    assert not torch.equal(first, second)
    assert torch.equal(first, again)


def test_the_mean_over_masks_is_the_adapter_without_dropout():
    decoder = _with_dropout(0.25)
    stack = next(stack for stack in decoder.stacks if stack.is_adapted)
    assert decoder.adapter is not None
    decoder.adapter.refresh()
    x = torch.randn(1, 67, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    base = torch.nn.functional.linear(x, stack.held.weight)
    wanted = stack.project(x, 0)[0] - base
    decoder.train()
    mean = (stack.project(x.expand(30_000, -1), 0)[0] - base).mean(0)
    assert wanted.norm() > 0.1 * base.norm()
    assert relative_error(mean, wanted[0]) <= TOLERANCE["expectation"]
