"""The training loop: which step comes next, what is measured, what is kept."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from pydantic import PositiveFloat, PositiveInt

from thinktune.data.loader import examples_of_step, pack
from thinktune.data.packing import PackingConfig
from thinktune.data.segments import Rendered, Segment
from thinktune.errors import DataError, TrainingError
from thinktune.model.decoder import Decoder
from thinktune.model.lora import adapter_parameters
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
    if not data.train:
        raise DataError("no training rows are left; see what was dropped, and why, above")
    parameters = list(adapter_parameters(decoder).values())
    optimizer = make_optimizer(parameters, optimizer_config)
    if steps_done:
        checkpoints.read_optimizer(decoder, optimizer)
    heldout_rows = [
        row.to(decoder.device) for row in pack(data.heldout, data.weights, data.packing.max_tokens)
    ]
    num_steps = plan_steps(config, len(data.train))
    watcher.stage("Training the adapter", num_steps)
    first = last = heldout = None
    num_tokens, seconds_in_steps = 0, 0.0
    written = recorded = steps_done
    decoder.train()
    try:
        for step in range(steps_done, num_steps):
            rate = learning_rate(step, num_steps, optimizer_config)
            started = time.perf_counter()
            metrics = _one_step(
                decoder, optimizer, data, config, step, rate, seed, optimizer_config.max_grad_norm
            )
            seconds = time.perf_counter() - started
            steps_done = step + 1
            first, last = first or metrics.losses, metrics.losses
            num_tokens, seconds_in_steps = (
                num_tokens + metrics.num_tokens,
                seconds_in_steps + seconds,
            )
            epoch = steps_done * config.batch_size / len(data.train)
            record = _step_record(metrics, seconds, rate, epoch)
            if heldout_rows and _due(steps_done, num_steps, config.eval_steps):
                heldout = _measure(decoder, heldout_rows)
                record |= _heldout_record(heldout)
            tracker.log(steps_done, record)
            recorded = steps_done
            watcher.advance(steps_done, record)
            if _due(steps_done, num_steps, config.save_steps):
                checkpoints.write(decoder, optimizer, steps_done)
                written = steps_done
            if sample and config.sample_steps and steps_done % config.sample_steps == 0:
                sample(steps_done)
    except KeyboardInterrupt:
        # An update without its record is not kept: a resumed run makes both again.
        if recorded > written and _num_updates(optimizer) == recorded:
            checkpoints.write(decoder, optimizer, recorded)
            written = recorded
        watcher.say(f"Interrupted in step {recorded + 1}; --resume goes on after step {written}.")
        raise
    finally:
        decoder.eval()
    _require_change(decoder)
    return TrainingSummary(num_steps, first, last, heldout, num_tokens, seconds_in_steps)


def _one_step(
    decoder: Decoder,
    optimizer: torch.optim.Optimizer,
    data: TrainingData,
    config: TrainingConfig,
    step: int,
    rate: float,
    seed: int,
    max_grad_norm: float,
) -> StepMetrics:
    chosen = examples_of_step(
        step, num_examples=len(data.train), batch_size=config.batch_size, seed=seed
    )
    examples = [data.train[index] for index in chosen]
    rows = pack(examples, data.weights, data.packing.max_tokens)
    torch.manual_seed(seed * 1_000_003 + step)  # dropout
    for group in optimizer.param_groups:
        group["lr"] = rate
    return train_step(
        decoder,
        list(adapter_parameters(decoder).values()),
        optimizer,
        [row.to(decoder.device) for row in rows],
        max_grad_norm=max_grad_norm,
    )


def _num_updates(optimizer: torch.optim.Optimizer) -> int:
    return max((int(state["step"]) for state in optimizer.state.values()), default=0)


def _due(steps_done: int, num_steps: int, every: int | None) -> bool:
    return steps_done == num_steps or (every is not None and steps_done % every == 0)


def _measure(decoder: Decoder, rows: Sequence) -> Losses:
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
