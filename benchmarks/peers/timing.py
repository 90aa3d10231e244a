"""The clock of all peers: warm up, then time whole steps; and the loop of those without one."""

import math
import statistics
import time
from collections.abc import Callable, Sequence

import torch

from benchmarks.peers.case import LEARNING_RATE, MAX_GRAD_NORM, WARMUP_STEPS, Case, find_device
from thinktune.data.segments import Rendered

MakeBatch = Callable[[list[Rendered], torch.device], dict]


class Clock:
    """Times the steps that ``start`` and ``stop`` enclose, each with an idle device at both ends.

    Batches are on the device before ``start``. Memory is the peak over the timed steps.
    """

    def __init__(self) -> None:
        """No step is timed yet."""
        self.device = find_device()
        self.seconds: list[float] = []

    def _synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def start(self) -> None:
        """A step begins."""
        self._synchronize()
        if len(self.seconds) == WARMUP_STEPS and self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        self._started = time.perf_counter()

    def stop(self) -> None:
        """It has ended."""
        self._synchronize()
        self.seconds.append(time.perf_counter() - self._started)

    def result(self, case: Case, model: torch.nn.Module, grad_norms: Sequence[float]) -> dict:
        """Numbers of the table.

        Raises:
            AssertionError: the peer did not train: a gradient is zero or not finite, or no
                adapter has left its initial value (B is zero at first).
        """
        assert len(self.seconds) == len(grad_norms) == WARMUP_STEPS + case.steps
        assert all(norm > 0 and math.isfinite(norm) for norm in grad_norms), grad_norms
        up = [weight for name, weight in model.named_parameters() if "lora_B" in name]
        layers = case.config["num_hidden_layers"]
        assert len(up) == 7 * layers, f"{len(up)} adapters in {layers} layers"
        assert all(bool(weight.any()) for weight in up), "an adapter did not change"
        timed = self.seconds[WARMUP_STEPS:]
        steps = range(WARMUP_STEPS, WARMUP_STEPS + case.steps)
        tokens = [sum(len(e.tokens) for e in case.examples(step)) for step in steps]
        rates = [count / seconds for count, seconds in zip(tokens, timed, strict=True)]
        on_gpu = self.device.type == "cuda"
        return {
            "tokens_per_second": statistics.median(rates),
            "milliseconds": 1e3 * statistics.median(timed),
            "slowest_milliseconds": 1e3 * max(timed),
            "warmup_seconds": sum(self.seconds[:WARMUP_STEPS]),
            "peak_gib": torch.cuda.max_memory_allocated() / 2**30 if on_gpu else None,
            "device": torch.cuda.get_device_name() if on_gpu else "CPU",
        }


def time_loop(case: Case, model: torch.nn.Module, make_batch: MakeBatch, *, autocast: bool) -> dict:
    """Time forward, backward, clipping and the update of a model that returns its loss."""
    clock, grad_norms = Clock(), []
    parameters = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE, fused=True)
    model.train()
    for number in range(WARMUP_STEPS + case.steps):
        batch = make_batch(case.examples(number), clock.device)
        clock.start()
        with torch.autocast(clock.device.type, torch.bfloat16, enabled=autocast):
            loss = model(**batch).loss
        loss.backward()
        grad_norms.append(torch.nn.utils.clip_grad_norm_(parameters, MAX_GRAD_NORM))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        clock.stop()
    return clock.result(case, model, [float(norm) for norm in grad_norms])
