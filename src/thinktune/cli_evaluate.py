"""``thinktune evaluate``: models and adapters asked the same questions, and compared."""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

if TYPE_CHECKING:  # torch takes seconds; --help must not
    from thinktune.evaluating import Outcome
    from thinktune.examination import EvaluationRequest
    from thinktune.generation.remote import ServerConfig

console = Console()


def evaluate_command(
    target: Annotated[str, typer.Argument(help="A run's folder, an adapter's, or a model.")],
    adapter: Annotated[str | None, typer.Option(help="An adapter's folder, for a model.")] = None,
    against: Annotated[
        str | None,
        typer.Option(help="A run, adapter or model to compare with; else the base model."),
    ] = None,
    task: Annotated[
        list[str] | None,
        typer.Option(help="heldout (the run's own), retention, a file, reasoning-gym:NAME."),
    ] = None,
    samples: Annotated[
        int | None, typer.Option(help="Samples of each question; needs a temperature.", min=1)
    ] = None,
    temperature: Annotated[float | None, typer.Option(min=0)] = None,
    top_p: Annotated[float | None, typer.Option(min=0, max=1)] = None,
    max_new_tokens: Annotated[int | None, typer.Option(min=1)] = None,
    num_questions: Annotated[
        int | None, typer.Option(help="Ask only the first so many of each task.", min=1)
    ] = None,
    batch_size: Annotated[int | None, typer.Option(min=1)] = None,
    seed: Annotated[int | None, typer.Option(help="Of draws and intervals.", min=0)] = None,
    base_dtype: Annotated[
        str | None, typer.Option(help="How to hold the base; without, as in training.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Folder of the report.")] = None,
    server: Annotated[
        str | None, typer.Option(help="URL of a completions server such as vLLM's that answers.")
    ] = None,
    server_model: Annotated[
        list[str] | None,
        typer.Option(help="What the server calls each model, the one compared with first."),
    ] = None,
) -> None:
    """Ask a model the same questions before and after, or against another, and report.

    Interrupted, it goes on where it was. Example: `thinktune evaluate runs/first --task retention`
    """
    from thinktune.examination import EvaluationRequest  # noqa: PLC0415

    settings = {
        "num_samples": samples, "temperature": temperature, "top_p": top_p,
        "max_new_tokens": max_new_tokens, "num_questions": num_questions, "batch_size": batch_size,
    }  # fmt: skip
    request = EvaluationRequest(
        target,
        adapter=adapter,
        against=against,
        tasks=tuple(task or ()),
        settings={name: value for name, value in settings.items() if value is not None},
        seed=seed,
        base_dtype=base_dtype,
        output=output,
        servers=_servers(server, server_model or []),
        command=shlex.join(["thinktune", *sys.argv[1:]]),
    )
    show_evaluation(_evaluate(request))


def _evaluate(request: "EvaluationRequest") -> "Outcome":
    from thinktune.examination import evaluate  # noqa: PLC0415
    from thinktune.interruption import interruptible  # noqa: PLC0415
    from thinktune.live_view import LiveView  # noqa: PLC0415

    with interruptible(), LiveView(console) as watcher:
        try:
            return evaluate(request, watcher)
        except KeyboardInterrupt:
            watcher.say("Interrupted; every answer is kept: the same command goes on.")
            raise


def _servers(url: str | None, models: list[str]) -> "tuple[ServerConfig, ...]":
    from thinktune.errors import ConfigError  # noqa: PLC0415
    from thinktune.generation.remote import ServerConfig  # noqa: PLC0415
    from thinktune.settings import parse_settings  # noqa: PLC0415

    if url is None and not models:
        return ()
    if url is None or not models:
        raise ConfigError("--server URL and --server-model NAME go together")
    return tuple(parse_settings(ServerConfig, {"url": url, "model": name}) for name in models)


def show_evaluation(outcome: "Outcome", *, seed: int = 0) -> None:
    """Some questions side by side, the tables, the verdict, and where the report is."""
    from thinktune import view  # noqa: PLC0415

    if outcome.results is None or outcome.report is None:
        return
    first = outcome.results.tasks[0].last
    sides, titles = outcome.answered[first.task_name], list(outcome.results.titles.values())
    console.print(view.side_by_side(sides, titles, first.purpose, seed=seed))
    console.print(view.evaluation_view(outcome.results))
    console.print()
    console.print(Text.assemble(("Report: ", "dim"), str(outcome.report)), soft_wrap=True)
