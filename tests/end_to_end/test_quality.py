"""`thinktune bench quality`, as a user types it: every kind of base on a tiny model."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.small_runs import Interrupter, small_config, write_recipe
from thinktune.cli import app
from thinktune.errors import ConfigError
from thinktune.loading import load_model
from thinktune.model.checkpoint_io import BaseDtype
from thinktune.quality import QualityRequest, measure_quality
from thinktune.quality_gates import Quality
from thinktune.tracking import Silence

RUN = CliRunner()
FP32, B16 = BaseDtype.FLOAT32, BaseDtype.BFLOAT16


def invoke(folder: Path, *options: str) -> str:
    done = RUN.invoke(
        app, ["bench", "quality", str(write_recipe(folder)), *options], env={"COLUMNS": "160"}
    )
    if done.exception is not None:
        raise done.exception
    return done.output


def measure(folder: Path, watcher: Any = None, seeds: int = 2, **changes: Any) -> Quality:
    config = small_config(folder, output_dir=None, **changes)
    request = QualityRequest((B16, FP32), num_rows=6, num_seeds=seeds)
    return measure_quality(config, request, watcher or Silence(), folder / "out.json")


@pytest.mark.parametrize("kind", [k for k in BaseDtype if k is not BaseDtype.AUTO])
def test_every_kind_is_compared_with_float32(kind: BaseDtype, tmp_path: Path):
    try:
        load_model(small_config(tmp_path).base_model, base_dtype=kind, weights=False)
    except ConfigError as error:
        pytest.skip(str(error))
    config = small_config(tmp_path)
    request = QualityRequest((kind,), num_rows=8, num_seeds=0)
    near = measure_quality(config, request, Silence()).closeness[kind]
    bounds = {FP32: (0.0, 1e-6), B16: (1e-4, 0.1), BaseDtype.FLOAT16: (1e-5, 0.02)}
    low, high = bounds.get(kind, (0.005, 0.9))
    assert low <= near.gradient.error <= high
    assert near.gradient.cosine > 1 - high
    assert -1e-9 < near.kl < high
    assert len(near.by_module) == 7
    assert 0.2 < near.top_1 <= 1


def test_the_tables_and_the_file_say_what_was_found(tmp_path: Path):
    out = tmp_path / "out.json"
    told = invoke(tmp_path, "--kinds", "bfloat16, float32", "--rows", "6", "--seeds", "2",
                  "--steps", "3", "--json", str(out))  # fmt: skip
    found = json.loads(out.read_text())
    assert set(found["closeness"]) == {"bfloat16", "float32"}
    assert found["settings"]["training"]["max_steps"] == 3
    near = found["closeness"]["bfloat16"]
    assert re.search(rf"bfloat16 .*{near['gradient']['error']:.3f}", told)
    assert [(t["kind"], t["seed"]) for t in found["trained"]] == [
        ("bfloat16", 3), ("bfloat16", 4), ("float32", 3), ("float32", 4)
    ]  # fmt: skip
    losses = [t["own"]["heldout_loss"] for t in found["trained"]]
    assert len(set(losses)) == 4  # each seed and each base trains its own adapter
    assert f"{sum(losses[:2]) / 2:.3f} [{min(losses[:2]):.3f}, {max(losses[:2]):.3f}]" in told
    for each in found["trained"]:
        own, plain = each["own"], each["plain"]
        if each["kind"] == "float32":  # which is the plain base of a CPU
            assert own == plain
        else:
            assert own["heldout_loss"] != plain["heldout_loss"]
            assert own["heldout_loss"] == pytest.approx(plain["heldout_loss"], rel=0.05)
        assert 0 <= own["strict"] <= 1
        assert own["num_questions"] == 4
    again = invoke(tmp_path, "--kinds", "bfloat16, float32", "--rows", "6", "--seeds", "2",
                   "--steps", "3", "--json", str(out))  # fmt: skip
    assert "Training the adapter" in told
    assert "Training the adapter" not in again
    assert "in float32" not in again
    assert json.loads(out.read_text()) == found


def test_the_trained_adapter_is_the_recipes_own(tmp_path: Path):
    from thinktune.pipeline import run_recipe  # noqa: PLC0415

    found = measure(tmp_path, seeds=1)
    (of,) = [t for t in found.trained if t.kind is FP32]
    outcome = run_recipe(small_config(tmp_path), "small", compare_after=False)
    assert outcome.training is not None
    assert outcome.training.heldout is not None
    assert of.own.heldout_loss == pytest.approx(outcome.training.heldout.loss, rel=1e-6)


def test_an_interrupted_call_goes_on_to_the_numbers_of_an_uninterrupted_one(tmp_path: Path):
    (whole := tmp_path / "whole").mkdir()
    expected = measure(whole, seeds=1)
    (parts := tmp_path / "parts").mkdir()
    for at, done in (("Training the adapter", 3), ("Asking the held-out", 4)):
        with pytest.raises(KeyboardInterrupt):
            measure(parts, Interrupter(at, done), seeds=1)
    kept = json.loads((parts / "out.json").read_text())
    assert set(kept["closeness"]) == {"bfloat16", "float32"}
    assert kept["trained"] == []
    told: list[str] = []

    class Listener(Silence):
        def stage(self, title: str, total: int | None = None) -> None:
            told.append(title)

    found = measure(parts, Listener(), seeds=1)
    assert found.trained == expected.trained
    assert found.closeness == expected.closeness
    assert not [title for title in told if title.startswith("Predictions")]


def test_results_of_other_settings_are_refused(tmp_path: Path):
    measure(tmp_path, seeds=0)
    with pytest.raises(ConfigError, match=r"out\.json holds results with other settings"):
        measure(tmp_path, seeds=0, lora={"rank": 2})
    (tmp_path / "out.json").write_text("[]")
    with pytest.raises(ConfigError, match="holds no results of this"):
        measure(tmp_path, seeds=0)
    (tmp_path / "out.json").unlink()
    (tmp_path / "out.adapters").mkdir()
    with pytest.raises(ConfigError, match="is left from other results"):
        measure(tmp_path, seeds=0)


@pytest.mark.parametrize(
    ("kinds", "told"),
    [("nf5", "--kinds: 'nf5' is none of auto, float32"), ("auto", "auto is no kind")],
)
def test_what_is_no_kind_is_refused(kinds: str, told: str, tmp_path: Path):
    with pytest.raises(ConfigError, match=re.escape(told)):
        invoke(tmp_path, "--kinds", kinds)


def test_a_recipe_that_holds_nothing_out_is_refused(tmp_path: Path):
    rows = {"data": {"train": str(tmp_path / "rows.jsonl"), "heldout_split": None}}
    with pytest.raises(ConfigError, match="needs held-out rows"):
        measure(tmp_path, **rows)


def test_a_claim_is_printed_with_its_numbers(tmp_path: Path):
    try:
        told = invoke(tmp_path, "--kinds", "fp8_dgrad,nf4", "--rows", "4", "--no-train")
    except ConfigError as error:
        pytest.skip(str(error))
    assert "fp8_dgrad is equal to bfloat16: " in told
    assert re.search(r"gradient error: 0\.\d+, at most 0\.15", told)
    assert "train fp8_dgrad, bfloat16 with 3 seeds" in told
