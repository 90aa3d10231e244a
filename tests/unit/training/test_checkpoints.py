"""A run interrupted anywhere and resumed is, bit for bit, the run that was not."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.small_runs import ROWS, Interrupter, small_config, without_timing, write_rows
from thinktune.config import RunConfig
from thinktune.errors import RunError, TrainingError
from thinktune.model.adapter_io import BaseIdentity
from thinktune.model.decoder import Decoder
from thinktune.model.lora import LoRAConfig
from thinktune.pipeline import run_recipe
from thinktune.tracking import read_metrics, read_records
from thinktune.training.checkpoints import CheckpointFolder


def outcome_of(run: Path) -> tuple[list[dict[str, Any]], bytes]:
    """What must be the same: the numbers and the adapter."""
    looks = [(r["step"], r["id"]) for r in read_records(run / "samples.jsonl")]
    assert len(set(looks)) == len(looks), "a look at the model was written down twice"
    return (
        without_timing(read_metrics(run)),
        (run / "adapter" / "adapter_model.safetensors").read_bytes(),
    )


def train(config: RunConfig, *, resume: bool = False, watcher: Any = None) -> Path:
    return run_recipe(config, "small", resume=resume, compare_after=False, watcher=watcher).folder


def interrupt(config: RunConfig, title: str, done: int) -> list[str]:
    watcher = Interrupter(title, done)
    with pytest.raises(KeyboardInterrupt):
        train(config, watcher=watcher)
    return watcher.said


def make_config(folder: Path, **training: Any) -> RunConfig:
    settings = {"batch_size": 3, "max_steps": 6, "eval_steps": 2, "save_steps": 4}
    return small_config(
        folder, training=settings | {"sample_steps": 2} | training, evaluation={"max_new_tokens": 2}
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple:
    """The uninterrupted run."""
    return outcome_of(train(make_config(tmp_path_factory.mktemp("whole"))))


@pytest.mark.parametrize("steps", [(1,), (4,), (2, 5)])
def test_a_run_interrupted_and_resumed_is_the_uninterrupted_run(
    tmp_path: Path, whole: tuple, steps: Sequence[int]
) -> None:
    config = make_config(tmp_path)
    said = interrupt(config, "Training", steps[0])
    assert f"saved after step {steps[0]}: the same command with --resume auto goes on" in said[-1]
    for step in steps[1:]:
        with pytest.raises(KeyboardInterrupt):
            train(config, resume=True, watcher=Interrupter("Training", step))
    assert outcome_of(train(config, resume=True)) == whole


def test_what_a_killed_process_left_half_written_is_removed(tmp_path: Path, whole: tuple) -> None:
    config = make_config(tmp_path)
    interrupt(config, "Training", 4)
    (checkpoints,) = tmp_path.rglob("checkpoints")
    fragment = checkpoints / ".step-000006.4711.part"
    fragment.mkdir()
    (fragment / "optimizer.safetensors").write_text("half")
    assert outcome_of(train(config, resume=True)) == whole
    assert not fragment.exists()


def test_a_run_interrupted_before_its_first_step_starts_again(tmp_path: Path, whole: tuple) -> None:
    config = make_config(tmp_path)
    watcher = Interrupter("Answers of the base model", 1)
    with pytest.raises(KeyboardInterrupt):
        run_recipe(config, "small", watcher=watcher)
    assert not (tmp_path / "run" / "checkpoints").exists()
    assert outcome_of(train(config, resume=True)) == whole


def test_a_run_killed_after_its_checkpoint_makes_the_later_steps_again(
    tmp_path: Path, whole: tuple
) -> None:
    config = make_config(tmp_path)
    interrupt(config, "Training", 5)
    (tmp_path / "run" / "checkpoints" / "step-000005").rename(tmp_path / "as-if-never-written")
    assert outcome_of(train(config, resume=True)) == whole


def test_resuming_a_finished_run_changes_none_of_its_numbers(tmp_path: Path, whole: tuple) -> None:
    config = make_config(tmp_path)
    run = train(config)
    before = (run / "run.json").read_bytes()
    assert outcome_of(train(config, resume=True)) == whole
    assert (run / "run.json").read_bytes() == before
    training = json.loads(before)["training"]
    assert training["first"]["loss"] == read_metrics(run)[0]["train/loss"]
    assert training["num_tokens"] == sum(r.get("train/num_tokens", 0) for r in read_metrics(run))


def test_only_the_newest_checkpoints_stay(tmp_path: Path) -> None:
    run = train(make_config(tmp_path, save_steps=1, save_total_limit=3, sample_steps=None))
    names = sorted(path.name for path in (run / "checkpoints").iterdir())
    assert names == ["step-000004", "step-000005", "step-000006"]


@pytest.mark.parametrize("damage", ["cut", "gone", "changed", "grown"])
@pytest.mark.parametrize(
    "file", ["adapter_model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"]
)
def test_a_damaged_checkpoint_is_passed_over_and_said(
    tmp_path: Path, whole: tuple, file: str, damage: str
) -> None:
    config = make_config(tmp_path, save_steps=2)
    interrupt(config, "Training", 5)
    newest = tmp_path / "run" / "checkpoints" / "step-000005"
    content = bytearray((newest / file).read_bytes())
    content[len(content) // 2] ^= 1
    if damage == "cut":
        content = content[: len(content) // 2]
    if damage == "grown":
        content += b" "
    (newest / file).unlink() if damage == "gone" else (newest / file).write_bytes(content)
    watcher = Interrupter("nothing", 0)
    run = train(config, resume=True, watcher=watcher)
    if (file, damage) != ("manifest.json", "grown"):  # white space behind JSON is no damage
        (told,) = [line for line in watcher.said if " is damaged (" in line]
        named = ("no manifest" if damage == "gone" else "") if "manifest" in file else file
        assert told.startswith(f"{newest} is damaged ({named}")
        assert told.endswith(": passed over, and kept as step-000005.damaged.")
        assert any("goes on after step 4" in line for line in watcher.said)
    assert outcome_of(run) == whole


def test_where_every_checkpoint_is_damaged_or_gone_the_run_begins_again(
    tmp_path: Path, whole: tuple
) -> None:
    config = make_config(tmp_path)
    interrupt(config, "Training", 5)
    for path in (tmp_path / "run" / "checkpoints").iterdir():
        (path / "state.json").unlink()
    watcher = Interrupter("nothing", 0)
    assert outcome_of(train(config, resume=True, watcher=watcher)) == whole
    assert any("begins again: nothing was saved" in line for line in watcher.said)


def test_the_checkpoint_of_the_lowest_heldout_loss_stays_beside_the_newest(tmp_path: Path) -> None:
    config = make_config(tmp_path, eval_steps=1, save_steps=1, max_steps=12, sample_steps=None)
    watcher = Interrupter("nothing", 0)
    run = train(config, watcher=watcher)
    losses = {r["step"]: r["heldout/loss"] for r in read_metrics(run)}
    best = min(losses, key=lambda step: losses[step])
    wanted = sorted({best, 11, 12})
    folder = CheckpointFolder(run / "checkpoints", LoRAConfig(rank=4), BaseIdentity("tiny"))
    assert [steps for steps, _ in folder.all()] == wanted
    assert folder.best() == (best, losses[best])
    told = [line for line in watcher.said if f"lowest after step {best} " in line]
    assert bool(told) == (best != 12)


def test_records_are_on_the_disk_before_the_checkpoint_they_belong_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flush, flushed = os.fsync, []

    def noted(descriptor: int) -> None:
        flush(descriptor)
        flushed.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)

    monkeypatch.setattr(os, "fsync", noted)
    run = train(make_config(tmp_path, sample_steps=None))
    manifests = [place for place, name in enumerate(flushed) if name == "manifest.json"]
    records = [place for place, name in enumerate(flushed) if name == "metrics.jsonl"]
    assert len(manifests) == len(records) == len(list((run / "checkpoints").iterdir()))
    assert all(before < after for before, after in zip(records, manifests, strict=True))


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError()], ids=["gpu", "host"]
)
def test_too_little_memory_ends_with_what_is_saved_and_what_to_lower(
    tmp_path: Path, whole: tuple, error: BaseException
) -> None:
    config = make_config(tmp_path, save_steps=2)

    def allocate(module: torch.nn.Module, _: object) -> None:
        if isinstance(module, Decoder) and (tmp_path / "run/checkpoints/step-000004").exists():
            raise error

    handle = torch.nn.modules.module.register_module_forward_pre_hook(allocate)
    try:
        with pytest.raises(TrainingError) as caught:
            train(config)
    finally:
        handle.remove()
    told = str(caught.value)
    assert "out of memory" in told
    assert "lower packing.max_tokens" in told
    assert "saved after step 4: the same command with --resume auto goes on" in told
    failed = json.loads((tmp_path / "run" / "run.json").read_text())["failure"]
    assert failed == told
    assert outcome_of(train(config, resume=True)) == whole
    assert json.loads((tmp_path / "run" / "run.json").read_text())["failure"] is None


def test_a_run_whose_data_changed_is_not_gone_on_with(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    interrupt(config, "Training", 2)
    write_rows(tmp_path / "rows.jsonl", ROWS[1:])
    with pytest.raises(RunError, match=r"started with another data .*num_train: 8 then, 7 now"):
        train(config, resume=True)


def test_an_update_whose_record_is_missing_is_made_again(tmp_path: Path, whole: tuple) -> None:
    config = make_config(tmp_path)

    def press(module: torch.nn.Module, _: object) -> None:
        # Ctrl-C can come in any operation: here in the held-out pass after step 2.
        if isinstance(module, Decoder) and not module.training:
            raise KeyboardInterrupt

    handle = torch.nn.modules.module.register_module_forward_pre_hook(press)
    try:
        with pytest.raises(KeyboardInterrupt):
            train(config)
    finally:
        handle.remove()
    assert [record["step"] for record in read_metrics(tmp_path / "run")] == [1]
    assert not (tmp_path / "run" / "checkpoints").exists()
    assert outcome_of(train(config, resume=True)) == whole
