import re
from pathlib import Path

import pytest

from tests.mended_files import put, read, row
from thinktune.data.cards import Mended, RowList
from thinktune.data.conversion import clean, convert
from thinktune.data.intake import Source
from thinktune.data.provenance import Step
from thinktune.data.sampling import sample
from thinktune.data.splitting import split
from thinktune.errors import ConfigError, DataError


def refusal(source: Path, out: Path, *, force: bool = False) -> str:
    with pytest.raises(ConfigError) as caught:
        convert(source, out, force=force)
    return str(caught.value)


def test_an_account_whose_numbers_do_not_add_up_is_no_account() -> None:
    with pytest.raises(AssertionError, match="rows were lost or made: 3 in = 2 out"):
        Mended(Step("dedup"), {"a": 3}, {Path("b"): 2})
    Mended(Step("dedup"), {"a": 3}, {Path("b"): 2}, {"twice": RowList(1, ("a row 2",))})


def test_the_source_is_never_the_output_even_by_force(tmp_path: Path) -> None:
    source = put(tmp_path / "a.jsonl", [row("Q")])
    link = tmp_path / "link.jsonl"
    link.symlink_to(source)
    assert "would change the source" in refusal(source, source, force=True)
    assert "would change the source" in refusal(source, link, force=True)
    assert "would change the source" in refusal(tmp_path, tmp_path / "deep" / "b.jsonl")
    rejected = put(tmp_path / "b.rejected.jsonl", [row("Q")])
    assert "would change the source" in refusal(rejected, tmp_path / "b.jsonl", force=True)


def test_what_is_there_is_replaced_only_by_force(tmp_path: Path) -> None:
    source = put(tmp_path / "a.jsonl", [row("Q")])
    out = put(tmp_path / "b.jsonl", [row("old")])
    assert refusal(source, out) == f"{out} is there already; name another --out, or add --force"
    out.unlink()
    (tmp_path / "b.md").write_text("my notes")
    assert "b.md is there already" in refusal(source, out)
    convert(source, out, force=True)
    assert read(out)[0]["question"] == "Q"


def test_leftovers_of_an_earlier_run_do_not_stay_beside_a_new_one(tmp_path: Path) -> None:
    bad = put(tmp_path / "bad.jsonl", [row("Q"), row("")])
    good = put(tmp_path / "good.jsonl", [row("Q")])
    out, rejected = tmp_path / "b.jsonl", tmp_path / "b.rejected.jsonl"
    convert(Source(str(bad), skip_unusable=True), out)
    assert rejected.exists()
    convert(good, out, force=True)
    assert not rejected.exists()


@pytest.mark.parametrize("name", ["out.csv", "out", "out.jsonl.gz"])
def test_an_output_that_is_not_called_json_lines_is_refused(tmp_path: Path, name: str) -> None:
    source = put(tmp_path / "a.jsonl", [row("Q")])
    assert "let the name end in .jsonl" in refusal(source, tmp_path / name)


def test_an_error_half_way_leaves_everything_as_it_was(tmp_path: Path) -> None:
    source = put(tmp_path / "a.jsonl", [row("Q1"), row("Q2")])
    out = put(tmp_path / "b.jsonl", [row("old")])
    with source.open("a") as file:
        file.write("{broken\n")
    with pytest.raises(DataError, match=r"a\.jsonl line 3"):
        convert(source, out, force=True)
    assert read(out)[0]["question"] == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jsonl", "b.jsonl"]


def test_an_output_without_rows_is_refused(tmp_path: Path) -> None:
    source = put(tmp_path / "a.jsonl", [row("<b></b>"), row("<i></i>")])
    with pytest.raises(DataError, match=r"b\.jsonl would be empty: 2 rows in, and all dropped"):
        clean(source, tmp_path / "b.jsonl", fix=["html"])
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]


def test_the_card_tells_every_step_with_counts_and_the_command_that_repeats_it(
    tmp_path: Path,
) -> None:
    source = put(tmp_path / "a.jsonl", [row(f" Q{n}") for n in range(10)])
    clean(source, tmp_path / "b.jsonl", fix=["whitespace"])
    sample(tmp_path / "b.jsonl", tmp_path / "c.jsonl", count=6, seed=5)
    split(tmp_path / "c.jsonl", tmp_path / "parted", heldout_count=2)
    clean(tmp_path / "parted" / "train.jsonl", tmp_path / "d.jsonl", fix=["unicode"])
    card = (tmp_path / "d.md").read_text(encoding="utf-8")
    heads = re.findall(r"^\d\. \*\*(\w+)\*\* .*: (.*)$", card, re.MULTILINE)
    assert heads == [
        ("clean", "10 in = 10 out + 0 dropped"),
        ("sample", "10 in = 6 out + 4 dropped (4 not drawn)"),
        ("split", "6 in = 6 out + 0 dropped"),
        ("clean", "4 in = 4 out + 0 dropped"),
    ]
    assert "changed by whitespace: 10 rows, 10 fields" in card
    b, c = tmp_path / "b.jsonl", tmp_path / "c.jsonl"
    assert f"`thinktune data sample {b} --out {c} --count 6 --seed 5`" in card
    steps = read(tmp_path / "d.jsonl")[0]["metadata"]["provenance"]
    assert [step["step"] for step in steps] == ["clean", "sample", "split", "clean"]
    assert steps[-1]["source"] == "train.jsonl row 1"


def test_somebodys_own_readme_is_not_taken_for_a_card(tmp_path: Path) -> None:
    source = put(tmp_path / "a.jsonl", [row("Q")])
    (tmp_path / "a.md").write_text("# Mine\n\n## Steps\n\n1. **bake** a cake\n")
    convert(source, tmp_path / "b.jsonl")
    assert "bake" not in (tmp_path / "b.md").read_text()


def test_the_same_step_gives_the_same_bytes(tmp_path: Path) -> None:
    source = put(tmp_path / "a.jsonl", [row(f"Q{n}") for n in range(50)])
    for name in ("b", "c"):
        sample(source, tmp_path / f"{name}.jsonl", count=20, seed=3)
    assert (tmp_path / "b.jsonl").read_bytes() == (tmp_path / "c.jsonl").read_bytes()
    sample(source, tmp_path / "d.jsonl", count=20, seed=4)
    assert (tmp_path / "b.jsonl").read_bytes() != (tmp_path / "d.jsonl").read_bytes()


def test_provenance_from_elsewhere_stays_as_the_first_step(tmp_path: Path) -> None:
    source = put(tmp_path / "a.jsonl", [row("Q", provenance="a textbook")])
    convert(source, tmp_path / "b.jsonl")
    steps = read(tmp_path / "b.jsonl")[0]["metadata"]["provenance"]
    assert steps[0] == {"step": "origin", "said": "a textbook"}
    assert steps[1]["step"] == "convert"
