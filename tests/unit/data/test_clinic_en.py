import json
import re
from collections import Counter
from collections.abc import Sequence
from functools import cache
from importlib.resources import files

import pytest
from datasketch import MinHash

from thinktune.answers.labels import find_labels
from thinktune.data.example import Example
from thinktune.data.faults import Severity
from thinktune.data.inspection import inspect
from thinktune.data.sources import read_examples

DISEASES = (
    "common cold",
    "influenza",
    "gastroenteritis",
    "bronchitis",
    "sinusitis",
    "skin infection",
)
LABELS = dict.fromkeys(DISEASES, ())
AGE_GROUPS = {"infant", "child", "teenager", "adult", "older adult"}
MAX_LIKENESS = 0.7
NUM_EXACT = 50  # most alike pairs by MinHash, whose likeness is then counted

WHO = re.compile(r"\b(ambulance|emergency|hospital|doctor|urgent care|surgeon)\b", re.IGNORECASE)
WHEN = re.compile(r"\b(now|today|at once|immediately|same-day)\b", re.IGNORECASE)


@cache
def rows(split: str) -> tuple[Example, ...]:
    return tuple(read_examples("clinic-en", split=split))


def both() -> tuple[Example, ...]:
    return rows("train") + rows("test")


def ids(examples: Sequence[Example]) -> list[object]:
    return [example.metadata["id"] for example in examples]


def test_there_are_enough_rows_to_train_on_and_to_compare_with() -> None:
    assert len(both()) >= 360
    assert len(rows("test")) >= 60


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_six_diseases_are_equally_frequent_in_each_split(split: str) -> None:
    counts = Counter(example.reference for example in rows(split))
    assert set(counts) == set(DISEASES)
    assert len(set(counts.values())) == 1


@pytest.mark.parametrize("split", ["train", "test"])
def test_every_row_has_the_same_five_fields_and_all_metadata(split: str) -> None:
    text = files("thinktune").joinpath(f"assets/data/clinic-en/{split}.jsonl").read_text("utf-8")
    records = [json.loads(line) for line in text.splitlines()]
    assert len(records) == len(rows(split))
    for record in records:
        assert set(record) == {"question", "reasoning", "answer", "reference", "metadata"}
        texts = [value for key, value in record.items() if key != "metadata"]
        assert all(isinstance(value, str) and value == value.strip() != "" for value in texts)
        metadata = record["metadata"]
        assert set(metadata) == {"id", "split", "age_group", "red_flag"}
        assert metadata["split"] == split
        assert metadata["age_group"] in AGE_GROUPS
        assert isinstance(metadata["red_flag"], bool)


def test_no_id_is_given_twice() -> None:
    assert max(Counter(ids(both())).values()) == 1


def test_every_answer_names_the_reference_and_no_other_disease() -> None:
    wrong = [e for e in both() if find_labels(e.answer, LABELS) != (e.reference,)]
    assert ids(wrong) == []


def test_every_reasoning_weighs_the_reference_against_another_disease() -> None:
    found = [(example, find_labels(example.reasoning, LABELS)) for example in both()]
    wrong = [e for e, named in found if len(named) < 2 or e.reference not in named]
    assert ids(wrong) == []


def test_the_data_doctor_finds_one_opening_too_often_and_no_fault() -> None:
    for found in (inspect(rows("train"), heldout=rows("test")), inspect(rows("test"))):
        (note,) = found.faults  # its rows are plain, for a model of 135M
        assert note.severity is Severity.NOTE
        assert "begins with the same" in note.what
        assert note.num_rows < 0.17 * found.num_rows


def test_red_flags_are_equally_frequent_in_every_disease() -> None:
    for split in ("train", "test"):
        counts = Counter(e.reference for e in rows(split) if e.metadata["red_flag"])
        assert set(counts) == set(DISEASES)
        assert len(set(counts.values())) == 1


def test_the_answer_to_a_red_flag_sends_to_care_without_delay() -> None:
    wrong = [
        e
        for e in both()
        if e.metadata["red_flag"] and not (WHO.search(e.answer) and WHEN.search(e.answer))
    ]
    assert ids(wrong) == []


def test_no_held_out_question_is_near_a_training_question() -> None:
    pairs = sorted(
        (
            (_minhash(held.question).jaccard(_minhash(trained.question)), held, trained)
            for held in rows("test")
            for trained in rows("train")
        ),
        key=lambda pair: -pair[0],
    )
    assert pairs[0][0] < MAX_LIKENESS
    exact = [
        (_likeness(held.question, trained.question), held.where, trained.where)
        for _, held, trained in pairs[:NUM_EXACT]
    ]
    assert [pair for pair in exact if pair[0] >= MAX_LIKENESS] == []


@pytest.mark.parametrize(
    ("first", "second", "likeness"),
    [
        ("A runny nose, four days.", "a runny nose four days", 1.0),
        ("one two three four", "two three four five", 1 / 3),
        ("fever since Monday", "an itchy rash today", 0.0),
    ],
)
def test_likeness_is_of_runs_of_three_words(first: str, second: str, likeness: float) -> None:
    assert _likeness(first, second) == pytest.approx(likeness)


def _shingles(text: str) -> frozenset[str]:
    words = re.findall(r"\w+", text.casefold())
    return frozenset(" ".join(words[start : start + 3]) for start in range(len(words) - 2))


@cache
def _minhash(text: str) -> MinHash:
    sketch = MinHash(num_perm=128, seed=1)
    sketch.update_batch([shingle.encode() for shingle in _shingles(text)])
    return sketch


def _likeness(first: str, second: str) -> float:
    one, other = _shingles(first), _shingles(second)
    return len(one & other) / len(one | other)
