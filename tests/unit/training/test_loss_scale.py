"""The loss scale falls and rises as it should, and an interrupted float16 run loses none of it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.small_runs import Interrupter, without_timing
from tests.tiny_models import tiny_decoder
from thinktune.data.packing import PackingConfig
from thinktune.data.segments import Rendered, Segment
from thinktune.model.adapter_io import BaseIdentity
from thinktune.model.lora import LoRAConfig, attach
from thinktune.tracking import Silence, Tracker, read_metrics
from thinktune.training import loss_scale
from thinktune.training.checkpoints import CheckpointFolder
from thinktune.training.loop import train
from thinktune.training.loss_scale import LossScale
from thinktune.training.manifest import write_manifest
from thinktune.training.optimizer import OptimizerConfig
from thinktune.training.progress import TrainingData
from thinktune.training.schedule import TrainingConfig

LORA = LoRAConfig(rank=2, alpha=4.0)
SEGMENTS = (Segment.PROMPT,) * 3 + (Segment.REASONING,) * 4 + (Segment.ANSWER,) * 2
ROWS = [
    Rendered(tuple((number * 37 + place * 11) % 300 for place in range(9)), SEGMENTS, 3)
    for number in range(5)
]
DATA = TrainingData(ROWS, (), dict.fromkeys(Segment, 1.0), PackingConfig(max_tokens=64))
NO, YES = torch.zeros(()), torch.ones(())


def test_an_overflow_halves_the_scale_and_is_counted() -> None:
    scale = LossScale(torch.device("cpu"))
    found = []
    for overflowed in (NO, YES, YES, NO):
        scale.update(overflowed)
        found.append((scale.value.item(), scale.skipped.item()))
    assert found == [(2.0**16, 0), (2.0**15, 1), (2.0**14, 2), (2.0**14, 2)]


def test_a_run_of_60_steps_tries_no_larger_scale_and_a_long_one_does() -> None:
    scale = LossScale(torch.device("cpu"))
    for _ in range(60):
        scale.update(NO)
    assert scale.value == 2.0**16
    scale.update(YES)
    for steps in range(1, 1000):
        scale.update(NO)
        if scale.value > 2.0**15:
            assert steps == 500
            return
    pytest.fail("it never rose again")


def run(
    folder: Path, dtype: torch.dtype = torch.float16, watcher: Any = None, *, resume: bool = False
) -> list[dict[str, Any]]:
    """Twelve steps; their records."""
    checkpoints = CheckpointFolder(folder / "checkpoints", LORA, BaseIdentity("tiny"))
    decoder, steps_done = tiny_decoder("llama", dtype), 0
    if resume:
        steps_done = checkpoints.read(decoder, Silence())
    else:
        attach(decoder, LORA, seed=0)
    tracker = Tracker(folder, resume_step=steps_done)
    config = TrainingConfig(batch_size=2, max_steps=12)
    try:
        train(
            decoder, DATA, config, OptimizerConfig(learning_rate=0.01), seed=0,
            checkpoints=checkpoints, tracker=tracker, watcher=watcher or Silence(),
            steps_done=steps_done,
        )  # fmt: skip
    finally:
        tracker.close()
    return without_timing(read_metrics(folder))


def interrupt(folder: Path, after: int, dtype: torch.dtype = torch.float16) -> str:
    watcher = Interrupter("Training", after)
    with pytest.raises(KeyboardInterrupt):
        run(folder, dtype, watcher)
    return watcher.said[-1]


@pytest.mark.parametrize("after", [1, 2, 5])
def test_a_run_with_skipped_steps_resumed_is_the_uninterrupted_run(
    tmp_path: Path, after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss_scale, "_START", 2.0**19)
    monkeypatch.setattr(loss_scale, "_GROWTH_INTERVAL", 3)
    whole = run(tmp_path / "whole")
    skipped = [record["train/skipped_steps"] for record in whole]
    assert skipped[0] == 1, "the first step should overflow"
    assert 2 < skipped[-1] < 12, "a larger scale should be tried, and overflow"
    assert "train/grad_norm" not in whole[0]
    went_on = [r for r, before in zip(whole[1:], skipped, strict=False)
               if r["train/skipped_steps"] == before]  # fmt: skip
    assert all(record["train/grad_norm"] > 0 for record in went_on)
    said = interrupt(tmp_path / "parts", after)
    assert f"saved after step {after}: the same command" in said
    assert run(tmp_path / "parts", resume=True) == whole
    assert (tmp_path / "parts" / "checkpoints" / "step-000012").is_dir()


def test_records_of_other_types_have_no_scale(tmp_path: Path) -> None:
    records = run(tmp_path, torch.float32)
    assert not [key for record in records for key in record if "scale" in key or "skipped" in key]


def test_a_checkpoint_without_a_scale_is_gone_on_with_from_a_new_one(tmp_path: Path) -> None:
    interrupt(tmp_path, 3)
    path = tmp_path / "checkpoints" / "step-000003" / "optimizer.safetensors"
    tensors = load_file(path)
    assert tensors.keys() >= {"loss_scale", "skipped_steps", "clean_steps"}
    of_bfloat16 = {k: v for k, v in tensors.items() if "lora" in k or k == "step"}
    save_file(of_bfloat16, path)
    write_manifest(path.parent)
    records = run(tmp_path, resume=True)
    assert len(records) == 12
    assert records[3]["train/loss_scale"] == 2.0**16
