"""Base models on disk: what loads, and what is refused by name."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from tests.tiny_models import (
    CPU,
    FAMILIES,
    make_model,
    save_model,
    tiny_checkpoint,
    tiny_decoder,
)
from thinktune.errors import CheckpointError
from thinktune.model.checkpoint_io import (
    BaseDtype,
    find_checkpoint,
    load_decoder,
    load_tokenizer,
    resolve_precision,
)
from thinktune.model.decoder import Decoder


def _load(folder: Path, dtype: torch.dtype = torch.float32) -> Decoder:
    return load_decoder(folder, dtype=dtype, device=CPU)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tiny model's folder that the test may spoil."""
    return shutil.copytree(tiny_checkpoint("qwen2"), tmp_path / "model")


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """The same model in several files."""
    return save_model(make_model("qwen2"), tmp_path / "shards", max_shard_size="60KB")


def _change_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def _change_weights(folder: Path, **changes: torch.Tensor | None) -> None:
    """Replace tensors; None takes one out."""
    path = folder / "model.safetensors"
    tensors = {k.replace(".", "__"): v for k, v in load_file(path).items()} | changes
    save_file(
        {k.replace("__", "."): v for k, v in tensors.items() if v is not None},
        path,
        metadata={"format": "pt"},
    )


@pytest.mark.parametrize("name", FAMILIES)
def test_shards_give_the_same_weights_as_one_file(name: str, tmp_path: Path):
    save_model(make_model(name), tmp_path, max_shard_size="60KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    single, sharded = tiny_decoder(name).state_dict(), _load(tmp_path).state_dict()
    assert single.keys() == sharded.keys()
    assert all(torch.equal(single[key], sharded[key]) for key in single)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_weight_is_frozen_in_the_type_asked_for_and_on_the_device(dtype: torch.dtype):
    decoder = tiny_decoder("llama_biased", dtype)
    assert {p.dtype for p in decoder.parameters()} == {dtype}
    assert {p.device for p in decoder.parameters()} == {CPU}
    assert not any(p.requires_grad for p in decoder.parameters())
    assert not decoder.training


def test_a_tied_head_is_the_embedding_itself():
    decoder = tiny_decoder("qwen2_tied")
    assert decoder.lm_head.weight is decoder.model.embed_tokens.weight


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"model_type": "mistral"}, "'mistral'"),
        ({"model_type": None}, "None"),
        ({"hidden_act": "gelu"}, "'gelu'"),
        ({"use_sliding_window": True, "sliding_window": 4}, "sliding-window"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "gptq"),
        ({"quantization_config": "awq"}, "awq"),
        ({"rope_parameters": {"rope_type": "dynamic", "factor": 4.0}}, "'dynamic'"),
        ({"rope_parameters": None, "rope_scaling": {"type": "linear", "factor": 2.0}}, "'linear'"),
        ({"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4}}, "factor"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": "far"}}, "factor"),
        ({"num_attention_heads": None}, "num_attention_heads"),
        ({"hidden_size": "48"}, "hidden_size"),
        ({"rms_norm_eps": None}, "rms_norm_eps"),
    ],
)
def test_a_config_this_decoder_does_not_run_is_refused_by_name(
    folder: Path, changes: dict[str, Any], named: str
):
    _change_config(folder, **changes)
    with pytest.raises(CheckpointError, match=named) as caught:
        _load(folder)
    assert "config.json" in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[1]", '"text"', "\x00"])
def test_a_broken_config_is_refused(folder: Path, text: str):
    (folder / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        _load(folder)


def test_a_folder_without_config_is_refused(folder: Path):
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        _load(folder)


LAYER = "model__layers__1__"


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({LAYER + "self_attn__q_proj__bias": None}, "layers.1.self_attn.q_proj.bias"),
        ({"lm_head__weight": None}, r"lm_head\.weight"),
        ({"model__visual__weight": torch.zeros(2)}, r"model\.visual\.weight"),
        ({LAYER + "self_attn__q_norm__weight": torch.ones(8)}, r"q_norm\.weight"),
        ({LAYER + "mlp__up_proj__weight": torch.zeros(67, 47)}, r"up_proj.*\(67, 47\).*\(67, 48\)"),
        ({LAYER + "mlp__up_proj__weight": torch.zeros(67, 48).char()}, "up_proj"),
        ({LAYER + "mlp__up_proj__weight": torch.zeros(67, 48).to(torch.float8_e4m3fn)}, "up_proj"),
    ],
)
def test_tensors_that_do_not_fit_are_refused_by_name(
    folder: Path, changes: dict[str, torch.Tensor | None], named: str
):
    _change_weights(folder, **changes)
    with pytest.raises(CheckpointError, match=named):
        _load(folder)


@pytest.mark.parametrize("keep", [0, 5, 100, 5000])
def test_a_file_cut_short_is_refused_by_name(folder: Path, keep: int):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=r"model\.safetensors: damaged or cut short"):
        _load(folder)


def test_a_missing_shard_is_refused_by_name(shards: Path):
    gone = sorted(shards.glob("model-*.safetensors"))[1]
    gone.unlink()
    with pytest.raises(CheckpointError, match=gone.name):
        _load(shards)


def test_a_shard_without_a_tensor_that_the_index_promises_is_refused(shards: Path):
    index = json.loads((shards / "model.safetensors.index.json").read_text())["weight_map"]
    path = shards / index["model.layers.1.mlp.up_proj.weight"]
    tensors = load_file(path)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"layers\.1\.mlp\.up_proj\.weight"):
        _load(shards)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"weight_map": null}', '{"weight_map": []}'])
def test_a_broken_index_is_refused(shards: Path, text: str):
    (shards / "model.safetensors.index.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"index\.json"):
        _load(shards)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth"])
def test_pickle_weights_are_refused_unopened(folder: Path, name: str):
    (folder / "model.safetensors").rename(folder / name)
    with pytest.raises(CheckpointError, match=f"only pickle weights.*{name}"):
        _load(folder)


def test_a_folder_without_weights_is_refused(folder: Path):
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"no model\.safetensors"):
        _load(folder)


def test_a_folder_without_tokenizer_is_refused(folder: Path):
    (folder / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match="no tokenizer"):
        load_tokenizer(folder)


@pytest.mark.parametrize(
    "text", ["", "{", "{}", "[]", '{"version": "1.0", "model": {"type": "X"}}']
)
def test_a_broken_tokenizer_is_refused(folder: Path, text: str):
    (folder / "tokenizer.json").write_text(text)
    with pytest.raises(CheckpointError, match="tokenizer cannot be read"):
        load_tokenizer(folder)


@pytest.mark.parametrize("base_dtype", BaseDtype)
def test_a_type_of_products_is_a_floating_type_of_torch(base_dtype: BaseDtype):
    dtype, quantize = resolve_precision(base_dtype, CPU)
    assert dtype.is_floating_point
    assert base_dtype in ("auto", str(dtype).removeprefix("torch."), quantize)


@pytest.mark.parametrize("base_model", ["./nowhere", "/nowhere", "a/b/c", "wheel:nothing", "a b"])
def test_a_name_that_is_no_model_is_refused(base_model: str):
    with pytest.raises(CheckpointError, match=base_model.removeprefix("wheel:")):
        find_checkpoint(base_model)


def test_a_file_is_no_base_model(folder: Path):
    with pytest.raises(CheckpointError, match="is a file"):
        find_checkpoint(str(folder / "config.json"))


def test_a_hub_that_cannot_be_reached_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with pytest.raises(CheckpointError, match="'nobody/nothing' is no folder here and could not"):
        find_checkpoint("nobody/nothing")
