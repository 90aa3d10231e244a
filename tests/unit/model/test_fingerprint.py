"""The short name of base weights: the same for the same weights, another for others."""

from pathlib import Path

import pytest
import torch

from tests.tiny_models import (
    CPU,
    FAMILIES,
    attach_trained,
    make_model,
    save_model,
    tiny_decoder,
)
from thinktune.model.checkpoint_io import fingerprint, load_decoder
from thinktune.model.lora import merge, unmerge

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", FAMILIES)
def test_the_fingerprint_is_the_same_in_every_type_the_weights_load_in(
    name: str, stored: torch.dtype, tmp_path: Path
):
    model = make_model(name, vocab_size=4001)
    with torch.no_grad():  # as small as a real embedding's values
        model.get_input_embeddings().weight.mul_(0.02)
    save_model(model.to(stored), tmp_path)
    found = {
        dtype: fingerprint(load_decoder(tmp_path, dtype=dtype, device=CPU)) for dtype in DTYPES
    }
    assert found == dict.fromkeys(DTYPES, found[torch.float32])


def test_other_weights_of_the_same_architecture_have_another_fingerprint(tmp_path: Path):
    save_model(make_model("qwen2", seed=1), tmp_path)
    other = load_decoder(tmp_path, dtype=torch.float32, device=CPU)
    assert fingerprint(other) != fingerprint(tiny_decoder("qwen2"))


def test_an_attached_adapter_does_not_change_the_fingerprint():
    decoder = tiny_decoder("qwen3")
    before = fingerprint(decoder)
    attach_trained(decoder)
    assert fingerprint(decoder) == before


def test_a_base_with_an_adapter_merged_into_it_has_another_fingerprint():
    # What is published as a fine-tuned model often differs from its base in these weights alone.
    decoder = tiny_decoder("qwen2")
    before = fingerprint(decoder)
    attach_trained(decoder)
    merge(decoder)
    assert fingerprint(decoder) != before


def test_a_float16_base_has_its_fingerprint_again_when_the_adapter_is_taken_out(tmp_path: Path):
    model = make_model("llama", vocab_size=4001)
    with torch.no_grad():  # float16 cannot hold all of these to the last bit
        model.model.layers[0].mlp.up_proj.weight.mul_(1e-6)
    save_model(model.bfloat16(), tmp_path)
    decoder = load_decoder(tmp_path, dtype=torch.float16, device=CPU)
    before = fingerprint(decoder)
    assert before == fingerprint(load_decoder(tmp_path, dtype=torch.bfloat16, device=CPU))
    attach_trained(decoder)
    originals = merge(decoder)
    assert fingerprint(decoder) != before
    unmerge(decoder, originals)
    assert fingerprint(decoder) == before
