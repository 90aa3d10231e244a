"""Adapters on disk, in PEFT's format both ways: written here, opened there, and the reverse."""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from thinktune.errors import AdapterError, ConfigError
from thinktune.model.checkpoint_io import BaseDtype, fingerprint
from thinktune.model.decoder import Decoder
from thinktune.model.held_weights import Quantize
from thinktune.model.lora import (
    LoRAConfig,
    adapted_layers,
    adapter_parameters,
    detach,
    match_targets,
    place,
)
from thinktune.settings import parse_settings
from thinktune.tracking import Watcher

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
PROVENANCE = "thinktune.json"
_PREFIX = "base_model.model."
_READ = {
    *("peft_type", "task_type", "base_model_name_or_path", "revision", "inference_mode"),
    *("r", "lora_alpha", "lora_dropout", "use_rslora", "target_modules"),
    *("peft_version", "auto_mapping", "megatron_core", "qalora_group_size"),
}
"""Keys that are read, and those that say nothing of the computation."""
_COST_OF_MOVING = (
    "Measured with SmolLM2-135M, three seeds: moved from nf4 to bfloat16, the held-out loss rose "
    "from 1.13 to 1.21 (trained there: 1.11); from fp8 and fp8_dgrad it did not rise. "
    "base_dtype, or --base-dtype of evaluate, loads the base as in training."
)
_PLAIN_STARTS = (True, False, None, "gaussian", "orthogonal", "eva")
"""First values of A and B that leave the base as it is; PiSSA, OLoRA and others change it."""


_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@dataclass(frozen=True, slots=True)
class BaseIdentity:
    """Which base model an adapter was trained on."""

    name: str
    """Hub id or folder."""
    revision: str | None = None
    fingerprint: str | None = None
    """Of the weights themselves; None in adapters written elsewhere."""
    held_as: str | None = None
    """How they were held in training; None in adapters written elsewhere."""

    @property
    def base_dtype(self) -> BaseDtype:
        """What to load them as, to have the base the adapter was trained on."""
        quantized = self.held_as in tuple(Quantize)
        return BaseDtype(self.held_as) if quantized else BaseDtype.AUTO


def identity_here(decoder: Decoder, base: BaseIdentity) -> BaseIdentity:
    """The base model as it is loaded now: its weights, and how they are held."""
    return replace(base, fingerprint=fingerprint(decoder), held_as=decoder.held_as)


def write_adapter(decoder: Decoder, folder: Path, config: LoRAConfig, base: BaseIdentity) -> None:
    """Write the attached adapter to ``folder``, which must exist; PEFT and vLLM open it."""
    matrices = {name: p.detach() for name, p in adapter_parameters(decoder).items()}
    if not matrices:
        raise AdapterError("the model carries no adapter to write")
    write_matrices(matrices, folder, config, identity_here(decoder, base))


def save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    """Write a safetensors file.

    Raises:
        OSError: what the system said (no room, read-only), which safetensors wraps.
    """
    try:
        save_file(tensors, path, metadata={"format": "pt"})
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error


def write_matrices(
    matrices: Mapping[str, Tensor], folder: Path, config: LoRAConfig, base: BaseIdentity
) -> None:
    """Write matrices named as a decoder's parameters are to ``folder``, as an adapter.

    The base model's fingerprint, and how it was held, go into a file of our own beside PEFT's
    two: of keys it does not know in its own PEFT warns, and earlier versions refuse them.
    """
    tensors = {f"{_PREFIX}{n}.weight": m.float().cpu().contiguous() for n, m in matrices.items()}
    save_tensors(tensors, folder / WEIGHTS)
    peft_config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base.name,
        "revision": base.revision,
        "r": config.rank,
        "lora_alpha": config.alpha,
        "lora_dropout": config.dropout,
        "use_rslora": config.use_rslora,
        "target_modules": sorted(config.target_modules),
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }
    identity = {
        "base_model": base.name,
        "base_fingerprint": base.fingerprint,
        "base_dtype": base.held_as,
    }
    for file, content in ((CONFIG, peft_config), (PROVENANCE, identity)):
        (folder / file).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise AdapterError(f"{path.parent}: no {path.name}; not an adapter folder") from None
    except (ValueError, RecursionError) as error:
        raise AdapterError(f"{path}: not valid JSON ({error})") from None
    except OSError as error:
        raise AdapterError(f"{path}: cannot be read: {error.strerror}") from None
    if not isinstance(content, dict):
        raise AdapterError(f"{path}: holds no JSON object")
    return content


def _refuse_unsupported(content: Mapping[str, Any], folder: Path) -> None:
    """Refuse whatever may change the computation: all but known keys must be off."""
    for key, value in content.items():
        if key == "init_lora_weights":
            plain = value in _PLAIN_STARTS
        else:
            plain = key in _READ or value in (None, False, "none", [], {})
        if not plain:
            raise AdapterError(f"{folder / CONFIG}: {key}={value!r:.80} is not supported")


def _text(content: Mapping[str, Any], key: str, path: Path) -> str | None:
    value = content.get(key)
    if value is not None and not isinstance(value, str):
        raise AdapterError(f"{path}: {key} is {value!r:.40}, not text")
    return value


def read_adapter_config(folder: Path) -> tuple[LoRAConfig, BaseIdentity]:
    """Settings and base model of an adapter written here or by PEFT.

    Raises:
        AdapterError: not a LoRA adapter, or one with parts this build does not run.
    """
    content = _read_json(folder / CONFIG)
    if content.get("peft_type") != "LORA":
        raise AdapterError(f"{folder}: peft_type is {content.get('peft_type')!r:.40}, not 'LORA'")
    _refuse_unsupported(content, folder)
    targets = content.get("target_modules") or []
    if not isinstance(targets, list):
        raise AdapterError(
            f"{folder}: target_modules is {targets!r:.80}; only a list of names is read"
        )
    if missing := [key for key in ("r", "lora_alpha") if key not in content]:
        raise AdapterError(f"{folder / CONFIG}: no {missing[0]}; not a LoRA adapter's settings")
    settings = {
        "rank": content["r"],
        "alpha": content["lora_alpha"],
        "dropout": content.get("lora_dropout") or 0.0,
        "target_modules": tuple(targets),
        "use_rslora": bool(content.get("use_rslora")),
    }
    try:
        config = parse_settings(LoRAConfig, settings)
    except ConfigError as error:
        raise AdapterError(f"{folder / CONFIG}: {error}") from None
    ours = _read_json(folder / PROVENANCE) if (folder / PROVENANCE).is_file() else {}
    base = BaseIdentity(
        name=str(content.get("base_model_name_or_path") or ours.get("base_model") or ""),
        revision=_text(content, "revision", folder / CONFIG),
        fingerprint=_text(ours, "base_fingerprint", folder / PROVENANCE),
        held_as=_text(ours, "base_dtype", folder / PROVENANCE),
    )
    return config, base


def _check_base(decoder: Decoder, folder: Path, base: BaseIdentity) -> None:
    if base.fingerprint is None:
        return
    here = fingerprint(decoder)
    if here != base.fingerprint:
        raise AdapterError(
            f"{folder}: trained on another base model ({base.name}, weights "
            f"{base.fingerprint}; these weights are {here}); load it on that one"
        )


def base_changed(decoder: Decoder, base: BaseIdentity) -> str | None:
    """What it costs to use an adapter on a base held otherwise than in training; None: nothing."""
    then, now = base.held_as, decoder.held_as
    if then is None or then == now or not {then, now} & set(Quantize):
        return None
    return (
        f"The adapter was trained on a base held as {then}; this one is held as {now}. "
        f"{_COST_OF_MOVING}"
    )


def read_adapter(decoder: Decoder, folder: Path, watcher: Watcher | None = None) -> LoRAConfig:
    """Attach the adapter in ``folder`` to a decoder that carries none.

    Args:
        decoder: the base model.
        folder: of the adapter.
        watcher: who is told if the base is held otherwise than in training.

    Returns:
        The adapter's settings.

    Raises:
        AdapterError: another base model; missing, unexpected or mis-shaped matrices; B all
            zero (an adapter that was never trained); a damaged file.
    """
    config, base = read_adapter_config(folder)
    _check_base(decoder, folder, base)
    if watcher is not None and (told := base_changed(decoder, base)):
        watcher.say(told)
    path = folder / WEIGHTS
    if not path.is_file():
        raise AdapterError(f"{folder}: no {WEIGHTS}; pickle adapters (.bin) are not opened")
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise AdapterError(f"{path}: damaged or cut short ({error})") from None
    load_tensors(decoder, tensors, config, where=str(path))
    if all(not layer.lora_B.any() for layer in adapted_layers(decoder).values()):  # pyright: ignore[reportOptionalMemberAccess]
        detach(decoder)
        raise AdapterError(f"{path}: every B is zero; the adapter was never trained or saved")
    return config


def load_tensors(
    decoder: Decoder, tensors: Mapping[str, Tensor], config: LoRAConfig, *, where: str
) -> None:
    """Attach matrices under PEFT's names; all that the settings ask for and no others."""
    if adapted_layers(decoder):
        raise AdapterError("the model carries an adapter already; detach it first")
    try:
        layers = match_targets(decoder, config.target_modules)
    except ConfigError as error:
        raise AdapterError(f"{where}: {error}") from None
    expected = {
        f"{_PREFIX}{name}.{part}.weight" for name in layers for part in ("lora_A", "lora_B")
    }
    for what, names in (
        ("lacks", sorted(expected - tensors.keys())),
        ("has unexpected", sorted(tensors.keys() - expected)),
    ):
        if names:
            more = f" and {len(names) - 2} more" if len(names) > 2 else ""
            raise AdapterError(f"{where}: {what} {', '.join(names[:2])}{more}")
    for name, tensor in tensors.items():
        if tensor.dtype not in _FLOATS:
            kind = str(tensor.dtype).removeprefix("torch.")
            raise AdapterError(
                f"{where}: {name} is stored as {kind}; 16- or 32-bit floats are read"
            )
        if not tensor.isfinite().all():
            raise AdapterError(f"{where}: {name} holds values that are not finite")
    for name, layer in layers.items():
        first, second = (tensors[f"{_PREFIX}{name}.{p}.weight"] for p in ("lora_A", "lora_B"))
        width_out, width_in = layer.weight.shape
        wanted = (config.rank, width_in), (width_out, config.rank)
        if (tuple(first.shape), tuple(second.shape)) != wanted:
            raise AdapterError(
                f"{where}: {name} has A {tuple(first.shape)} and B {tuple(second.shape)}; "
                f"rank {config.rank} on this base asks for {wanted[0]} and {wanted[1]}"
            )
    for name, layer in layers.items():
        first, second = (tensors[f"{_PREFIX}{name}.{p}.weight"] for p in ("lora_A", "lora_B"))
        place(layer, first, second, config)
    decoder.bind_adapter()
