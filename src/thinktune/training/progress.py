"""A run under way: steps are launched, their numbers read when they are there."""

import math
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from thinktune.data.loader import PackedRow, examples_of_step, pack
from thinktune.data.packing import PackingConfig
from thinktune.data.segments import Rendered, Segment
from thinktune.errors import DataError, TrainingError
from thinktune.model.decoder import Decoder
from thinktune.model.lora import adapted_layers, adapter_parameters
from thinktune.training.optimizer import AdapterOptimizer, OptimizerConfig, learning_rate
from thinktune.training.quarantine import Quarantine, Response, SpoiledStepError, Trouble
from thinktune.training.schedule import TrainingConfig, is_due, plan_steps
from thinktune.training.step import (
    LaunchedStep,
    Losses,
    StepMetrics,
    heldout_loss,
    nothing_to_learn,
    train_step,
)


@dataclass(frozen=True, slots=True)
class TrainingData:
    """What the loop reads, rendered and within the length limit."""

    train: Sequence[Rendered]
    heldout: Sequence[Rendered]
    """Rows whose loss is measured and not trained on; may be empty."""
    weights: dict[Segment, float]
    """Loss weight of each segment."""
    packing: PackingConfig


def longest_row(
    train: Sequence[int], heldout: Sequence[int], batch_size: int, max_tokens: int
) -> int:
    """Most tokens of a packed row there can be.

    Args:
        train: tokens of each training row.
        heldout: tokens of what the held-out loss is measured on.
        batch_size: examples of a step.
        max_tokens: capacity of a packed row.
    """
    of_a_step = sum(sorted(train, reverse=True)[:batch_size])
    return min(max_tokens, max(of_a_step, sum(heldout)))


class Progress:
    """A run under way: the optimizer, and what was measured so far."""

    def __init__(
        self,
        decoder: Decoder,
        data: TrainingData,
        config: TrainingConfig,
        optimizer_config: OptimizerConfig,
        seed: int,
        quarantine: Quarantine | None = None,
    ) -> None:
        """Pack the held-out rows, and start the optimizer.

        Rows in which no token carries loss are left out.

        Args:
            decoder: the model with its adapter attached.
            data: rendered rows.
            config: how long, and what to do along the way.
            optimizer_config: AdamW.
            seed: of the order of examples and of dropout.
            quarantine: told of rows that something goes wrong with; None for nobody.

        Raises:
            DataError: there are no rows.
            TrainingError: no row carries loss, or no adapter is attached.
        """
        if not data.train:
            raise DataError("no training rows are left; see what was dropped, and why, above")
        self.quarantine = quarantine
        self.decoder, self.config, self.seed = decoder, config, seed
        self.data = data = replace(data, train=self._carrying_loss(data))
        self.optimizer_config = optimizer_config
        if decoder.adapter is None:
            raise TrainingError("no adapter is attached: there is nothing to train")
        self.optimizer = AdapterOptimizer(
            decoder.adapter.weights, optimizer_config, decoder.dtype, config.on_spike
        )
        self._has_changed = False
        """Whether the adapter is known to be no longer as it began."""
        self.launched: deque[tuple[int, float, LaunchedStep]] = deque()
        self.last_read = 0.0
        self.recorded = 0
        """Steps whose numbers were passed on."""
        self.num_steps = plan_steps(config, len(data.train))
        # A GPU's fused kernels take no prefix; dropout would share its masks.
        layers = adapted_layers(decoder).values()
        self.share_prefix = decoder.device.type == "cpu" and not any(x.dropout for x in layers)
        heldout = self._pack(data.heldout)
        self.heldout_rows = [row.to(decoder.device) for row in heldout]

    @property
    def ahead(self) -> int:
        """Steps that may be under way before the first of them is read."""
        return 1 if self.decoder.device.type == "cuda" else 0

    @property
    def max_tokens(self) -> int:
        """Of the longest row there can be."""
        lengths = [len(example.tokens) for example in self.data.train]
        heldout = [len(row.tokens_T) for row in self.heldout_rows]
        return longest_row(lengths, heldout, self.config.batch_size, self.data.packing.max_tokens)

    def _carrying_loss(self, data: TrainingData) -> list[Rendered]:
        """Rows with a target; the others are named."""
        carry = [_carries_loss(row, data.weights) for row in data.train]
        silent = [row.where for row, does in zip(data.train, carry, strict=True) if not does]
        if len(silent) == len(data.train):
            raise nothing_to_learn(silent)
        if silent and self.quarantine is not None:
            trouble = Trouble("no token carries loss", tuple(silent), Response.LEFT_OUT)
            self.quarantine.keep(0, trouble)
        return [row for row, does in zip(data.train, carry, strict=True) if does]

    def _pack(self, examples: Sequence[Rendered]) -> list[PackedRow]:
        weights, max_tokens = self.data.weights, self.data.packing.max_tokens
        return pack(examples, weights, max_tokens, share_prefix=self.share_prefix)

    def take(self, step: int) -> list[tuple[int, dict[str, float]]]:
        """Launch one update; gives the numbers of those that are finished, by steps done.

        A GPU is kept busy: its numbers come one step late, unless something is due that needs
        this step to be over.
        """
        started = time.perf_counter()
        self.launched.append((step, started, self._launch(step)))
        every = (self.config.eval_steps, self.config.save_steps, self.config.sample_steps)
        due = any(is_due(step + 1, self.num_steps, steps) for steps in every)
        finished = list(self.finish(0 if due else self.ahead))
        if self.heldout_rows and is_due(step + 1, self.num_steps, self.config.eval_steps):
            try:
                heldout = _measure(self.decoder, self.heldout_rows)
            except SpoiledStepError as error:
                raise self._refusal(step + 1, error) from None
            finished[-1][1].update(_heldout_record(heldout))
        return finished

    def finish(self, ahead: int = 0) -> Iterator[tuple[int, dict[str, float]]]:
        """Wait until no more than ``ahead`` steps are under way; gives their numbers."""
        while len(self.launched) > ahead:
            step, started, launched = self.launched.popleft()
            try:
                metrics = launched.read()
            except SpoiledStepError as error:
                raise self._refusal(step + 1, error) from None
            if not self._has_changed and self.optimizer.num_updates():
                self.require_change()
                self._has_changed = True
            if metrics.trouble is not None and self.quarantine is not None:
                self.quarantine.keep(step + 1, metrics.trouble)
            now = time.perf_counter()
            seconds = now - max(started, self.last_read)
            self.last_read = now
            yield step + 1, self._record(step, metrics, seconds)

    def _refusal(self, steps_done: int, error: SpoiledStepError) -> TrainingError:
        """Keep the rows; what to raise."""
        told = f"step {steps_done}: {error}"
        if self.quarantine is not None:
            self.quarantine.keep(steps_done, error.trouble)
            told = f"{told}; the rows are named in {self.quarantine.path}"
        return TrainingError(told)

    def require_change(self) -> None:
        """Refuse to go on with an adapter that is as it was; waits for the device.

        Raises:
            TrainingError: every B is still zero.
        """
        matrices = adapter_parameters(self.decoder).items()
        if any(bool(p.any()) for name, p in matrices if name.endswith("lora_B")):
            return
        way_out = "every B is still zero; raise optimizer.learning_rate"
        if not self.optimizer.num_updates():
            way_out = "every step was skipped; lower optimizer.learning_rate"
        raise TrainingError(f"the adapter did not change: {way_out}")

    def _record(self, step: int, metrics: StepMetrics, seconds: float) -> dict[str, float]:
        rate = learning_rate(step, self.num_steps, self.optimizer_config)
        epoch = (step + 1) * self.config.batch_size / len(self.data.train)
        return _step_record(metrics, seconds, rate, epoch)

    def _launch(self, step: int) -> LaunchedStep:
        chosen = examples_of_step(
            step,
            num_examples=len(self.data.train),
            batch_size=self.config.batch_size,
            seed=self.seed,
        )
        rows = self._pack([self.data.train[index] for index in chosen])
        torch.manual_seed(self.seed * 1_000_003 + step)  # dropout
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(step, self.num_steps, self.optimizer_config)
        return train_step(
            self.decoder,
            self.optimizer,
            [row.to(self.decoder.device) for row in rows],
            max_grad_norm=self.optimizer_config.max_grad_norm,
        )


def _carries_loss(row: Rendered, weights: dict[Segment, float]) -> bool:
    return any(weights.get(part, 0.0) > 0 for part in row.segments[max(1, row.prompt_length) :])


def _step_record(metrics: StepMetrics, seconds: float, rate: float, epoch: float) -> dict:
    losses = metrics.losses
    record = {
        "train/loss": losses.loss,
        "train/loss_reasoning": losses.loss_reasoning,
        "train/loss_answer": losses.loss_answer,
        "train/grad_norm": metrics.grad_norm if math.isfinite(metrics.grad_norm) else None,
        "train/loss_scale": metrics.loss_scale,
        "train/skipped_steps": metrics.skipped_steps,
        "train/spike": metrics.times_usual or None,
        "train/learning_rate": rate,
        "train/epoch": epoch,
        "train/num_tokens": metrics.num_tokens,
        "train/num_targets": losses.num_targets,
        "train/step_seconds": seconds,
        "train/tokens_per_second": metrics.num_tokens / seconds,
        "train/target_tokens_per_second": losses.num_targets / seconds,
    }
    return {key: value for key, value in record.items() if value is not None}


def _measure(decoder: Decoder, rows: Sequence[PackedRow]) -> Losses:
    decoder.eval()
    try:
        return heldout_loss(decoder, rows)
    finally:
        decoder.train()


def _heldout_record(losses: Losses) -> dict[str, float]:
    record = {
        "heldout/loss": losses.loss,
        "heldout/loss_reasoning": losses.loss_reasoning,
        "heldout/loss_answer": losses.loss_answer,
        "heldout/num_targets": losses.num_targets,
    }
    return {key: value for key, value in record.items() if value is not None}
