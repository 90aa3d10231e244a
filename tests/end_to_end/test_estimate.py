"""`thinktune estimate`, as a user types it."""

import json
from pathlib import Path

from typer.testing import CliRunner

from tests.small_runs import write_recipe
from thinktune.cli import app

RUN = CliRunner()
WIDE = {"COLUMNS": "100"}


def _told(*arguments: str) -> str:
    done = RUN.invoke(app, ["estimate", *arguments], env=WIDE)
    assert done.exit_code == 0, done.output
    assert max(map(len, done.output.splitlines())) <= 100
    return " ".join(done.output.split())


def test_a_recipe_is_planned_timed_and_priced_without_its_weights(tmp_path: Path):
    recipe = str(write_recipe(tmp_path, base_dtype="bfloat16"))
    told = _told(recipe, "--gpu", "h100", "--price", "3600")
    assert "8 training rows, 6 steps" in told
    assert "Fits. Memory: 0.0 GiB planned of 75.4; layers keep for backward: 2 x all." in told
    assert "at $3,600.00 an hour" in told
    assert "measured on an H100" in told
    assert "held-out loss and answering are not in it" in told
    assert "modal.com/pricing read 2026-" in _told(recipe, "--gpu", "l4")
    assert "give --price for the cost" in _told(recipe, "--gpu", "rtx4090")


def test_what_does_not_fit_is_told_with_the_way_out(tmp_path: Path):
    recipe = str(write_recipe(tmp_path, base_dtype="bfloat16"))
    told = _told(recipe, "--gpu", "h100", "training.memory_budget_gib=0.0001")
    assert "Does not fit: a step needs" in told
    assert "Way out: no such setting makes it fit" in told
    told = _told(recipe, "--gpu", "t4")
    assert "Does not fit: the T4 does not multiply bfloat16 Way out: base_dtype=auto" in told


def test_without_a_gpu_all_cards_are_compared(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    told = _told(str(write_recipe(tmp_path, base_dtype="nf4")))
    assert "RTX 4090" in told
    assert "B200" in told


def test_json_is_one_line_with_the_same_numbers(tmp_path: Path):
    recipe = str(write_recipe(tmp_path, base_dtype="bfloat16"))
    done = RUN.invoke(app, ["estimate", recipe, "--gpu", "t4", "--json"])
    told = json.loads(done.output.strip().splitlines()[-1])
    (card,) = told["cards"]
    assert card["fits"] is False
    assert card["overrides"] == ["base_dtype=auto"]
    assert told["smallest_card"] in _told(recipe, "--gpu", "t4")
    done = RUN.invoke(app, ["estimate", recipe, "base_dtype=auto", "--gpu", "t4", "--json"])
    (card,) = json.loads(done.output.strip().splitlines()[-1])["cards"]
    parts = ("base_bytes", "adapter_bytes", "kept_bytes", "working_bytes")
    assert card["peak_bytes"] == sum(card[part] for part in parts) <= card["budget_bytes"]
    assert card["layers_keep"] == "2 x all"
