"""Adapters on disk: what opens, and what is refused by name."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.tiny_models import (
    CPU,
    attach_trained,
    logits_of,
    make_model,
    random_documents,
    save_model,
    tiny_checkpoint,
    tiny_decoder,
)
from thinktune.errors import AdapterError
from thinktune.model.adapter_io import (
    CONFIG,
    PROVENANCE,
    WEIGHTS,
    BaseIdentity,
    read_adapter,
    read_adapter_config,
    write_adapter,
)
from thinktune.model.checkpoint_io import load_decoder
from thinktune.model.lora import LoRAConfig, adapted_layers, attach

LORA = LoRAConfig(rank=3, alpha=5.0, dropout=0.25, target_modules=("v_proj", "down_proj"))
KEY = "base_model.model.model.layers.1.mlp.down_proj.lora_{}.weight"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A good adapter that the test may spoil."""
    decoder = tiny_decoder("qwen2")
    attach_trained(decoder, LORA)
    write_adapter(decoder, tmp_path, LORA, BaseIdentity("owner/name", "main"))
    return tmp_path


def _assert_refused(folder: Path, match: str, base: str = "qwen2") -> None:
    """Reading raises, and leaves the decoder as it was."""
    decoder = tiny_decoder(base)
    with pytest.raises(AdapterError, match=match) as caught:
        read_adapter(decoder, folder)
    assert str(folder) in str(caught.value)
    assert not adapted_layers(decoder)


def _change_config(folder: Path, changes: dict[str, Any]) -> None:
    path = folder / CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def _change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def test_what_is_written_is_read_bit_for_bit(folder: Path):
    written, read = tiny_decoder("qwen2"), tiny_decoder("qwen2")
    attach_trained(written, LORA)
    assert read_adapter(read, folder) == LORA.model_copy(
        update={"target_modules": ("down_proj", "v_proj")}
    )
    documents = random_documents((7, 3))
    with torch.no_grad():
        assert torch.equal(logits_of(written, documents), logits_of(read, documents))
    layers = adapted_layers(read)
    assert len(layers) == 4
    for name, layer in adapted_layers(written).items():
        assert torch.equal(layer.lora_A, layers[name].lora_A)
        assert torch.equal(layer.lora_B, layers[name].lora_B)
        assert layers[name].lora_A.requires_grad
        assert (layer.scale, layer.dropout) == (layers[name].scale, layers[name].dropout)


def test_the_base_model_and_its_revision_are_on_record(folder: Path):
    config, base = read_adapter_config(folder)
    assert config.rank == 3
    assert (base.name, base.revision) == ("owner/name", "main")
    assert base.fingerprint
    written = json.loads((folder / CONFIG).read_text())
    assert written["base_model_name_or_path"] == "owner/name"
    assert written["peft_type"] == "LORA"
    assert written["inference_mode"] is True


def test_writing_twice_gives_the_same_bytes(folder: Path, tmp_path_factory: pytest.TempPathFactory):
    again = tmp_path_factory.mktemp("again")
    decoder = tiny_decoder("qwen2")
    read_adapter(decoder, folder)
    write_adapter(decoder, again, LORA, BaseIdentity("owner/name", "main"))
    for file in (WEIGHTS, CONFIG, PROVENANCE):
        assert (folder / file).read_bytes() == (again / file).read_bytes()


def test_an_adapter_of_another_base_is_refused(folder: Path, tmp_path: Path):
    save_model(make_model("qwen2", seed=1), tmp_path / "other")
    other = load_decoder(tmp_path / "other", dtype=torch.float32, device=CPU)
    with pytest.raises(AdapterError, match=r"another base model.*owner/name"):
        read_adapter(other, folder)
    assert not adapted_layers(other)


def test_an_adapter_of_another_shape_is_refused_even_without_a_fingerprint(folder: Path):
    (folder / PROVENANCE).unlink()
    _assert_refused(folder, "down_proj|v_proj", base="llama_biased")


def test_an_adapter_from_elsewhere_needs_no_fingerprint(folder: Path):
    (folder / PROVENANCE).unlink()
    assert read_adapter(tiny_decoder("qwen2"), folder).rank == 3


def test_a_missing_matrix_is_refused_by_name(folder: Path):
    _change_weights(folder, lambda tensors: tensors.pop(KEY.format("B")))
    _assert_refused(folder, "lacks " + KEY.format("B"))


def test_an_unexpected_matrix_is_refused_by_name(folder: Path):
    _change_weights(folder, lambda tensors: tensors.update(extra=torch.ones(1)))
    _assert_refused(folder, "unexpected extra")


def test_matrices_of_a_module_the_settings_leave_out_are_refused(folder: Path):
    _change_config(folder, {"target_modules": ["v_proj"]})
    _assert_refused(folder, "unexpected.*down_proj")


@pytest.mark.parametrize("r", [1, 4])
def test_another_rank_than_the_matrices_have_is_refused(folder: Path, r: int):
    _change_config(folder, {"r": r})
    _assert_refused(folder, f"rank {r} on this base")


def test_matrices_the_wrong_way_round_are_refused(folder: Path):
    def turn(tensors: dict[str, torch.Tensor]) -> None:
        tensors[KEY.format("A")] = tensors[KEY.format("A")].T.contiguous()

    _change_weights(folder, turn)
    _assert_refused(folder, "down_proj has A")


def test_an_adapter_that_was_never_trained_is_refused(tmp_path: Path):
    decoder = tiny_decoder("qwen2")
    attach(decoder, LORA, seed=0)
    write_adapter(decoder, tmp_path, LORA, BaseIdentity("owner/name"))
    _assert_refused(tmp_path, "every B is zero")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_matrix_that_is_not_finite_is_refused_by_name(folder: Path, value: float):
    _change_weights(folder, lambda tensors: tensors[KEY.format("B")].fill_(value))
    _assert_refused(folder, "down_proj")


@pytest.mark.parametrize(
    "changes",
    [
        {"peft_type": "IA3"},
        {"peft_type": None},
        {"use_dora": True},
        {"bias": "lora_only"},
        {"modules_to_save": ["lm_head"]},
        {"fan_in_fan_out": True},
        {"rank_pattern": {"v_proj": 8}},
        {"alpha_pattern": {"v_proj": 8}},
        {"layers_to_transform": [0]},
        {"layer_replication": [[0, 1], [0, 1]]},
        {"alora_invocation_tokens": [3, 4]},
        {"use_qalora": True},
        {"use_bdlora": {"target_modules_bd_a": ["v_proj"]}},
        {"init_lora_weights": "pissa"},
        {"lora_bias": True},
        {"target_modules": ".*proj"},
        {"target_modules": None},
        {"target_modules": ["v_proj", "fc1"]},
        {"target_modules": 3},
        {"r": 0},
        {"r": None},
        {"lora_alpha": "many"},
        {"lora_dropout": 1.5},
    ],
    ids=lambda changes: "{}={}".format(*next(iter(changes.items()))),
)
def test_an_adapter_with_parts_this_build_does_not_run_is_refused(
    folder: Path, changes: dict[str, Any]
):
    _change_config(folder, changes)
    _assert_refused(folder, "adapter")


def test_what_peft_writes_by_default_is_not_refused(folder: Path):
    peft = pytest.importorskip("peft")
    defaults = json.loads(
        json.dumps(peft.LoraConfig().to_dict(), default=lambda value: getattr(value, "value", None))
    )
    written = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(defaults | written))
    assert read_adapter(tiny_decoder("qwen2"), folder).rank == 3


@pytest.mark.parametrize("keep", [0, 5, 200, 3000])
def test_a_file_cut_short_is_refused(folder: Path, keep: int):
    path = folder / WEIGHTS
    path.write_bytes(path.read_bytes()[:keep])
    _assert_refused(folder, "damaged or cut short")


@pytest.mark.parametrize("file", [CONFIG, PROVENANCE])
@pytest.mark.parametrize("text", ["", "{", "[]"])
def test_a_broken_json_file_is_refused(folder: Path, file: str, text: str):
    (folder / file).write_text(text)
    _assert_refused(folder, file.replace(".", r"\."))


@pytest.mark.parametrize("file", [CONFIG, WEIGHTS])
def test_a_folder_that_lacks_a_file_is_refused(folder: Path, file: str):
    (folder / file).unlink()
    _assert_refused(folder, f"no {file}")


def test_a_pickled_adapter_is_refused_unopened(folder: Path):
    (folder / WEIGHTS).rename(folder / "adapter_model.bin")
    _assert_refused(folder, r"pickle adapters \(\.bin\) are not opened")


def test_a_base_model_is_no_adapter():
    _assert_refused(tiny_checkpoint("qwen2"), "not an adapter folder")


def test_a_second_adapter_is_refused_and_the_first_stays(folder: Path):
    decoder = tiny_decoder("qwen2")
    attach_trained(decoder, LoRAConfig(rank=2))
    with pytest.raises(AdapterError, match="carries an adapter already"):
        read_adapter(decoder, folder)
    assert len(adapted_layers(decoder)) == 14


def test_a_model_without_an_adapter_has_none_to_write(tmp_path: Path):
    with pytest.raises(AdapterError, match="no adapter to write"):
        write_adapter(tiny_decoder("qwen2"), tmp_path, LORA, BaseIdentity("owner/name"))
    assert not list(tmp_path.iterdir())
