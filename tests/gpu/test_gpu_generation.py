"""Decoding from the arena, captured in a graph, against the plain path on the CPU."""

import pytest
import torch

from tests.op_cases import randn
from tests.tiny_models import FAMILIES, attach_trained, random_documents, tiny_decoder
from tests.tokenizers import chatml
from thinktune.generation.completion import GenerationConfig
from thinktune.generation.engine import generate
from thinktune.model.lora import base_only
from thinktune.ops.decode_attention import decode_attention

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
PROMPTS = [document.tolist() for document in random_documents((5, 1, 31, 2, 11))]
PROMPTS += [PROMPTS[2]] * 2


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("temperature", [0.0, 1.3])
def test_completions_equal_those_of_the_plain_path_in_float64(name: str, temperature: float):
    config = GenerationConfig(max_new_tokens=37, temperature=temperature, top_p=0.9)
    plain, fused = tiny_decoder(name, torch.float64), tiny_decoder(name).cuda()
    found = []
    for decoder in (plain, fused):
        attach_trained(decoder)
    for decoder, batch_size in ((plain, 7), (fused, 3), (fused, None)):
        completions = generate(
            decoder, chatml(), PROMPTS, config, stop_token_ids=range(0, 64, 9), seed=3,
            batch_size=batch_size, limits=[37, 37, 20, 1, 37, 37, 37],
        )  # fmt: skip
        found.append([(completion.tokens, completion.stop) for completion in completions])
    assert found[0] == found[1] == found[2]


def test_a_captured_step_is_that_of_the_adapter_as_it_is_now():
    config = GenerationConfig(max_new_tokens=23, temperature=0, top_p=1)
    decoder = tiny_decoder("qwen2").cuda()

    def tokens() -> list[tuple[int, ...]]:
        found = generate(decoder, chatml(), PROMPTS, config, stop_token_ids=())
        return [completion.tokens for completion in found]

    before = tokens()
    attach_trained(decoder)
    assert tokens() != before
    with base_only(decoder):
        assert tokens() == before


@pytest.mark.parametrize(("num_q", "num_k", "width"), [(32, 8, 128), (9, 3, 64), (28, 4, 128)])
def test_decode_attention_in_bfloat16_is_as_near_as_bfloat16_allows(num_q, num_k, width):
    lengths = torch.tensor([4095, -1, 0, 511, 512, 1300])
    starts = torch.tensor([4099 * row for row in range(len(lengths))])
    arena = [randn(num_k, 4099 * len(lengths), width) for _ in range(2)]
    new = [randn(len(lengths), heads, width) for heads in (num_q, num_k, num_k)]
    rounded = [x.bfloat16().double() for x in (*new, *arena)]
    truth = decode_attention(*(x.clone() for x in rounded), starts, lengths, longest=4096)
    on_gpu = [x.bfloat16().cuda() for x in rounded]
    ours = decode_attention(*on_gpu, starts.cuda(), lengths.cuda(), longest=4096)
    going = lengths >= 0
    error = (ours[going].cpu() - truth[going]).norm() / truth[going].norm()
    assert error < 4e-3  # rounding of the result alone is 1.7e-3
