"""The tensors of a checkpoint: which file holds each, and whether they are what is expected."""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from thinktune.errors import CheckpointError
from thinktune.model.shape import DecoderShape
from thinktune.ops.nf4 import NF4Weight, from_bitsandbytes

_PLAIN_TYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_QUANTIZED = (".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map", ".quant_state.")
"""What bitsandbytes writes beside a weight it has quantised."""


class WeightFiles:
    """Where each tensor of a checkpoint is."""

    def __init__(self, folder: Path) -> None:
        """Read the index, or the names in the only file.

        Raises:
            CheckpointError: neither is there; pickle weights; a damaged file.
        """
        self.folder = folder
        self.all = _homes(folder)
        """File of every tensor."""
        parts = {n for n in self.all if any(f".weight{end}" in n for end in _QUANTIZED)}
        self.weights = {name: home for name, home in self.all.items() if name not in parts}
        """File of every tensor of the model."""
        self.quantized = {n.partition(".weight.")[0] + ".weight" for n in parts}
        """Weights that bitsandbytes has quantised."""

    def check_names(self, expected: Mapping[str, Tensor], shape: DecoderShape) -> None:
        """Refuse missing and unknown tensors."""
        ignored = {"lm_head.weight"} if shape.tie_word_embeddings else set()
        unexpected = [
            name
            for name in sorted(self.weights.keys() - expected.keys() - ignored)
            if "rotary_emb" not in name
        ]
        missing = sorted(expected.keys() - self.weights.keys())
        for what, names in (("lacks", missing), ("has unknown", unexpected)):
            if names:
                more = f" and {len(names) - 3} more" if len(names) > 3 else ""
                raise CheckpointError(
                    f"{self.folder}: the checkpoint {what} tensors for {shape.model_type}: "
                    f"{', '.join(names[:3])}{more}"
                )

    def read(self, file: Any, path: Path, name: str, expected: Tensor) -> Tensor | NF4Weight:
        """A weight, as it is stored.

        Args:
            file: that holds it, open.
            path: of the file.
            name: of the weight.
            expected: of its shape.

        Raises:
            CheckpointError: it is not there, of another shape or type.
        """
        quantized = name in self.quantized
        weight = self._quantized(name) if quantized else get(file, path, name)
        if tuple(weight.shape) != tuple(expected.shape):
            raise CheckpointError(
                f"{path}: {name} is {tuple(weight.shape)}, config.json asks for "
                f"{tuple(expected.shape)}"
            )
        if isinstance(weight, Tensor) and weight.dtype not in _PLAIN_TYPES:
            kind = str(weight.dtype).removeprefix("torch.")
            raise CheckpointError(
                f"{path}: {name} is stored as {kind}; 16- or 32-bit floats are read, and NF4 as "
                "bitsandbytes writes it"
            )
        return weight

    def _quantized(self, name: str) -> NF4Weight:
        """A weight that bitsandbytes has quantised; its parts may lie in several files."""
        names = [other for other in self.all if other == name or other.startswith(name + ".")]
        tensors = {}
        for part in names:
            with opened(self.all[part]) as file:
                tensors[part] = get(file, self.all[part], part)
        return from_bitsandbytes(tensors, name)


def _homes(folder: Path) -> dict[str, Path]:
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise CheckpointError(f"{index}: not a weight index ({error})") from None
        if not isinstance(weight_map, dict):
            raise CheckpointError(f"{index}: weight_map is {weight_map!r:.40}, not a table")
        outside = [f for f in weight_map.values() if not _is_file_name(f)]
        if outside:
            raise CheckpointError(
                f"{index}: {outside[0]!r:.80} is no file of the model's own folder; fetch the "
                "model again"
            )
        missing = sorted({f for f in weight_map.values() if not (folder / f).is_file()})
        if missing:
            raise CheckpointError(f"{folder}: the index names {', '.join(missing)}: not there")
        return {name: folder / file for name, file in weight_map.items()}
    single = folder / "model.safetensors"
    if single.is_file():
        with opened(single) as file:
            return dict.fromkeys(file.keys(), single)
    pickles = sorted(p.name for p in (*folder.glob("*.bin"), *folder.glob("*.pt*")))
    if pickles:
        raise CheckpointError(
            f"{folder}: only pickle weights ({', '.join(pickles)}), which can run code when "
            "opened; convert them to safetensors first"
        )
    raise CheckpointError(f"{folder}: no model.safetensors and no index; not a model folder")


def _is_file_name(name: object) -> bool:
    """Whether it is a name alone: a path could lead to any file of this machine."""
    return isinstance(name, str) and re.fullmatch(r"[\w.-]{1,200}\.safetensors", name) is not None


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """A safetensors file, open; what of it was mapped goes when it is closed."""
    try:
        handle = safe_open(path, framework="pt")
    except SafetensorError as error:
        raise CheckpointError(f"{path}: damaged or cut short ({error})") from None
    with handle as file:
        yield file


def get(file: Any, path: Path, name: str) -> Tensor:
    """A tensor of an open file.

    Raises:
        CheckpointError: it is not in there.
    """
    try:
        return file.get_tensor(name)
    except SafetensorError:
        raise CheckpointError(f"{path}: the index promises {name} here; it is not") from None
