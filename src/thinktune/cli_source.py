"""How a command names the source it reads and the file it writes."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from thinktune.errors import ConfigError

if TYPE_CHECKING:  # it reads data; --help must not
    from thinktune.data.intake import Source

SourceName = Annotated[
    str, typer.Argument(help="A file, a folder, a Hub data set, or a shipped one's name.")
]
Out = Annotated[Path, typer.Option(help="The .jsonl file to write.")]
Split = Annotated[str | None, typer.Option(help="Which split of the source; all without.")]
Column = Annotated[
    list[str] | None, typer.Option(help="A column by another name, as `question=Frage`.")
]
Patterns = Annotated[
    list[str] | None,
    typer.Option(
        help="A column that holds several fields, as `answer={reasoning}####{answer+reference}`."
    ),
]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit of a Hub data set.")]
QuestionsOnly = Annotated[
    bool, typer.Option("--questions-only", help="Rows need a question and nothing else.")
]
SkipUnusable = Annotated[
    bool, typer.Option("--skip-unusable", help="Set aside rows that cannot be used; else stop.")
]
Force = Annotated[bool, typer.Option("--force", help="Replace files that are there.")]
By = Annotated[
    list[str] | None, typer.Option(help="By the values of a field, as `metadata.age_group`.")
]
Seed = Annotated[int, typer.Option(help="Of the draw.", min=0)]


def name_source(
    name: str,
    split: str | None = None,
    column: list[str] | None = None,
    pattern: list[str] | None = None,
    revision: str | None = None,
    questions_only: bool = False,
    skip_unusable: bool = False,
) -> "Source":
    """Make a source of what the command line says.

    Raises:
        ConfigError: a column or pattern is not NAME=VALUE, or names no field of ours.
    """
    from thinktune.data.intake import Source  # noqa: PLC0415
    from thinktune.data.sources import DataConfig  # noqa: PLC0415
    from thinktune.settings import parse_settings  # noqa: PLC0415

    columns = _pairs("--column", "FIELD=COLUMN, as in question=Frage", column)
    patterns = _pairs("--pattern", "COLUMN=PATTERN, as in answer={reasoning}####{answer}", pattern)
    given = {"train": name, "columns": columns, "patterns": patterns}
    parse_settings(DataConfig, given)  # says best what is wrong with them
    return Source(name, split, columns, patterns, revision, questions_only, skip_unusable)


def _pairs(option: str, form: str, texts: list[str] | None) -> dict[str, str]:
    pairs = [text.partition("=") for text in texts or []]
    for name, _, value in pairs:
        if not name or not value:
            raise ConfigError(f"{option} {name}: write {form}")
    return {name.strip(): value for name, _, value in pairs}
