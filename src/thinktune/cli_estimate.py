"""The verb ``thinktune estimate``: will it fit, what to change, how long, at what cost."""

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:  # torch takes seconds; --help must not
    from thinktune.estimating import CardEstimate, Estimate

console = Console()
_GIB = 2**30
_MEASURED = (
    "Time is a roofline's, with the efficiency measured on an H100 and a bfloat16 base; elsewhere "
    "that is an assumption, and small cards that throttle take longer. Loading, held-out loss and "
    "answering are not in it."
)


def estimate_command(
    recipe: Annotated[str, typer.Argument(help="A shipped recipe's name, or a YAML file.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Settings to change, as `lora.rank=32`.")
    ] = None,
    gpu: Annotated[
        str | None,
        typer.Option(
            help="t4, rtx4090, l4, a100-80, h100, ... or a card's GiB; without, this GPU."
        ),
    ] = None,
    price: Annotated[
        float | None, typer.Option(help="Rent of the card in USD an hour.", min=0.0)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one line of JSON.")] = False,
) -> None:
    """Say whether a recipe fits a GPU, what to change, how long it takes and what it costs.

    No weights are loaded, and no GPU is needed.

    Example: `thinktune estimate my.yaml --gpu rtx4090 base_dtype=nf4`
    """
    from thinktune.config import read_recipe  # noqa: PLC0415
    from thinktune.estimating import estimate  # noqa: PLC0415

    result = estimate(read_recipe(recipe, overrides or []), gpu, usd_an_hour=price)
    if as_json:
        print(json.dumps(_plain(result)))
        return
    console.print(
        Text.assemble(
            (f"{recipe}: ", "bold"),
            f"{result.num_examples:,} training rows, {result.num_steps:,} steps of about "
            f"{result.tokens_a_step:,.0f} tokens, packed rows of at most {result.max_tokens:,}",
        )
    )
    if len(result.cards) > 1:
        _show_all(result)
        return
    _show_one(result, result.cards[0])
    if result.lengths:
        _show_lengths(result, result.cards[0])


def _show_one(result: "Estimate", of: "CardEstimate") -> None:
    held = f", {of.held}" if of.held else ""
    console.print(_parts(of, f"{of.card.title}{held}"))
    if of.plan is None:
        console.print(Text.assemble(("Does not fit: ", "bold red"), of.problem))
        console.print(Text.assemble(("Way out: ", "bold"), _change(of, result.smallest)))
        return
    console.print(Text.assemble(("Fits. ", "bold green"), of.plan.sentence()))
    if of.seconds is not None:
        speed = result.tokens_a_step * result.num_steps / of.seconds
        told = f"{_duration(of)} for training alone, {speed:,.0f} tokens/s{_cost(of)}"
        console.print(Text.assemble(("Time: ", "bold"), told))
        console.print(Text(_MEASURED, style="dim"))


def _parts(of: "CardEstimate", title: str) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("GiB on the GPU")
    table.add_column("", justify="right")
    if of.plan is not None:
        plan = of.plan
        for name, part in (
            ("base weights", plan.base_bytes),
            ("adapter, gradient, optimizer", plan.adapter_bytes),
            ("kept by layers for backward", plan.kept_bytes),
            ("working memory of a layer or the head", plan.working_bytes),
        ):
            table.add_row(name, f"{part / _GIB:.2f}")
        table.add_row("peak", f"{plan.total_bytes / _GIB:.2f}", style="bold")
    table.add_row("a step may take", f"{of.budget_bytes / _GIB:.2f}")
    return table


def _change(of: "CardEstimate", smallest: str | None = None) -> str:
    larger = f"; unchanged it fits the {smallest}" if smallest else ""
    if of.change is None:
        return f"no such setting makes it fit: take a smaller model{larger}"
    told = f"{' '.join(of.change.overrides)} ({of.change.plan.total_bytes / _GIB:.1f} GiB)"
    if of.change.num_longer:
        told += f"; {of.change.num_longer:,} rows are longer: template.overlong decides on them"
    return told + larger


def _duration(of: "CardEstimate") -> str:
    minutes = (of.seconds or 0.0) / 60
    if minutes < 2:
        return f"{minutes * 60:.0f} s"
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"


def _cost(of: "CardEstimate") -> str:
    if of.usd is None or of.rent is None:
        return "; no rent is known, give --price for the cost"
    source = f", {of.rent.source} read {of.rent.read_on}" if of.rent.read_on else ""
    return f", ${of.usd:,.2f} at ${of.rent.usd_an_hour:,.2f} an hour{source}"


def _show_all(result: "Estimate") -> None:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("card", "usable", "peak", "time", "USD"):
        table.add_column(name, justify="left" if name == "card" else "right", no_wrap=True)
    table.add_column("layers keep for backward, or what to change")
    for of in result.cards:
        usable = f"{of.budget_bytes / _GIB:.1f}"
        if of.plan is None:
            table.add_row(of.card.title, usable, "-", "", "", Text(_change(of), style="yellow"))
            continue
        peak = f"{of.plan.total_bytes / _GIB:.1f}"
        usd = "" if of.usd is None else f"{of.usd:,.2f}"
        table.add_row(of.card.title, usable, peak, _duration(of), usd, of.plan.choices())
    console.print(table)
    console.print(Text(f"GiB. {_MEASURED}", style="dim"))


def _show_lengths(result: "Estimate", of: "CardEstimate") -> None:
    table = Table(
        title="Peak GiB by tokens of a packed row and base_dtype",
        title_justify="left",
        box=box.SIMPLE_HEAD,
    )
    table.add_column("tokens", justify="right")
    for name in next(iter(result.lengths.values())):
        table.add_column(name, justify="right")
    for tokens, needs in result.lengths.items():
        cells = [_cell(need.least, need.most, of.budget_bytes) for need in needs.values()]
        table.add_row(f"{tokens:,}", *cells)
    console.print(table)
    told = (
        "From - to: as little as can be is kept on the GPU - nothing is computed again. A packed "
        "row of 4 x 1,024 tokens takes what one of 4,096 does."
    )
    console.print(Text(told, style="dim"))


def _cell(least: int, most: int, budget: int) -> Text:
    if least > budget:
        return Text(f"{(least - budget) / _GIB:.1f} short", style="red")
    told = f"{most / _GIB:.1f}" if most <= budget else f"{least / _GIB:.1f} - {most / _GIB:.1f}"
    return Text(told, style="green" if most <= budget else "yellow")


def _plain(result: "Estimate") -> dict[str, Any]:
    return {
        "num_examples": result.num_examples,
        "num_steps": result.num_steps,
        "tokens_a_step": result.tokens_a_step,
        "max_tokens": result.max_tokens,
        "cards": [_plain_card(of) for of in result.cards],
        "peak_bytes_by_tokens": {
            tokens: {name: [need.least, need.most] for name, need in needs.items()}
            for tokens, needs in result.lengths.items()
        },
        "smallest_card": result.smallest,
    }


def _plain_card(of: "CardEstimate") -> dict[str, Any]:
    plan, change = of.plan, of.change
    return {
        "card": of.card.title,
        "budget_bytes": of.budget_bytes,
        "base": of.held,
        "fits": plan is not None,
        "problem": of.problem,
        "base_bytes": plan and plan.base_bytes,
        "adapter_bytes": plan and plan.adapter_bytes,
        "kept_bytes": plan and plan.kept_bytes,
        "working_bytes": plan and plan.working_bytes,
        "host_bytes": plan and plan.host_bytes,
        "peak_bytes": plan and plan.total_bytes,
        "layers_keep": plan and plan.choices(),
        "overrides": change and list(change.overrides),
        "overrides_peak_bytes": change and change.plan.total_bytes,
        "overrides_longer_rows": change and change.num_longer,
        "seconds": of.seconds,
        "usd": of.usd,
        "usd_an_hour": of.rent and of.rent.usd_an_hour,
    }
