"""Deterministic runs are equal bit for bit in two processes; the seed reaches every draw."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.small_runs import small_config, without_timing, write_recipe
from tests.tiny_models import tiny_decoder
from thinktune.data.packing import PackingConfig
from thinktune.data.segments import Rendered, Segment
from thinktune.model.lora import LoRAConfig, attach
from thinktune.pipeline import run_recipe
from thinktune.tracking import read_metrics, read_records
from thinktune.training.optimizer import OptimizerConfig
from thinktune.training.progress import Progress, TrainingData
from thinktune.training.schedule import TrainingConfig

ASKED = {"max_new_tokens": 4, "temperature": 1.0, "tasks": []}
"""Questions about the held-out rows alone, answered by sampling."""


def run_apart(folder: Path, hash_seed: str, **changes: Any) -> Path:
    """A whole run in a process of its own."""
    folder.mkdir()
    settings = {"deterministic": True, "evaluation": ASKED}
    recipe = write_recipe(folder, **settings | changes)
    command = [sys.executable, "-m", "thinktune", "train", str(recipe)]
    environment = os.environ | {"PYTHONHASHSEED": hash_seed}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "run"


def completions(run: Path, side: str) -> list[str]:
    """Every answer of a side, by task."""
    files = sorted((run / "evaluation").glob(f"*/{side}.jsonl"))
    found = [record["completion"] for path in files for record in read_records(path)]
    assert any(found)
    return found


def results(run: Path) -> dict[str, Any]:
    """Numbers, adapter, and what was answered before and after."""
    answers = completions(run, "before") + completions(run, "after")
    weights = (run / "adapter" / "adapter_model.safetensors").read_bytes()
    return {"numbers": without_timing(read_metrics(run)), "weights": weights, "answers": answers}


def level(run: Path) -> str:
    told = json.loads((run / "run.json").read_text())["determinism"]
    assert told["why"]
    return told["level"]


def test_two_processes_give_the_same_bits_whatever_python_hashes_by(tmp_path: Path) -> None:
    first, second = (run_apart(tmp_path / seed, seed) for seed in ("1", "77"))
    one, two = results(first), results(second)
    assert one["numbers"] == two["numbers"]
    assert one["weights"] == two["weights"]
    assert one["answers"] == two["answers"]
    assert level(first) == level(second) == "bitwise"


def test_a_run_that_was_not_asked_to_be_deterministic_promises_no_bits(tmp_path: Path) -> None:
    run = run_recipe(small_config(tmp_path), "small", compare_after=False).folder
    assert level(run) == "seeded"
    assert not torch.are_deterministic_algorithms_enabled()


def train(folder: Path, **changes: Any) -> Path:
    folder.mkdir()
    return run_recipe(small_config(folder, **changes), "small", compare_after=False).folder


def first_adapter(folder: Path, seed: int) -> list[float]:
    """A of a layer before anything moved it: the rate is too small for float32."""
    still = {"learning_rate": 1e-30, "warmup_steps": 1, "weight_decay": 0.0}
    training = {"batch_size": 3, "max_steps": 1}
    run = train(folder, seed=seed, optimizer=still, training=training)
    tensors = load_file(run / "adapter" / "adapter_model.safetensors")
    name = min(name for name in tensors if "lora_A" in name)
    return tensors[name].flatten().tolist()


def order(folder: Path, seed: int) -> list[int]:
    """Tokens of each step, of which there is one for each row."""
    training = {"batch_size": 1, "max_steps": 8, "eval_steps": None}
    run = train(folder, seed=seed, training=training)
    return [r["train/num_tokens"] for r in read_metrics(run) if "train/num_tokens" in r]


def dropped(folder: Path, seed: int, share: float = 0.5) -> float:
    """Gradient norm of the only row there is, of the same fresh adapter."""
    del folder
    decoder = tiny_decoder("llama")
    attach(decoder, LoRAConfig(rank=2, alpha=4.0, dropout=share), seed=0)
    segments = (Segment.PROMPT,) * 3 + (Segment.REASONING,) * 9
    data = TrainingData(
        [Rendered(tuple(range(50, 62)), segments, 3, "row 1")],
        (),
        dict.fromkeys(Segment, 1.0),
        PackingConfig(max_tokens=64),
    )
    config = TrainingConfig(batch_size=1, max_steps=1)
    decoder.train()
    ((_, numbers),) = Progress(decoder, data, config, OptimizerConfig(), seed).take(0)
    return numbers["train/grad_norm"]


def sampled(folder: Path, seed: int) -> list[str]:
    """What the base model answers, which no other draw reaches."""
    folder.mkdir()
    training = {"batch_size": 3, "max_steps": 1}
    config = small_config(folder, seed=seed, evaluation=ASKED, training=training)
    run = run_recipe(config, "small").folder
    return completions(run, "before")


@pytest.mark.parametrize("drawn", [first_adapter, order, dropped, sampled])
def test_the_seed_reaches_every_draw(drawn: Callable[[Path, int], Any], tmp_path: Path) -> None:
    one, same, other = (
        drawn(tmp_path / name, seed) for name, seed in zip("abc", (1, 1, 2), strict=True)
    )
    assert one == same
    assert one != other


def test_without_dropout_the_seed_changes_no_gradient(tmp_path: Path) -> None:
    assert dropped(tmp_path, 1, 0.0) == dropped(tmp_path, 2, 0.0)
