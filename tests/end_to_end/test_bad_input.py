"""What a user can put right gets one line, exit code 2, and leaves nothing behind."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.small_runs import ROWS, write_recipe, write_rows
from tests.tiny_models import tiny_checkpoint
from thinktune import cli

Folder = Path
TRAIN = ["train", "small.yaml"]


def bad_rows(**changes: Any) -> list[dict[str, Any]]:
    """The second and fourth row with ``changes``."""
    return [row | changes if n in (1, 3) else row for n, row in enumerate(ROWS)]


def rows(content: object) -> Callable[[Folder], list[str]]:
    """A case whose data file is bytes, or rows."""

    def prepare(folder: Folder) -> list[str]:
        path = folder / "rows.jsonl"
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            assert isinstance(content, list)
            write_rows(path, content)
        write_recipe(folder)
        return TRAIN

    return prepare


def settings(*overrides: str, **changes: Any) -> Callable[[Folder], list[str]]:
    """A case of a recipe with ``changes`` and overrides."""

    def prepare(folder: Folder) -> list[str]:
        write_recipe(folder, **changes)
        return [*TRAIN, *overrides]

    return prepare


def recipe_text(content: bytes) -> Callable[[Folder], list[str]]:
    def prepare(folder: Folder) -> list[str]:
        (folder / "small.yaml").write_bytes(content)
        return TRAIN

    return prepare


def model_without(*names: str, **config: Any) -> Callable[[Folder], list[str]]:
    """A case whose model folder lacks files, or has another configuration."""

    def prepare(folder: Folder) -> list[str]:
        shutil.copytree(tiny_checkpoint("llama"), folder / "model")
        for name in names:
            (folder / "model" / name).unlink()
        if config:
            path = folder / "model" / "config.json"
            path.write_text(json.dumps(json.loads(path.read_text()) | config))
        write_recipe(folder, base_model="model")
        return TRAIN

    return prepare


def words(*typed: str) -> Callable[[Folder], list[str]]:
    def prepare(folder: Folder) -> list[str]:
        write_recipe(folder)
        return [word.replace("TINY", str(tiny_checkpoint("llama"))) for word in typed]

    return prepare


MARK = '{"question": "a", "reasoning": "b", "answer": "c"}\n'
CASES: dict[str, tuple[Callable[[Folder], list[str]], list[str]]] = {
    "missing data file": (settings("data.train=row.jsonl"), ["row.jsonl", "did you mean rows"]),
    "empty data file": (rows(b""), ["rows.jsonl"]),
    "data that is not UTF-8": (rows(b'{"question": "\xff"}\n'), ["rows.jsonl", "UTF-8"]),
    "broken JSON": (rows((MARK * 2 + "{oops\n").encode()), ["rows.jsonl", "line 3"]),
    "a row that is no object": (rows((MARK + "[1]\n").encode()), ["rows.jsonl", "2"]),
    "missing columns": (
        rows([{"question": "a", "words": "b"}]),
        ["reasoning and answer", "found: question, words", "complex_cot", "data.columns.answer"],
    ),
    "empty question": (rows(bad_rows(question=" ")), ["empty question in 2 rows: 2, 4"]),
    "empty reasoning": (rows(bad_rows(reasoning="")), ["empty reasoning in 2 rows: 2, 4"]),
    "empty answer": (rows(bad_rows(answer=None)), ["empty answer in 2 rows: 2, 4"]),
    "held-out rows that are the training rows": (
        rows([{k: v for k, v in row.items() if k != "split"} for row in ROWS]),
        ["data.heldout=FILE", "data.heldout_split=null"],
    ),
    "a question that fills the context": (
        rows([*ROWS, ROWS[-1] | {"question": "long " * 700}]),
        ["rows.jsonl row 13", "512 tokens"],
    ),
    "unknown setting": (settings("lora.rnak=3"), ["lora.rnak", "did you mean lora.rank?"]),
    "value out of range": (settings("lora.dropout=1.5"), ["lora.dropout=1.5", "less than 1"]),
    "targets that match nothing": (
        settings("lora.target_modules=[q_prj]"),
        ["'q_prj' matches no layer", "q_proj"],
    ),
    "no targets": (settings("lora.target_modules=[]"), ["lora.target_modules=[]"]),
    "nothing to train on": (
        settings("template.max_length=3", "template.overlong=drop"),
        ["no training rows are left"],
    ),
    "a type there is not": (settings("base_dtype=int4"), ["base_dtype='int4'", "nf4"]),
    "negative seed": (settings("--seed", "-1"), ["seed=-1"]),
    "a seed that is a word": (settings("--seed", "abc"), ["seed='abc'"]),
    "a seed beyond every generator": (settings("--seed", str(2**40)), ["4294967296"]),
    "an override that is none": (settings("rank"), ["'rank' is no override"]),
    "a tracker that is unknown": (settings("report_to=[nobody]"), ["report_to", "'wandb'"]),
    "recipe that is no YAML": (recipe_text(b"a: [1"), ["small.yaml line 1", "YAML"]),
    "recipe that is not UTF-8": (recipe_text(b"a: \xff"), ["small.yaml", "UTF-8"]),
    "recipe that is a list": (recipe_text(b"- a\n"), ["small.yaml", "['a']"]),
    "no such recipe": (words("train", "smal.yaml"), ["'smal.yaml'", "shipped"]),
    "no such model": (settings(base_model="./nowhere"), ["no folder ./nowhere"]),
    "model without configuration": (model_without("config.json"), ["no config.json"]),
    "model without tokenizer": (model_without("tokenizer.json"), ["model: no tokenizer"]),
    "model without weights": (model_without("model.safetensors"), ["no model.safetensors"]),
    "model of another kind": (model_without(model_type="mamba"), ["'mamba'", "llama"]),
    "model of another size": (model_without(hidden_size=60), ["model.safetensors"]),
    "evaluate what is no run": (words("evaluate", "."), ["no run.json; not a run folder"]),
    "evaluate nothing": (words("evaluate", "nowhere"), ["nowhere: no run.json"]),
    "resume without a run": (settings("--resume"), ["run: no run.json"]),
    "chat with no adapter there": (
        words("chat", "TINY", "--adapter", "nowhere", "-q", "x"),
        ["nowhere: no adapter_config.json"],
    ),
    "doctor of nothing": (words("doctor", "./nowhere"), ["no folder ./nowhere"]),
    "doctor with an unknown family": (words("doctor", "TINY", "--family", "x"), ["family='x'"]),
    "inspect nothing": (words("data", "inspect", "row.jsonl"), ["did you mean rows.jsonl?"]),
    "a folder that cannot be made": (settings(output_dir="rows.jsonl/run"), ["rows.jsonl/run"]),
}


def refuse(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line a command leaves on stderr."""
    capsys.readouterr()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["thinktune", *words])
        with pytest.raises(SystemExit) as caught:
            cli.main()
    captured = capsys.readouterr()
    assert caught.value.code == 2, captured.err
    assert "Traceback" not in captured.out + captured.err
    [line] = captured.err.splitlines()
    assert line.startswith("error: ")
    return line


def files(folder: Folder) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b""
        for path in folder.rglob("*")
    }


@pytest.mark.parametrize("case", CASES)
def test_bad_input_gets_one_clear_line_and_leaves_nothing(
    case: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    prepare, told = CASES[case]
    monkeypatch.chdir(tmp_path)
    typed = prepare(tmp_path)
    before = files(tmp_path)
    line = refuse(typed, capsys)
    for part in told:
        assert part in line
    assert files(tmp_path) == before


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a recipe and its finished run."""
    folder = tmp_path_factory.mktemp("finished")
    recipe = write_recipe(folder, training={"max_steps": 1})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["thinktune", "train", str(recipe), "--no-compare"])
        with pytest.raises(SystemExit) as caught:
            cli.main()
    assert not caught.value.code
    return folder


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        (["train", "small.yaml"], "run exists already; go on with it by --resume"),
        (["train", "small.yaml", "--resume", "lora.rank=8"], "lora.rank: 4 then, 8 now"),
        (["train", "small.yaml", "--resume", "--seed", "9"], "seed: 3 then, 9 now"),
        (["chat", "QWEN", "--adapter", "run/adapter", "-q", "x"], "trained on another base model"),
        (["chat", "run", "--adapter", "run/adapter", "-q", "x"], "a run has its own adapter"),
        (["chat", "run/adapter", "-q", "x"], "run/adapter: no tokenizer"),
        (["evaluate", "run/adapter"], "not a run folder"),
    ],
)
def test_bad_input_beside_a_finished_run_leaves_the_run_as_it_was(
    finished: Path,
    typed: list[str],
    told: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(finished)
    before = files(finished)
    line = refuse([str(tiny_checkpoint("qwen2")) if w == "QWEN" else w for w in typed], capsys)
    assert told in line
    assert files(finished) == before
