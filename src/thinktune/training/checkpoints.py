"""A run's checkpoints: adapter, optimizer and step, whole or not at all, written while it trains.

What else a run's future depends on follows from its settings and the step: the learning rate, the
order of examples and how they are packed, and what dropout draws.
"""

import errno
import json
import re
import shutil
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from thinktune import atomic
from thinktune.errors import AdapterError, RunError
from thinktune.model.adapter_io import (
    WEIGHTS,
    BaseIdentity,
    identity_here,
    load_tensors,
    save_tensors,
    write_matrices,
)
from thinktune.model.decoder import Decoder
from thinktune.model.lora import LoRAConfig, adapter_parameters
from thinktune.tracking import Watcher
from thinktune.training.manifest import DamagedError, check_manifest, read_json, write_manifest
from thinktune.training.optimizer import AdapterOptimizer

_OPTIMIZER = "optimizer.safetensors"
_STATE = "state.json"
_MEANS = ("exp_avg", "exp_avg_sq")
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True, slots=True)
class CheckpointFolder:
    """Where a run keeps its checkpoints, and what goes into each."""

    folder: Path
    lora: LoRAConfig
    base: BaseIdentity
    keep: int = 2
    """How many of the newest stay, beside the one with the lowest held-out loss."""

    def all(self) -> list[tuple[int, Path]]:
        """Checkpoints as (steps done, folder), oldest first; a damaged one may be among them."""
        if not self.folder.is_dir():
            return []
        found = (
            (int(match[1]), path)
            for path in self.folder.iterdir()
            if (match := re.fullmatch(r"step-(\d+)", path.name))
        )
        return sorted(found)

    def read(self, decoder: Decoder, watcher: Watcher) -> int:
        """Attach the newest whole checkpoint's adapter to a decoder that has none.

        A damaged one is renamed, said, and passed over.

        Returns:
            Steps done; 0 if there is no whole checkpoint, and then nothing is attached.
        """
        for steps_done, folder in reversed(self.all()):
            try:
                check_manifest(folder)
                load_tensors(decoder, load_file(folder / WEIGHTS), self.lora, where=str(folder))
            except (DamagedError, AdapterError, SafetensorError, OSError) as error:
                aside = folder.with_name(f"{folder.name}.damaged")
                shutil.rmtree(aside, ignore_errors=True)
                folder.rename(aside)
                watcher.say(
                    f"{folder} is damaged ({error}): passed over, and kept as {aside.name}."
                )
                continue
            self.clean()  # as a killed process could not
            return steps_done
        return 0

    def read_optimizer(self, decoder: Decoder, optimizer: AdapterOptimizer) -> None:
        """Put the newest checkpoint's running means, and loss scale, back into the optimizer.

        A run that goes on in float16, but was not in float16 before, starts with a new scale.

        Raises:
            RunError: they are not those of this adapter.
        """
        path = self.all()[-1][1] / _OPTIMIZER
        try:
            _restore(decoder, optimizer, load_file(path))
        except (SafetensorError, OSError, KeyError, RuntimeError) as error:
            raise RunError(
                f"{path}: cannot be read ({error}); remove this checkpoint to go on from the one "
                "before"
            ) from None

    def best(self) -> tuple[int, float] | None:
        """Steps done and held-out loss of the checkpoint in which that is lowest."""
        measured = [
            (steps, loss)
            for steps, path in self.all()
            if isinstance(loss := read_json(path / _STATE).get("heldout_loss"), float)
        ]
        return min(measured, key=lambda each: each[1], default=None)

    def clean(self) -> None:
        """Remove all but the newest and the best, and fragments of a killed process."""
        best = self.best()
        for steps, old in self.all()[: -self.keep]:
            if best is None or steps != best[0]:
                shutil.rmtree(old)
        for fragment in self.folder.glob(".step-*"):
            shutil.rmtree(fragment)

    def require_room(self, decoder: Decoder) -> None:
        """Refuse to begin where what is to be kept does not fit.

        Raises:
            RunError: says how much is needed, and how much is free.
        """
        assert decoder.adapter is not None
        each = 3 * decoder.adapter.weights.nbytes
        kept = (self.keep + 1) * each + each // 3  # the finished adapter
        there = sum(p.stat().st_size for p in self.folder.rglob("*") if p.is_file())
        place = next(path for path in (self.folder, *self.folder.parents) if path.is_dir())
        free = shutil.disk_usage(place).free
        # One more is written before the oldest goes.
        if free < max(each, kept + each - there):
            raise RunError(
                f"{self.folder}: {self.keep} checkpoints, the best and the adapter need "
                f"{_size(kept + each)} and {_size(free)} are free; free some, lower "
                "training.save_total_limit, or name another output_dir"
            )


@dataclass(frozen=True, slots=True)
class _Snapshot:
    """A run's state after a step, on the host or on its way there."""

    steps_done: int
    heldout_loss: float | None
    weights: dict[str, Tensor]
    """The adapter's, and their running means, each in one piece of memory."""
    scalars: dict[str, Tensor]
    arrived: torch.cuda.Event | None


class CheckpointWriter:
    """Writes checkpoints while training goes on: the state is copied, then written by a thread.

    Takes host memory for one more adapter with its running means. One checkpoint is written at a
    time: who asks for the next waits for the one before. Use it as a context manager.
    """

    def __init__(
        self,
        checkpoints: CheckpointFolder,
        decoder: Decoder,
        optimizer: AdapterOptimizer,
        on_saved: Callable[[], None],
    ) -> None:
        """Write what ``optimizer`` does to the decoder's adapter; ``on_saved`` follows each."""
        assert decoder.adapter is not None
        self.checkpoints, self._optimizer, self._on_saved = checkpoints, optimizer, on_saved
        self._adapter = decoder.adapter
        self._parameters = adapter_parameters(decoder)
        self._identity = identity_here(decoder, checkpoints.base)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoints")
        self._writing: Future[None] | None = None
        self._room: dict[str, Tensor] = {}

    def __enter__(self) -> "CheckpointWriter":
        """Nothing is written yet."""
        return self

    def __exit__(self, *_: object) -> None:
        """Wait for what is being written; an error of its own is `wait`'s to raise."""
        self._thread.shutdown()

    def write(self, steps_done: int, heldout_loss: float | None) -> None:
        """Copy the state of a whole step, and have it written.

        Raises:
            RunError: the checkpoint before could not be written.
        """
        self.wait()
        state = self._optimizer.state[self._adapter.weights]
        whole = {"weights": self._adapter.weights.detach()} | {p: state[p] for p in _MEANS}
        scalars = {"step": state["step"]} | dict(self._optimizer.further_state)
        copies = {name: self._home(name, tensor) for name, tensor in whole.items()}
        scalars = {name: tensor.detach().cpu().clone() for name, tensor in scalars.items()}
        arrived = None
        if self._adapter.weights.is_cuda:
            arrived = torch.cuda.Event()
            arrived.record()
        snapshot = _Snapshot(steps_done, heldout_loss, copies, scalars, arrived)
        self._writing = self._thread.submit(self._write, snapshot)

    def wait(self) -> None:
        """Wait until nothing is being written.

        Raises:
            RunError: it could not be; says what is saved, and what to do.
        """
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def _home(self, name: str, tensor: Tensor) -> Tensor:
        if name not in self._room:
            self._room[name] = torch.empty_like(tensor, device="cpu", pin_memory=tensor.is_cuda)
        return self._room[name].copy_(tensor, non_blocking=True)

    def _write(self, snapshot: _Snapshot) -> None:
        if snapshot.arrived is not None:
            snapshot.arrived.synchronize()
        folder = self.checkpoints.folder / f"step-{snapshot.steps_done:06d}"
        try:
            with atomic.folder_aside(folder) as aside:
                self._fill(aside, snapshot)
            self.checkpoints.clean()
            self._on_saved()
        except OSError as error:
            raise RunError(self._not_written(folder, error)) from error

    def _fill(self, folder: Path, snapshot: _Snapshot) -> None:
        parts = {
            name: {part: self._adapter.part(whole, p) for part, whole in snapshot.weights.items()}
            for name, p in self._parameters.items()
        }
        own = {name: part["weights"] for name, part in parts.items()}
        write_matrices(own, folder, self.checkpoints.lora, self._identity)
        means = {f"{name}.{mean}": part[mean] for name, part in parts.items() for mean in _MEANS}
        save_tensors(means | snapshot.scalars, folder / _OPTIMIZER)
        state = {"steps_done": snapshot.steps_done, "heldout_loss": snapshot.heldout_loss}
        (folder / _STATE).write_text(json.dumps(state) + "\n", encoding="utf-8")
        write_manifest(folder)

    def _not_written(self, folder: Path, error: OSError) -> str:
        saved = self.checkpoints.all()
        kept = f"saved last: {saved[-1][1]}" if saved else "nothing is saved yet"
        way = "Make the folder writable"
        if error.errno in _NO_ROOM:
            way = f"Free {_size(3 * self._adapter.weights.nbytes)}"
        return (
            f"{folder}: the checkpoint could not be written ({error.strerror}); {kept}. {way}; the "
            "same command with --resume auto goes on from there"
        )


def _size(num_bytes: float) -> str:
    for unit in ("bytes", "KB", "MB"):
        if num_bytes < 1000:
            return f"{num_bytes:.0f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.1f} GB"


def _restore(decoder: Decoder, optimizer: AdapterOptimizer, tensors: dict[str, Tensor]) -> None:
    assert decoder.adapter is not None
    weights = decoder.adapter.weights
    state = {part: torch.empty_like(weights.detach()) for part in _MEANS}
    for name, parameter in adapter_parameters(decoder).items():
        for part, whole in state.items():
            decoder.adapter.part(whole, parameter).copy_(tensors[f"{name}.{part}"])
    optimizer.state[weights] = {"step": tensors["step"].to(weights.device), **state}
    for name, value in optimizer.further_state.items():
        value.copy_(tensors.get(name, value))
