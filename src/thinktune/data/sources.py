"""Where examples come from: a file, a folder, a Hub data set or the project's own data."""

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from importlib.resources import as_file, files
from pathlib import Path
from types import MappingProxyType

from pydantic import Field, PositiveInt, field_validator

from thinktune.data.columns import MAPPABLE, TRAINING, to_examples, to_row
from thinktune.data.example import Example
from thinktune.data.formats import READERS, Row, as_rows, name_numbers, read_rows, write_rows
from thinktune.errors import ConfigError, DataError
from thinktune.settings import Settings

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(:[\w.-]+)?")
"""``owner/name``, or ``owner/name:subset`` for a data set with several subsets."""

SHARD = re.compile(r"(.+)-(\d+)-of-(\d+)")
"""One part of a split that the Hub's tools wrote as several files."""

NOT_ROWS = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")
"""Files that the Hub's tools put beside the data."""


class DataConfig(Settings):
    """Where the records come from, and which of their columns are which field."""

    train: str
    """Training records: a file, a folder, a Hub data set (owner/name or owner/name:subset), or the
    name of a data set shipped with Thinktune."""
    train_split: str = "train"
    """Which split of it to train on."""
    heldout: str | None = None
    """Held-out questions, named in the same ways; none: another split of the training source."""
    heldout_split: str | None = "test"
    """Which split the held-out questions are; null goes without, and then nothing is compared."""
    revision: str | None = None
    """Branch, tag or commit of the Hub data set that train names."""
    columns: dict[str, str] = Field(default_factory=dict)
    """Our field (question, reasoning, answer, reference, system, id, messages) to the source's
    column, where its name is not one of the usual ones."""
    limit: PositiveInt | None = None
    """Train on the first so many records only."""

    @field_validator("columns")
    @classmethod
    def _known_fields(cls, columns: dict[str, str]) -> dict[str, str]:
        unknown = sorted(set(columns) - set(MAPPABLE))
        if unknown:
            raise ValueError(f"unknown field {unknown[0]}; known: {', '.join(MAPPABLE)}")
        return columns


def read_examples(
    source: str,
    *,
    split: str | None = None,
    columns: Mapping[str, str] = MappingProxyType({}),
    revision: str | None = None,
    limit: int | None = None,
    required: Sequence[str] = TRAINING,
) -> list[Example]:
    """Read the examples of a source, all of them or none.

    What exists on disk goes before a shipped data set, and that before the Hub. In a folder or on
    the Hub, ``split`` picks the files; in a single file it picks the rows by their column (or
    metadata) ``split``, and where they have none the whole file is meant.

    Args:
        source: a file, a folder, a Hub data set id, or the name of a shipped data set.
        split: which part of it; None for all.
        columns: our fields to the source's columns, where the usual names do not fit.
        revision: branch, tag or commit of a Hub data set.
        limit: the first so many rows only.
        required: fields that must not be empty.

    Raises:
        DataError: nothing can be read there, or rows cannot be used; it names them.
        ConfigError: an optional library is missing, or a setting has no effect on this source.
    """
    if limit is not None and limit < 1:
        raise ConfigError(f"data.limit={limit}, but at least one record is needed")
    rows, _ = _find_rows(source, split, revision)
    return to_examples(rows[:limit], columns, required=required)


def read_train(config: DataConfig) -> list[Example]:
    """Read the examples to train on."""
    return read_examples(
        config.train,
        split=config.train_split,
        columns=config.columns,
        revision=config.revision,
        limit=config.limit,
    )


def read_heldout(config: DataConfig) -> list[Example]:
    """Read the held-out questions; they need neither reasoning nor answer.

    Raises:
        ConfigError: a held-out source, but no split of it.
        DataError: as ``read_examples``; or the held-out rows would be the training rows.
    """
    if config.heldout_split is None:
        if config.heldout is not None:
            raise ConfigError(
                f"data.heldout={config.heldout} is not read while data.heldout_split is null; "
                "name a split (in a file without a column split, any name reads the whole file)"
            )
        return []
    source = config.heldout or config.train
    same = source == config.train
    rows, divided = _find_rows(source, config.heldout_split, config.revision if same else None)
    if same and (not divided or config.heldout_split == config.train_split):
        raise DataError(
            f"{source}: the held-out questions would be the training rows; put them in a file of "
            "their own (data.heldout=FILE), give the rows a column split, or go without them "
            "(data.heldout_split=null)"
        )
    return to_examples(rows, config.columns, required=("question",))


def write_examples(path: Path, examples: Sequence[Example]) -> None:
    """Write examples as JSON Lines in our own fields, atomically.

    ``read_examples`` gives them back, but for ``where``, which then names the new file.

    Raises:
        DataError: metadata holds what JSON cannot; an older file stays as it was.
    """
    write_rows(path, (to_row(example) for example in examples))


def _find_rows(source: str, split: str | None, revision: str | None) -> tuple[list[Row], bool]:
    """Rows of a source, and whether ``split`` had a say in which."""
    if not source.strip():
        raise ConfigError(
            "no data: name a file, a folder or a data set, for example data.train=FILE"
        )
    path = Path(source).expanduser()
    shipped = _shipped()
    is_hub = not path.exists() and source not in shipped and _is_hub_id(source)
    if revision is not None and not is_hub:
        raise ConfigError(f"data.revision={revision} is of a Hub data set, and {source} is none")
    if path.is_dir():
        return _read_folder(path, split, source)
    if path.exists():
        return _pick_split(read_rows(path, path.name), split, source)
    if source in shipped:
        with as_file(files("thinktune").joinpath("assets", "data", source)) as folder:
            return _read_folder(folder, split, source)
    if is_hub:
        return as_rows(_load_from_hub(source, split, revision), f"{source} {split or 'all'}"), True
    raise DataError(_not_found(path, source, shipped))


def _is_hub_id(source: str) -> bool:
    named_like_file = Path(source).suffix.lower() in READERS or source.startswith(("./", "../"))
    return HUB_ID.fullmatch(source) is not None and not named_like_file


def _shipped() -> list[str]:
    root = files("thinktune").joinpath("assets", "data")
    if not root.is_dir():
        return []
    return sorted(item.name for item in root.iterdir() if item.is_dir())


def _not_found(path: Path, source: str, shipped: Sequence[str]) -> str:
    folder = next(parent for parent in path.absolute().parents if parent.is_dir())
    names = sorted(
        item.name
        for item in folder.iterdir()
        if not item.name.startswith(".") and (item.is_dir() or item.suffix.lower() in READERS)
    )
    close = difflib.get_close_matches(path.name, names, n=3, cutoff=0.5)
    if path.absolute().parent != folder:
        return f"no file {source}: there is no folder {path.parent}"
    nearby = f"did you mean {', '.join(close)}?" if close else f"it has {_some(names)}"
    hint = "" if path.parent != Path() else f"; shipped data sets: {_some(shipped)}"
    return f"no file, folder or data set {source}; in {folder}: {nearby}{hint}"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "") if names else "none"


def _read_folder(folder: Path, split: str | None, source: str) -> tuple[list[Row], bool]:
    paths = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in READERS
        and path.is_file()
        and path.name not in NOT_ROWS
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


def _read_all(folder: Path, paths: Sequence[Path]) -> list[Row]:
    return [row for path in paths for row in read_rows(path, path.relative_to(folder).as_posix())]


def _split_name(relative: Path) -> str:
    """``train`` for train.jsonl, data/train-00000-of-00002.parquet and train/0000.parquet."""
    parent = relative.parent.name
    shard = SHARD.fullmatch(relative.stem)
    if shard:
        return shard[1]
    return parent if parent and relative.stem.isdigit() else relative.stem


def _files_of_split(folder: Path, paths: Sequence[Path], split: str) -> list[Path]:
    """The split's files: those named exactly so, else in its folder, else with it as a word."""
    word = re.compile(rf"(^|[^A-Za-z0-9]){re.escape(split)}($|[^A-Za-z0-9])")
    tests: tuple[Callable[[Path], bool], ...] = (
        lambda relative: _split_name(relative) == split,
        lambda relative: split in relative.parts[:-1],
        lambda relative: word.search(relative.stem) is not None,
    )
    for test in tests:
        named = [path for path in paths if test(path.relative_to(folder))]
        if named:
            return named
    return []


def _check_whole(folder: Path, paths: Sequence[Path], split: str) -> None:
    """Refuse files that are rivals for a split, and a split whose parts are not all there."""
    if len({path.parent for path in paths}) > 1 or len({path.suffix for path in paths}) > 1:
        rivals = ", ".join(str(path.relative_to(folder)) for path in paths)
        raise DataError(f"several files could be split {split}: {rivals}; name one of them instead")
    shards = [SHARD.fullmatch(path.stem) for path in paths]
    totals = {int(shard[3]) for shard in shards if shard}
    if totals and totals != {len(paths)}:
        raise DataError(
            f"split {split} has {len(paths)} of {max(totals)} parts ({paths[0].name}); "
            "fetch the others"
        )


def _pick_split(rows: list[Row], split: str | None, source: str) -> tuple[list[Row], bool]:
    """Keep the rows of a split by their own column or metadata; all, if no row names one."""
    names = [_own_split(row) for row in rows]
    if split is None or not any(names):
        return rows, False
    without = [row.number for row, name in zip(rows, names, strict=True) if not name]
    if without:
        raise DataError(f"{source}: no value in column split in {name_numbers(without)}")
    kept = [row for row, name in zip(rows, names, strict=True) if name == split]
    if not kept:
        known = ", ".join(sorted(set(names)))
        raise DataError(f"{source}: no row of split {split}; there are: {known}")
    return kept, True


def _own_split(row: Row) -> str:
    cells = {name.strip().casefold(): value for name, value in row.cells.items()}
    metadata = cells.get("metadata")
    if "split" not in cells and isinstance(metadata, Mapping):
        cells = dict(metadata)
    return str(cells.get("split") or "")


def _load_from_hub(source: str, split: str | None, revision: str | None) -> list[object]:
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
    return [row for part in parts for row in part]
