"""The training loop: which step comes next, what is measured, what is kept."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from pydantic import PositiveFloat, PositiveInt

from thinktune.data.loader import PackedRow, examples_of_step, pack
from thinktune.data.packing import PackingConfig
from thinktune.data.segments import Rendered, Segment
from thinktune.errors import DataError, TrainingError
from thinktune.model.decoder import Decoder
from thinktune.model.lora import adapted_layers, adapter_parameters
from thinktune.settings import Settings
from thinktune.tracking import Tracker, Watcher
from thinktune.training.checkpoints import CheckpointFolder
from thinktune.training.optimizer import OptimizerConfig, learning_rate, make_optimizer
from thinktune.training.step import Losses, StepMetrics, heldout_loss, train_step


class TrainingConfig(Settings):
    """How long to train, and what to do along the way."""

    batch_size: PositiveInt = 8
    """Examples of one step; how many micro-batches they make follows from packing.max_tokens."""
    num_train_epochs: PositiveFloat = 3.0
    """Times each example is seen; max_steps, if given, decides instead."""
    max_steps: PositiveInt | None = None
    """Steps to take; none to let num_train_epochs decide."""
    eval_steps: PositiveInt | None = 50
    """Steps between two measurements of the held-out loss; none for the end only."""
    save_steps: PositiveInt | None = 100
    """Steps between two checkpoints; none for the end only."""
    save_total_limit: PositiveInt = 2
    """How many of the newest checkpoints stay."""
    sample_steps: PositiveInt | None = None
    """Steps between two looks at what the model writes; none for no looks."""


@dataclass(frozen=True, slots=True)
class TrainingData:
    """What the loop reads, rendered and within the length limit."""

    train: Sequence[Rendered]
    heldout: Sequence[Rendered]
    """Rows whose loss is measured and not trained on; may be empty."""
    weights: dict[Segment, float]
    """Loss weight of each segment."""
    packing: PackingConfig


@dataclass(frozen=True, slots=True)
class TrainingSummary:
    """How a run of the loop went."""

    num_steps: int
    first: Losses | None
    last: Losses | None
    heldout: Losses | None
    num_tokens: int
    train_seconds: float
    """Time in steps alone, of this process."""


def plan_steps(config: TrainingConfig, num_examples: int) -> int:
    """Steps of the whole run."""
    if config.max_steps is not None:
        return config.max_steps
    return max(1, math.ceil(config.num_train_epochs * num_examples / config.batch_size))


def _step_record(metrics: StepMetrics, seconds: float, rate: float, epoch: float) -> dict:
    losses = metrics.losses
    record = {
        "train/loss": losses.loss,
        "train/loss_reasoning": losses.loss_reasoning,
        "train/loss_answer": losses.loss_answer,
        "train/grad_norm": metrics.grad_norm,
        "train/learning_rate": rate,
        "train/epoch": epoch,
        "train/num_tokens": metrics.num_tokens,
        "train/num_targets": losses.num_targets,
        "train/step_seconds": seconds,
        "train/tokens_per_second": metrics.num_tokens / seconds,
        "train/target_tokens_per_second": losses.num_targets / seconds,
    }
    return {key: value for key, value in record.items() if value is not None}


def train(
    decoder: Decoder,
    data: TrainingData,
    config: TrainingConfig,
    optimizer_config: OptimizerConfig,
    *,
    seed: int,
    checkpoints: CheckpointFolder,
    tracker: Tracker,
    watcher: Watcher,
    steps_done: int = 0,
    sample: Callable[[int], None] | None = None,
) -> TrainingSummary:
    """Train the attached adapter from step ``steps_done`` to the end.

    What a step sees and draws is a function of the seed and the step, so a resumed run gives
    the numbers the uninterrupted one would have given. When interrupted (Ctrl-C) it writes a
    checkpoint of the last whole step and passes the interruption on.

    Args:
        decoder: the model with its adapter attached, trained so far or fresh.
        data: rendered rows.
        config: how long, and what to do along the way.
        optimizer_config: AdamW and its learning rate.
        seed: of the order of examples and of dropout.
        checkpoints: where to keep them; read for the optimizer's state if ``steps_done`` > 0.
        tracker: where numbers go.
        watcher: who watches.
        steps_done: steps an earlier process took.
        sample: called with the steps done, every ``sample_steps``.

    Raises:
        TrainingError: loss or gradient is not finite, or the adapter did not change.
    """
    progress = _Progress(decoder, data, config, optimizer_config, seed)
    if steps_done:
        checkpoints.read_optimizer(decoder, progress.optimizer)
    num_steps = progress.num_steps
    watcher.stage("Training the adapter", num_steps)
    written = recorded = steps_done
    decoder.train()
    try:
        for step in range(steps_done, num_steps):
            record = progress.take(step)
            tracker.log(step + 1, record)
            recorded = step + 1
            watcher.advance(recorded, record)
            if _due(recorded, num_steps, config.save_steps):
                checkpoints.write(decoder, progress.optimizer, recorded)
                written = recorded
            if sample and config.sample_steps and recorded % config.sample_steps == 0:
                sample(recorded)
    except KeyboardInterrupt:
        written = _write_if_whole(decoder, progress.optimizer, checkpoints, recorded, written)
        watcher.say(f"Interrupted in step {recorded + 1}; --resume goes on after step {written}.")
        raise
    finally:
        decoder.eval()
    _require_change(decoder)
    return progress.summary()


class _Progress:
    """A run under way: the optimizer, and what was measured so far."""

    def __init__(
        self,
        decoder: Decoder,
        data: TrainingData,
        config: TrainingConfig,
        optimizer_config: OptimizerConfig,
        seed: int,
    ) -> None:
        if not data.train:
            raise DataError("no training rows are left; see what was dropped, and why, above")
        self.decoder, self.data, self.config, self.seed = decoder, data, config, seed
        self.optimizer_config = optimizer_config
        self.parameters = list(adapter_parameters(decoder).values())
        self.optimizer = make_optimizer(self.parameters, optimizer_config)
        self.num_steps = plan_steps(config, len(data.train))
        # A GPU's fused kernels take no prefix; dropout would share its masks.
        layers = adapted_layers(decoder).values()
        self.share_prefix = decoder.device.type == "cpu" and not any(x.dropout for x in layers)
        heldout = self._pack(data.heldout)
        self.heldout_rows = [row.to(decoder.device) for row in heldout]
        self.first: Losses | None = None
        self.last: Losses | None = None
        self.heldout: Losses | None = None
        self.num_tokens, self.seconds = 0, 0.0

    def _pack(self, examples: Sequence[Rendered]) -> list[PackedRow]:
        weights, max_tokens = self.data.weights, self.data.packing.max_tokens
        return pack(examples, weights, max_tokens, share_prefix=self.share_prefix)

    def take(self, step: int) -> dict[str, float]:
        """One update, and the held-out loss if it is due; gives the numbers to record."""
        rate = learning_rate(step, self.num_steps, self.optimizer_config)
        started = time.perf_counter()
        metrics = self._update(step, rate)
        seconds = time.perf_counter() - started
        self.first, self.last = self.first or metrics.losses, metrics.losses
        self.num_tokens += metrics.num_tokens
        self.seconds += seconds
        epoch = (step + 1) * self.config.batch_size / len(self.data.train)
        record = _step_record(metrics, seconds, rate, epoch)
        if self.heldout_rows and _due(step + 1, self.num_steps, self.config.eval_steps):
            self.heldout = _measure(self.decoder, self.heldout_rows)
            record |= _heldout_record(self.heldout)
        return record

    def _update(self, step: int, rate: float) -> StepMetrics:
        chosen = examples_of_step(
            step,
            num_examples=len(self.data.train),
            batch_size=self.config.batch_size,
            seed=self.seed,
        )
        examples = [self.data.train[index] for index in chosen]
        rows = self._pack(examples)
        torch.manual_seed(self.seed * 1_000_003 + step)  # dropout
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        return train_step(
            self.decoder,
            self.parameters,
            self.optimizer,
            [row.to(self.decoder.device) for row in rows],
            max_grad_norm=self.optimizer_config.max_grad_norm,
        )

    def summary(self) -> TrainingSummary:
        """How it went so far."""
        return TrainingSummary(
            self.num_steps, self.first, self.last, self.heldout, self.num_tokens, self.seconds
        )


def _write_if_whole(
    decoder: Decoder,
    optimizer: torch.optim.Optimizer,
    checkpoints: CheckpointFolder,
    recorded: int,
    written: int,
) -> int:
    """Write the last recorded step, if the adapter has not gone past it already.

    An update without its record is not kept: a resumed run makes both again.
    """
    num_updates = max((int(state["step"]) for state in optimizer.state.values()), default=0)
    if recorded > written and num_updates == recorded:
        checkpoints.write(decoder, optimizer, recorded)
        return recorded
    return written


def _due(steps_done: int, num_steps: int, every: int | None) -> bool:
    return steps_done == num_steps or (every is not None and steps_done % every == 0)


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
    }
    return {key: value for key, value in record.items() if value is not None}


def _require_change(decoder: Decoder) -> None:
    changed = any(
        bool(p.any()) for name, p in adapter_parameters(decoder).items() if name.endswith("lora_B")
    )
    if not changed:
        raise TrainingError(
            "the adapter did not change: every B is still zero; raise optimizer.learning_rate"
        )
