import re

from thinktune.data.faults import NAMED_ROWS
from thinktune.data.row_names import fold

ROOM = 10**6


def lines(page: str) -> list[str]:
    return re.findall("<li>(.*?)</li>", page)


def test_rows_of_one_file_share_a_line_and_findings_have_their_own() -> None:
    rows = [f"a.jsonl row {n}" for n in (1, 2, 3, 7, 9, 10)]
    rows += ["b.jsonl row 4", "b.jsonl row 5: <br>", "b.jsonl row 6 = test.jsonl row 1"]
    rows += ["b.jsonl row 6 = test.jsonl row 2", "row 8", "row 7", "my prompt row.jsonl"]
    folded = fold(rows, len(rows), ROOM)
    assert lines(folded) == [
        "a.jsonl rows 1 to 3, 7, 9, 10",
        "b.jsonl row 4",
        "b.jsonl row 5: &lt;br&gt;",
        "b.jsonl row 6 = test.jsonl row 1",
        "b.jsonl row 6 = test.jsonl row 2",
        "rows 8, 7",
        "my prompt row.jsonl",
    ]
    assert "<summary>13 rows</summary>" in folded
    assert "more" not in folded


def test_a_thousand_names_are_all_there_and_the_others_are_counted() -> None:
    rows = [f"train.jsonl row {n}: answer has 7" for n in range(1, 2 * NAMED_ROWS, 2)]
    folded = fold(rows, 5213, ROOM)
    assert lines(folded) == rows
    assert "<summary>the first 1,000 of 5,213 rows</summary>" in folded
    assert "<p>and 4,213 more</p>" in folded
    bare = fold([f"train.jsonl row {n}" for n in range(1, 2 * NAMED_ROWS, 2)], NAMED_ROWS, ROOM)
    numbers = re.findall("[0-9]+", " ".join(lines(bare)))
    assert numbers == [str(n) for n in range(1, 2 * NAMED_ROWS, 2)]
    assert "more" not in bare


def test_what_there_is_no_room_for_is_counted() -> None:
    rows = [f"row {n}: x" for n in range(100, 300)]
    line = len("<li>row 100: x</li>")
    for shown in (0, 1, 7, 200):
        folded = fold(rows, 200, shown * line)
        assert lines(folded) == rows[:shown]
        assert (f"<p>and {200 - shown} more</p>" in folded) == (shown < 200)


def test_a_finding_that_tells_of_many_rows_at_once_counts_none_of_them_as_missing() -> None:
    folded = fold(["flu 3, cold 2"], 5, ROOM)
    assert "<summary>which</summary>" in folded
    assert "more" not in folded
    assert fold([], 5, ROOM) == ""


def test_a_line_of_any_length_is_cut_before_it_is_escaped() -> None:
    (line,) = lines(fold(["row 1: " + "<" * 5000], 1, ROOM))
    assert line == "row 1: " + "&lt;" * 292 + "…"
