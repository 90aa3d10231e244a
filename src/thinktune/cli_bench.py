"""The verbs of ``thinktune bench``: how fast this machine trains, and what each base costs."""

import json
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from thinktune.cli_quality import quality_command

if TYPE_CHECKING:  # torch takes seconds; --help must not
    from thinktune.bench import StepTiming

bench_app = typer.Typer(help="Measure speed and quality here.", no_args_is_help=True)
bench_app.command("quality")(quality_command)
console = Console()


@bench_app.callback()
def _bench() -> None:
    """Measure speed and quality on this machine."""


@bench_app.command("step")
def step_command(
    shape: Annotated[
        str, typer.Option(help="llama-3.1-8b, llama-3.1-70b, qwen2.5-7b, qwen3-8b, ..., tiny.")
    ] = "llama-3.1-8b",
    documents: Annotated[
        str, typer.Option(help="Of one step: 4x4096, or lognormal:16384 for a long-thought mix.")
    ] = "1x4096",
    rank: Annotated[int, typer.Option(help="Of the adapter.", min=1)] = 16,
    dropout: Annotated[float, typer.Option(help="Of the adapter.", min=0.0, max=0.99)] = 0.0,
    budget: Annotated[
        float | None, typer.Option("--memory-budget-gib", help="GPU memory; all without.")
    ] = None,
    keep: Annotated[
        str | None,
        typer.Option(help="What every layer keeps: all, host, no_mlp, attention or input."),
    ] = None,
    steps: Annotated[int, typer.Option(help="How many to time.", min=1)] = 5,
    dtype: Annotated[
        str,
        typer.Option(help="Of the base: bfloat16, float32, float16, nf4, fp8 or fp8_dgrad."),
    ] = "bfloat16",
    max_tokens: Annotated[
        int | None, typer.Option(help="Of a packed row; without, a step is one row.", min=16)
    ] = None,
    card: Annotated[
        str | None,
        typer.Option("--as", help="Take another card's kernels, types and memory: t4."),
    ] = None,
    profile: Annotated[bool, typer.Option("--profile", help="Say where the time went.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one line of JSON.")] = False,
) -> None:
    """Time whole training steps of a shape with random weights and random documents.

    Example: `thinktune bench step --documents 4x4096 --memory-budget-gib 24 --profile`
    """
    from thinktune.bench import bench_step, emulated  # noqa: PLC0415
    from thinktune.loading import pick_device  # noqa: PLC0415

    device = pick_device()
    with emulated(card, device) as found:
        timing = bench_step(
            shape,
            documents,
            rank=rank,
            dropout=dropout,
            steps=steps,
            budget_gib=budget or found,
            keep=keep,
            device=device,
            dtype=dtype,
            max_tokens=max_tokens,
            profile=profile,
        )
    if as_json:
        print(json.dumps(timing.as_dict()))
        return
    _show(f"{shape}, {documents}, rank {rank}", timing)


def _show(title: str, timing: "StepTiming") -> None:
    table = Table(title=title, box=box.SIMPLE_HEAD)
    table.add_column("")
    table.add_column("", justify="right")
    for name, value in timing.lines():
        table.add_row(name, value)
    console.print(table)
