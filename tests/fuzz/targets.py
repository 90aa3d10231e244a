"""What is fuzzed: each target feeds bytes to one door of Thinktune, and lets only its errors by.

A target returns where the bytes are read or refused with a ThinktuneError; whatever else it raises
is a finding, and so is a hang or a lot of memory.
"""

import contextlib
import gzip
import json
import shutil
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import zstandard

from tests.tiny_models import attach_trained, tiny_checkpoint, tiny_decoder
from tests.tokenizers import TOKENIZERS
from thinktune.answers.grading import AnswerKind, conclusion, grade, vote
from thinktune.config import read_recipe
from thinktune.data.conversations import RowError
from thinktune.data.example import Example
from thinktune.data.formats import json_line
from thinktune.data.patterns import Pattern
from thinktune.data.records import to_row
from thinktune.data.shortening import shorten
from thinktune.data.sources import stream_examples
from thinktune.data.template import Template, TemplateConfig
from thinktune.endpoints import base_url
from thinktune.errors import DataError, ThinktuneError
from thinktune.model.adapter_io import BaseIdentity, read_adapter, write_adapter
from thinktune.model.checkpoint_io import load_decoder, read_config
from thinktune.model.decoder import Decoder
from thinktune.model.lora import LoRAConfig, adapted_layers, detach
from thinktune.model.shape import shape_from_config
from thinktune.model.weight_files import WeightFiles
from thinktune.teacher.replies import ReplyError, SampleError, read_reply, split_reply

ENDINGS = (
    *(".jsonl", ".json", ".csv", ".tsv", ".parquet"),
    *(".jsonl.gz", ".csv.zst", ".json.gz", ".jsonl.zst"),
)
KINDS = [kind for kind in AnswerKind if kind is not AnswerKind.MATHS]  # SymPy has five seconds
LABELS = {"influenza": ["flu", "流感"], "cold": ["common cold"]}
ADAPTER_FILES = ("adapter_config.json", "thinktune.json", "adapter_model.safetensors")
MODEL_FILES = ("config.json", "model.safetensors.index.json", "model.safetensors")
MARKS = ("<think>", "</think>", "<｜User｜>", "<|im_end|>", "<|im_start|>", "<｜end▁of▁sentence｜>")


@cache
def _folder() -> Path:
    """A folder of this process for what is being fuzzed."""
    return Path(tempfile.mkdtemp(prefix="fuzz-"))


def data(content: bytes) -> None:
    """A data file, its ending chosen by the first byte; its rows are written again."""
    ending = ENDINGS[content[0] % len(ENDINGS)] if content else ".jsonl"
    content = content[1:]
    if content[:1] == b"!" and ending.endswith((".gz", ".zst")):  # else the packing is fuzzed
        pack = gzip.compress if ending.endswith(".gz") else zstandard.compress
        content = pack(content[1:])
    path = _folder() / f"rows{ending}"
    path.write_bytes(content)
    with contextlib.suppress(ThinktuneError):
        for example in stream_examples(str(path)):
            if isinstance(example, Example):
                json_line(to_row(example), example.where)


def pattern(content: bytes) -> None:
    """A pattern, and a cell it is applied to."""
    text, _, cell = content.decode(errors="replace").partition("\0")
    with contextlib.suppress(ThinktuneError, RowError):
        Pattern.parse(text).apply({"cell": cell}, "cell")


@cache
def _templates() -> list[Template]:
    return [Template.from_tokenizer(make(), TemplateConfig()) for make in TOKENIZERS.values()]


def template(content: bytes) -> None:
    """Question, reasoning and answer, rendered and parsed; no text becomes a control token."""
    fields = [*content.decode(errors="replace").split("\0"), "", "", ""]
    texts = [text + MARKS[len(text) % len(MARKS)] for text in fields]
    for made in _templates():
        rendered = made.render_prompt(texts[0], system=texts[1])
        plain = made.render_prompt("a", system="b")
        steering = set(made.controls.values())
        assert [n for n in rendered if n in steering] == [n for n in plain if n in steering]
        made.parse(fields[0])
        with contextlib.suppress(DataError):
            made.render(Example(fields[0], fields[1], fields[2]))
    shorten(fields[0], len, 20)


def answers(content: bytes) -> None:
    """An answer, a reasoning and a reference."""
    answer, _, reference = content.decode(errors="surrogateescape").partition("\0")
    for kind in KINDS:
        for judge in (
            lambda kind=kind: grade(answer, reference, LABELS, kind),
            lambda kind=kind: vote(answer, kind, LABELS),
            lambda kind=kind: conclusion(answer, kind, LABELS),
        ):
            with contextlib.suppress(ThinktuneError):
                judge()


def recipe(content: bytes) -> None:
    """A recipe, and an override."""
    path = _folder() / "fuzzed.yaml"
    path.write_bytes(content)
    with contextlib.suppress(ThinktuneError):
        read_recipe(str(path))
    path.write_text("base_model: x\ndata: {train: y}\n")
    with contextlib.suppress(ThinktuneError):
        read_recipe(str(path), [content.decode(errors="replace")])


@cache
def _decoder() -> Decoder:
    return tiny_decoder("llama")


@cache
def adapter_folder() -> Path:
    """An adapter that is whole."""
    decoder, config = tiny_decoder("llama"), LoRAConfig(rank=3, alpha=5.0)
    attach_trained(decoder, config)
    folder = _folder() / "whole"
    folder.mkdir()
    write_adapter(decoder, folder, config, BaseIdentity("x"))
    return folder


def adapter(content: bytes) -> None:
    """An adapter with one of its files fuzzed."""
    folder = _folder() / "adapter"
    shutil.copytree(adapter_folder(), folder, dirs_exist_ok=True)
    if content:
        (folder / ADAPTER_FILES[content[0] % len(ADAPTER_FILES)]).write_bytes(content[1:])
    try:
        read_adapter(_decoder(), folder)
    except ThinktuneError:
        pass
    finally:
        if adapted_layers(_decoder()):
            detach(_decoder())


def checkpoint(content: bytes) -> None:
    """A model with one of its files fuzzed; only a shape that is this model's is built."""
    folder = _folder() / "model"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(tiny_checkpoint("llama"), folder)
    if content:
        (folder / MODEL_FILES[content[0] % len(MODEL_FILES)]).write_bytes(content[1:])
    with contextlib.suppress(ThinktuneError):
        shape = shape_from_config(read_config(folder))
        WeightFiles(folder)
        if shape == _decoder().shape:
            whole = _decoder().lm_head.weight
            load_decoder(folder, dtype=whole.dtype, device=whole.device)


def reply(content: bytes) -> None:
    """A teacher's reply, and the URL of an endpoint."""
    text = content.decode(errors="replace")
    with contextlib.suppress(ReplyError, SampleError):
        split_reply(read_reply(text, endpoint="x", bound=(1, 1)))
    with contextlib.suppress(ThinktuneError, ValueError):  # pydantic takes a ValueError as told
        base_url(text, "/v1")


TARGETS: dict[str, Callable[[bytes], None]] = {
    "data": data,
    "pattern": pattern,
    "template": template,
    "answers": answers,
    "recipe": recipe,
    "adapter": adapter,
    "checkpoint": checkpoint,
    "reply": reply,
}


def seeds(name: str) -> list[bytes]:
    """Inputs that are read as they are, for a fuzzer to start from."""
    row = b'{"question": "a", "reasoning": "b", "answer": "<think>c</think>d", "system": "e"}\n'
    turns = b'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "'
    table = b'question,reasoning,answer\na,b,"c\nd"\n'
    match name:
        case "data":
            rows = [row * 2, turns + b'<think>b</think>c"}]}\n', b"[" + row + b"]", table, row]
            return [bytes([n]) + text for n, text in enumerate(rows)] + [
                b"\5!" + row, b"\6!" + table, b"\7!" + b"[1]", b"\5" + gzip.compress(row),
                b"\10" + zstandard.compress(row), b"\0" + row.decode().encode("utf-16"),
            ]  # fmt: skip
        case "pattern":
            return [b"{reasoning}####{answer+reference}\x001 + 1 #### 2"]
        case "template":
            return [b"question\0system\0answer", "發燒。<think>a</think>... ".encode()]
        case "answers":
            return [
                "so 1 h 30 min, 三萬五千 or \\boxed{\\frac{1}{2}}\x005.4e3 s".encode(),
                b"The answer is (C): flu\0C",
            ]
        case "recipe":
            kept = {"base_model": "x", "data": {"train": "y"}, "lora": {"rank": 8}, "seed": 3}
            return [json.dumps(kept).encode(), b"base_model: x\ndata:\n  train: y\n", b"seed=3"]
        case "adapter":
            return _whole(adapter_folder(), ADAPTER_FILES)
        case "checkpoint":
            index = json.dumps({"weight_map": {"lm_head.weight": "model.safetensors"}})
            return [*_whole(tiny_checkpoint("llama"), MODEL_FILES), b"\1" + index.encode()]
        case _:
            message = {"content": "<think>a</think>b", "reasoning_content": None}
            body = {"choices": [{"message": message, "finish_reason": "stop"}], "usage": {}}
            return [json.dumps(body).encode(), b"http://localhost:8000/v1"]


def _whole(folder: Path, names: tuple[str, ...]) -> list[bytes]:
    there = [(n, folder / name) for n, name in enumerate(names) if (folder / name).is_file()]
    return [bytes([n]) + path.read_bytes() for n, path in there]
