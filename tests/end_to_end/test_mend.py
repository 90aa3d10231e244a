"""Data mended from the command line: what a user types, sees, and finds on the disk."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
import typer

from tests.mended_files import put, questions, read, row
from thinktune import cli
from thinktune.cli_mend import VERBS

GSM8K = [
    {
        "question": f"Tom has {n} apples and buys {n * n} more. How many apples has he?",
        "answer": f"He has {n}+{n * n}=<<{n}+{n * n}={n + n * n}>>{n + n * n}.\n#### {n + n * n}",
    }
    for n in range(2, 42)
]

Data = Callable[..., tuple[int, str, str]]


@pytest.fixture
def data(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Data:
    """The verbs in a folder of their own: words to exit code, output and errors."""
    app = typer.Typer()
    for name, command in VERBS.items():
        app.command(name)(command)
    monkeypatch.chdir(tmp_path)

    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["thinktune", *map(str, words)])
        with pytest.raises(SystemExit) as caught:
            cli.main(app)
        said = capsys.readouterr()
        code = caught.value.code
        return (0 if code is None else int(code)), " ".join(said.out.split()), said.err

    return run


def test_a_file_goes_through_every_verb_and_its_last_card_tells_all(
    data: Data, tmp_path: Path
) -> None:
    put(tmp_path / "gsm8k.jsonl", GSM8K)
    put(tmp_path / "clinic.jsonl", [row(f"Case {n}?", reference="flu") for n in range(20)])
    pattern = "answer={reasoning}####{answer+reference}"
    against = ("--against", "parted/test.jsonl")
    lines = [
        ("convert", "gsm8k.jsonl", "--pattern", pattern, "--out", "a.jsonl"),
        ("clean", "a.jsonl", "--fix", "calculator,whitespace", "--out", "b.jsonl"),
        ("dedup", "b.jsonl", "--near", "0.8", "--out", "c.jsonl"),
        ("mix", "c.jsonl=0.6", "clinic.jsonl=0.4", "--count", 40, "--out", "d.jsonl"),
        ("sample", "d.jsonl", "--count", 30, "--seed", 4, "--out", "e.jsonl"),
        ("split", "e.jsonl", "--heldout", "0.2", "--out", "parted", "--near", 0),
        ("decontaminate", "gsm8k.jsonl", "--pattern", pattern, *against, "--out", "f.jsonl"),
    ]
    for words in lines:
        code, out, err = data(*words)
        assert (code, err) == (0, ""), words
        assert " in = " in out, words
    card = (tmp_path / "parted" / "README.md").read_text()
    names = ["convert", "clean", "dedup", "mix", "sample", "split"]
    assert [f"{n}. **{name}**" in card for n, name in enumerate(names, 1)] == [True] * 6
    assert len(read(tmp_path / "parted" / "test.jsonl")) == 6
    one = next(r for r in read(tmp_path / "parted" / "train.jsonl") if "Tom" in r["question"])
    assert [step["step"] for step in one["metadata"]["provenance"]] == names
    assert "<<" not in one["reasoning"]
    held = {q for q in questions(tmp_path / "parted" / "test.jsonl") if "Tom" in q}
    assert held
    assert not held & set(questions(tmp_path / "f.jsonl"))
    assert held <= set(questions(tmp_path / "f.rejected.jsonl"))


def test_the_command_in_a_card_makes_the_same_file_again(data: Data, tmp_path: Path) -> None:
    put(tmp_path / "a b.jsonl", [row(f"Q{n}?", reference=n % 3) for n in range(30)])
    assert data("sample", "a b.jsonl", "--fraction", 0.3, "--by", "reference", "--out", "c.jsonl")
    made = (tmp_path / "c.jsonl").read_bytes()
    (command,) = re.findall(r"again: `thinktune data (.*)`", (tmp_path / "c.md").read_text())
    (tmp_path / "c.jsonl").unlink()
    assert data(*shlex.split(command), "--force")[0] == 0
    assert (tmp_path / "c.jsonl").read_bytes() == made


def test_clean_without_a_fix_lists_them_and_writes_nothing(data: Data, tmp_path: Path) -> None:
    put(tmp_path / "a.jsonl", [row("<b>Q1</b> "), row("Q2 ")])
    code, out, _ = data("clean", "a.jsonl")
    assert code == 0
    assert "html 1 1 Take out HTML" in out
    assert "whitespace 2 2 Strip" in out
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("convert a.jsonl --out a.jsonl --force", "would change the source a.jsonl"),
        ("convert a.jsonl --out b.jsonl --column frage=x", "unknown field frage"),
        ("convert a.jsonl --out b.jsonl --column question", "--column question: write FIELD="),
        ("convert a.jsonl --out b.jsonl --pattern answer={oops}", "unknown field 'oops'"),
        ("convert none.jsonl --out b.jsonl", "none.jsonl"),
        ("convert bad.jsonl --out b.jsonl", "bad.jsonl: empty answer in 1 row: 2"),
        ("clean a.jsonl --fix html", "name it with --out FILE.jsonl"),
        ("clean a.jsonl --fix htlm --out b.jsonl", "no fix is called 'htlm'"),
        ("dedup a.jsonl --near 0.3 --out b.jsonl", "threshold 0.3"),
        ("split a.jsonl --heldout 0.2 --rule reference=x --out o", "hold out by --rule"),
        ("sample a.jsonl --count 9 --out b.jsonl", "--count 9, but there are 2 usable rows"),
        ("mix a.jsonl --out b.jsonl", "a.jsonl: give it a weight, as a.jsonl=0.5"),
        ("decontaminate a.jsonl --against a.jsonl --out b.jsonl", "b.jsonl would be empty"),
    ],
)
def test_what_cannot_be_done_is_one_clear_line(data, tmp_path: Path, words: str, told: str) -> None:
    put(tmp_path / "a.jsonl", [row("Q1?"), row("Q2?")])
    put(tmp_path / "bad.jsonl", [row("Q1?"), row("Q2?", answer="")])
    before = sorted(path.name for path in tmp_path.iterdir())
    code, out, err = data(*words.split())
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert told in " ".join(err.split())
    assert err.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == before
