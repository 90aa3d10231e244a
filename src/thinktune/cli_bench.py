"""The verbs that measure: ``thinktune bench step`` and ``thinktune estimate``."""

import json
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

bench_app = typer.Typer(help="Measure speed on this machine.", no_args_is_help=True)
console = Console()


@bench_app.callback()
def _bench() -> None:
    """Measure speed on this machine."""


@bench_app.command("step")
def step_command(
    shape: Annotated[
        str, typer.Option(help="llama-3.1-8b, qwen2.5-7b, qwen3-8b, qwen2.5-1.5b or tiny.")
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
    dtype: Annotated[str, typer.Option(help="Of the base: bfloat16 or float32.")] = "bfloat16",
    profile: Annotated[bool, typer.Option("--profile", help="Say where the time went.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one line of JSON.")] = False,
) -> None:
    """Time whole training steps of a shape with random weights and random documents.

    Example: `thinktune bench step --documents 4x4096 --memory-budget-gib 24 --profile`
    """
    from thinktune.bench import bench_step  # noqa: PLC0415
    from thinktune.loading import pick_device  # noqa: PLC0415

    timing = bench_step(
        shape,
        documents,
        rank=rank,
        dropout=dropout,
        steps=steps,
        budget_gib=budget,
        keep=keep,
        device=pick_device(),
        dtype=dtype,
        profile=profile,
    )
    if as_json:
        print(json.dumps(timing.as_dict()))
        return
    table = Table(title=f"{shape}, {documents}, rank {rank}", box=box.SIMPLE_HEAD)
    table.add_column("")
    table.add_column("", justify="right")
    for name, value in timing.lines():
        table.add_row(name, value)
    console.print(table)


def estimate_command(
    recipe: Annotated[str, typer.Argument(help="A shipped recipe's name, or a YAML file.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Settings to change, as `lora.rank=32`.")
    ] = None,
    memory: Annotated[
        float | None, typer.Option(help="GiB a step may take; without, what is free here.")
    ] = None,
) -> None:
    """Say what a recipe will need on a GPU, and what its layers will keep; load no weights.

    Example: `thinktune estimate my.yaml packing.max_tokens=8192 --memory 24`
    """
    from thinktune.config import read_recipe  # noqa: PLC0415
    from thinktune.estimating import estimate  # noqa: PLC0415

    result = estimate(read_recipe(recipe, overrides or []), memory)
    table = Table(
        title=f"{recipe}: {result.num_examples} training rows, packed rows of at most "
        f"{result.max_tokens} tokens",
        box=box.SIMPLE_HEAD,
        caption="GiB on the GPU; bfloat16 base",
    )
    for name in ("budget", "base", "adapter", "kept", "working", "peak"):
        table.add_column(name, justify="right")
    table.add_column("layers keep for backward")
    for budget, plan in result.plans:
        if isinstance(plan, str):
            table.add_row(f"{budget:.1f}", "", "", "", "", "", Text(plan, style="yellow"))
            continue
        parts = (plan.base_bytes, plan.adapter_bytes, plan.kept_bytes, plan.working_bytes)
        numbers = [f"{part / 2**30:.2f}" for part in (*parts, plan.total_bytes)]
        table.add_row(f"{budget:.1f}", *numbers, plan.choices())
    console.print(table)
