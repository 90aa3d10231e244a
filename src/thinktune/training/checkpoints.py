"""A run's checkpoints: adapter, optimizer and step, whole or not at all."""

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from thinktune.atomic import folder_aside
from thinktune.errors import AdapterError, RunError
from thinktune.model.adapter_io import WEIGHTS, BaseIdentity, load_tensors, write_adapter
from thinktune.model.decoder import Decoder
from thinktune.model.lora import LoRAConfig, adapter_parameters
from thinktune.training.optimizer import AdapterOptimizer

_OPTIMIZER = "optimizer.safetensors"
_STATE = "state.json"


@dataclass(frozen=True, slots=True)
class CheckpointFolder:
    """Where a run keeps its checkpoints, and what goes into each."""

    folder: Path
    lora: LoRAConfig
    base: BaseIdentity
    keep: int = 2
    """How many of the newest stay."""

    def all(self) -> list[tuple[int, Path]]:
        """Complete checkpoints as (steps done, folder), oldest first."""
        if not self.folder.is_dir():
            return []
        found = (
            (int(match[1]), path)
            for path in self.folder.iterdir()
            if (match := re.fullmatch(r"step-(\d+)", path.name)) and (path / _STATE).is_file()
        )
        return sorted(found)

    def write(self, decoder: Decoder, optimizer: AdapterOptimizer, steps_done: int) -> Path:
        """Write aside, flush, rename; then remove the oldest beyond ``keep``, and fragments."""
        folder = self.folder / f"step-{steps_done:06d}"
        with folder_aside(folder) as aside:
            write_adapter(decoder, aside, self.lora, self.base)
            save_file(_by_name(decoder, optimizer), aside / _OPTIMIZER)
            (aside / _STATE).write_text(json.dumps({"steps_done": steps_done}) + "\n")
        for _, old in self.all()[: -self.keep]:
            shutil.rmtree(old)
        for fragment in self.folder.glob(".step-*"):  # of a process that was killed while writing
            shutil.rmtree(fragment)
        return folder

    def read(self, decoder: Decoder) -> int:
        """Attach the newest checkpoint's adapter to a decoder that has none.

        Returns:
            Steps done; 0 if there is no checkpoint, and then nothing is attached.
        """
        found = self.all()
        if not found:
            return 0
        steps_done, folder = found[-1]
        try:
            tensors = load_file(folder / WEIGHTS)
        except (SafetensorError, OSError) as error:
            raise AdapterError(
                f"{folder / WEIGHTS}: cannot be read ({error}); remove this checkpoint to go on "
                "from the one before"
            ) from None
        load_tensors(decoder, tensors, self.lora, where=str(folder))
        return steps_done

    def read_optimizer(self, decoder: Decoder, optimizer: AdapterOptimizer) -> None:
        """Put the newest checkpoint's running means, and loss scale, back into the optimizer.

        A run that goes on in float16, but was not in float16 before, starts with a new scale.
        """
        folder = self.all()[-1][1]
        try:
            _restore(decoder, optimizer, load_file(folder / _OPTIMIZER))
        except (SafetensorError, OSError, KeyError, RuntimeError) as error:
            raise RunError(
                f"{folder / _OPTIMIZER}: cannot be read ({error}); remove this checkpoint to go "
                "on from the one before"
            ) from None


_MEANS = ("exp_avg", "exp_avg_sq")


def _by_name(decoder: Decoder, optimizer: AdapterOptimizer) -> dict[str, Tensor]:
    """The optimizer's running means, cut up by matrix, so that the layout of memory can change."""
    assert decoder.adapter is not None
    state = optimizer.state[decoder.adapter.weights]
    tensors = {
        f"{name}.{part}": decoder.adapter.part(state[part], parameter).cpu().contiguous()
        for name, parameter in adapter_parameters(decoder).items()
        for part in _MEANS
    }
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    scale = optimizer.loss_scale
    return tensors | {"step": state["step"]} | ({} if scale is None else scale.state)


def _restore(decoder: Decoder, optimizer: AdapterOptimizer, tensors: dict[str, Tensor]) -> None:
    assert decoder.adapter is not None
    weights = decoder.adapter.weights
    state = {part: torch.empty_like(weights.detach()) for part in _MEANS}
    for name, parameter in adapter_parameters(decoder).items():
        for part, whole in state.items():
            decoder.adapter.part(whole, parameter).copy_(tensors[f"{name}.{part}"])
    optimizer.state[weights] = {"step": tensors["step"].to(weights.device), **state}
    if optimizer.loss_scale is not None:
        for name, value in optimizer.loss_scale.state.items():
            value.copy_(tensors.get(name, value))
