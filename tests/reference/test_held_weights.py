"""A quantised base against the plain decoder with the weights it stands for."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.tiny_models import (
    CPU,
    FAMILIES,
    attach_trained,
    hidden_of,
    make_model,
    random_documents,
    relative_error,
    save_model,
    tiny_checkpoint,
    tiny_decoder,
)
from thinktune.errors import CheckpointError, ConfigError
from thinktune.model.checkpoint_io import (
    BaseDtype,
    fingerprint,
    load_decoder,
    read_config,
    resolve_precision,
)
from thinktune.model.decoder import Decoder
from thinktune.model.held_weights import Quantize
from thinktune.model.kept import Keep
from thinktune.model.lora import LoRAConfig, adapter_parameters, merge

TOLERANCE = 1e-12  # measured 6e-15: relative Frobenius error in float64
# FP8 rounds inputs and gradients too: how far a tiny random model's then are.
FP8_HIDDEN, FP8_GRADIENT = 0.15, 0.35  # measured 0.084 and 0.2
LENGTHS = (5, 1, 9, 2)
BY_FAMILY = pytest.mark.parametrize("name", FAMILIES)
BY_KIND = pytest.mark.parametrize("kind", Quantize)


def _held(name: str, kind: Quantize, dtype: torch.dtype = torch.float64) -> Decoder:
    return load_decoder(tiny_checkpoint(name), dtype=dtype, device=CPU, quantize=kind)


def _written_out(name: str, held: Decoder) -> Decoder:
    """The plain decoder with the weights that a quantised one stands for."""
    plain = tiny_decoder(name, held.dtype)
    for ours, theirs in zip(held.stacks, plain.stacks, strict=True):
        for member, other in zip(ours.members, theirs.members, strict=True):
            other.weight = nn.Parameter(ours.dense(member).clone(), requires_grad=False)
    plain.join()
    return plain


def _gradients(decoder: Decoder, keep: Keep = Keep.ALL) -> tuple[Tensor, Tensor]:
    attach_trained(decoder, LoRAConfig(rank=3, alpha=5.0))
    decoder.plan((keep,) * 2, sum(LENGTHS))
    hidden = hidden_of(decoder, random_documents(LENGTHS))
    (hidden * torch.linspace(-1, 1, hidden.numel()).view_as(hidden)).sum().backward()
    grads = [p.grad.flatten() for p in adapter_parameters(decoder).values() if p.grad is not None]
    return hidden.detach(), torch.cat(grads)


@BY_FAMILY
def test_nf4_computes_what_its_written_out_weights_do(name: str):
    held = _held(name, Quantize.NF4)
    plain = _written_out(name, held)
    for ours, theirs in zip(_gradients(held), _gradients(plain), strict=True):
        assert relative_error(ours, theirs) <= TOLERANCE


@BY_FAMILY
@pytest.mark.parametrize("kind", [Quantize.FP8, Quantize.FP8_DGRAD])
def test_fp8_is_near_what_its_written_out_weights_do(name: str, kind: Quantize):
    held = _held(name, kind)
    hidden, gradient = _gradients(held)
    true_hidden, true_gradient = _gradients(_written_out(name, held))
    assert relative_error(gradient, true_gradient) <= FP8_GRADIENT
    if kind is Quantize.FP8_DGRAD:
        assert relative_error(hidden, true_hidden) <= TOLERANCE
    else:
        assert 1e-3 < relative_error(hidden, true_hidden) <= FP8_HIDDEN
    assert relative_error(gradient, true_gradient) > 1e-3  # else nothing was quantised


@BY_KIND
@BY_FAMILY
def test_what_layers_keep_changes_no_bit(name: str, kind: Quantize):
    results = [_gradients(_held(name, kind, torch.float32), keep) for keep in Keep]
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@BY_KIND
def test_a_quantised_base_has_the_fingerprint_of_its_checkpoint(kind: Quantize):
    assert fingerprint(_held("qwen2", kind)) == fingerprint(tiny_decoder("qwen2"))


@BY_KIND
def test_merging_into_a_quantised_base_is_refused_with_the_way_out(kind: Quantize):
    decoder = _held("llama", kind)
    attach_trained(decoder)
    with pytest.raises(ConfigError, match=f"held as .*{kind}.*bfloat16"):
        merge(decoder)


@BY_KIND
def test_a_quantised_base_is_not_moved_or_cast(kind: Quantize):
    with pytest.raises(ConfigError, match="stays where it was loaded"):
        _held("llama", kind).double()


def test_an_adapter_is_of_the_same_values_on_every_base():
    values = []
    for kind in (None, *Quantize):
        decoder = load_decoder(
            tiny_checkpoint("qwen3"), dtype=torch.float32, device=CPU, quantize=kind
        )
        attach_trained(decoder)
        values.append(torch.cat([p.flatten() for p in adapter_parameters(decoder).values()]))
    assert all(torch.equal(values[0], other) for other in values[1:])


def _quantised_by_bitsandbytes(folder: Path, *, skip: str = "nothing") -> tuple[Path, Path]:
    """A checkpoint as transformers writes it after load_in_4bit, and the one it was made from."""
    functional = pytest.importorskip("bitsandbytes").functional
    import json  # noqa: PLC0415

    from safetensors.torch import load_file, save_file  # noqa: PLC0415

    plain = save_model(make_model("qwen2").bfloat16(), folder / "plain")
    quantised = save_model(make_model("qwen2").bfloat16(), folder / "nf4")
    tensors = {}
    for name, tensor in load_file(quantised / "model.safetensors").items():
        if "_proj.weight" not in name or skip in name:
            tensors[name] = tensor
            continue
        codes, state = functional.quantize_4bit(
            tensor, blocksize=64, compress_statistics=True, quant_type="nf4"
        )
        tensors[name] = codes
        tensors |= {f"{name}.{key}": part for key, part in state.as_dict(packed=True).items()}
    save_file(tensors, quantised / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((quantised / "config.json").read_text())
    config["quantization_config"] = {
        "quant_method": "bitsandbytes",
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": True,
    }
    (quantised / "config.json").write_text(json.dumps(config))
    return plain, quantised


@pytest.mark.parametrize("skip", ["nothing", "k_proj", "layers.0"])
def test_a_checkpoint_that_bitsandbytes_quantised_loads_as_it_is(tmp_path: Path, skip: str):
    plain, quantised = _quantised_by_bitsandbytes(tmp_path, skip=skip)
    ours = load_decoder(plain, dtype=torch.bfloat16, device=CPU, quantize=Quantize.NF4)
    precision = resolve_precision(BaseDtype.AUTO, CPU, read_config(quantised))
    assert precision.quantize is Quantize.NF4
    theirs = load_decoder(quantised, dtype=torch.bfloat16, device=CPU, quantize=precision.quantize)
    as_it_was = load_decoder(plain, dtype=torch.bfloat16, device=CPU)
    names = {id(module): name for name, module in theirs.named_modules()}
    for a, b, c in zip(ours.stacks, theirs.stacks, as_it_was.stacks, strict=True):
        for mine, other, whole in zip(a.members, b.members, c.members, strict=True):
            if skip not in names[id(other)]:
                assert torch.equal(b.dense(other), a.dense(mine))
            else:
                assert torch.equal(b.dense(other), c.dense(whole))


def test_a_checkpoint_in_four_bits_is_not_loaded_as_something_else(tmp_path: Path):
    _, quantised = _quantised_by_bitsandbytes(tmp_path)
    for base_dtype in (BaseDtype.BFLOAT16, BaseDtype.FP8):
        with pytest.raises(ConfigError, match="stored in NF4; use base_dtype=nf4"):
            resolve_precision(base_dtype, CPU, read_config(quantised))


def test_a_weight_that_float16_cannot_hold_is_named(tmp_path: Path):
    model = make_model("llama")
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[3, 5] = 1e5
    folder = save_model(model, tmp_path)
    with pytest.raises(CheckpointError, match=r"layers\.1\.mlp\.up_proj\.weight.*float16"):
        load_decoder(folder, dtype=torch.float16, device=CPU)
