import json
import re
from collections import Counter
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from itertools import combinations
from statistics import median

import opencc
import pytest

from thinktune.answers.grading import grade
from thinktune.answers.labels import find_labels
from thinktune.config import read_recipe
from thinktune.data.example import Example
from thinktune.data.inspection import inspect
from thinktune.data.sources import read_examples

DISEASES = ("普通感冒", "流感", "腸胃炎", "支氣管炎", "鼻竇炎", "皮膚感染")
LABELS: dict[str, tuple[str, ...]] = dict.fromkeys(DISEASES, ())
FIELDS = ("question", "reasoning", "answer")
AGE_GROUPS = {"infant", "child", "teenager", "adult", "older adult"}
MAX_LIKENESS = 0.25  # of runs of four characters; measured 0.09 between any two questions
# Characters of both scripts, as Taiwan writes them: 里長, 斗笠, 划船, 不准, 伙食, 無精打采. All are
# among the 5,401 frequent ones of Big5. OpenCC's character table makes others of them because in
# the other script they also stand for 裡, 鬥, 劃, 準, 夥 or are written otherwise elsewhere.
IN_BOTH_SCRIPTS = "丑伙准凶划占台吃唇岳斗游皂采里"
URGENT = ("急診", "119", "立即就醫", "立刻就醫", "儘速就醫", "盡快就醫", "馬上就醫")


@cache
def rows(split: str) -> tuple[Example, ...]:
    return tuple(read_examples("clinic-zh-tw", split=split))


def both() -> tuple[Example, ...]:
    return rows("train") + rows("test")


def ids(examples: Sequence[Example]) -> list[object]:
    return [example.metadata["id"] for example in examples]


def test_there_are_fifty_two_rows_a_disease_or_more_and_a_fifth_is_held_out() -> None:
    counts = Counter(example.reference for example in both())
    assert set(counts) == set(DISEASES)
    assert min(counts.values()) >= 52
    held = Counter(example.reference for example in rows("test"))
    assert all(0.19 <= held[name] / counts[name] <= 0.25 for name in DISEASES)
    assert len(set(held.values())) == len(set(counts.values())) == 1


@pytest.mark.parametrize("split", ["train", "test"])
def test_every_row_has_the_same_five_fields_and_all_metadata(split: str) -> None:
    text = files("thinktune").joinpath(f"assets/data/clinic-zh-tw/{split}.jsonl").read_text("utf-8")
    records = [json.loads(line) for line in text.splitlines()]
    assert len(records) == len(rows(split))
    for record in records:
        assert set(record) == {*FIELDS, "reference", "metadata"}
        assert all(record[name] == record[name].strip() != "" for name in FIELDS)
        metadata = record["metadata"]
        assert set(metadata) == {"id", "split", "age_group", "red_flag"}
        assert metadata["split"] == split
        assert metadata["age_group"] in AGE_GROUPS
        assert isinstance(metadata["red_flag"], bool)


def test_no_id_is_given_twice() -> None:
    assert max(Counter(ids(both())).values()) == 1


def test_no_character_is_one_that_only_simplified_chinese_has() -> None:
    to_traditional = opencc.OpenCC("s2t")
    to_simplified = opencc.OpenCC("t2s")

    @cache
    def is_simplified(character: str) -> bool:
        changed = to_traditional.convert(character) != character
        return changed and to_simplified.convert(character) == character

    found = {
        (example.metadata["id"], name, character)
        for example in both()
        for name in FIELDS
        for character in getattr(example, name)
        if is_simplified(character) and character not in IN_BOTH_SCRIPTS
    }
    assert found == set()


def test_characters_of_both_scripts_are_frequent_ones_of_taiwan() -> None:
    assert all(0xA440 <= int(c.encode("big5").hex(), 16) <= 0xC67E for c in IN_BOTH_SCRIPTS)


def test_spaces_do_not_give_the_disease_away() -> None:
    spaced = re.compile(r"[\u3000-\u9fff\uff00-\uffef] | [\u3000-\u9fff\uff00-\uffef]|  |\n")
    wrong = {e.metadata["id"] for e in both() for n in FIELDS if spaced.search(getattr(e, n))}
    assert wrong == set()


def test_reasoning_has_a_real_length() -> None:
    lengths = [len(example.reasoning) for example in both()]
    assert min(lengths) >= 150
    assert max(lengths) <= 500


def test_every_answer_names_the_reference_and_no_other_disease() -> None:
    wrong = [e for e in both() if find_labels(e.answer, LABELS) != (e.reference,)]
    assert ids(wrong) == []


def test_the_recipe_grades_every_answer_as_right_by_its_aliases_too() -> None:
    labels = read_recipe("clinic-zh-tw-r1-distill-llama-8b").evaluation.labels
    assert labels is not None
    wrong = [e for e in both() if not grade(e.answer, str(e.reference), labels).strict]
    assert ids(wrong) == []
    assert ids([e for e in both() if find_labels(e.question, labels)]) == []


def test_every_reasoning_weighs_another_disease_and_concludes_with_the_reference() -> None:
    found = [(example, find_labels(example.reasoning, LABELS)) for example in both()]
    assert ids([e for e, named in found if len(named) < 2]) == []
    assert ids([e for e in both() if str(e.reference) not in e.reasoning[-60:]]) == []


def test_no_question_names_a_disease() -> None:
    assert ids([e for e in both() if find_labels(e.question, LABELS)]) == []


def test_the_answer_to_a_red_flag_sends_to_care_without_delay() -> None:
    flagged = [e for e in both() if e.metadata["red_flag"]]
    assert len(flagged) >= 48
    assert ids([e for e in flagged if not any(word in e.answer for word in URGENT)]) == []


@pytest.mark.parametrize("field", FIELDS)
def test_no_more_than_a_tenth_begins_alike(field: str) -> None:
    openings = Counter(getattr(example, field)[:3] for example in both())
    assert max(openings.values()) <= 0.1 * len(both())


def test_the_data_doctor_finds_no_fault() -> None:
    assert inspect(rows("train"), heldout=rows("test")).faults == ()
    assert inspect(rows("test")).faults == ()


def test_no_two_questions_are_near() -> None:
    runs = [(example.metadata["id"], _runs(example.question)) for example in both()]
    near = [
        (first, second)
        for (first, one), (second, other) in combinations(runs, 2)
        if len(one & other) > MAX_LIKENESS * len(one | other)
    ]
    assert near == []


def test_the_card_counts_what_is_there() -> None:
    card = files("thinktune").joinpath("assets/data/clinic-zh-tw/README.md").read_text("utf-8")
    ages = ("infant", "child", "teenager", "adult", "older adult")
    for split in ("train", "test"):
        flags = sum(example.metadata["red_flag"] is True for example in rows(split))
        counts = Counter(example.metadata["age_group"] for example in rows(split))
        cells = (split, len(rows(split)), flags, *(counts[age] for age in ages))
        assert f"| {' | '.join(map(str, cells))} |" in card
    for name in FIELDS:
        lengths = [len(getattr(example, name)) for example in both()]
        span = f"{min(lengths)}, {round(median(lengths))}, {max(lengths)}"
        assert card.count(f"{name} {span}") == 1
        assert re.search(rf"^\| `{name}` \|.*\| {span} \|$", card, re.MULTILINE)
    assert "@" not in card


def test_the_recipe_grades_by_all_six_in_either_script() -> None:
    labels = read_recipe("clinic-zh-tw-r1-distill-llama-8b").evaluation.labels
    assert labels is not None
    assert set(labels) == set(DISEASES)
    assert find_labels("诊断：肠胃炎。", labels) == ("腸胃炎",)
    assert find_labels("流行性感冒", labels) == ("流感",)


def _runs(text: str) -> frozenset[str]:
    return frozenset(text[start : start + 4] for start in range(len(text) - 3))
