"""Unsloth's FastLanguageModel in a plain loop, from a folder of random weights."""

import inspect
import os
from functools import wraps
from importlib import import_module
from importlib.metadata import version

import torch
from torch.nn.attention import varlen

from benchmarks.peers.case import ALPHA, RANK, TARGET_MODULES, Case, UnavailableError, packed, rows
from benchmarks.peers.timing import time_loop
from thinktune.data.segments import Rendered


def run(case: Case) -> dict:
    """Time it.

    Raises:
        UnavailableError: there is no GPU.
        ImportError: Unsloth, or something it needs, is not installed.
    """
    if not torch.cuda.is_available():
        raise UnavailableError("Unsloth's kernels need a GPU")
    os.environ.setdefault("UNSLOTH_DISABLE_STATISTICS", "1")
    os.environ.setdefault("UNSLOTH_COMPILE_LOCATION", f"{case.scratch}/unsloth_compiled_cache")
    if case.flash == "torch":
        name_grouped_heads()
    # It patches transformers and PEFT, so it comes before them and not with this file.
    unsloth = import_module("unsloth")
    checkpoint = f"{case.scratch}/random-{case.shape}"
    recompute = False if case.recompute == "none" else "unsloth"
    model, _ = unsloth.FastLanguageModel.from_pretrained(
        checkpoint,
        max_seq_length=case.longest_row,
        dtype=torch.bfloat16,
        load_in_4bit=case.base == "nf4",
        use_gradient_checkpointing=recompute,
        local_files_only=True,
    )
    model = unsloth.FastLanguageModel.get_peft_model(
        model,
        r=RANK,
        lora_alpha=ALPHA,
        lora_dropout=0,
        bias="none",
        target_modules=list(TARGET_MODULES),
        use_gradient_checkpointing=recompute,
        max_seq_length=case.longest_row,
    )
    result = time_loop(case, model, rows if case.is_uniform else _packed, autocast=True)
    kept = f"use_gradient_checkpointing={recompute!r}"
    settings = f"autocast, {_attention(case)}, {kept}"
    return result | {"version": version("unsloth"), "settings": settings}


def name_grouped_heads() -> None:
    """Let Unsloth take torch's varlen attention on torch 2.11 as it does on 2.12.

    The kernel takes fewer key than query heads in both; Unsloth looks for the argument that says
    so, which came with 2.12.
    """
    given = varlen.varlen_attn
    if "enable_gqa" in inspect.signature(given).parameters:
        return

    @wraps(given)
    def varlen_attn(*arguments: object, enable_gqa: bool = False, **options: object) -> object:
        return given(*arguments, **options)

    parameters = [*inspect.signature(given).parameters.values()]
    extra = inspect.Parameter("enable_gqa", inspect.Parameter.KEYWORD_ONLY, default=False)
    varlen_attn.__signature__ = inspect.Signature([*parameters, extra])
    varlen.varlen_attn = varlen_attn


def _packed(examples: list[Rendered], device: torch.device) -> dict:
    """Lengths stay on the host, where its own collator leaves them."""
    lengths = torch.tensor([len(example.tokens) for example in examples], dtype=torch.int32)
    return packed(examples, device) | {"packed_seq_lengths": lengths}


def _attention(case: Case) -> str:
    dispatch = import_module("unsloth.utils.attention_dispatch")
    if case.is_uniform:
        return f"{dispatch.select_attention_backend()}, one document a row"
    backend = dispatch.select_attention_backend(use_varlen=True)
    if backend != dispatch.SDPA:
        return f"{backend}, padding-free pack"
    if dispatch._TORCH_VARLEN_ATTN is not None:
        return "torch's varlen flash attention, padding-free pack"
    return "sdpa a document, padding-free pack"
