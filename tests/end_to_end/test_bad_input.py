"""What a user can put right gets one line, exit code 2, and leaves nothing behind."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.bad_inputs import of_data, of_models, of_recipes
from tests.small_runs import write_recipe
from tests.tiny_models import tiny_checkpoint
from thinktune import cli

CASES = {**of_data.CASES, **of_recipes.CASES, **of_models.CASES}


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


def files(folder: Path) -> dict[str, bytes]:
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


def test_there_are_a_hundred_cases_and_no_name_is_used_twice() -> None:
    rooms = (of_data, of_recipes, of_models)
    assert len(CASES) == sum(len(room.CASES) for room in rooms) >= 100


@pytest.mark.parametrize("case", ["index that climbs out", "recipe of aliases", "a gzip bomb"])
def test_a_process_of_its_own_ends_with_the_same_line(case: str, tmp_path: Path) -> None:
    prepare, told = CASES[case]
    command = [sys.executable, "-m", "thinktune", *prepare(tmp_path)]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert all(part in done.stderr for part in told)


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
        (["train", "small.yaml", "--resume", "last", "lora.rank=8"], "lora.rank: 4 then, 8 now"),
        (["train", "small.yaml", "--resume", "last", "--seed", "9"], "seed: 3 then, 9 now"),
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
