"""Models, adapters and run folders that are damaged, foreign or lie."""

import json
import struct
from pathlib import Path
from typing import Any

from safetensors import safe_open

from tests.bad_inputs.preparing import (
    Cases,
    Prepare,
    model,
    model_config,
    model_file,
    model_without,
    settings,
    words,
)

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
CHAT = ("chat", "TINY", "--adapter", "ad", "-q", "x")


def index_to(home: object) -> Prepare:
    """A weight index that sends every tensor to one file."""

    def change(folder: Path) -> None:
        with safe_open(folder / WEIGHTS, "pt") as file:
            homes = dict.fromkeys(file.keys(), home)
        (folder / INDEX).write_text(json.dumps({"weight_map": homes}))

    return model(change)


def header(**changes: Any) -> Prepare:
    """Weights whose header says something else of the first tensor."""

    def change(folder: Path) -> None:
        content = (folder / WEIGHTS).read_bytes()
        [size] = struct.unpack("<Q", content[:8])
        told = json.loads(content[8 : 8 + size])
        told[next(name for name in told if name != "__metadata__")] |= changes
        text = json.dumps(told).encode()
        (folder / WEIGHTS).write_bytes(struct.pack("<Q", len(text)) + text + content[8 + size :])

    return model(change)


def adapter(config: object, weights: bytes | None = None) -> Prepare:
    """Chat with an adapter folder."""

    def prepare(folder: Path) -> list[str]:
        (folder / "ad").mkdir()
        text = config if isinstance(config, str) else json.dumps(config)
        (folder / "ad" / "adapter_config.json").write_text(text)
        if weights is not None:
            (folder / "ad" / "adapter_model.safetensors").write_bytes(weights)
        return words(*CHAT)(folder)

    return prepare


def run_record(content: str) -> Prepare:
    """Evaluate a folder with a run.json of that content."""

    def prepare(folder: Path) -> list[str]:
        (folder / "old").mkdir()
        (folder / "old" / "run.json").write_text(content)
        return ["evaluate", "old"]

    return prepare


LORA = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"]}
ROPE = {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 16}

CASES: Cases = {
    "no such model": (settings(base_model="./nowhere"), ["no folder ./nowhere"]),
    "model that is a file": (settings(base_model="rows.jsonl"), ["rows.jsonl is a file"]),
    "model of the home of nobody": (settings(base_model="~nobody-here/m"), ["no such user"]),
    "model without configuration": (model_without("config.json"), ["no config.json"]),
    "model without tokenizer": (model_without("tokenizer.json"), ["model: no tokenizer"]),
    "model without weights": (model_without(WEIGHTS), ["no model.safetensors"]),
    "model with pickle weights": (
        model(lambda m: (m / WEIGHTS).rename(m / "pytorch_model.bin")), ["only pickle weights"],
    ),
    "model of another kind": (model_config(model_type="mamba"), ["'mamba'", "llama"]),
    "model of another size": (model_config(hidden_size=60), [WEIGHTS]),
    "model of a billion layers": (
        model_config(num_hidden_layers=10**9), ["num_hidden_layers is 1000000000", "1,024"],
    ),
    "model of no heads": (model_config(num_attention_heads=0), ["num_attention_heads is 0"]),
    "model of a negative width": (model_config(hidden_size=-8), ["hidden_size is -8"]),
    "model of a size that is text": (model_config(head_dim="8"), ["head_dim is '8'"]),
    "model of a size beyond numbers": (model_config(vocab_size=2**80), ["vocab_size is"]),
    "model with half a key head": (model_config(num_key_value_heads=1.5), ["is 1.5"]),
    "model of no accuracy": (model_config(rms_norm_eps=float("nan")), ["rms_norm_eps is nan"]),
    "model with a rope that is a list": (model_config(rope_scaling=[1]), ["rope_scaling is [1]"]),
    "model with a rope of words": (
        model_config(rope_scaling=ROPE | {"attention_factor": "x"}), ["attention_factor is 'x'"],
    ),
    "model with a rope of no length": (
        model_config(rope_scaling=ROPE | {"factor": 0}), ["factor is 0", "above 0"],
    ),
    "model with a rope nobody knows": (
        model_config(rope_scaling={"rope_type": "knot"}, rope_parameters={}), ["'knot'", "'yarn'"],
    ),
    "configuration that is no JSON": (model_file("config.json", "{"), ["config.json: not valid"]),
    "configuration nested for ever": (
        model_file("config.json", "[" * 100_000), ["config.json: not valid JSON"],
    ),
    "configuration that is a list": (model_file("config.json", "[]"), ["holds no JSON object"]),
    "tokenizer that is no JSON": (model_file("tokenizer.json", "{"), ["model: the tokenizer"]),
    "tokenizer of nothing": (model_file("tokenizer.json", "{}"), ["the tokenizer cannot be read"]),
    "chat template that fails": (
        model_file("chat_template.jinja", "{{ 1 / 0 }}"), ["own chat template fails", "zero"],
    ),
    "chat template that reaches out": (
        model_file("chat_template.jinja", "{{ ''.__class__.__mro__[1].__subclasses__() }}"),
        ["own chat template fails", "unsafe"],
    ),
    "chat template that reads a file": (
        model_file("chat_template.jinja", "{% include '/etc/passwd' %}"),
        ["own chat template fails"],
    ),
    "weights that are empty": (model_file(WEIGHTS, b""), [WEIGHTS, "damaged or cut short"]),
    "weights cut short": (
        model(lambda m: (m / WEIGHTS).write_bytes((m / WEIGHTS).read_bytes()[:-100])),
        ["damaged or cut short"],
    ),
    "weights whose header is endless": (
        model_file(WEIGHTS, struct.pack("<Q", 2**62) + b"{}"), ["damaged or cut short"],
    ),
    "weights that lie beyond the file": (header(data_offsets=[0, 2**50]), ["damaged"]),
    "weights at a negative place": (header(data_offsets=[-8, 8]), ["damaged"]),
    "weights that overlap": (header(data_offsets=[4, 8]), ["damaged"]),
    "weights of a shape beyond numbers": (header(shape=[2**40, 2**40]), ["damaged"]),
    "weights of a type nobody knows": (header(dtype="F1"), ["damaged"]),
    "index that is no JSON": (model_file(INDEX, "{"), [INDEX, "not a weight index"]),
    "index nested for ever": (model_file(INDEX, "[" * 100_000), ["not a weight index"]),
    "index that is a list": (model_file(INDEX, '{"weight_map": []}'), ["not a table"]),
    "index that climbs out": (
        index_to("../../../../etc/passwd"), ["'../../../../etc/passwd'", "own folder"],
    ),
    "index to the root": (index_to("/etc/passwd"), ["'/etc/passwd'", "own folder"]),
    "index to a number": (index_to(5), [INDEX, "5 is no file"]),
    "index to a file that is not there": (index_to("b.safetensors"), ["b.safetensors: not there"]),
    "doctor of nothing": (words("doctor", "./nowhere"), ["no folder ./nowhere"]),
    "doctor with an unknown family": (words("doctor", "TINY", "--family", "x"), ["family='x'"]),
    "chat with no adapter there": (
        words("chat", "TINY", "--adapter", "nowhere", "-q", "x"),
        ["nowhere: no adapter_config.json"],
    ),
    "adapter that is no JSON": (adapter("{"), ["adapter_config.json: not valid JSON"]),
    "adapter nested for ever": (adapter("[" * 100_000), ["adapter_config.json: not valid JSON"]),
    "adapter that is a list": (adapter([]), ["holds no JSON object"]),
    "adapter of another kind": (adapter({"peft_type": "IA3"}), ["peft_type is 'IA3'"]),
    "adapter without a rank": (adapter({"peft_type": "LORA"}), ["no r;"]),
    "adapter of no rank": (adapter(LORA | {"r": 0}), ["rank=0: Input should be greater than 0"]),
    "adapter of a true rank": (adapter(LORA | {"r": True}), ["true or false is not allowed"]),
    "adapter of an alpha beyond numbers": (
        adapter(json.dumps(LORA).replace("8", "1e999")), ["alpha=inf", "finite"],
    ),
    "adapter with a part we lack": (adapter(LORA | {"use_dora": True}), ["use_dora=True"]),
    "adapter with targets as text": (
        adapter(LORA | {"target_modules": "all-linear"}), ["'all-linear'", "a list of names"],
    ),
    "adapter with targets of numbers": (
        adapter(LORA | {"target_modules": [1]}), ["target_modules", "string"],
    ),
    "adapter with a revision that is none": (adapter(LORA | {"revision": {}}), ["revision is {}"]),
    "adapter without weights": (adapter(LORA), ["no adapter_model.safetensors"]),
    "adapter of damaged weights": (adapter(LORA, b"\xff" * 20), ["damaged or cut short"]),
    "evaluate what is no run": (words("evaluate", "."), ["no run.json; not a run folder"]),
    "evaluate nothing": (words("evaluate", "nowhere"), ["nowhere: no run.json"]),
    "run record that is no JSON": (run_record("{"), ["run.json: not valid JSON"]),
    "run record of nothing": (run_record("{}"), ["holds no settings"]),
    "run record of a wrong setting": (
        run_record('{"settings": {"base_model": "x", "data": {"train": "y"}, "seed": -1}}'),
        ["run.json: seed=-1"],
    ),
    "resume without a run": (settings("--resume", "last"), ["run: no run.json"]),
}  # fmt: skip
