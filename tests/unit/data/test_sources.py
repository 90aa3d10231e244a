import csv
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from pydantic import ValidationError

from thinktune.data import places
from thinktune.data.example import Example, Role, Turn
from thinktune.data.sources import (
    DataConfig,
    read_examples,
    read_heldout,
    read_train,
    write_examples,
)
from thinktune.errors import ConfigError, DataError

CLINIC = [
    {
        "Question": "我發燒三天，肌肉痠痛，是什麼病？",
        "Complex_CoT": "突然高燒加上全身痠痛，比起普通感冒更像流感。\n沒有呼吸困難，不是急症。",
        "Response": "可能是流感，請多休息、多喝水，並盡快就醫。",
    },
    {
        "Question": "吃完海鮮後上吐下瀉怎麼辦？",
        "Complex_CoT": "進食後數小時發作，先想到腸胃炎；要注意「脫水」。",
        "Response": "可能是腸胃炎。補充電解質，\n若有血便請立刻就醫。",
    },
]


def row(name: str, **more: object) -> dict[str, object]:
    return {"question": f"Q {name}", "reasoning": "R", "answer": "A", **more}


def put(path: Path, *rows: Mapping[str, object]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    return path


def questions(source: Path | str, split: str | None) -> list[str]:
    return [example.question for example in read_examples(str(source), split=split)]


def refusal(source: Path | str, split: str | None = None) -> str:
    with pytest.raises(DataError) as caught:
        read_examples(str(source), split=split)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("ending", ["csv", "json"])
def test_the_articles_columns_in_traditional_chinese_are_read_unchanged(
    tmp_path: Path, ending: str
) -> None:
    path = tmp_path / f"clinic.{ending}"
    if ending == "json":
        path.write_text(json.dumps(CLINIC, ensure_ascii=False), encoding="utf-8")
    else:
        with path.open("w", encoding="utf-8-sig", newline="") as file:
            writer = csv.DictWriter(file, list(CLINIC[0]))
            writer.writeheader()
            writer.writerows(CLINIC)
    examples = read_examples(str(path), split="train")
    assert [(e.question, e.reasoning, e.answer) for e in examples] == [
        tuple(record.values()) for record in CLINIC
    ]
    assert [e.where for e in examples] == [f"clinic.{ending} row 1", f"clinic.{ending} row 2"]


@pytest.mark.parametrize(
    "names",
    [
        ("train.jsonl", "test.jsonl"),
        ("data/train-00000-of-00001.jsonl", "data/test-00000-of-00001.jsonl"),
        ("train/0000.jsonl", "test/0000.jsonl"),
        ("train/cases.jsonl", "test/cases.jsonl"),
        ("clinic-train.jsonl", "clinic-test.jsonl"),
        ("train.jsonl", "test.jsonl", ".cache/train.jsonl"),
    ],
)
def test_a_folder_gives_the_files_of_the_split(tmp_path: Path, names: Sequence[str]) -> None:
    for name in names:
        put(tmp_path / name, row(name))
    (tmp_path / "dataset_info.json").write_text("{}")
    (tmp_path / "README.md").write_text("# a data card")
    (tmp_path / "folder.jsonl").mkdir()
    (example,) = read_examples(str(tmp_path), split="test")
    assert example.where == f"{names[1]} row 1"
    assert questions(tmp_path, "train") == [f"Q {names[0]}"]


def test_the_parts_of_a_split_are_read_in_order_and_all_must_be_there(tmp_path: Path) -> None:
    for part in (1, 0):
        put(tmp_path / f"train-{part:05}-of-00002.jsonl", row(f"{part}"))
    assert questions(tmp_path, "train") == ["Q 0", "Q 1"]
    (tmp_path / "train-00001-of-00002.jsonl").unlink()
    assert refusal(tmp_path, "train") == (
        "split train has 1 of 2 parts (train-00000-of-00002.jsonl); fetch the others"
    )


def test_two_files_that_could_be_one_split_are_refused(tmp_path: Path) -> None:
    put(tmp_path / "train.jsonl", row("a"))
    (tmp_path / "train.csv").write_text("question,reasoning,answer\nQ,R,A\n")
    assert refusal(tmp_path, "train") == (
        "several files could be split train: train.csv, train.jsonl; name one of them instead"
    )


def test_a_split_that_a_folder_lacks_is_refused_with_those_it_has(tmp_path: Path) -> None:
    put(tmp_path / "train.jsonl", row("a"))
    assert refusal(tmp_path, "test") == f"no split test in folder {tmp_path}; there are: train"
    put(tmp_path / "dev.jsonl", row("b"))
    assert refusal(tmp_path, "test").endswith("there are: dev, train")


def test_no_split_means_every_row_of_the_folder(tmp_path: Path) -> None:
    put(tmp_path / "train.jsonl", row("a"))
    put(tmp_path / "test.jsonl", row("b"))
    (tmp_path / "dataset_info.json").write_text('{"splits": []}')
    assert questions(tmp_path, None) == ["Q b", "Q a"]


@pytest.mark.parametrize("as_folder", [True, False], ids=["folder", "file"])
@pytest.mark.parametrize("form", ["column", "metadata"])
def test_a_single_file_is_divided_by_the_rows_own_split(
    tmp_path: Path, as_folder: bool, form: str
) -> None:
    names = ("train", "test", "train")
    path = put(
        tmp_path / "clinic.jsonl",
        *(
            row(str(n), **({"Split": s} if form == "column" else {"metadata": {"split": s}}))
            for n, s in enumerate(names)
        ),
    )
    source = tmp_path if as_folder else path
    assert questions(source, "train") == ["Q 0", "Q 2"]
    (example,) = read_examples(str(source), split="test")
    assert example.where == "clinic.jsonl row 2"
    assert questions(source, None) == ["Q 0", "Q 1", "Q 2"]
    assert refusal(source, "dev") == f"{source}: no row of split dev; there are: test, train"


def test_rows_without_a_split_beside_rows_with_one_are_refused(tmp_path: Path) -> None:
    path = put(tmp_path / "a.jsonl", row("0", split="train"), row("1"), row("2", split=""))
    assert refusal(path, "train") == f"{path}: no value in column split in 2 rows: 2, 3"


def test_a_file_that_names_no_split_is_read_whole(tmp_path: Path) -> None:
    assert questions(put(tmp_path / "a.jsonl", row("0")), "anything") == ["Q 0"]


def test_held_out_questions_are_never_the_training_rows(tmp_path: Path) -> None:
    path = put(tmp_path / "a.jsonl", row("0"))
    with pytest.raises(DataError, match=r"would be the training rows; .*data\.heldout=FILE"):
        read_heldout(DataConfig(train=str(path)))
    put(path, row("0", split="train"), row("1", split="test"))
    (heldout,) = read_heldout(DataConfig(train=str(path)))
    (train,) = read_train(DataConfig(train=str(path)))
    assert (train.question, heldout.question) == ("Q 0", "Q 1")
    with pytest.raises(DataError, match="would be the training rows"):
        read_heldout(DataConfig(train=str(path), heldout_split="train"))


def test_no_held_out_split_means_no_held_out_questions_and_forbids_a_source_of_them() -> None:
    assert read_heldout(DataConfig(train="missing.jsonl", heldout_split=None)) == []
    with pytest.raises(ConfigError, match=r"data\.heldout=x\.jsonl is not read while"):
        read_heldout(DataConfig(train="a.jsonl", heldout="x.jsonl", heldout_split=None))


def test_held_out_questions_of_their_own_file_need_no_reasoning(tmp_path: Path) -> None:
    train = put(tmp_path / "train.jsonl", row("0"))
    heldout = put(tmp_path / "held.jsonl", {"question": "Q 1", "reference": "x"})
    (example,) = read_heldout(DataConfig(train=str(train), heldout=str(heldout)))
    assert (example.question, example.reference, example.reasoning) == ("Q 1", "x", "")


def test_settings_reach_the_rows(tmp_path: Path) -> None:
    cells = {"ask": "Q", "reasoning": "R", "answer": "A"}
    path = put(tmp_path / "a.jsonl", cells, cells, {"ask": "beyond the limit"})
    config = DataConfig(train=str(path), columns={"question": "ask"}, limit=2)
    assert [e.question for e in read_train(config)] == ["Q", "Q"]
    with pytest.raises(DataError, match="empty reasoning"):
        read_train(config.model_copy(update={"limit": None}))


def test_settings_without_a_meaning_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="unknown field reply; known: question"):
        DataConfig(train="x", columns={"reply": "answer"})
    with pytest.raises(ValidationError):
        DataConfig(train="x", limit=0)
    path = str(put(tmp_path / "a.jsonl", row("0")))
    with pytest.raises(ConfigError, match=r"data\.limit=0"):
        read_examples(path, limit=0)
    with pytest.raises(ConfigError, match="no data: name a file"):
        read_examples("")
    with pytest.raises(ConfigError, match=r"data\.revision=main is of a Hub data set"):
        read_examples(path, revision="main")


def test_a_missing_file_is_refused_with_what_is_nearby(tmp_path: Path) -> None:
    put(tmp_path / "train.jsonl", row("0"))
    put(tmp_path / "notes.txt", row("0"))
    put(tmp_path / "held" / "a.jsonl", row("0"))
    missing = tmp_path / "trian.jsonl"
    assert refusal(missing) == (
        f"no file, folder or data set {missing}; in {tmp_path}: did you mean train.jsonl?"
    )
    assert refusal(tmp_path / "zzz.csv").endswith(f"in {tmp_path}: it has held, train.jsonl")
    assert refusal(tmp_path / "none" / "a.csv").endswith(f"there is no folder {tmp_path / 'none'}")


def test_a_folder_without_data_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path, "train") == (
        f"folder {tmp_path} has no data file; "
        "known formats: .jsonl, .ndjson, .json, .csv, .tsv, .parquet"
    )


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package folder with one data set, and an empty working directory."""
    put(tmp_path / "package" / "assets" / "data" / "clinic" / "train.jsonl", row("shipped"))
    monkeypatch.setattr(places, "files", lambda package: tmp_path / "package")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def test_a_shipped_data_set_is_found_by_name_and_a_local_one_goes_before_it(shipped: Path) -> None:
    assert questions("clinic", "train") == ["Q shipped"]
    assert "shipped data sets: clinic" in refusal("clinik", "train")
    put(shipped / "clinic" / "train.jsonl", row("local"))
    assert questions("clinic", "train") == ["Q local"]


def test_every_data_set_in_the_package_can_be_trained_on_and_held_out() -> None:
    folder = Path(places.__file__).parents[1] / "assets" / "data"
    names = sorted(path.name for path in folder.iterdir() if path.is_dir())
    assert names
    for name in names:
        assert read_train(DataConfig(train=name, limit=2))[0].where == "train.jsonl row 1"
        assert read_heldout(DataConfig(train=name))[0].where == "test.jsonl row 1"


class Hub:
    """The network boundary: serves local files where the Hub would be asked."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked: list[tuple[object, ...]] = []

    def load(self, name: str, subset: str | None, *, split: str | None, revision: str | None):
        import datasets  # noqa: PLC0415 - an optional extra

        self.asked.append((name, subset, split, revision))
        files = {path.stem: str(path) for path in sorted(self.folder.glob("*.jsonl"))}
        return datasets.load_dataset(
            "json", data_files=files, split=split, cache_dir=str(self.folder / "cache")
        )


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    datasets = pytest.importorskip("datasets", reason="the extra datasets is not installed")
    put(tmp_path / "train.jsonl", row("0"), row("1"))
    put(tmp_path / "test.jsonl", row("2"))
    fake = Hub(tmp_path)
    real = datasets.load_dataset

    def boundary(name: str, *args: object, **options: object) -> object:
        return real(name, *args, **options) if name == "json" else fake.load(name, *args, **options)

    monkeypatch.setattr(datasets, "load_dataset", boundary)
    return fake


def test_a_hub_data_set_is_asked_for_by_name_subset_split_and_revision(hub: Hub) -> None:
    config = DataConfig(train="owner/medical-o1:zh", revision="abc123")
    examples = read_train(config)
    assert [e.question for e in examples] == ["Q 0", "Q 1"]
    assert examples[1].where == "owner/medical-o1:zh train row 2"
    assert [e.question for e in read_heldout(config)] == ["Q 2"]
    assert hub.asked == [
        ("owner/medical-o1", "zh", "train", "abc123"),
        ("owner/medical-o1", "zh", "test", "abc123"),
    ]


def test_a_hub_split_that_does_not_exist_is_refused_with_those_that_do(hub: Hub) -> None:
    message = refusal("owner/name", "dev")
    assert message.startswith("no file or folder owner/name, and as a Hub data set: ")
    assert "train" in message
    assert "test" in message
    assert len(read_examples("owner/name", split=None)) == 3


def test_the_hub_without_datasets_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ConfigError, match=r"owner/name: .* pip install thinktune\[datasets\]"):
        read_examples("owner/name", split="train")


def test_a_path_with_a_data_ending_is_never_taken_for_a_hub_data_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert "there is no folder data" in refusal("data/train.jsonl", "train")


def test_written_examples_read_back_the_same_but_for_where(tmp_path: Path) -> None:
    examples = [
        Example(
            question="發燒\u2028怎麼辦？",
            reasoning=" R\n",
            answer="A",
            reference="流感",
            system="S",
            history=(Turn(Role.USER, "q"), Turn(Role.ASSISTANT, "a", "r")),
            metadata={"split": "train", "n": [1, None]},
            where="out.jsonl row 1",
        ),
        Example("Q", "R", "A", where="out.jsonl row 2"),
    ]
    write_examples(tmp_path / "out.jsonl", examples)
    assert read_examples(str(tmp_path / "out.jsonl")) == examples
