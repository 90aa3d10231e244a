"""Time training steps of any shape, with random weights and random documents."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import TypeVar

import torch
from torch import nn

from thinktune.cards import card_of_device, find_card
from thinktune.data.loader import PackedRow, SegmentConfig, pack, segment_weights
from thinktune.errors import ConfigError, TrainingError
from thinktune.kernels.language import as_capability, capability
from thinktune.model.checkpoint_io import BaseDtype, resolve_precision
from thinktune.model.decoder import Decoder
from thinktune.model.kept import Keep
from thinktune.model.lora import LoRAConfig, adapted_layers, attach
from thinktune.ops.attention import PackedAttention
from thinktune.random_base import random_decoder
from thinktune.roofline import operations
from thinktune.training.fitting import fit
from thinktune.training.optimizer import AdapterOptimizer, OptimizerConfig
from thinktune.training.step import LaunchedStep, StepMetrics, train_step
from thinktune.training.step_memory import Workload
from thinktune.workload import examples_of_timed_step

_WARM_UP = 2


_Choice = TypeVar("_Choice", bound=StrEnum)


def parse_choice(kinds: type[_Choice], name: str, what: str) -> _Choice:
    """The member of that value.

    Raises:
        ConfigError: there is none; the values are named.
    """
    try:
        return kinds(name)
    except ValueError:
        known = ", ".join(kinds)
        raise ConfigError(f"{what}: {name!r} is none of {known}") from None


@dataclass(frozen=True, slots=True)
class StepTiming:
    """What timed steps came to."""

    milliseconds: float
    """Of a step, on average."""
    tokens_per_second: float
    """Without padding: there is none."""
    target_tokens_per_second: float
    peak_gib: float | None
    """Most memory allocated on the device at any time; None on a CPU."""
    mfu: float | None
    """Share of the device's 16-bit peak, recomputation not counted; None where it is unknown."""
    first_step_seconds: float
    """The first step, which compiles."""
    attention: str
    """What attended."""
    skipped_steps: int | None
    """Updates left out because a gradient overflowed; None but in fp16."""
    planned_gib: float | None
    """The memory plan's estimate of the peak."""
    host_gib: float | None
    """Pinned host memory."""
    kept: str
    """What layers keep for backward."""

    def as_dict(self) -> dict:
        """For JSON."""
        return asdict(self)

    def lines(self) -> Iterator[tuple[str, str]]:
        """Name and value, for people."""
        yield "tokens/s", f"{self.tokens_per_second:,.0f}"
        yield "target tokens/s", f"{self.target_tokens_per_second:,.0f}"
        yield "ms a step", f"{self.milliseconds:,.1f}"
        yield "first step", f"{self.first_step_seconds:.1f} s"
        if self.peak_gib is not None and self.planned_gib is not None:
            yield "peak", f"{self.peak_gib:.2f} GiB, planned {self.planned_gib:.2f}"
        if self.host_gib:
            yield "on the host", f"{self.host_gib:.2f} GiB"
        if self.mfu is not None:
            yield "MFU, recomputation not counted", f"{self.mfu:.1%}"
        if self.skipped_steps is not None:
            yield "skipped steps", str(self.skipped_steps)
        yield "attention", self.attention
        yield "layers keep", self.kept


def bench_step(
    shape: str,
    documents: str,
    *,
    rank: int = 16,
    dropout: float = 0.0,
    steps: int = 5,
    budget_gib: float | None = None,
    keep: str | None = None,
    device: torch.device,
    dtype: str = "bfloat16",
    max_tokens: int | None = None,
    profile: bool = False,
) -> StepTiming:
    """Time whole steps: forward, backward, clipping and update, new documents in each.

    Args:
        shape: name of a shape.
        documents: what a step trains on, see `thinktune.workload.document_lengths`.
        rank: of an adapter on all seven projections.
        dropout: of the adapter.
        steps: how many to time, after two to warm up.
        budget_gib: most memory to allocate; None for what is free.
        keep: what every layer keeps; None for what the memory plan chooses.
        device: where.
        dtype: how the base is held, as in a recipe's ``base_dtype``.
        max_tokens: of a packed row, as in ``packing.max_tokens``; None for a step in one row.
        profile: print where the time of one step goes.

    Raises:
        ConfigError: there is no such shape, type or choice, or it does not fit.
        TrainingError: the steps did not train: no gradient, or an adapter that did not change.
    """
    kept = None if keep is None else parse_choice(Keep, keep, "--keep")
    precision = resolve_precision(parse_choice(BaseDtype, dtype, "--dtype"), device)
    decoder = random_decoder(shape, precision, device)
    lora = LoRAConfig(rank=rank, alpha=2.0 * rank, dropout=dropout)
    attach(decoder, lora, seed=0)
    assert decoder.adapter is not None
    optimizer = AdapterOptimizer(decoder.adapter.weights, OptimizerConfig(), dtype=decoder.dtype)
    decoder.train()
    size, num = decoder.shape.vocab_size, steps + _WARM_UP
    batches = [_rows(documents, size, step, max_tokens) for step in range(num)]
    longest = max(len(row.tokens_T) for rows in batches for row in rows)
    plan = fit(decoder, lora, longest, budget_gib, keep=kept)
    first, seconds, finished = _timed(decoder, batches, optimizer, profile=profile)
    _require_change([layer.lora_B for layer in adapted_layers(decoder).values()], finished)
    return StepTiming(
        milliseconds=seconds * 1e3,
        tokens_per_second=sum(m.num_tokens for m in finished) / steps / seconds,
        target_tokens_per_second=sum(m.losses.num_targets for m in finished) / steps / seconds,
        peak_gib=torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else None,
        mfu=_mfu(_operations(decoder, lora, batches[_WARM_UP:]) / seconds, device),
        first_step_seconds=first,
        attention=_attention(decoder, batches[-1]),
        skipped_steps=finished[-1].skipped_steps,
        planned_gib=None if plan is None else plan.total_bytes / 2**30,
        host_gib=None if plan is None else plan.host_bytes / 2**30,
        kept=", ".join(f"{list(decoder.keep).count(k)} x {k}" for k in Keep if k in decoder.keep),
    )


def _timed(
    decoder: Decoder,
    batches: list[list[PackedRow]],
    optimizer: AdapterOptimizer,
    *,
    profile: bool,
) -> tuple[float, float, list[StepMetrics]]:
    """Seconds of the first step, and of each after the warm-up, with what those did."""

    def launch(rows: list[PackedRow]) -> LaunchedStep:
        there = [row.to(decoder.device) for row in rows]
        return train_step(decoder, optimizer, there, max_grad_norm=1.0)

    started = time.perf_counter()
    launch(batches[0]).read()
    first = time.perf_counter() - started
    for rows in batches[1:_WARM_UP]:
        launch(rows).read()
    # As the training loop does it: a step is launched before the one before it is over.
    started = time.perf_counter()
    launched = [launch(rows) for rows in batches[_WARM_UP:]]
    finished = [step.read() for step in launched]
    seconds = (time.perf_counter() - started) / len(finished)
    if profile:
        with _profiled():
            launch(batches[-1]).read()
    return first, seconds, finished


def _rows(documents: str, vocab_size: int, step: int, max_tokens: int | None) -> list[PackedRow]:
    """All documents of a step, packed."""
    examples = examples_of_timed_step(documents, vocab_size, step)
    total = sum(len(example.tokens) for example in examples)
    weights = segment_weights(SegmentConfig(), SegmentConfig())
    return pack(examples, weights, max_tokens or total)


def _attention(decoder: Decoder, rows: list[PackedRow]) -> str:
    heads = decoder.shape.num_attention_heads, decoder.shape.head_dim
    q = torch.empty(1, *heads, dtype=decoder.dtype, device=decoder.device)
    return str(PackedAttention(rows[0].lengths).kernel(q))


def _require_change(matrices: list[nn.Parameter | None], steps: list[StepMetrics]) -> None:
    if any(metrics.grad_norm == 0 for metrics in steps):
        raise TrainingError("the gradient is zero: this benchmark would time nothing")
    if not all(matrix is not None and bool(matrix.any()) for matrix in matrices):
        raise TrainingError("an adapter matrix did not change: this benchmark would time nothing")


def _operations(decoder: Decoder, lora: LoRAConfig, steps: list[list[PackedRow]]) -> float:
    """Of a step on average, what is computed again not counted."""
    rows = [row for step in steps for row in step]
    work = Workload(decoder.shape, lora, 0, decoder.dtype, ragged=False)
    each = (operations(work, row.lengths, row.num_targets, decoder.keep).total for row in rows)
    return sum(each) / len(steps)


def _mfu(per_second: float, device: torch.device) -> float | None:
    if device.type != "cuda":
        return None
    here = torch.cuda.get_device_properties(device)
    card = card_of_device(here.name, here.total_memory / 2**30, capability(device))
    return per_second / (card.speed.tflops * 1e12) if card.speed else None


@contextmanager
def emulated(card: str | None, device: torch.device) -> Iterator[float | None]:
    """Choose kernels and types as on another card, and allocate no more than it has.

    Its speed is not emulated, nor what its own compiler makes of the kernels.

    Args:
        card: its name; None for the one that is here.
        device: what is here.

    Yields:
        GiB that a step finds on the card, for its plan; None for the one that is here.

    Raises:
        ConfigError: no such card, or none to emulate it on.
    """
    if card is None:
        yield None
        return
    other = find_card(card)
    if device.type != "cuda":
        raise ConfigError("--as: only a GPU emulates another")
    device = torch.device("cuda", torch.cuda.current_device())
    total = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, other.allocatable_bytes / total), device)
    try:
        with as_capability(other.capability) if other.capability else nullcontext():
            yield other.usable_bytes / 2**30
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)


@contextmanager
def _profiled() -> Iterator[None]:
    """Print the kernels of what happens inside, the longest first."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities = [torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profiler:
        yield
    on_device = torch.cuda.is_available()
    spent = {
        event: event.self_device_time_total if on_device else event.self_cpu_time_total
        for event in profiler.key_averages()
    }
    print(f"{'device' if on_device else 'CPU'} busy for {sum(spent.values()) / 1e3:.1f} ms")
    kernels = [e for e in profiler.events() or () if e.device_type.name == "CUDA"]
    if kernels:
        first = min(event.time_range.start for event in kernels)
        last = max(event.time_range.end for event in kernels)
        print(f"{(last - first) / 1e3:.1f} ms from the first of {len(kernels)} to the last")
    for event, microseconds in sorted(spent.items(), key=lambda pair: -pair[1])[:40]:
        if microseconds:
            print(f"{microseconds / 1e3:8.2f} ms {event.count:6d} x  {event.key[:110]}")
