"""Files written to do harm: read or refused, in the memory that an honest one takes."""

import gzip
import json
import os
import tracemalloc
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from tests.tiny_models import attach_trained, tiny_decoder
from thinktune.config import read_recipe
from thinktune.data import opening
from thinktune.data.formats import read_rows
from thinktune.data.plain_text import PlainTokenizer
from thinktune.errors import (
    AdapterError,
    CheckpointError,
    ConfigError,
    DataError,
    TemplateError,
    ThinktuneError,
)
from thinktune.model.adapter_io import BaseIdentity, read_adapter, write_adapter
from thinktune.model.lora import LoRAConfig, adapted_layers, detach
from thinktune.model.sizes import require_sizes
from thinktune.paths import user_path

MARK = b'{"question": "a", "reasoning": "b", "answer": "c"}\n'
LORA = LoRAConfig(rank=3, alpha=5.0)
DECODER = tiny_decoder("llama")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter that is whole."""
    folder = tmp_path_factory.mktemp("adapter")
    decoder = tiny_decoder("llama")
    attach_trained(decoder, LORA)
    write_adapter(decoder, folder, LORA, BaseIdentity("x"))
    return folder


def try_to_read(folder: Path) -> None:
    """Attach an adapter and let it go; the errors of Thinktune pass through."""
    try:
        read_adapter(DECODER, folder)
    finally:
        if adapted_layers(DECODER):
            detach(DECODER)


@pytest.mark.parametrize("name", ["adapter_config.json", "thinktune.json"])
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_an_adapter_with_any_value_anywhere_is_attached_or_refused(
    name: str, adapter: Path, data: st.DataObject
) -> None:
    content: dict[str, Any] = json.loads((adapter / name).read_text())
    key = data.draw(st.sampled_from([*content, "another"]))
    with TemporaryDirectory() as place:
        for path in adapter.iterdir():
            (Path(place) / path.name).write_bytes(path.read_bytes())
        (Path(place) / name).write_text(json.dumps(content | {key: data.draw(JSON)}))
        try:
            try_to_read(Path(place))
        except AdapterError as refusal:
            told = str(refusal)
        else:
            told = place
        assert place in told


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64, torch.float8_e4m3fn])
def test_an_adapter_of_numbers_that_are_no_floats_is_refused(
    dtype: torch.dtype, adapter: Path, tmp_path: Path
) -> None:
    for path in adapter.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    weights = load_file(adapter / "adapter_model.safetensors")
    changed = {name: tensor.to(dtype) for name, tensor in weights.items()}
    save_file(changed, tmp_path / "adapter_model.safetensors")
    with pytest.raises(AdapterError, match=r"is stored as .*; 16- or 32-bit floats are read"):
        try_to_read(tmp_path)


@given(
    st.sampled_from(["hidden_size", "num_hidden_layers", "head_dim", "rope_theta", "rope_scaling"]),
    JSON,
)
def test_a_size_of_any_value_is_a_size_or_refused(name: str, value: object) -> None:
    try:
        require_sizes({name: value}, Path("config.json"))
    except CheckpointError as refusal:
        told = str(refusal)
    else:
        told = name if value is None or isinstance(value, int | float | dict) else ""
    assert name in told


@given(
    st.lists(
        st.sampled_from(
            [*("base_model: x\n", "data: {train: y}\n", "seed: ", "lora: ", "  rank: ", "- "),
             *("&a ", "*a", "!!int ", "!!timestamp ", "!!set ", "? ", ": ", "{", "}", "[", "]"),
             *("2024-99-99", "0b_", ".nan", "1e999", "'", "\n", "3", "|", ">", "%", "---\n", "<<"),
             *("1:30", "~", "\x00", "#", "\t", "\ufeff", "!")]
        ),
        max_size=14,
    ).map("".join)
)  # fmt: skip
@settings(max_examples=300, deadline=None)
def test_any_yaml_is_a_recipe_or_refused_by_name(text: str) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "a.yaml"
        path.write_text(text, encoding="utf-8")
        try:
            told = read_recipe(str(path)).base_model and str(path)
        except ConfigError as refusal:
            told = str(refusal)
        assert str(path) in told


@given(st.binary(max_size=60), st.sampled_from(["jsonl", "json", "csv", "tsv", "parquet"]))
@settings(max_examples=200, deadline=None)
def test_any_bytes_are_rows_or_refused_by_name(content: bytes, ending: str) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"a.{ending}"
        path.write_bytes(content)
        try:
            told = [row.label for row in read_rows(path, path.name)].pop()
        except ThinktuneError as refusal:
            told = str(refusal)
        assert path.name in told


def bomb(ending: str) -> bytes:
    """Half a gigabyte of one line."""
    blocks = (b" " * 2**20 for _ in range(512))
    if ending == "gz":
        return gzip.compress(b" " * 2**25) * 16
    packer = zstandard.ZstdCompressor().compressobj()
    return b"".join(packer.compress(block) for block in blocks) + packer.flush()


@pytest.mark.parametrize("ending", ["gz", "zst"])
@pytest.mark.parametrize("format_", ["jsonl", "json", "csv"])
def test_a_decompression_bomb_is_refused_in_little_memory(
    ending: str, format_: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "_MAX_UNPACKED", 1 << 25)  # so that the test is short
    path = tmp_path / f"a.{format_}.{ending}"
    path.write_bytes(bomb(ending))
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=r"longer than|unpack to more than"):
            list(read_rows(path, path.name))
        assert tracemalloc.get_traced_memory()[1] < 200 << 20
    finally:
        tracemalloc.stop()


def test_honest_text_that_packs_well_is_read(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(opening, "_MAX_UNPACKED", 1 << 16)
    rows = b"".join(MARK.replace(b"a", f"question {n}".encode(), 1) for n in range(20_000))
    (tmp_path / "a.jsonl.zst").write_bytes(zstandard.compress(rows, level=9))
    assert sum(1 for _ in read_rows(tmp_path / "a.jsonl.zst", "a")) == 20_000


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.jsonl")
    with pytest.raises(DataError, match="no regular file"):
        list(read_rows(tmp_path / "a.jsonl", "a.jsonl"))


def test_a_vocabulary_that_writes_a_control_token_as_text_is_refused() -> None:
    backend = Tokenizer(models.WordLevel({"<|im_end|>": 0, "a": 1, "?": 2}, unk_token="?"))
    backend.add_special_tokens(["<|im_end|>"])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    with pytest.raises(TemplateError, match=r"'<\|im_end\|>' as the control token"):
        PlainTokenizer.from_tokenizer(tokenizer)


def test_paths_that_no_file_can_have_are_refused() -> None:
    assert user_path("~") == Path.home()
    for text in ("a" * 256, "a/" * 2100, "~nobody-here/a"):
        with pytest.raises(ConfigError):
            user_path(text)
