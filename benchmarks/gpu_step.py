"""One training step of an 8B shape with random weights on a CUDA device: speed and memory.

usage: python benchmarks/gpu_step.py [--tokens 4096] [--documents 1] [--rank 16] [--steps 5]
"""

import argparse
import statistics
import time

import torch

from thinktune.data.loader import SegmentConfig, pack, segment_weights
from thinktune.data.segments import Rendered, Segment
from thinktune.model.decoder import Decoder
from thinktune.model.lora import LoRAConfig, adapter_parameters, attach
from thinktune.model.shape import shape_from_config
from thinktune.training.optimizer import OptimizerConfig, make_optimizer
from thinktune.training.step import train_step

LLAMA_8B = {
    "model_type": "llama",
    "vocab_size": 128256,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "rope_theta": 500000.0,
    "max_position_embeddings": 131072,
}


def random_decoder(device: torch.device) -> Decoder:
    """An 8B-shaped decoder with random bf16 weights."""
    with torch.device("meta"):
        decoder = Decoder(shape_from_config(LLAMA_8B))
    decoder = decoder.to(torch.bfloat16).to_empty(device=device)
    for name, weight in decoder.named_parameters():
        weight.data.fill_(1.0) if "norm" in name else weight.data.normal_(0, 0.02)
    return decoder


def main() -> None:
    """Time the steps and print one line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--documents", type=int, default=1)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--steps", type=int, default=5)
    options = parser.parse_args()
    device = torch.device("cuda")
    decoder = random_decoder(device)
    parameters = attach(decoder, LoRAConfig(rank=options.rank, alpha=32), seed=0)
    optimizer = make_optimizer(parameters, OptimizerConfig())
    length = options.tokens // options.documents
    rows = []
    for number in range(options.documents):
        tokens = tuple(torch.randint(1, 128000, (length,)).tolist())
        segments = (Segment.PROMPT, *(Segment.REASONING,) * (length - 1))
        rows.append(Rendered(tokens, segments, 1, f"document {number}"))
    weights = segment_weights(SegmentConfig(), SegmentConfig())
    packed = [row.to(device) for row in pack(rows, weights, options.tokens)]
    decoder.train()
    seconds, norms = [], []
    for _ in range(options.steps + 2):
        torch.cuda.synchronize()
        started = time.perf_counter()
        metrics = train_step(decoder, parameters, optimizer, packed, max_grad_norm=1.0)
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
        norms.append(metrics.grad_norm)
    assert min(norms) > 0, "no gradient"
    assert any(bool(p.any()) for n, p in adapter_parameters(decoder).items() if "lora_B" in n)
    median = statistics.median(seconds[2:])
    peak = torch.cuda.max_memory_allocated() / 2**30
    print(
        f"{options.documents} x {length} tokens, rank {options.rank}: {median * 1e3:.0f} ms, "
        f"{options.tokens / median:.0f} tokens/s, peak {peak:.1f} GiB, "
        f"{torch.cuda.get_device_name()}"
    )


if __name__ == "__main__":
    main()
