"""The training loop: which step comes next, what is measured, what is kept."""

from collections.abc import Callable, Iterable

import torch

from thinktune.errors import TrainingError
from thinktune.kernels.language import runs_fused
from thinktune.model.decoder import Decoder
from thinktune.model.lora import LoRAConfig, adapter_parameters
from thinktune.tracking import Tracker, Watcher
from thinktune.training.checkpoints import CheckpointFolder
from thinktune.training.fitting import fit, out_of_memory
from thinktune.training.memory_plan import MemoryPlan
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

    What a step sees and draws follows from the seed and the step, so a resumed run gives the
    numbers of an uninterrupted one. Ctrl-C writes a checkpoint of the last whole step first.

    Args:
        decoder: the model with its adapter attached, trained so far or fresh.
        data: rendered rows.
        config: how long, and what to do along the way.
        optimizer_config: AdamW.
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
    plan = _plan(decoder, checkpoints.lora, progress.max_tokens, config, watcher)
    watcher.stage("Training the adapter", progress.num_steps)
    written = progress.recorded = steps_done
    decoder.train()
    try:
        for step in range(steps_done, progress.num_steps):
            _tell(progress.take(step), progress, tracker, watcher)
            if is_due(step + 1, progress.num_steps, config.save_steps):
                checkpoints.write(decoder, progress.optimizer, progress.recorded)
                written = progress.recorded
            if sample and config.sample_steps and (step + 1) % config.sample_steps == 0:
                sample(step + 1)
    except torch.cuda.OutOfMemoryError as error:
        raise TrainingError(out_of_memory(plan)) from error
    except KeyboardInterrupt:
        _tell(progress.finish(), progress, tracker, watcher)
        last, at = _write_if_whole(decoder, progress, checkpoints, written), progress.recorded + 1
        watcher.say(f"Interrupted in step {at}; --resume goes on after step {last}.")
        raise
    finally:
        decoder.eval()
    _require_change(decoder)
    return progress.summary()


def _plan(
    decoder: Decoder, lora: LoRAConfig, max_tokens: int, config: TrainingConfig, watcher: Watcher
) -> MemoryPlan | None:
    """Plan a GPU's memory, and say what was decided."""
    plan = fit(decoder, lora, max_tokens, config.memory_budget_gib)
    if plan is not None:
        watcher.say(plan.sentence())
        if not runs_fused(decoder.model.norm.weight):
            watcher.say(
                "Triton is not installed, so plain PyTorch does the elementwise work, slower and "
                "with more memory than planned; `pip install triton` (Linux) brings it."
            )
    return plan


def _tell(
    finished: Iterable[tuple[int, dict[str, float]]],
    progress: Progress,
    tracker: Tracker,
    watcher: Watcher,
) -> None:
    """Record the numbers of finished steps."""
    for done, numbers in finished:
        tracker.log(done, numbers)
        progress.recorded = done
        watcher.advance(done, numbers)


def _write_if_whole(
    decoder: Decoder, progress: Progress, checkpoints: CheckpointFolder, written: int
) -> int:
    """Write the last recorded step, if the adapter has not gone past it already.

    An update without its record is not kept: a resumed run makes both again.
    """
    optimizer, recorded = progress.optimizer, progress.recorded
    if recorded > written and optimizer.num_steps() == recorded:
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
