from pathlib import Path

import pytest

from tests.mended_files import put, questions, read, row
from thinktune.data.curation import decontaminate, dedup
from thinktune.data.intake import Source
from thinktune.errors import ConfigError

LONG = (
    "A man of 40 has had a fever of 39 degrees for three days, aching muscles, a dry cough and a "
    "headache; nobody else in the family is ill and he has not travelled. He asks what he has and "
    "whether he may go back to work in the bakery before the end of the week."
)
OTHER = (
    "Which river flows through the old town of the city where the inventor of the printing press "
    "was born, and how long does it take to walk from the cathedral to the nearest of its bridges?"
)


def kept(tmp_path: Path, rows: list[dict[str, object]], **options: object) -> list[str]:
    source = put(tmp_path / "s.jsonl", rows)
    dedup(source, tmp_path / "o.jsonl", force=True, **options)  # pyright: ignore
    return [str(held["mark"]) for held in (r["metadata"] for r in read(tmp_path / "o.jsonl"))]


def test_the_first_of_the_same_rows_stays_and_the_others_name_it(tmp_path: Path) -> None:
    rows = [row("What is it?"), row("Other?"), row(" what  is IT "), row("Ｗhat is it？")]
    mended = dedup(put(tmp_path / "s.jsonl", rows), tmp_path / "o.jsonl")
    assert mended.line == "4 in = 2 out + 2 dropped (2 same question and answer)"
    assert questions(tmp_path / "o.jsonl") == ["What is it?", "Other?"]
    assert [r["left_out"]["reasons"] for r in read(tmp_path / "o.rejected.jsonl")] == [
        ["same question and answer: s.jsonl row 1"]
    ] * 2


def test_the_longest_reasoning_stays_if_asked_for(tmp_path: Path) -> None:
    rows = [
        row("Q?", mark=1, reasoning="Short."),
        row("Q?", mark=2, reasoning="Longer by far."),
        row("Q?", mark=3, reasoning="As long as it."),
    ]
    assert kept(tmp_path, rows, keep="longest-reasoning") == ["2"]
    assert kept(tmp_path, rows) == ["1"]
    with pytest.raises(ConfigError, match="--keep best; known: first, longest-reasoning"):
        kept(tmp_path, rows, keep="best")


def test_contradictory_answers_are_kept_and_reported(tmp_path: Path) -> None:
    rows = [row("Q?", "flu"), row("P?"), row("Q?", "Flu."), row("Q?", "cold"), row("Q?", "cold")]
    source = put(tmp_path / "s.jsonl", rows)
    mended = dedup(source, tmp_path / "o.jsonl")
    made = read(tmp_path / "o.jsonl")
    assert [r["answer"] for r in made] == ["flu", "A", "cold"]
    told = [r["metadata"]["provenance"][0].get("contradicts") for r in made]
    assert told == ["s.jsonl row 4", None, "s.jsonl row 1"]
    (note,) = mended.notes
    assert note.endswith(": 2: s.jsonl row 1, s.jsonl row 4")


def test_contradictory_rows_are_dropped_whole_if_asked_for(tmp_path: Path) -> None:
    rows = [row("Q?", "flu"), row("P?"), row("Q?", "cold"), row("Q?", "cold")]
    source = put(tmp_path / "s.jsonl", rows)
    mended = dedup(source, tmp_path / "o.jsonl", drop_contradictory=True)
    assert mended.line == "4 in = 1 out + 3 dropped (3 same question, another answer)"
    assert questions(tmp_path / "o.jsonl") == ["P?"]


def test_the_reference_decides_whether_answers_agree(tmp_path: Path) -> None:
    rows = [
        row("Q?", "It is the flu.", reference="flu", mark=1),
        row("Q?", "Surely influenza.", reference="Flu", mark=2),
        row("Q?", "It is the flu.", reference="cold", mark=3),
    ]
    assert kept(tmp_path, rows) == ["1", "3"]


def test_the_same_words_in_another_conversation_are_another_question(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "I cough."}, {"role": "assistant", "content": "Long?"}]
    rows = [
        row(LONG, mark=1),
        row(LONG, mark=2, system="You are a vet."),
        row(LONG, mark=3, history=turns),
    ]
    assert kept(tmp_path, rows) == ["1", "2", "3"]
    assert kept(tmp_path, rows, near=0.9)[:2] == ["1", "2"]


def test_near_duplicates_go_only_if_asked_for_and_with_the_same_reference(tmp_path: Path) -> None:
    rows = [
        row(LONG, mark=1, reference="flu"),
        row(OTHER, mark=2, reference="Rhine"),
        row(LONG.replace("40", "41"), mark=3, reference="flu", answer="B"),
        row(LONG.replace("three", "two"), mark=4, reference="cold"),
    ]
    assert kept(tmp_path, rows) == ["1", "2", "3", "4"]
    assert kept(tmp_path, rows, near=0.8) == ["1", "2", "4"]
    (rejected,) = read(tmp_path / "o.rejected.jsonl")
    assert rejected["left_out"]["reasons"] == ["nearly the same question: s.jsonl row 1"]
    assert "with another reference, kept: 2 rows" in (tmp_path / "o.md").read_text()


def test_contradictory_rows_are_not_settled_by_the_near_search(tmp_path: Path) -> None:
    rows = [row(LONG, "flu", mark=1), row(LONG, "cold", mark=2), row(OTHER, mark=3)]
    assert kept(tmp_path, rows, near=0.8) == ["1", "2", "3"]


def test_near_duplicates_name_the_row_that_stayed_for_all_of_them(tmp_path: Path) -> None:
    rows = [
        row(LONG, reasoning="Short."),
        row(LONG, reasoning="Longer than that."),
        row(LONG.replace("40", "41"), reasoning="The longest of all of these."),
    ]
    source = put(tmp_path / "s.jsonl", rows)
    dedup(source, tmp_path / "o.jsonl", near=0.8, keep="longest-reasoning")
    reasons = [r["left_out"]["reasons"][0] for r in read(tmp_path / "o.rejected.jsonl")]
    assert [reason.rpartition(": ")[2] for reason in reasons] == ["s.jsonl row 3"] * 2


def test_a_row_that_an_evaluation_file_holds_is_dropped_with_the_shared_run(tmp_path: Path) -> None:
    source = put(
        tmp_path / "s.jsonl",
        [
            row("Is it so?"),
            row("Hm?", reasoning=f"As they say: {LONG}"),
            row(OTHER),
            row(LONG[80:]),
        ],
    )
    evaluation = put(tmp_path / "eval.jsonl", [{"question": LONG}])
    mended = decontaminate(source, tmp_path / "o.jsonl", against=evaluation)
    assert mended.line == "4 in = 2 out + 2 dropped (2 shared with the evaluation file)"
    assert questions(tmp_path / "o.jsonl") == ["Is it so?", OTHER]
    first, second = [r["left_out"]["reasons"][0] for r in read(tmp_path / "o.rejected.jsonl")]
    assert first.startswith("shared with the evaluation file: reasoning: A man of 40 has had")
    assert second.startswith(
        "shared with the evaluation file: question: cough and a headache; nobody"
    )


def test_the_evaluation_file_cannot_be_the_output(tmp_path: Path) -> None:
    source = put(tmp_path / "s.jsonl", [row("Q?")])
    evaluation = put(tmp_path / "eval.jsonl", [{"question": LONG}])
    with pytest.raises(ConfigError, match="would change the source"):
        decontaminate(source, evaluation, against=Source(str(evaluation)), force=True)
