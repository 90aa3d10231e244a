"""The Triton kernels run step by step on the CPU, against the plain paths in float64.

usage: TRITON_INTERPRET=1 python -m tests.interpreted_kernels

Prints one JSON object: the largest relative Frobenius error of every check, or what went wrong.
In float32 but where float16 is said: products of bf16 are wrong in Triton's interpreter.
"""

import json
import sys
import traceback
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from tests.op_cases import (
    EPS,
    Case,
    add_case,
    entropy_case,
    norm_case,
    randn,
    rope_case,
    rounded,
    run_ours,
    run_plain,
    swiglu_case,
)
from tests.plain_decoder import plain_hidden
from tests.tiny_models import (
    FAMILIES,
    attach_trained,
    hidden_of,
    random_documents,
    relative_error,
    tiny_decoder,
)
from tests.tokenizers import chatml
from thinktune.generation.completion import GenerationConfig
from thinktune.generation.engine import generate
from thinktune.kernels.language import INTERPRETED, runs_fused
from thinktune.model.decoder import Decoder
from thinktune.model.kept import Keep
from thinktune.model.lora import ALL_LINEAR, LoRAConfig, adapter_parameters
from thinktune.ops.decode_attention import decode_attention
from thinktune.ops.linear_cross_entropy import linear_cross_entropy
from thinktune.ops.rms_norm import rms_norm_again, rms_norm_forward
from thinktune.ops.update import dropout

# One more than a block of tokens, columns or rank, so that the last block is nearly empty.
OPS = {
    "norm of one number": norm_case("norm and residual", 1, 1),
    "norm": norm_case("norm and residual", 3, 31),
    "norm wider than a block": norm_case("norm and residual", 2, 2053),
    "norm with an update": norm_case("norm and residual", 17, 31, rank=3),
    "norm with an update wider than a block": norm_case("norm and residual", 17, 521, rank=67),
    "norm with a gradient": norm_case("rms_norm", 3, 31),
    "add_rms_norm": add_case("add_rms_norm", 3, 29),
    "add_rms_norm of one number": add_case("add_rms_norm", 1, 1, rank=1),
    "add_rms_norm with an update": add_case("add_rms_norm", 17, 29, rank=5),
    "add_rms_norm wider than a block": add_case("add_rms_norm", 33, 521, rank=67),
    "residual_add": add_case("residual_add", 3, 29),
    "residual_add with an update": add_case("residual_add", 33, 257, rank=17),
    "rope of one token": rope_case(1, 1, 1, 2),
    "rope": rope_case(33, 3, 1, 14),
    "rope with an update": rope_case(33, 3, 1, 14, rank=3),
    "rope with an update of the key": rope_case(5, 3, 1, 14, rank=17, without=(0, 2)),
    "rope with norms": rope_case(33, 3, 1, 22, norms=True),
    "rope with norms and an update": rope_case(33, 3, 1, 22, norms=True, rank=3),
    "rope with norms and an update of query and value": rope_case(
        5, 2, 1, 34, norms=True, rank=67, without=(1,)
    ),
    "swiglu of one number": swiglu_case(1, 1, rank=1, grad_rank=1),
    "swiglu": swiglu_case(33, 131),
    "swiglu with updates": swiglu_case(33, 131, rank=3, grad_rank=5),
    "swiglu with updates, over many stretches of rows": swiglu_case(2100, 3, rank=2, grad_rank=2),
    "rope with an update, over many stretches of rows": rope_case(1030, 1, 1, 2, rank=2),
    "swiglu with updates of a large rank": swiglu_case(5, 29, rank=67, grad_rank=65),
    "swiglu with an update of gate alone": swiglu_case(5, 29, rank=3, without=(1,)),
    "swiglu with an update of up alone": swiglu_case(5, 29, rank=3, without=(0,), grad_rank=17),
    "cross_entropy of one target": entropy_case(1, 1, 1),
    "cross_entropy": entropy_case(11, 13, 37),
    "cross_entropy over many chunks": entropy_case(263, 3, 5),
    "cross_entropy wider than a block": entropy_case(3, 7, 4099),
}
LENGTHS = (5, 1, 9)
TARGETS = {"all seven": ALL_LINEAR, "some": ("k_proj", "layers.1.mlp.up_proj", "down_proj")}


def _op(case: Case) -> float:
    case = rounded(case, torch.float32)
    truth, ours = run_plain(case), run_ours(case, torch.float32)
    return max(relative_error(mine, true) for mine, true in zip(ours, truth, strict=True))


def _norm_again() -> float:
    x, weight = randn(3, 31).float(), randn(31).float()
    h, rrms = rms_norm_forward(x, weight, EPS)
    assert torch.equal(rms_norm_again(x, weight, rrms), h)
    return 0.0


def _huge_logits() -> float:
    hidden = torch.tensor([[1e4], [-1e4]], requires_grad=True)
    head, targets = torch.tensor([[1.0], [-1.0], [0.5]]), torch.tensor([0, 0])
    loss, nll = linear_cross_entropy(hidden, head, targets, torch.ones(2))
    loss.backward()
    assert hidden.grad is not None
    assert hidden.grad.isfinite().all()
    return relative_error(nll, torch.tensor([0.0, 2e4]))


def _dropout() -> float:
    ones = torch.ones(131, 257)
    first, again, other = (dropout(ones, 0.25, seed) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert first.unique().tolist() == [0.0, torch.tensor(1 / 0.75).item()]
    assert 0.3 < ((first == 0) != (other == 0)).float().mean() < 0.45  # 2 x 0.25 x 0.75
    assert abs((first == 0).float().mean() - 0.25) < 0.01
    x = randn(131, 257).float()
    return relative_error(dropout(x, 0.25, 3), x * first)


def _dropout_of_turned() -> float:
    x = randn(131, 257).float()
    return relative_error(dropout(x.T.contiguous().T, 0.25, 3), dropout(x, 0.25, 3))


def _decoder(name: str, targets: tuple[str, ...]) -> float:
    """All that layers do, in float32, against the plain decoder in float64."""
    documents, lora = (
        random_documents(LENGTHS),
        LoRAConfig(rank=3, alpha=5.0, target_modules=targets),
    )
    narrow, wide = tiny_decoder(name), tiny_decoder(name, torch.float64)
    for decoder in (narrow, wide):
        attach_trained(decoder, lora)
    plain, ours = plain_hidden(wide, documents), _states_and_gradients(narrow)
    matrices = list(adapter_parameters(wide).values())
    truth = [plain, *torch.autograd.grad((plain * _cotangent(plain)).sum(), matrices)]
    return max(relative_error(mine, true.detach()) for mine, true in zip(ours, truth, strict=True))


def _in_float16(name: str) -> float:
    """A stream in float32 between products in float16, against float64 with the same weights."""
    narrow, wide = tiny_decoder(name, torch.float16), tiny_decoder(name, torch.float16).double()
    found = []
    for decoder in (narrow, wide):
        attach_trained(decoder, LoRAConfig(rank=3, alpha=5.0))
        states = _states_and_gradients(decoder)
        found.append([states[0], torch.cat([x.flatten() for x in states[1:]])])
    assert narrow.model.layers[0].input_layernorm.weight.dtype == torch.float16
    return max(relative_error(mine, true) for mine, true in zip(*found, strict=True))


def _entropy_in_float16() -> float:
    """Of a vocabulary whose probabilities float16 would round away."""
    hidden, head = randn(3, 4).half(), randn(30_000, 4).half()
    targets, weights = torch.tensor([5, 0, 29_999]), torch.ones(3)
    found = []
    for dtype in (torch.float16, torch.float64):
        leaf = hidden.to(dtype).requires_grad_()
        loss, _ = linear_cross_entropy(leaf, head.to(dtype), targets, weights)
        (grad,) = torch.autograd.grad(loss, leaf)
        found.append(grad)
    return relative_error(*found)


def _whatever_is_kept() -> float:
    """The same bits with dropout, whose masks are made again; other masks from another seed."""
    decoder, runs = tiny_decoder("qwen3").train(), []
    attach_trained(decoder, LoRAConfig(rank=3, dropout=0.3))
    for seed, keep in ((0, Keep.ALL), *((0, keep) for keep in Keep), (1, Keep.ALL)):
        decoder.plan((keep,) * decoder.shape.num_hidden_layers, sum(LENGTHS))
        torch.manual_seed(seed)
        runs.append(_states_and_gradients(decoder))
    assert all(all(map(torch.equal, runs[0], others)) for others in runs[1:-1])
    assert not any(map(torch.equal, runs[0], runs[-1]))
    return 0.0


def _states_and_gradients(decoder: Decoder) -> list[Tensor]:
    assert decoder.adapter is not None
    decoder.adapter.gradient.zero_()
    hidden = hidden_of(decoder, random_documents(LENGTHS))
    (hidden * _cotangent(hidden)).sum().backward()
    decoder.adapter.scale_gradient()
    matrices = adapter_parameters(decoder).values()
    return [hidden.detach(), *(p.grad.clone() for p in matrices if p.grad is not None)]


def _cotangent(hidden: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    return torch.randn(hidden.shape, generator=generator, dtype=torch.float64).to(hidden.dtype)


def _decode_attention(
    lengths: tuple[int, ...], num_q: int, num_k: int, width: int, longest: int
) -> float:
    """Rows apart in the arena, one of them at rest; what was stored is held against it too."""
    starts = torch.tensor([7 + row * (longest + 3) for row in range(len(lengths))])
    arena = [randn(num_k, 11 + len(lengths) * (longest + 3), width) for _ in range(2)]
    new = [randn(len(lengths), heads, width) for heads in (num_q, num_k, num_k)]
    places = starts, torch.tensor(lengths)
    wide, narrow = [x.clone() for x in arena], [x.float() for x in arena]
    truth = decode_attention(*new, *wide, *places, longest=longest)
    ours = decode_attention(*(x.float() for x in new), *narrow, *places, longest=longest)
    going = places[1] >= 0
    assert ours.isfinite().all()
    stored = [relative_error(mine, true) for mine, true in zip(narrow, wide, strict=True)]
    assert max(stored) < 1e-7
    return relative_error(ours[going], truth[going])


def _completions(name: str, temperature: float) -> float:
    """Token by token those of the plain path in float64, with slots that are used again."""
    config = GenerationConfig(max_new_tokens=6, temperature=temperature, top_p=0.9)
    documents = [document.tolist() for document in random_documents((5, 1, 9, 2))]
    prompts = [*documents, documents[2]]  # one of them twice
    found = []
    for dtype, batch_size in ((torch.float64, 5), (torch.float32, 2)):
        decoder = tiny_decoder(name, dtype)
        attach_trained(decoder)
        completions = generate(
            decoder, chatml(), prompts, config, stop_token_ids=range(0, 64, 5), seed=3,
            batch_size=batch_size, limits=[6, 6, 3, 1, 6],
        )  # fmt: skip
        found.append([(completion.tokens, completion.stop) for completion in completions])
    assert found[0] == found[1], found
    assert len({len(tokens) for tokens, _ in found[0]}) > 1, "rows should end at different times"
    return 0.0


CHECKS: dict[str, Callable[[], float]] = {
    **{name: partial(_op, case) for name, case in OPS.items()},
    "norm made again": _norm_again,
    "cross_entropy of huge logits": _huge_logits,
    "dropout": _dropout,
    "dropout of columns": _dropout_of_turned,
    **{
        f"decoder {name}, adapter on {which}": partial(_decoder, name, targets)
        for name in FAMILIES
        for which, targets in TARGETS.items()
    },
    "decoder with dropout, whatever is kept": _whatever_is_kept,
    **{f"float16 decoder {name}": partial(_in_float16, name) for name in FAMILIES},
    "float16 cross_entropy": _entropy_in_float16,
    "decode_attention of one token": partial(_decode_attention, (0,), 1, 1, 2, 1),
    "decode_attention": partial(_decode_attention, (5, -1, 0, 63, 64), 6, 2, 14, 65),
    "decode_attention over chunks": partial(_decode_attention, (511, 1030, 512), 3, 1, 5, 1031),
    **{
        f"completions of {name}, temperature {heat}": partial(_completions, name, heat)
        for name, heat in (("llama", 1.3), ("qwen3", 0.0))
    },
}


def main() -> None:
    """Run every check and print what came of it."""
    if not (INTERPRETED and runs_fused(torch.ones(1))):
        sys.exit("set TRITON_INTERPRET=1, and install triton")
    results: dict[str, float | str] = {}
    for name, check in CHECKS.items():
        try:
            results[name] = check()
        except Exception:  # every check is to be reported
            results[name] = traceback.format_exc()
    print(json.dumps(results))


if __name__ == "__main__":
    main()
