"""The training loop: which step comes next, what is measured, what is kept."""

from collections.abc import Callable, Iterable

import torch

from thinktune.errors import TrainingError
from thinktune.model.decoder import Decoder
from thinktune.model.lora import adapter_parameters
from thinktune.tracking import Tracker, Watcher
from thinktune.training.checkpoints import CheckpointFolder
from thinktune.training.memory_plan import fit, out_of_memory
from thinktune.training.optimizer import OptimizerConfig
from thinktune.training.progress import Progress, TrainingData, TrainingSummary
from thinktune.training.schedule import TrainingConfig, is_due


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
    progress = Progress(decoder, data, config, optimizer_config, seed)
    if steps_done:
        checkpoints.read_optimizer(decoder, progress.optimizer)
    num_steps = progress.num_steps
    plan = fit(decoder, checkpoints.lora, progress.max_tokens, config.memory_budget_gib)
    if plan is not None:
        watcher.say(plan.sentence())
    watcher.stage("Training the adapter", num_steps)
    written = recorded = steps_done
    decoder.train()

    def record(finished: Iterable[tuple[int, dict[str, float]]]) -> None:
        nonlocal recorded
        for done, numbers in finished:
            tracker.log(done, numbers)
            recorded = done
            watcher.advance(done, numbers)

    try:
        for step in range(steps_done, num_steps):
            record(progress.take(step))
            if is_due(step + 1, num_steps, config.save_steps):
                checkpoints.write(decoder, progress.optimizer, recorded)
                written = recorded
            if sample and config.sample_steps and recorded % config.sample_steps == 0:
                sample(recorded)
    except torch.cuda.OutOfMemoryError as error:
        raise TrainingError(out_of_memory(plan)) from error
    except KeyboardInterrupt:
        record(progress.finish())
        written = _write_if_whole(decoder, progress.optimizer, checkpoints, recorded, written)
        watcher.say(f"Interrupted in step {recorded + 1}; --resume goes on after step {written}.")
        raise
    finally:
        decoder.eval()
    _require_change(decoder)
    return progress.summary()


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


def _require_change(decoder: Decoder) -> None:
    changed = any(
        bool(p.any()) for name, p in adapter_parameters(decoder).items() if name.endswith("lora_B")
    )
    if not changed:
        raise TrainingError(
            "the adapter did not change: every B is still zero; raise optimizer.learning_rate"
        )
