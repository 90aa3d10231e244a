"""Data that cannot be read or used."""

import gzip
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from tests.bad_inputs.preparing import Cases, bad_rows, inspect, rows, settings, train_on, words
from tests.small_runs import ROWS

MARK = '{"question": "a", "reasoning": "b", "answer": "c"}\n'
CSV = "question,reasoning,answer\n"
LONG = MARK.replace("b", "b" * 2**22)


def parquet(table: pa.Table) -> bytes:
    """A Parquet file."""
    file = io.BytesIO()
    pq.write_table(table, file)
    return file.getvalue()


def messages(*turns: tuple[str, object]) -> str:
    """A row of messages."""
    listed = [{"role": role, "content": content} for role, content in turns]
    return json.dumps({"messages": listed}) + "\n"


NOT_UTF8 = pa.Array.from_buffers(
    pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\2\0\0\0"), pa.py_buffer(b"\xff\xfe")]
)

CASES: Cases = {
    "missing data file": (settings("data.train=row.jsonl"), ["row.jsonl", "did you mean rows"]),
    "empty data file": (rows(b""), ["rows.jsonl"]),
    "data that is not UTF-8": (rows(b'{"question": "\xff"}\n'), ["rows.jsonl", "UTF-8"]),
    "broken JSON": (rows((MARK * 2 + "{oops\n").encode()), ["rows.jsonl", "line 3"]),
    "a row that is no object": (rows((MARK + "[1]\n").encode()), ["rows.jsonl", "2"]),
    "missing columns": (
        rows([{"question": "a", "words": "b"}]),
        ["reasoning and answer", "found: question, words", "complex_cot", "data.columns.answer"],
    ),
    "empty question": (rows(bad_rows(question=" ")), ["empty question in 2 rows: 2, 4"]),
    "empty reasoning": (rows(bad_rows(reasoning="")), ["empty reasoning in 2 rows: 2, 4"]),
    "empty answer": (rows(bad_rows(answer=None)), ["empty answer in 2 rows: 2, 4"]),
    "an answer that is a list": (rows(bad_rows(answer=["a"])), ["answer is a list", "2, 4"]),
    "half a character": (
        rows(MARK.replace("c", "\\ud800").encode()), ["lone surrogate", "answer", "1 row: 1"],
    ),
    "think tags that do not close": (
        rows(bad_rows(answer="<think>a")), ["unbalanced think tags in the answer", "2, 4"],
    ),
    "think tags twice": (
        rows(bad_rows(answer="<think>a</think><think>b</think>c")), ["repeated think tags", "2, 4"],
    ),
    "two reasonings": (
        rows(bad_rows(answer="<think>other</think>c")), ["another in the answer", "2, 4"],
    ),
    "held-out rows that are the training rows": (
        rows([{k: v for k, v in row.items() if k != "split"} for row in ROWS]),
        ["data.heldout=FILE", "data.heldout_split=null"],
    ),
    "a question in both splits": (
        rows([*ROWS, ROWS[0] | {"split": "test"}]), ["also", "1 row"],
    ),
    "a question that fills the context": (
        rows([*ROWS, ROWS[-1] | {"question": "long " * 700}]), ["rows.jsonl row 13", "512 tokens"],
    ),
    "a split that is not there": (settings("data.train_split=dev"), ["no row of split dev"]),
    "a column that is not there": (
        settings("data.columns.answer=reply"), ["data.columns.answer=reply", "no such column"],
    ),
    "a pattern of a column that is not there": (
        settings('data.patterns.reply="{answer}"'), ["data.patterns.reply", "no such column"],
    ),
    "a pattern that no row is like": (
        settings('data.patterns.answer="{reasoning}####{answer}"'), ["not as the pattern"],
    ),
    "inspect nothing": (words("data", "inspect", "row.jsonl"), ["did you mean rows.jsonl?"]),
    "a format there is not": (inspect("a.xlsx", "x"), ["a.xlsx", "'.xlsx'", ".jsonl", ".csv"]),
    "JSON nested for ever": (inspect("a.json", "[" * 100_000), ["a.json", "broken JSON"]),
    "JSON Lines nested for ever": (inspect("a.jsonl", "[" * 100_000), ["a.jsonl line 1"]),
    "a row nested too deep": (
        inspect("a.jsonl", '{"question": ' + "[" * 70 + "]" * 70 + "}\n"),
        ["a.jsonl row 1", "nested more than 64 deep"],
    ),
    "a number of many digits": (inspect("a.jsonl", '{"a": ' + "1" * 5000 + "}\n"), ["line 1"]),
    "a key twice": (inspect("a.jsonl", '{"a": 1, "a": 2}\n'), ["a.jsonl line 1", "'a' is there"]),
    "a row of too many keys": (
        inspect("a.jsonl", json.dumps({str(n): n for n in range(1001)}) + "\n"),
        ["a.jsonl row 1", "1,001 columns", "under one key"],
    ),
    "values used as keys": (
        inspect("a.jsonl", "".join(MARK.replace("{", f'{{"{n}": 1, ') for n in range(1001))),
        ["more than 1,000 different columns"],
    ),
    "a line without end": (inspect("a.jsonl", "x" * (2**24 + 1)), ["line 1", "longer than"]),
    "blank lines": (inspect("a.jsonl", MARK + "\n" + MARK), ["1 row: 2", "blank lines"]),
    "JSON that is one value": (inspect("a.json", "3"), ["a.json", "a single value"]),
    "JSON of two lists": (inspect("a.json", '{"a": [], "b": []}'), ["an object with 2 lists"]),
    "an empty list": (inspect("a.json", "[]"), ["a.json holds no rows"]),
    "a table without rows": (inspect("a.csv", CSV), ["a.csv holds no rows"]),
    "a table with a column twice": (inspect("a.csv", "q,q\n1,2\n"), ["'q'", "rename one"]),
    "a row with a cell too many": (
        inspect("a.csv", CSV + "a,b,c\na,b,c,d\n"), ["3 fields in 1 row: 2", "quote cells"],
    ),
    "a quote that is left open": (inspect("a.csv", CSV + '"a,b,c\n'), ["a.csv", "quoting"]),
    "a quoted cell without end": (
        inspect("a.csv", CSV + '"' + ("x" * 2**20 + "\n") * 17),
        ["longer than 16,777,216", "quote left open"],
    ),
    "messages that are no list": (train_on("a.csv", "messages\nhello\n"), ["list", "messages"]),
    "messages nested for ever": (
        train_on("a.csv", 'messages\n"' + "[" * 100_000 + '"\n'), ["neither a list", "1 row: 1"],
    ),
    "a speaker nobody knows": (
        train_on("a.jsonl", messages(("wizard", "a"), ("user", "b"))), ["'wizard'", "assistant"],
    ),
    "a speaker who is a list": (
        train_on("a.jsonl", '{"messages": [{"role": ["user"], "content": "a"}]}\n'), ["known:"],
    ),
    "messages without an answer": (
        train_on("a.jsonl", messages(("user", "a"))), ["no answer of the assistant"],
    ),
    "UTF-16 cut in half": (
        inspect("a.jsonl", MARK.encode("utf-16")[:-1]), ["a.jsonl", "UTF-16"],
    ),
    "text called .gz": (inspect("a.jsonl.gz", MARK), ["a.jsonl.gz", "broken or cut off"]),
    "gzip cut off": (inspect("a.jsonl.gz", gzip.compress(MARK.encode())[:-9]), ["fetch it again"]),
    "Zstandard cut off": (
        inspect("a.jsonl.zst", zstandard.compress(MARK.encode())[:-3]), ["fetch it again"],
    ),
    "a gzip bomb": (
        inspect("a.jsonl.gz", gzip.compress(b" " * 2**26 + MARK.encode())),
        ["a.jsonl.gz line 1", "longer than"],
    ),
    "a Zstandard bomb": (
        train_on("a.jsonl.zst", zstandard.compress(LONG.encode() * 65)),
        ["unpack to more than", "unpack it yourself"],
    ),
    "Parquet that is none": (inspect("a.parquet", "PAR1 and more PAR1"), ["broken Parquet"]),
    "Parquet of bytes that are no text": (
        inspect("a.parquet", parquet(pa.table({"question": NOT_UTF8}))),
        ["a.parquet: broken Parquet", "utf-8"],
    ),
    "Parquet with a date out of time": (
        inspect("a.parquet", parquet(pa.table({"a": pa.array([2**30], pa.date32())}))),
        ["a.parquet: broken Parquet", "days"],
    ),
    "Parquet with a column twice": (
        inspect("a.parquet", parquet(pa.Table.from_arrays([pa.array(["a"])] * 2, ["q", "q"]))),
        ["two columns are called 'q'"],
    ),
    "a Parquet bomb of empty rows": (
        inspect("a.parquet", parquet(pa.table({"q": pa.nulls(10**6)}))), ["1,000,000 rows in"],
    ),
    "Parquet in gzip": (inspect("a.parquet.gz", gzip.compress(b"x")), ["unpack the .gz first"]),
    "a name that is too long": (settings(f"data.train={'a' * 300}"), ["too long", "300"]),
    "the home of nobody": (settings("data.train=~nobody-here/a"), ["no such user"]),
}  # fmt: skip
