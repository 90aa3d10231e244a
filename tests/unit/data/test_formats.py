import csv
import sys
from pathlib import Path

import pytest

from thinktune.data.formats import Row, write_rows
from thinktune.data.formats import read_rows as stream_rows
from thinktune.data.naming import name_numbers
from thinktune.errors import ConfigError, DataError

ROWS = [{"question": "發燒怎麼辦？", "answer": "多喝水"}, {"question": "咳嗽", "answer": "休息"}]


def put(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def read_rows(path: Path, label: str) -> list[Row]:
    return list(stream_rows(path, label))


def refusal(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        read_rows(path, path.name)
    assert "\n" not in str(caught.value)
    return str(caught.value)


CONTENTS = {
    "a.jsonl": '{"question": "發燒怎麼辦？", "answer": "多喝水"}\n'
    '{"question": "咳嗽", "answer": "休息"}\n',
    "a.ndjson": '{"question":"發燒怎麼辦？","answer":"多喝水"}\r\n'
    '{"question":"咳嗽","answer":"休息"}\r\n\r\n',
    "list.json": '[{"question": "發燒怎麼辦？", "answer": "多喝水"},\n'
    '{"question": "咳嗽", "answer": "休息"}]',
    "object.json": '{"version": 2, "data": [{"question": "發燒怎麼辦？", "answer": "多喝水"}, '
    '{"question": "咳嗽", "answer": "休息"}]}',
    "lines.json": '{"question": "發燒怎麼辦？", "answer": "多喝水"}\n'
    '{"question": "咳嗽", "answer": "休息"}',
    "a.csv": 'question,answer\n發燒怎麼辦？,多喝水\n"咳嗽","休息"\n',
    "a.tsv": "question\tanswer\n發燒怎麼辦？\t多喝水\n咳嗽\t休息\n",
    "A.JSONL": '{"question": "發燒怎麼辦？", "answer": "多喝水"}\n'
    '{"question": "咳嗽", "answer": "休息"}',
}


@pytest.mark.parametrize("name", CONTENTS)
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["plain", "byte order mark"])
def test_every_text_format_gives_the_same_rows(tmp_path: Path, name: str, mark: bytes) -> None:
    path = put(tmp_path, name, mark + CONTENTS[name].encode())
    rows = read_rows(path, name)
    assert [dict(row.cells) for row in rows] == ROWS
    assert [row.where for row in rows] == [f"{name} row 1", f"{name} row 2"]


def test_parquet_gives_the_same_rows_and_a_missing_number_is_none(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="the extra datasets is not installed")
    parquet = pytest.importorskip("pyarrow.parquet", reason="the extra datasets is not installed")
    table = pyarrow.Table.from_pylist([row | {"score": float("nan")} for row in ROWS])
    parquet.write_table(table, tmp_path / "a.parquet")
    rows = read_rows(tmp_path / "a.parquet", "a.parquet")
    assert [dict(row.cells) for row in rows] == [row | {"score": None} for row in ROWS]


def test_parquet_without_pyarrow_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigError, match=r"pip install thinktune\[datasets\]"):
        read_rows(put(tmp_path, "a.parquet", b"PAR1"), "a.parquet")


def test_a_damaged_parquet_file_is_refused_in_one_line(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="the extra datasets is not installed")
    assert "a.parquet: broken Parquet: " in refusal(put(tmp_path, "a.parquet", b"PAR1 no PAR1"))
    assert refusal(put(tmp_path, "b.parquet", b"")) == "b.parquet is empty"


def test_a_cell_keeps_line_breaks_quotes_and_more_than_128_kib(tmp_path: Path) -> None:
    long = 'He said "no", then\r\nleft.' + "長" * 200_000
    quoted = '"' + long.replace('"', '""') + '"'
    path = put(tmp_path, "a.csv", f"question,answer\n{quoted},b\n")
    assert read_rows(path, "a")[0].cells == {"question": long, "answer": "b"}


def test_a_json_line_may_hold_unicode_line_separators(tmp_path: Path) -> None:
    path = put(tmp_path, "a.jsonl", '{"a": "one\u2028two\u0085three"}\n{"a": "b"}')
    assert [row.cells["a"] for row in read_rows(path, "a")] == ["one\u2028two\u0085three", "b"]


EXACT = {
    ("a.jsonl", b""): "a.jsonl is empty",
    ("a.json", b" \n\xef\xbb\xbf"[:2]): "a.json is empty",
    ("a.csv", b"question,answer\n"): "a.csv holds no rows",
    ("a.json", b"[]"): "a.json holds no rows",
    ("a.jsonl", b'{"a": 1}\n{"a": }\n'): "a.jsonl line 2 column 7: broken JSON: Expecting value",
    ("a.json", b'[{"a": 1},\n {"a" 2}]'): (
        "a.json line 2 column 7: broken JSON: Expecting ':' delimiter"
    ),
    ("a.jsonl", b'{"a": 1}\n\n{"a": 2}\n'): (
        "a.jsonl: nothing in 1 row: 2; remove the blank lines"
    ),
    ("a.csv", b"a,b\n1,2\n\n3,4\n"): (
        "a.csv: not the header's 2 fields in 1 row: 2; quote cells that hold ',' or a line break"
    ),
    ("a.jsonl", b'{"a": 1}\n[1]\nnull\n'): (
        "a.jsonl: not an object in 2 rows: 2, 3; each row must be one"
    ),
    ("a.jsonl", b'{"a": 1, "a": 2}'): (
        "a.jsonl line 1: broken JSON: 'a' is there twice in one object"
    ),
    ("a.json", b'{"a": [1], "b": [2]}'): (
        "a.json holds an object with 2 lists; a list of rows, or an object with one, is read"
    ),
    ("a.json", b'"text"'): (
        "a.json holds a single value; a list of rows, or an object with one, is read"
    ),
    ("a.csv", b"a,a\n1,2\n"): "a.csv: two columns are called 'a'; rename one",
    ("a.csv", b'a,b\n"1,2\n3,4\n'): "a.csv: broken quoting or fields: unexpected end of data",
    ("a.txt", b"a"): (
        "a.txt: cannot tell the format from '.txt'; "
        "known: .jsonl, .ndjson, .json, .csv, .tsv, .parquet, each also with .gz or .zst"
    ),
}


@pytest.mark.parametrize(("file", "message"), EXACT.items(), ids=[m[:50] for m in EXACT.values()])
def test_a_file_that_cannot_be_used_is_refused_in_these_words(
    tmp_path: Path, file: tuple[str, bytes], message: str
) -> None:
    assert refusal(put(tmp_path, *file)) == message


def test_text_that_is_not_utf8_is_refused_with_byte_line_and_the_way_out(tmp_path: Path) -> None:
    path = put(tmp_path, "a.csv", b"q,a\n1,2\n" + "流感".encode("big5") + b",x\n")
    assert refusal(path) == (
        "a.csv: not UTF-8 at byte 8 (line 3); save it as UTF-8, "
        "for example: iconv -f BIG5 -t UTF-8 a.csv"
    )


def test_json_nested_too_deeply_is_a_data_error(tmp_path: Path) -> None:
    assert "broken JSON" in refusal(put(tmp_path, "a.jsonl", "[" * 200_000))


def test_reading_csv_leaves_the_process_wide_field_limit_alone(tmp_path: Path) -> None:
    before = csv.field_size_limit(1000)
    try:
        read_rows(put(tmp_path, "a.csv", "a\nb\n"), "a.csv")
        assert csv.field_size_limit() == 1000
    finally:
        csv.field_size_limit(before)


def test_twenty_rows_are_named_and_all_are_counted() -> None:
    assert name_numbers([7]) == "1 row: 7"
    assert name_numbers(list(range(1, 21))).endswith("19, 20")
    text = name_numbers(list(range(1, 26)))
    assert text.startswith("25 rows: 1, 2")
    assert text.endswith("20, ...")


def test_a_failed_write_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    path = put(tmp_path, "a.jsonl", "old")
    with pytest.raises(DataError, match=r"a\.jsonl row 2: cannot be written as JSON"):
        write_rows(path, [{"a": 1}, {"a": object()}])
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_written_file_is_readable_by_whom_the_umask_allows(tmp_path: Path) -> None:
    plain = put(tmp_path, "plain", "x")
    write_rows(tmp_path / "new" / "a.jsonl", [{"a": "發燒"}])
    written = tmp_path / "new" / "a.jsonl"
    assert written.read_text(encoding="utf-8") == '{"a": "發燒"}\n'
    assert written.stat().st_mode == plain.stat().st_mode
