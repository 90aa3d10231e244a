"""Whole runs on each kind of base: trained, compared, resumed, and evaluated again."""

import json
from pathlib import Path

import pytest

from tests.small_runs import small_config
from thinktune.examination import EvaluationRequest, evaluate
from thinktune.loading import load_run_model
from thinktune.pipeline import run_recipe

KINDS = ["float16", "nf4", "fp8_dgrad", "fp8"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_on_each_kind_of_base_is_recorded_and_evaluated_as_it_was_trained(
    kind: str, tmp_path: Path
):
    outcome = run_recipe(small_config(tmp_path, base_dtype=kind), "small")
    record = json.loads((outcome.folder / "run.json").read_text())
    assert record["base_dtype"] == kind
    assert (
        json.loads((outcome.folder / "adapter" / "thinktune.json").read_text())["base_dtype"]
        == kind
    )
    steps = [
        json.loads(line) for line in (outcome.folder / "metrics.jsonl").read_text().splitlines()
    ]
    losses = [step["train/loss"] for step in steps if "train/loss" in step]
    assert len(losses) == 6
    assert losses[-1] < losses[0]
    assert all(("train/loss_scale" in step) == (kind == "float16") for step in steps)
    model, _ = load_run_model(outcome.folder)
    assert model.decoder.held_as == kind
    request = EvaluationRequest(str(outcome.folder), output=tmp_path / "again")
    assert evaluate(request).results is not None
    told = json.dumps(json.loads((tmp_path / "again" / "comparison.json").read_text()))
    assert f'"base weights held as": "{kind}"' in told
