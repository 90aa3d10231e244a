"""Where a source is: a file, a folder, a data set shipped with the project or one of the Hub."""

import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib.resources import files
from itertools import chain
from pathlib import Path

from thinktune.data.formats import READERS, Row, as_rows, read_rows
from thinktune.data.naming import name_numbers
from thinktune.data.opening import format_of
from thinktune.errors import ConfigError, DataError
from thinktune.paths import user_path

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(:[\w.-]+)?")
"""``owner/name``, or ``owner/name:subset`` for a data set with several subsets."""

SHARD = re.compile(r"(.+)-(\d+)-of-(\d+)")
"""One part of a split that the Hub's tools wrote as several files."""

LEFT_OUT = (".rejected.jsonl", ".requests.jsonl")
"""Ends of files that our own commands lay beside their output: what they left out, and replies."""

NOT_ROWS = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")
"""Files that the Hub's tools put beside the data."""


def find_rows(
    source: str, split: str | None, revision: str | None = None
) -> tuple[Iterator[Row], bool]:
    """Find the rows of a source, read as they are asked for.

    What exists on disk goes before a shipped data set, and that before the Hub. In a folder or on
    the Hub, ``split`` picks the files; in a single file it picks the rows by their column (or
    metadata) ``split``, and where its first row has none the whole file is meant.

    Returns:
        The rows, and whether ``split`` had a say in which.

    Raises:
        DataError: nothing can be read there; while reading, a file is broken.
        ConfigError: an optional library is missing, or a setting has no effect on this source.
    """
    if not source.strip():
        raise ConfigError(
            "no data: name a file, a folder or a data set, for example data.train=FILE"
        )
    path = user_path(source)
    shipped = _shipped()
    is_hub = not path.exists() and source not in shipped and _is_hub_id(source)
    if revision is not None and not is_hub:
        raise ConfigError(f"data.revision={revision} is of a Hub data set, and {source} is none")
    if path.is_dir():
        return _read_folder(path, split, source)
    if path.exists():
        return _pick_split(read_rows(path, path.name), split, source)
    if source in shipped:
        return _read_folder(_shipped_folder() / source, split, source)
    if is_hub:
        return as_rows(_load_from_hub(source, split, revision), f"{source} {split or 'all'}"), True
    raise DataError(_not_found(path, source, shipped))


def _is_hub_id(source: str) -> bool:
    named_like_file = format_of(Path(source)) in READERS or source.startswith(("./", "../"))
    return HUB_ID.fullmatch(source) is not None and not named_like_file


def _shipped_folder() -> Path:
    return Path(str(files("thinktune").joinpath("assets", "data")))


def _shipped() -> list[str]:
    root = _shipped_folder()
    return sorted(item.name for item in root.iterdir() if item.is_dir()) if root.is_dir() else []


def _not_found(path: Path, source: str, shipped: Sequence[str]) -> str:
    folder = next(parent for parent in path.absolute().parents if parent.is_dir())
    names = sorted(
        item.name
        for item in folder.iterdir()
        if not item.name.startswith(".") and (item.is_dir() or format_of(item) in READERS)
    )
    close = difflib.get_close_matches(path.name, names, n=3, cutoff=0.5)
    if path.absolute().parent != folder:
        return f"no file {source}: there is no folder {path.parent}"
    nearby = f"did you mean {', '.join(close)}?" if close else f"it has {_some(names)}"
    hint = "" if path.parent != Path() else f"; shipped data sets: {_some(shipped)}"
    return f"no file, folder or data set {source}; in {folder}: {nearby}{hint}"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "") if names else "none"


def _read_folder(folder: Path, split: str | None, source: str) -> tuple[Iterator[Row], bool]:
    paths = sorted(
        path
        for path in folder.rglob("*")
        if format_of(path) in READERS
        and path.is_file()
        and path.name not in NOT_ROWS
        and not path.name.endswith(LEFT_OUT)
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
    if not paths:
        raise DataError(f"folder {source} has no data file; known formats: {', '.join(READERS)}")
    if split is not None:
        named = _files_of_split(folder, paths, split)
        if named:
            _check_whole(folder, named, split)
            return _read_all(folder, named), True
        splits = sorted({_split_name(path.relative_to(folder)) for path in paths})
        if len(paths) > 1 or splits[0] in ("train", "test", "validation", "valid", "val", "dev"):
            raise DataError(f"no split {split} in folder {source}; there are: {', '.join(splits)}")
    return _pick_split(_read_all(folder, paths), split, source)


def _read_all(folder: Path, paths: Sequence[Path]) -> Iterator[Row]:
    for path in paths:
        yield from read_rows(path, path.relative_to(folder).as_posix())


def _split_name(relative: Path) -> str:
    """``train`` for train.jsonl.gz, data/train-00000-of-00002.parquet and train/0000.parquet."""
    parent, stem = relative.parent.name, _stem(relative)
    shard = SHARD.fullmatch(stem)
    if shard:
        return shard[1]
    return parent if parent and stem.isdigit() else stem


def _stem(path: Path) -> str:
    return path.name[: len(path.name) - len("".join(_suffixes(path)))]


def _suffixes(path: Path) -> list[str]:
    return path.suffixes[-2:] if format_of(path) != path.suffix.lower() else path.suffixes[-1:]


def _files_of_split(folder: Path, paths: Sequence[Path], split: str) -> list[Path]:
    """The split's files: those named exactly so, else in its folder, else with it as a word."""
    word = re.compile(rf"(^|[^A-Za-z0-9]){re.escape(split)}($|[^A-Za-z0-9])")
    tests: tuple[Callable[[Path], bool], ...] = (
        lambda relative: _split_name(relative) == split,
        lambda relative: split in relative.parts[:-1],
        lambda relative: word.search(_stem(relative)) is not None,
    )
    for test in tests:
        named = [path for path in paths if test(path.relative_to(folder))]
        if named:
            return named
    return []


def _check_whole(folder: Path, paths: Sequence[Path], split: str) -> None:
    """Refuse files that are rivals for a split, and a split whose parts are not all there."""
    if len({path.parent for path in paths}) > 1 or len({format_of(path) for path in paths}) > 1:
        rivals = ", ".join(str(path.relative_to(folder)) for path in paths)
        raise DataError(f"several files could be split {split}: {rivals}; name one of them instead")
    shards = [SHARD.fullmatch(_stem(path)) for path in paths]
    totals = {int(shard[3]) for shard in shards if shard}
    if totals and totals != {len(paths)}:
        raise DataError(
            f"split {split} has {len(paths)} of {max(totals)} parts ({paths[0].name}); "
            "fetch the others"
        )


def _pick_split(rows: Iterator[Row], split: str | None, source: str) -> tuple[Iterator[Row], bool]:
    """Keep the rows of a split by their own column or metadata; all, if the first names none."""
    first = next(rows)
    rows = chain([first], rows)
    if split is None:
        return rows, False
    named = bool(_own_split(first))
    return _rows_of_split(rows, split if named else None, source), named


def _rows_of_split(rows: Iterable[Row], split: str | None, source: str) -> Iterator[Row]:
    others: set[str] = set()
    unlike: list[int] = []
    kept = False
    for row in rows:
        name = _own_split(row)
        if bool(name) != (split is not None):
            unlike.append(row.number)
        elif name == (split or ""):
            kept = True
            yield row
        else:
            others.add(name)
    if unlike and split is None:
        raise DataError(
            f"{source}: a value in column split in {name_numbers(unlike)}, and none in row 1"
        )
    if unlike:
        raise DataError(f"{source}: no value in column split in {name_numbers(unlike)}")
    if not kept:
        raise DataError(
            f"{source}: no row of split {split}; there are: {', '.join(sorted(others))}"
        )


def _own_split(row: Row) -> str:
    cells = {name.strip().casefold(): value for name, value in row.cells.items()}
    metadata = cells.get("metadata")
    if "split" not in cells and isinstance(metadata, Mapping):
        cells = dict(metadata)
    return str(cells.get("split") or "")


def _load_from_hub(source: str, split: str | None, revision: str | None) -> Iterator[object]:
    try:
        import datasets  # noqa: PLC0415 - an optional extra, and slow to import
        import datasets.exceptions  # noqa: PLC0415 - an optional extra
    except ImportError as error:
        raise ConfigError(
            f"{source}: a Hub data set needs datasets: pip install thinktune[datasets]"
        ) from error
    name, _, subset = source.partition(":")
    try:
        loaded = datasets.load_dataset(name, subset or None, split=split, revision=revision)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        reason = " ".join(str(error).split())[:300]
        raise DataError(f"no file or folder {source}, and as a Hub data set: {reason}") from error
    parts = loaded.values() if isinstance(loaded, datasets.DatasetDict) else [loaded]
    return chain.from_iterable(parts)
