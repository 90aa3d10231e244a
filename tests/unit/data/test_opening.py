import gzip
import sys
from pathlib import Path

import pytest

from thinktune.data.formats import read_rows
from thinktune.data.sources import Unusable, read_examples, stream_examples
from thinktune.errors import ConfigError, DataError

LINES = '{"question": "發燒？", "reasoning": "a", "answer": "b\\u2028c"}\r\n' * 3


def encoded(name: str) -> bytes:
    match name.rpartition(".")[2]:
        case "gz":
            return gzip.compress(LINES.encode())
        case "zst":
            zstandard = pytest.importorskip("zstandard", reason="zstandard is not installed")
            return zstandard.compress(LINES.encode())
        case encoding:
            return LINES.encode(encoding)


@pytest.mark.parametrize("encoding", ["gz", "zst", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_compression_and_encoding_do_not_change_the_rows(tmp_path: Path, encoding: str) -> None:
    name = f"a.jsonl.{encoding}" if encoding in ("gz", "zst") else "a.jsonl"
    (tmp_path / name).write_bytes(encoded(f"a.{encoding}"))
    rows = list(read_rows(tmp_path / name, name))
    assert [row.cells["answer"] for row in rows] == ["b\u2028c"] * 3
    assert rows[-1].where == f"{name} row 3"


def test_a_table_in_utf_16_as_spreadsheets_write_it_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes('question,answer\r\n發燒？,"多\r\n喝水"\r\n'.encode("utf-16"))
    (row,) = read_rows(tmp_path / "a.csv", "a.csv")
    assert row.cells == {"question": "發燒？", "answer": "多\r\n喝水"}


@pytest.mark.parametrize("compression", ["gz", "zst"])
def test_a_compressed_file_that_is_cut_off_is_refused(tmp_path: Path, compression: str) -> None:
    whole = encoded(f"a.{compression}")
    (tmp_path / f"a.jsonl.{compression}").write_bytes(whole[: len(whole) - 9])
    with pytest.raises(DataError, match=rf"a: broken or cut off as a \.{compression} file: .*"):
        list(read_rows(tmp_path / f"a.jsonl.{compression}", "a"))


def test_text_under_a_name_that_says_compressed_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl.gz").write_text(LINES)
    with pytest.raises(DataError, match="broken or cut off"):
        list(read_rows(tmp_path / "a.jsonl.gz", "a"))


def test_zst_without_its_library_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.jsonl.zst").write_bytes(b"\x28\xb5\x2f\xfd")
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(ConfigError, match=r"pip install thinktune\[datasets\]"):
        list(read_rows(tmp_path / "a.jsonl.zst", "a"))


def test_the_byte_that_is_not_utf8_is_found_far_into_a_compressed_file(tmp_path: Path) -> None:
    lines = LINES.encode() * 20_000
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(lines + b'{"question": "\xff"}\n'))
    with pytest.raises(DataError, match=rf"not UTF-8 at byte {len(lines) + 14} \(line 60001\)"):
        list(read_rows(path, "a"))


def test_a_folder_may_hold_compressed_splits(tmp_path: Path) -> None:
    for name in ("train.jsonl.gz", "test.jsonl.gz"):
        (tmp_path / name).write_bytes(encoded("a.gz"))
    assert len(read_examples(str(tmp_path), split="train")) == 3


def test_a_stream_goes_on_after_a_row_that_cannot_be_used(tmp_path: Path) -> None:
    bad = '{"question": "q", "reasoning": " ", "answer": "<think>x"}\n'
    (tmp_path / "a.jsonl").write_text(LINES + bad + LINES, encoding="utf-8")
    rows = list(stream_examples(str(tmp_path / "a.jsonl")))
    assert [isinstance(row, Unusable) for row in rows] == [False] * 3 + [True] + [False] * 3
    (unusable,) = (row for row in rows if isinstance(row, Unusable))
    assert unusable.where == "a.jsonl row 4"
    assert unusable.reasons == ("unbalanced think tags in the answer",)


def test_a_stream_sees_columns_that_only_later_rows_have(tmp_path: Path) -> None:
    late = '{"question": "q", "reasoning": "r", "answer": "a", "label": "flu"}\n'
    (tmp_path / "a.jsonl").write_text(LINES * 500 + late, encoding="utf-8")
    *_, last = stream_examples(str(tmp_path / "a.jsonl"))
    assert not isinstance(last, Unusable)
    assert last.reference == "flu"


def test_what_a_command_left_out_is_not_read_with_the_folder(tmp_path: Path) -> None:
    for name in ("rows.jsonl", "rows.rejected.jsonl", "rows.requests.jsonl"):
        (tmp_path / name).write_text(LINES, encoding="utf-8")
    assert len(read_examples(str(tmp_path))) == 3
