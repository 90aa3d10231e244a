"""transformers + PEFT as its documentation has it: float32 adapter, bf16 autocast, torch's loss."""

from functools import partial
from importlib.metadata import version

import torch
from transformers import PreTrainedModel

from benchmarks.peers.case import Case, flash_boundaries, packed, rows
from benchmarks.peers.random_model import choose_attention, random_model, with_adapter
from benchmarks.peers.timing import MakeBatch, time_loop
from thinktune.data.segments import Rendered


def run(case: Case) -> dict:
    """Time it."""
    attention = choose_attention(case)
    model = random_model(case, attention)
    recompute_layers(model, case)
    result = time_loop(
        case,
        with_adapter(model, in_float32=True),
        choose_form(case, attention),
        autocast=True,
    )
    settings = f"float32 adapter, autocast, {describe(case, attention)}"
    return result | {"version": version("peft"), "settings": settings}


def recompute_layers(model: PreTrainedModel, case: Case) -> None:
    """Recompute each decoder layer in backward, unless all is to be kept."""
    if case.recompute != "none":
        model.gradient_checkpointing_enable({"use_reentrant": False})


def choose_form(case: Case, attention: str) -> MakeBatch:
    """Equal documents are rows; others are packed, with their ends given to flash attention."""
    if case.is_uniform:
        return rows
    return partial(_packed, with_ends=attention.startswith("flash"))


def _packed(examples: list[Rendered], device: torch.device, *, with_ends: bool) -> dict:
    return packed(examples, device) | (flash_boundaries(examples, device) if with_ends else {})


def describe(case: Case, attention: str) -> str:
    """What was used on these documents, in words."""
    if case.is_uniform:
        form = "one document a row"
    elif attention.startswith("flash"):
        form = "padding-free pack"
    else:
        form = "pack with a mask of tokens by tokens (no flash attention to be had)"
    kept = "all activations kept" if case.recompute == "none" else "layers recomputed"
    bundled = " (torch's kernel)" if attention == "flash_attention_2" and _is_bundled() else ""
    return f"{attention}{bundled}, {form}, {kept}"


def _is_bundled() -> bool:
    return version("flash_attn").endswith("torch")
