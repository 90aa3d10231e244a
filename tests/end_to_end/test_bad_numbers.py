"""Whole runs that meet bad numbers: what is refused, what is kept, and what is said."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.small_runs import Interrupter, small_config, without_timing, write_rows
from tests.tiny_models import make_model, save_model
from tests.tokenizers import chatml
from thinktune.config import RunConfig
from thinktune.data.loader import examples_of_step
from thinktune.errors import TrainingError
from thinktune.pipeline import run_recipe
from thinktune.tracking import read_metrics, read_records

NUM_ROWS, ODD = 40, 11
NAME = f"odd.jsonl row {ODD + 1}"
ROWS = [
    {
        "question": f"Case {number}?",
        "reasoning": "We look at it again. We look at it again.",
        "answer": "cold",
        "reference": "cold",
        "split": "train" if number < NUM_ROWS else "test",
    }
    for number in range(NUM_ROWS + 1)
]
ODD_ROW = ROWS[ODD] | {"reasoning": "Zq§ xJ 7#k vW~ pG9 @hZ Qy", "answer": "K§j"}


def spike_seed() -> tuple[int, int]:
    """A seed with which the odd row comes late in the first epoch, and the step it comes in."""
    for seed in range(99):
        for step in range(28, 34):
            if examples_of_step(step, num_examples=NUM_ROWS, batch_size=1, seed=seed) == [ODD]:
                return seed, step + 1
    raise AssertionError("no such seed")


SEED, SPIKE = spike_seed()


def config(folder: Path, **changes: Any) -> RunConfig:
    """A run of 36 steps over rows that are alike but for one."""
    rows = [*ROWS[:ODD], ODD_ROW, *ROWS[ODD + 1 :]]
    data = write_rows(folder / "odd.jsonl", rows)
    on_spike = changes.pop("on_spike", "warn")
    training = {"batch_size": 1, "max_steps": 36, "eval_steps": None, "save_steps": 10}
    settings = {
        "data": {"train": str(data)},
        "seed": SEED,
        "lora": {"rank": 4, "alpha": 8},
        "training": training | {"on_spike": on_spike},
        "optimizer": {"learning_rate": 0.02, "warmup_steps": 1},
    }
    return small_config(folder, **settings | changes)


def train(config: RunConfig, *, resume: bool = False, watcher: Any = None) -> Path:
    return run_recipe(config, "small", resume=resume, compare_after=False, watcher=watcher).folder


def quarantined(run: Path) -> list[dict[str, Any]]:
    return read_records(run / "quarantine.jsonl")


def adapter(run: Path) -> bytes:
    return (run / "adapter" / "adapter_model.safetensors").read_bytes()


def checkpoint(run: Path, step: int) -> dict[str, torch.Tensor]:
    folder = run / "checkpoints" / f"step-{step:06d}"
    return load_file(folder / "adapter_model.safetensors") | {
        name: value
        for name, value in load_file(folder / "optimizer.safetensors").items()
        if not name.startswith("spikes")
    }


def without_spikes(run: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in r.items() if k != "train/skipped_steps"} for r in records(run)]


def records(run: Path) -> list[dict[str, Any]]:
    return without_timing(read_metrics(run))


@pytest.fixture(scope="module")
def skipping(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that skips its spike, uninterrupted."""
    return train(config(tmp_path_factory.mktemp("skipping"), on_spike="skip"))


def test_a_spike_is_skipped_counted_and_kept_with_its_row(skipping: Path) -> None:
    found = records(skipping)
    assert [r["step"] for r in found if "train/spike" in r] == [SPIKE]
    skipped = [r["train/skipped_steps"] for r in found if "train/loss" in r]
    assert skipped == [int(step >= SPIKE) for step in range(1, 37)]
    (kept,) = quarantined(skipping)
    assert (kept["step"], kept["response"]) == (SPIKE, "skipped")
    assert kept["loss"] == found[SPIKE - 1]["train/loss"]
    assert kept["rows"] == [NAME]


def test_a_skipped_step_leaves_adapter_and_means_bit_for_bit(tmp_path: Path) -> None:
    every = {"batch_size": 1, "max_steps": 36, "eval_steps": None, "save_steps": 1}
    training = every | {"save_total_limit": 99, "on_spike": "skip"}
    run = train(config(tmp_path, training=training))
    before, spiked, after = (checkpoint(run, SPIKE + n) for n in (-1, 0, 1))
    assert all(torch.equal(value, spiked[name]) for name, value in before.items())
    assert not all(torch.equal(value, after[name]) for name, value in before.items())


def test_a_warning_changes_no_number(tmp_path: Path, skipping: Path) -> None:
    watcher = Interrupter("nothing", 0)
    run = train(config(tmp_path), watcher=watcher)
    assert records(run)[:SPIKE] == without_spikes(skipping)[:SPIKE]
    assert adapter(run) != adapter(skipping)
    (said,) = [text for text in watcher.said if f"Step {SPIKE}:" in text]
    assert "times the usual" in said
    assert "the update was made" in said
    assert [r["response"] for r in quarantined(run)] == ["warned"]


def test_a_run_that_is_to_stop_stops_and_says_where_the_row_is(tmp_path: Path) -> None:
    with pytest.raises(TrainingError) as caught:
        train(config(tmp_path, on_spike="stop"))
    told = str(caught.value)
    assert told.startswith(f"step {SPIKE}: the loss is ")
    assert NAME in told
    assert "nothing was updated" in told
    assert "training.on_spike=skip" in told
    assert str(tmp_path / "run" / "quarantine.jsonl") in told
    assert [r["response"] for r in quarantined(tmp_path / "run")] == ["stopped"]
    assert read_metrics(tmp_path / "run")[-1]["step"] == SPIKE - 1


@pytest.mark.parametrize("after", [SPIKE - 5, SPIKE + 2])
def test_a_run_interrupted_around_a_spike_and_resumed_is_the_uninterrupted_run(
    tmp_path: Path, skipping: Path, after: int
) -> None:
    settings = config(tmp_path, on_spike="skip")
    with pytest.raises(KeyboardInterrupt):
        train(settings, watcher=Interrupter("Training", after))
    run = train(settings, resume=True)
    assert records(run) == records(skipping)
    assert adapter(run) == adapter(skipping)
    assert len(quarantined(run)) == 1


def poisoned(folder: Path) -> Path:
    """A base whose weights are not finite for one sign, which only the odd row holds."""
    model = make_model("llama")
    with torch.no_grad():
        (*_, token) = chatml()("§", add_special_tokens=False).input_ids
        model.get_input_embeddings().weight[token] = float("nan")
    return save_model(model, folder / "model")


def test_a_loss_that_is_not_finite_is_refused_and_its_row_kept_once(tmp_path: Path) -> None:
    settings = config(tmp_path, base_model=str(poisoned(tmp_path)))
    for resume in (False, True):
        with pytest.raises(TrainingError) as caught:
            train(settings, resume=resume)
        told = str(caught.value)
        assert f"step {SPIKE}: the loss is not finite on {NAME}: nothing was updated" in told
        assert "the embedding gives the first result that is not" in told
        assert str(tmp_path / "run" / "quarantine.jsonl") in told
    (kept,) = quarantined(tmp_path / "run")
    assert kept["loss"] == "nan"
    assert "the embedding" in kept["detail"]
    assert kept["rows"] == [NAME]


def test_an_adapter_that_does_not_change_is_refused_after_its_first_update(tmp_path: Path) -> None:
    rate = {"learning_rate": 1e-300, "warmup_steps": 1}
    with pytest.raises(TrainingError, match="every B is still zero"):
        train(config(tmp_path, optimizer=rate))
    assert read_metrics(tmp_path / "run") == []
