"""The verbs under ``thinktune data`` that make new files of old ones."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from thinktune.cli_source import (
    By,
    Column,
    Force,
    Out,
    Patterns,
    QuestionsOnly,
    Revision,
    Seed,
    SkipUnusable,
    SourceName,
    Split,
    name_source,
)
from thinktune.errors import ConfigError
from thinktune.live_view import LiveView

if TYPE_CHECKING:  # it reads data; --help must not
    from thinktune.data.cards import Mended
    from thinktune.tracking import Watcher

console = Console()


def convert_command(
    source: SourceName,
    out: Out,
    to_script: Annotated[
        str | None,
        typer.Option(
            help="traditional, simplified, or taiwan (traditional, with Taiwan's words); "
            "what is replaced is listed in a .diff.txt file."
        ),
    ] = None,
    split: Split = None,
    column: Column = None,
    pattern: Patterns = None,
    revision: Revision = None,
    questions_only: QuestionsOnly = False,
    skip_unusable: SkipUnusable = False,
    force: Force = False,
) -> None:
    """Write any accepted format as JSON Lines in our own fields.

    Example: `thinktune data convert mine.csv --column question=Frage --out mine.jsonl`
    """
    from thinktune.data.conversion import convert  # noqa: PLC0415

    read = name_source(source, split, column, pattern, revision, questions_only, skip_unusable)
    _make(lambda to: convert(read.told(to), out, to_script=to_script, force=force))


def clean_command(
    source: SourceName,
    out: Annotated[Path | None, typer.Option(help="The .jsonl file to write.")] = None,
    fix: Annotated[
        list[str] | None,
        typer.Option(help="Fixes, as `html,whitespace`; without: list them, and write nothing."),
    ] = None,
    split: Split = None,
    column: Column = None,
    pattern: Patterns = None,
    revision: Revision = None,
    questions_only: QuestionsOnly = False,
    skip_unusable: SkipUnusable = False,
    force: Force = False,
) -> None:
    """Make chosen fixes in every text; without --fix, say what each would touch.

    Example: `thinktune data clean mine.jsonl --fix html,whitespace --out clean.jsonl`
    """
    from thinktune.data.conversion import clean, survey_fixes  # noqa: PLC0415
    from thinktune.mend_view import fixes_view  # noqa: PLC0415

    read = name_source(source, split, column, pattern, revision, questions_only, skip_unusable)
    names = [name.strip() for text in fix or [] for name in text.split(",") if name.strip()]
    if names and out is None:
        raise ConfigError("clean --fix writes a new file: name it with --out FILE.jsonl")
    if names and out is not None:
        _make(lambda to: clean(read.told(to), out, fix=names, force=force))
        return
    with LiveView(Console(stderr=True), brief=True) as watcher:
        touched = survey_fixes(read.told(watcher))
    console.print(fixes_view(touched))


def dedup_command(
    source: SourceName,
    out: Out,
    near: Annotated[
        float | None, typer.Option(help="Also questions this nearly the same, 0.7 to 1.")
    ] = None,
    keep: Annotated[str, typer.Option(help="Which row stays: first or longest-reasoning.")] = (
        "first"
    ),
    drop_contradictory: Annotated[
        bool,
        typer.Option("--drop-contradictory", help="Drop questions with differing answers, whole."),
    ] = False,
    split: Split = None,
    column: Column = None,
    pattern: Patterns = None,
    revision: Revision = None,
    questions_only: QuestionsOnly = False,
    skip_unusable: SkipUnusable = False,
    force: Force = False,
) -> None:
    """Keep one of several rows that ask and answer the same.

    Example: `thinktune data dedup mine.jsonl --near 0.8 --out once.jsonl`
    """
    from thinktune.data.curation import dedup  # noqa: PLC0415

    read = name_source(source, split, column, pattern, revision, questions_only, skip_unusable)
    _make(
        lambda to: dedup(
            read.told(to),
            out,
            near=near,
            keep=keep,
            drop_contradictory=drop_contradictory,
            force=force,
        )
    )


def split_command(
    source: SourceName,
    out: Annotated[Path, typer.Option(help="The folder to write train.jsonl and test.jsonl in.")],
    heldout: Annotated[
        float | None, typer.Option(help="Which part to hold out, between 0 and 1.")
    ] = None,
    heldout_count: Annotated[
        int | None, typer.Option(help="How many rows to hold out.", min=1)
    ] = None,
    by: By = None,
    rule: Annotated[
        list[str] | None, typer.Option(help="Hold out by a rule, as `metadata.year>=2024`.")
    ] = None,
    near: Annotated[
        float, typer.Option(help="Questions this nearly the same stay together; 0: only the same.")
    ] = 0.8,
    seed: Seed = 0,
    split: Split = None,
    column: Column = None,
    pattern: Patterns = None,
    revision: Revision = None,
    questions_only: QuestionsOnly = False,
    skip_unusable: SkipUnusable = False,
    force: Force = False,
) -> None:
    """Part rows into training and held-out; near-duplicates stay on one side.

    Example: `thinktune data split mine.jsonl --heldout 0.2 --by reference --out parted`
    """
    from thinktune.data.splitting import split as split_rows  # noqa: PLC0415

    read = name_source(source, split, column, pattern, revision, questions_only, skip_unusable)
    _make(
        lambda to: split_rows(
            read.told(to),
            out,
            heldout=heldout,
            heldout_count=heldout_count,
            by=by or (),
            rule=rule or (),
            near=near or None,
            seed=seed,
            force=force,
        )
    )


def sample_command(
    source: SourceName,
    out: Out,
    count: Annotated[int | None, typer.Option(help="How many rows.", min=1)] = None,
    fraction: Annotated[float | None, typer.Option(help="Which part of the rows.")] = None,
    by: By = None,
    shares: Annotated[
        str, typer.Option(help="Of each stratum: proportional (to its size) or equal.")
    ] = "proportional",
    seed: Seed = 0,
    split: Split = None,
    column: Column = None,
    pattern: Patterns = None,
    revision: Revision = None,
    questions_only: QuestionsOnly = False,
    skip_unusable: SkipUnusable = False,
    force: Force = False,
) -> None:
    """Draw some rows by lot, of each stratum if you like.

    Example: `thinktune data sample mine.jsonl --count 60 --by reference --out few.jsonl`
    """
    from thinktune.data.sampling import sample  # noqa: PLC0415

    read = name_source(source, split, column, pattern, revision, questions_only, skip_unusable)
    named = {"count": count, "fraction": fraction, "by": by or (), "shares": shares}
    _make(lambda to: sample(read.told(to), out, **named, seed=seed, force=force))


def mix_command(
    sources: Annotated[
        list[str], typer.Argument(help="Sources with their weights, as `a.jsonl=0.7 b.jsonl=0.3`.")
    ],
    out: Out,
    count: Annotated[
        int | None, typer.Option(help="How many rows; without: all that the weights allow.", min=1)
    ] = None,
    repeat: Annotated[
        bool, typer.Option("--repeat", help="Let rows of a small source come several times.")
    ] = False,
    seed: Seed = 0,
    split: Split = None,
    column: Column = None,
    pattern: Patterns = None,
    questions_only: QuestionsOnly = False,
    skip_unusable: SkipUnusable = False,
    force: Force = False,
) -> None:
    """Draw rows of several sources by weight, in an order drawn by lot.

    Example: `thinktune data mix mine.jsonl=0.7 maths.jsonl=0.3 --count 1000 --out both.jsonl`
    """
    from thinktune.data.mixing import mix  # noqa: PLC0415

    read, how = [], (questions_only, skip_unusable)
    for text in sources:
        name, _, weight = text.rpartition("=")
        if not name:
            raise ConfigError(f"{text}: give it a weight, as {text}=0.5")
        read.append((name_source(name, split, column, pattern, None, *how), weight))

    def make(watcher: "Watcher") -> "Mended":
        told = [(source.told(watcher), weight) for source, weight in read]
        return mix(told, out, count=count, repeat=repeat, seed=seed, force=force)

    _make(make)


def decontaminate_command(
    source: SourceName,
    out: Out,
    against: Annotated[str, typer.Option(help="The evaluation file.")],
    against_split: Annotated[str | None, typer.Option(help="Which split of it.")] = None,
    against_column: Annotated[
        list[str] | None, typer.Option(help="A column of it by another name.")
    ] = None,
    against_pattern: Annotated[
        list[str] | None, typer.Option(help="A column of it that holds several fields.")
    ] = None,
    split: Split = None,
    column: Column = None,
    pattern: Patterns = None,
    revision: Revision = None,
    questions_only: QuestionsOnly = False,
    skip_unusable: SkipUnusable = False,
    force: Force = False,
) -> None:
    """Leave out rows that share a run of words with an evaluation file.

    Example: `thinktune data decontaminate mine.jsonl --against test.jsonl --out fair.jsonl`
    """
    from thinktune.data.curation import decontaminate  # noqa: PLC0415

    read = name_source(source, split, column, pattern, revision, questions_only, skip_unusable)
    other = name_source(against, against_split, against_column, against_pattern, None, True, False)
    _make(lambda to: decontaminate(read.told(to), out, against=other.told(to), force=force))


def _make(work: "Callable[[Watcher], Mended]") -> None:
    """Do the work while its progress is shown, then show what came of it."""
    from thinktune.mend_view import mended_view  # noqa: PLC0415

    with LiveView(Console(stderr=True), brief=True) as watcher:
        mended = work(watcher)
    console.print(mended_view(mended), soft_wrap=True)


VERBS: dict[str, Callable[..., None]] = {
    "convert": convert_command,
    "clean": clean_command,
    "dedup": dedup_command,
    "split": split_command,
    "sample": sample_command,
    "mix": mix_command,
    "decontaminate": decontaminate_command,
}
"""Every verb and its command."""
