"""A file or folder is there whole or not at all."""

from pathlib import Path

import pytest

from thinktune.atomic import folder_aside, write_text


class PowerFailure(BaseException):
    """Stops a block as nothing else does."""


def content(folder: Path) -> dict[str, str]:
    return {
        str(p.relative_to(folder)): p.read_text() for p in sorted(folder.rglob("*")) if p.is_file()
    }


def test_a_text_is_written_into_folders_that_do_not_exist_yet(tmp_path: Path) -> None:
    write_text(tmp_path / "a" / "b" / "file", "發燒\n")
    assert content(tmp_path) == {"a/b/file": "發燒\n"}


def test_a_text_that_cannot_be_encoded_leaves_the_old_one_and_nothing_beside_it(
    tmp_path: Path,
) -> None:
    write_text(tmp_path / "file", "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(tmp_path / "file", "new, and half of a pair: \ud800")
    assert content(tmp_path) == {"file": "old"}


def test_a_reader_who_holds_the_old_file_goes_on_reading_it(tmp_path: Path) -> None:
    write_text(tmp_path / "file", "old")
    with (tmp_path / "file").open() as reader:
        write_text(tmp_path / "file", "new and longer")
        assert reader.read() == "old"
    assert content(tmp_path) == {"file": "new and longer"}


def test_a_folder_takes_its_place_only_when_the_block_ends(tmp_path: Path) -> None:
    with folder_aside(tmp_path / "folder") as aside:
        (aside / "sub").mkdir()
        (aside / "sub" / "file").write_text("new")
        assert not (tmp_path / "folder").exists()
    assert content(tmp_path) == {"folder/sub/file": "new"}


def test_a_folder_replaces_all_of_the_old_one(tmp_path: Path) -> None:
    for name in ("old", "new"):
        with folder_aside(tmp_path / "folder") as aside:
            (aside / name).write_text(name)
    assert content(tmp_path) == {"folder/new": "new"}


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt, PowerFailure])
def test_a_crash_inside_the_block_leaves_the_old_folder_and_nothing_beside_it(
    tmp_path: Path, failure: type[BaseException]
) -> None:
    with folder_aside(tmp_path / "folder") as aside:
        (aside / "file").write_text("old")

    def crash() -> None:
        with folder_aside(tmp_path / "folder") as aside:
            (aside / "file").write_text("half")
            raise failure

    with pytest.raises(failure):
        crash()
    assert content(tmp_path) == {"folder/file": "old"}
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


def test_what_a_killed_process_left_half_written_is_not_mixed_in(tmp_path: Path) -> None:
    with folder_aside(tmp_path / "folder") as aside:
        half = aside
    half.mkdir()
    (half / "half").write_text("half")
    with folder_aside(tmp_path / "folder") as aside:
        (aside / "file").write_text("whole")
    assert content(tmp_path) == {"folder/file": "whole"}
