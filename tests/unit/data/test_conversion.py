import gzip
import json
from pathlib import Path

import pytest

from tests.mended_files import put, questions, read, row
from thinktune.data.cards import Touched
from thinktune.data.conversion import clean, convert, survey_fixes
from thinktune.data.intake import Source
from thinktune.data.sources import read_examples
from thinktune.errors import ConfigError, DataError


def test_another_format_becomes_our_fields_and_says_where_each_row_is_from(tmp_path: Path) -> None:
    source = tmp_path / "old.csv.gz"
    source.write_bytes(gzip.compress(b"Frage,cot,output\r\nQ1,R1,A1\r\nQ2,R2,A2\r\n"))
    out = tmp_path / "new.jsonl"
    mended = convert(Source(str(source), columns={"question": "Frage"}), out)
    assert mended.line == "2 in = 2 out + 0 dropped"
    first, second = read_examples(str(out))
    assert (second.question, second.reasoning, second.answer) == ("Q2", "R2", "A2")
    (step,) = first.metadata["provenance"]  # pyright: ignore[reportGeneralTypeIssues]
    assert step["step"] == "convert"
    assert step["source"] == "old.csv.gz row 1"
    assert step["options"] == {"column": {"question": "Frage"}}
    assert step["tool"].startswith("thinktune ")


def test_a_pattern_parts_reasoning_from_the_reference(tmp_path: Path) -> None:
    source = put(tmp_path / "m.jsonl", [{"question": "3+4?", "answer": "It is 7.\n#### 7"}])
    patterns = {"answer": "{reasoning}####{answer+reference}"}
    convert(Source(str(source), patterns=patterns), tmp_path / "o.jsonl")
    (made,) = read(tmp_path / "o.jsonl")
    assert (made["reasoning"], made["answer"], made["reference"]) == ("It is 7.", "7", "7")


def test_unusable_rows_stop_the_step_and_nothing_is_written(tmp_path: Path) -> None:
    rows = [row("Q1"), row(" "), row("Q3", answer=""), row("")]
    source = put(tmp_path / "rows.jsonl", rows)
    with pytest.raises(DataError) as caught:
        convert(source, tmp_path / "o.jsonl")
    assert str(caught.value) == (
        "rows.jsonl: empty question in 2 rows: 2, 4; rows.jsonl: empty answer in 1 row: 3; "
        "mend these rows, or set them aside with --skip-unusable"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]


def test_unusable_rows_set_aside_are_counted_and_written_with_their_reasons(tmp_path: Path) -> None:
    source = put(tmp_path / "rows.jsonl", [row("Q1"), row(" ", answer=""), row("Q3", mark=7)])
    mended = convert(Source(str(source), skip_unusable=True), tmp_path / "o.jsonl")
    assert mended.line == "3 in = 2 out + 1 dropped (1 empty question; empty answer)"
    assert mended.rejected == tmp_path / "o.rejected.jsonl"
    (rejected,) = read(tmp_path / "o.rejected.jsonl")
    assert rejected["question"] == " "
    assert rejected["left_out"] == {
        "source": "rows.jsonl row 2",
        "step": "convert",
        "reasons": ["empty question", "empty answer"],
    }
    assert questions(tmp_path / "o.jsonl") == ["Q1", "Q3"]


def test_held_out_questions_need_no_reasoning(tmp_path: Path) -> None:
    source = put(tmp_path / "q.jsonl", [{"question": "Q1", "reference": "flu"}])
    convert(Source(str(source), questions_only=True), tmp_path / "o.jsonl")
    (made,) = read(tmp_path / "o.jsonl")
    assert (made["question"], made["reasoning"], made["reference"]) == ("Q1", "", "flu")


def test_another_script_comes_with_a_diff(tmp_path: Path) -> None:
    rows = [
        {
            "question": "发烧怎么办？",
            "reasoning": "想到流感。",
            "answer": "多休息。",
            "reference": "腸胃炎",
        },
        {"question": "咳嗽怎麼辦？", "reasoning": "想到流感。", "answer": "多休息。"},
    ]
    source = put(tmp_path / "s.jsonl", rows)
    mended = convert(source, tmp_path / "t.jsonl", to_script="traditional")
    assert questions(tmp_path / "t.jsonl") == ["發燒怎麼辦？", "咳嗽怎麼辦？"]
    assert (tmp_path / "t.diff.txt").read_text(encoding="utf-8") == (
        "s.jsonl row 1\tquestion\t发烧 -> 發燒, 么办 -> 麼辦\n"
    )
    assert mended.changed == {"traditional": Touched(1, 1)}
    assert mended.notes == ("2 replacements, most often 么办 -> 麼辦 1, 发烧 -> 發燒 1",)
    changed, same = read(tmp_path / "t.jsonl")
    assert changed["metadata"]["provenance"][0]["changed"] == ["question"]
    assert "changed" not in same["metadata"]["provenance"][0]


def test_an_unknown_script_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    source = put(tmp_path / "s.jsonl", [row("Q")])
    with pytest.raises(ConfigError, match="unknown script elvish"):
        convert(source, tmp_path / "t.jsonl", to_script="elvish")
    assert not (tmp_path / "t.jsonl").exists()


def test_chosen_fixes_are_counted_by_rows_and_fields_and_the_others_not_made(
    tmp_path: Path,
) -> None:
    rows = [row(" Q1 ", answer=" A&amp;B "), row("Q2 "), row("<b>Q3</b>")]
    source = put(tmp_path / "s.jsonl", rows)
    before = source.read_bytes()
    mended = clean(source, tmp_path / "t.jsonl", fix=["whitespace"])
    assert mended.changed == {"whitespace": Touched(2, 3)}
    assert [(r["question"], r["answer"]) for r in read(tmp_path / "t.jsonl")] == [
        ("Q1", "A&amp;B"),
        ("Q2", "A"),
        ("<b>Q3</b>", "A"),
    ]
    assert source.read_bytes() == before
    assert survey_fixes(source)["html"] == Touched(2, 2)
    assert survey_fixes(source)["whitespace"] == Touched(2, 3)
    assert survey_fixes(source)["mojibake"] == Touched(0, 0)


def test_earlier_turns_and_the_reference_are_cleaned_too(tmp_path: Path) -> None:
    history = [{"role": "user", "content": " H "}, {"role": "assistant", "content": "B "}]
    source = put(tmp_path / "s.jsonl", [row("Q", history=history, reference=" flu")])
    clean(source, tmp_path / "t.jsonl", fix=["whitespace"])
    (made,) = read(tmp_path / "t.jsonl")
    assert [turn["content"] for turn in made["history"]] == ["H", "B"]
    assert made["reference"] == "flu"


def test_a_row_that_cleaning_empties_is_dropped_and_named(tmp_path: Path) -> None:
    source = put(tmp_path / "s.jsonl", [row("Q1"), row("Q2", answer="<p></p>")])
    mended = clean(source, tmp_path / "t.jsonl", fix=["html", "whitespace"])
    assert mended.line == "2 in = 1 out + 1 dropped (1 empty answer after cleaning)"
    (rejected,) = read(tmp_path / "t.rejected.jsonl")
    assert rejected["answer"] == "<p></p>"
    assert mended.changed == {}


def test_what_is_written_reads_back_the_same_but_for_provenance(tmp_path: Path) -> None:
    first = put(tmp_path / "s.jsonl", [row("Q1", reference="r", system="S", age=7), row("Q2")])
    convert(first, tmp_path / "t.jsonl")
    convert(tmp_path / "t.jsonl", tmp_path / "u.jsonl")
    for once, twice in zip(read(tmp_path / "t.jsonl"), read(tmp_path / "u.jsonl"), strict=True):
        steps = twice["metadata"].pop("provenance")
        assert [step["source"].partition(" ")[0] for step in steps] == ["s.jsonl", "t.jsonl"]
        assert steps[:1] == once["metadata"].pop("provenance")
        assert json.dumps(once) == json.dumps(twice)
