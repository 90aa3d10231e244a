"""An adapter knows how its base was held, and whoever uses it on another is told."""

import json
from pathlib import Path

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.tiny_models import CPU, attach_trained, tiny_checkpoint
from thinktune.contenders import find_contender
from thinktune.errors import ConfigError
from thinktune.examination import EvaluationRequest, _contenders
from thinktune.loading import load_adapted, load_model
from thinktune.model.adapter_io import BaseIdentity, read_adapter, write_adapter
from thinktune.model.checkpoint_io import BaseDtype, load_decoder
from thinktune.model.decoder import Decoder
from thinktune.model.held_weights import Quantize
from thinktune.model.lora import LoRAConfig
from thinktune.tracking import Silence


class Listener(Silence):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def say(self, text: str) -> None:
        self.told.append(text)


def _decoder(kind: Quantize | None) -> Decoder:
    folder = tiny_checkpoint("llama")
    return load_decoder(folder, dtype=torch.float32, device=CPU, quantize=kind)


def _adapter(folder: Path, kind: Quantize | None) -> Path:
    decoder = _decoder(kind)
    config = LoRAConfig(rank=3, alpha=5.0)
    attach_trained(decoder, config)
    folder.mkdir()
    write_adapter(decoder, folder, config, BaseIdentity(str(tiny_checkpoint("llama"))))
    return folder


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # PEFT's own
@pytest.mark.parametrize("kind", [None, *Quantize])
def test_an_adapter_says_how_its_base_was_held_and_peft_opens_it(
    kind: Quantize | None, tmp_path: Path
):
    folder = _adapter(tmp_path / "adapter", kind)
    assert json.loads((folder / "thinktune.json").read_text())["base_dtype"] == (kind or "float32")
    base = AutoModelForCausalLM.from_pretrained(tiny_checkpoint("llama"))
    model = peft.PeftModel.from_pretrained(base, folder)
    assert any(bool(p.any()) for name, p in model.named_parameters() if "lora_B" in name)


@pytest.mark.parametrize("kind", Quantize)
def test_another_base_than_in_training_is_said_with_what_it_costs(kind: Quantize, tmp_path: Path):
    folder = _adapter(tmp_path / "adapter", kind)
    same, other = Listener(), Listener()
    read_adapter(_decoder(kind), folder, same)
    assert same.told == []
    read_adapter(_decoder(None), folder, other)
    assert len(other.told) == 1
    assert f"trained on a base held as {kind}; this one is held as float32" in other.told[0]


def test_an_adapter_from_elsewhere_is_taken_without_a_word(tmp_path: Path):
    folder = _adapter(tmp_path / "adapter", None)
    (folder / "thinktune.json").unlink()
    listener = Listener()
    read_adapter(_decoder(Quantize.NF4), folder, listener)
    assert listener.told == []


@pytest.mark.parametrize("kind", [None, *Quantize])
def test_an_adapter_is_evaluated_on_the_base_it_was_trained_on(
    kind: Quantize | None, tmp_path: Path
):
    folder = _adapter(tmp_path / "adapter", kind)
    wanted = BaseDtype(kind or "auto")
    assert find_contender(str(folder)).base_dtype is wanted
    model = str(tiny_checkpoint("llama"))
    assert find_contender(model, str(folder)).base_dtype is wanted
    before, after = _contenders(EvaluationRequest(model, adapter=str(folder)))
    assert (before.base_dtype, after.base_dtype) == (wanted, wanted)
    assert load_adapted(model, folder).decoder.quantize is kind


def test_another_base_can_be_asked_for_by_name(tmp_path: Path):
    folder = _adapter(tmp_path / "adapter", Quantize.NF4)
    request = EvaluationRequest(str(folder), base_dtype="float32")
    assert {c.base_dtype for c in _contenders(request)} == {BaseDtype.FLOAT32}
    assert request.name.endswith("float32")
    with pytest.raises(ConfigError, match="--base-dtype: 'int4' is none of auto, float32"):
        _contenders(EvaluationRequest(str(folder), base_dtype="int4"))


@pytest.mark.parametrize(
    ("kind", "told"), [("fp8", "emulated"), ("fp8_dgrad", "emulated"), ("nf4", None)]
)
def test_what_is_not_fast_is_said_before_it_is_used(kind: str, told: str | None):
    listener = Listener()
    load_model(str(tiny_checkpoint("llama")), base_dtype=BaseDtype(kind), watcher=listener)
    assert any(told in line for line in listener.told) if told else not listener.told
