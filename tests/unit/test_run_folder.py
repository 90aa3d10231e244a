"""A run folder says what was asked for, is never shared, and is resumed only as it was."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from thinktune.config import RunConfig, check
from thinktune.errors import ConfigError, RunError
from thinktune.run_folder import (
    RunFolder,
    locked,
    new_run_folder,
    open_run,
    read_record,
    refuse_taken,
    require_same,
    run_to_resume,
    update_record,
    versions,
    write_record,
)
from thinktune.run_table import LOCK_FILE

FACTS = {
    "base": {"name": "m", "fingerprint": "f0"},
    "data": {"num_train": 8, "dropped": [("a", 1)]},
}


def config(**settings: Any) -> RunConfig:
    return check({"base_model": "m", "data": {"train": "x"}} | settings, where="test")


def started(folder: Path, **settings: Any) -> RunFolder:
    run = RunFolder(folder)
    write_record(run, config(**settings), "mine", FACTS)
    return run


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_the_record_holds_every_setting_the_versions_and_the_seed() -> None:
    run = started(Path("run"), seed=7, lora={"rank": 5})
    record = read_record(run)
    assert record["seed"] == 7
    assert check(record["settings"], where="test") == config(seed=7, lora={"rank": 5})
    assert record["settings"]["optimizer"]["adam_betas"] == [0.9, 0.999]
    assert record["versions"] == versions()
    assert {"python", "thinktune", "torch", "transformers"} <= record["versions"].keys()
    assert record["recipe"] == "mine"
    assert record["data"]["num_train"] == 8


def test_an_opened_run_has_the_settings_it_was_written_with() -> None:
    started(Path("run"), seed=7)
    run, read, name = open_run("run")
    assert (run.path, read, name) == (Path("run"), config(seed=7), "mine")


def test_what_is_known_later_joins_the_record_and_keeps_the_rest() -> None:
    run = started(Path("run"))
    before = read_record(run)
    update_record(run, {"verdict": "better"})
    assert read_record(run) == before | {"verdict": "better"}


def test_runs_that_start_in_the_same_second_get_a_folder_each() -> None:
    with ThreadPoolExecutor(8) as pool:
        runs = list(pool.map(lambda _: new_run_folder(config(), "mine").path, range(24)))
    assert len(set(runs)) == 24
    assert all(path.is_dir() and path.parent == Path("runs") for path in runs)


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_folder_that_holds_something_is_not_taken_for_a_new_run(kind: str) -> None:
    Path("out").mkdir()
    Path("out/keep").write_text("precious")
    taken = "out/keep" if kind == "file" else "out"
    with pytest.raises(RunError, match=f"output_dir: {taken} exists already; .*--resume"):
        refuse_taken(taken)
    with pytest.raises(RunError, match="exists already"):
        new_run_folder(config(output_dir=taken), "mine")
    assert Path("out/keep").read_text() == "precious"


def test_an_empty_folder_may_become_a_run() -> None:
    Path("out").mkdir()
    refuse_taken("out")
    assert new_run_folder(config(output_dir="out"), "mine") == RunFolder(Path("out"))


def test_asking_whether_a_folder_is_free_makes_none() -> None:
    refuse_taken("deep/out")
    refuse_taken(None)
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "no run.json; not a run folder"),
        ("{", "not valid JSON"),
        ("[]", "holds no settings"),
        ('{"seed": 1}', "holds no settings"),
    ],
)
def test_a_folder_that_is_no_run_is_refused(content: str | None, told: str) -> None:
    Path("run").mkdir()
    if content is not None:
        Path("run/run.json").write_text(content)
    with pytest.raises(RunError, match=told):
        open_run("run")


def test_a_record_with_settings_of_another_version_is_refused_with_the_file() -> None:
    run = started(Path("run"))
    update_record(run, {"settings": read_record(run)["settings"] | {"old_name": 1}})
    with pytest.raises(ConfigError, match=r"run/run\.json: unknown setting old_name"):
        open_run("run")


def test_resume_takes_the_folder_that_was_named() -> None:
    started(Path("out"), output_dir="out")
    assert run_to_resume(config(output_dir="out"), "mine", True) == RunFolder(Path("out"))


def test_resume_takes_the_newest_run_of_the_recipe_and_of_no_other() -> None:
    for age, name in enumerate(
        [
            "mine-20260101-000000-2",
            "mine-20260101-000000",
            "mine-2-20260102-000000",
            "other-20260103-000000",
        ]
    ):
        run = started(Path("runs") / name)
        os.utime(run.record, (1e9 - age, 1e9 - age))
    Path("runs/mine-20270101-000000").mkdir()  # no record: it never began
    found = run_to_resume(config(), "mine", True)
    assert found is not None
    assert found.path.name == "mine-20260101-000000-2"


def test_resume_without_a_run_says_how_to_name_one() -> None:
    with pytest.raises(RunError, match="no run of mine under runs/; name it with output_dir"):
        run_to_resume(config(), "mine", True)
    with pytest.raises(RunError, match=r"nowhere: no run\.json"):
        run_to_resume(config(output_dir="nowhere"), "mine", True)


def test_resume_with_other_settings_names_each_of_them() -> None:
    started(Path("out"), seed=1, lora={"rank": 4}, output_dir="out")
    with pytest.raises(RunError) as caught:
        run_to_resume(config(seed=2, lora={"rank": 8}, output_dir="out"), "mine", True)
    assert "seed: 1 then, 2 now" in str(caught.value)
    assert "lora.rank: 4 then, 8 now" in str(caught.value)


def test_resume_finds_a_moved_folder_by_its_new_name() -> None:
    started(Path("out"), output_dir="out")
    Path("out").rename("moved")
    assert run_to_resume(config(output_dir="moved"), "mine", True) == RunFolder(Path("moved"))


@pytest.mark.parametrize("name", ["base", "data"])
def test_other_weights_or_data_under_the_same_name_are_not_gone_on_with(name: str) -> None:
    run = started(Path("run"))
    require_same(run, FACTS)
    changed = {"base": {"name": "m", "fingerprint": "f1"}, "data": {"num_train": 9, "dropped": []}}
    with pytest.raises(RunError, match=f"--resume: run was started with another {name} "):
        require_same(run, FACTS | {name: changed[name]})


def test_auto_goes_on_with_the_run_of_these_settings_or_begins_one() -> None:
    assert run_to_resume(config(), "mine", "auto") is None
    assert run_to_resume(config(output_dir="out"), "mine", "auto") is None
    for age, (name, seed) in enumerate([("mine-20260101-000000", 1), ("mine-20260102-000000", 2)]):
        run = started(Path("runs") / name, seed=seed)
        os.utime(run.record, (1e9 + age, 1e9 + age))
    found = run_to_resume(config(seed=1), "mine", "auto")
    assert found == RunFolder(Path("runs/mine-20260101-000000"))
    assert run_to_resume(config(seed=3), "mine", "auto") is None
    started(Path("out"), output_dir="out", seed=1)
    with pytest.raises(RunError, match=r"other settings .*seed: 1 then, 2 now"):
        run_to_resume(config(output_dir="out", seed=2), "mine", "auto")


def test_what_a_process_left_that_was_killed_before_it_began_is_not_in_the_way() -> None:
    Path("out").mkdir()
    for name in (LOCK_FILE, ".run.json.4711.part"):
        (Path("out") / name).write_text("")
    refuse_taken("out")
    assert new_run_folder(config(output_dir="out"), "mine").path == Path("out")


def test_two_processes_never_share_a_run() -> None:
    run = started(Path("run"))
    other = (
        "import sys; from pathlib import Path; from thinktune.run_folder import RunFolder, locked\n"
        "try:\n    with locked(RunFolder(Path('run'))): print('in')\n"
        "except Exception as error: print(error)"
    )
    with locked(run):
        told = subprocess.run([sys.executable, "-c", other], capture_output=True, text=True)
        with pytest.raises(RunError, match="another process is at work"), locked(run):
            pass
    assert "run: another process is at work in this run folder; wait for it" in told.stdout
    told = subprocess.run([sys.executable, "-c", other], capture_output=True, text=True)
    assert told.stdout == "in\n"
