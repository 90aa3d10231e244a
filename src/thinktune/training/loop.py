"""The training loop: which step comes next, what is measured, what is kept."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch

from thinktune.errors import RunError, TrainingError
from thinktune.interruption import held
from thinktune.kernels.language import runs_fused
from thinktune.model.decoder import Decoder
from thinktune.model.lora import LoRAConfig
from thinktune.tracking import Tracker, Watcher
from thinktune.training.checkpoints import CheckpointFolder, CheckpointWriter
from thinktune.training.fitting import fit, is_out_of_memory, out_of_memory
from thinktune.training.memory_plan import MemoryPlan
from thinktune.training.optimizer import OptimizerConfig
from thinktune.training.progress import Progress, TrainingData
from thinktune.training.quarantine import Quarantine
from thinktune.training.schedule import TrainingConfig, is_due

_COMES_AGAIN = (
    "a resumed run would meet the same step: mend the rows or change the setting, and start another"
)


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
    on_saved: Callable[[], None] = lambda: None,
) -> None:
    """Train the attached adapter from step ``steps_done`` to the end.

    What a step sees and draws follows from the seed and the step, so a resumed run gives the
    numbers of an uninterrupted one. Ctrl-C and SIGTERM wait for the step under way and write a
    checkpoint of it first.

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
        on_saved: called by another thread when a checkpoint is there.

    Raises:
        TrainingError: loss or gradient is not finite, or the adapter did not change.
        RunError: a checkpoint could not be written.
    """
    quarantine = Quarantine(checkpoints.folder.parent, watcher)
    progress = Progress(decoder, data, config, optimizer_config, seed, quarantine)
    if steps_done:
        checkpoints.read_optimizer(decoder, progress.optimizer)
    plan = _plan(decoder, checkpoints.lora, progress.max_tokens, config, watcher)
    watcher.stage("Training the adapter", progress.num_steps)
    if steps_done:
        watcher.advance(steps_done)
    progress.recorded = steps_done
    decoder.train()
    with CheckpointWriter(checkpoints, decoder, progress.optimizer, on_saved) as writer:
        keeper = _Keeper(progress, writer, tracker, watcher, steps_done)
        with _explained(keeper, decoder.device, plan):
            for step in range(steps_done, progress.num_steps):
                with held():
                    keeper.tell(progress.take(step))
                    if is_due(step + 1, progress.num_steps, config.save_steps):
                        keeper.write()
                if sample and config.sample_steps and (step + 1) % config.sample_steps == 0:
                    sample(step + 1)
            writer.wait()
    decoder.eval()
    progress.require_change()


@contextmanager
def _explained(keeper: "_Keeper", device: torch.device, plan: MemoryPlan | None) -> Iterator[None]:
    """Whatever ends the loop early: what was planned, what is saved, what to do."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise TrainingError(f"{out_of_memory(device, plan)}; {keeper.saved()}") from error
    except TrainingError as error:
        raise TrainingError(f"{error}; {_COMES_AGAIN}") from error
    except OSError as error:
        raise RunError(
            f"{error.filename or 'the records of the run'}: cannot be written ({error.strerror}): "
            f"make room there; {keeper.saved()}"
        ) from error
    except KeyboardInterrupt:
        keeper.stop()
        raise


class _Keeper:
    """Passes a run's numbers on, and keeps its state."""

    def __init__(
        self,
        progress: Progress,
        writer: CheckpointWriter,
        tracker: Tracker,
        watcher: Watcher,
        written: int,
    ) -> None:
        self._progress, self._writer = progress, writer
        self._tracker, self._watcher = tracker, watcher
        self._written = written
        """Steps in the newest checkpoint."""
        self._heldout: tuple[int, float] | None = None

    def tell(self, finished: Iterable[tuple[int, dict[str, float]]]) -> None:
        """Record the numbers of finished steps."""
        for done, numbers in finished:
            self._tracker.log(done, numbers)
            self._progress.recorded = done
            if (loss := numbers.get("heldout/loss")) is not None:
                self._heldout = done, loss
            self._watcher.advance(done, numbers)

    def write(self) -> None:
        """Have the last recorded step written."""
        self._tracker.sync()
        done = self._progress.recorded
        measured = self._heldout is not None and self._heldout[0] == done
        self._writer.write(done, self._heldout[1] if self._heldout and measured else None)
        self._written = done

    def stop(self) -> None:
        """Write the last recorded step, if the adapter has not gone past it already.

        An update without its record is not kept: a resumed run makes both again.
        """
        progress = self._progress
        self.tell(progress.finish())
        recorded = progress.recorded
        if recorded > self._written and progress.optimizer.num_steps() == recorded:
            self.write()
        self._watcher.say(f"Interrupted in step {recorded + 1}; {self.saved()}")

    def saved(self) -> str:
        """What is kept, and how to go on.

        Raises:
            RunError: what was being written could not be.
        """
        self._writer.wait()
        if not self._written:
            return "nothing is saved yet: the same command begins again"
        return f"saved after step {self._written}: the same command with --resume auto goes on"


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
