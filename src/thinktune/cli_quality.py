"""``thinktune bench quality``: what each way of holding the base costs, as tables and verdicts."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:  # torch takes seconds; --help must not
    from thinktune.closeness import Nearness
    from thinktune.quality_gates import Check, Gate, Quality, Spread

console = Console()


def quality_command(
    recipe: Annotated[str, typer.Argument(help="A shipped recipe's name, or a YAML file.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Settings to change, as `lora.rank=32`.")
    ] = None,
    kinds: Annotated[
        str, typer.Option(help="Ways of holding the base, with commas between them.")
    ] = "bfloat16,fp8_dgrad,fp8,nf4",
    rows: Annotated[
        int, typer.Option(help="Rows to compare predictions and gradients on.", min=2)
    ] = 64,
    seeds: Annotated[int, typer.Option(help="Trainings of each kind.", min=1)] = 3,
    steps: Annotated[
        int | None, typer.Option(help="Of each training; without, the recipe's.", min=1)
    ] = None,
    train: Annotated[
        bool, typer.Option("--train/--no-train", help="Train, or compare the bases alone.")
    ] = True,
    journal: Annotated[
        Path | None,
        typer.Option("--json", help="File of all results; an interrupted call goes on from it."),
    ] = None,
) -> None:
    """Measure what each way of holding the base costs against float32: before and by training.

    Example: `thinktune bench quality clinic-en-smollm2 --kinds bfloat16,nf4 --json nf4.json`
    """
    from thinktune.bench import parse_choice  # noqa: PLC0415
    from thinktune.config import read_recipe  # noqa: PLC0415
    from thinktune.live_view import LiveView  # noqa: PLC0415
    from thinktune.model.checkpoint_io import BaseDtype  # noqa: PLC0415
    from thinktune.quality import QualityRequest, measure_quality  # noqa: PLC0415
    from thinktune.quality_gates import gates  # noqa: PLC0415

    named = dict.fromkeys(kind.strip() for kind in kinds.split(","))
    request = QualityRequest(
        kinds=tuple(parse_choice(BaseDtype, kind, "--kinds") for kind in named),
        num_rows=rows,
        num_seeds=seeds if train else 0,
        max_steps=steps,
    )
    with LiveView(console) as watcher:
        quality = measure_quality(read_recipe(recipe, overrides or []), request, watcher, journal)
    console.print(_closeness_table(quality, recipe))
    if quality.trained:
        console.print(_training_table(quality))
    for gate in gates(quality):
        console.print(_verdict(gate))
    if journal is not None:
        console.print(Text.assemble(("Results: ", "dim"), str(journal)), soft_wrap=True)


def _table(title: str, caption: str, columns: tuple[str, ...]) -> Table:
    table = Table(title=title, caption=caption, box=box.SIMPLE_HEAD)
    table.padding = (0, 1, 0, 0)
    table.add_column("base", no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right")
    return table


def _closeness_table(quality: "Quality", recipe: str) -> Table:
    num = next((near.num_targets for near in quality.closeness.values()), 0)
    table = _table(
        f"{recipe}: untrained bases against float32, {num} target tokens",
        "KL and NLL in nats a token; gradient of a random adapter: error relative to its norm",
        ("KL", "NLL shift", "same top-1", "gradient error", "of nf4's", "cosine", "worst module"),
    )
    for kind, near in quality.closeness.items():
        share = quality.error_of_nf4(kind)
        table.add_row(
            kind,
            f"{near.kl:.2g}",
            f"{near.nll_shift:+.2g}",
            f"{near.top_1:.2%}",
            f"{near.gradient.error:.3f}",
            "-" if share is None else f"{share:.2f}",
            f"{near.gradient.cosine:.4f}",
            _worst(near.worst_module, near.by_module[near.worst_module]),
        )
    return table


def _worst(name: str, near: "Nearness") -> str:
    return f"{name} {near.error:.3f}, {near.cosine:.4f}"


def _training_table(quality: "Quality") -> Table:
    num = quality.trained[0].own.num_questions
    table = _table(
        f"trained: mean over seeds, and the ends; {num} held-out questions",
        "own: on the base it was trained on; plain: on bfloat16 (float32 on a CPU)",
        ("seeds", "loss, own", "strict, own", "loss, plain", "strict, plain"),
    )
    columns = (
        lambda of: of.own.heldout_loss,
        lambda of: of.own.strict,
        lambda of: of.plain.heldout_loss,
        lambda of: of.plain.strict,
    )
    for kind in dict.fromkeys(trained.kind for trained in quality.trained):
        spreads = [spread for of in columns if (spread := quality.spread(kind, of))]
        table.add_row(kind, str(spreads[0].num), *map(_spread, spreads))
    return table


def _spread(spread: "Spread") -> str:
    return f"{spread.mean:.3f} [{spread.low:.3f}, {spread.high:.3f}]"


def _verdict(gate: "Gate") -> Text:
    results = {True: ("holds", "bold green"), False: ("fails", "bold red")}
    told = results.get(gate.passed, ("is not decided", "bold yellow"))  # pyright: ignore
    text = Text.assemble((f"{gate.kind} is {gate.claim}: ", "bold"), told)
    for check in gate.checks:
        mark = {True: "yes", False: "NO", None: "?"}[check.passed]
        text.append(f"\n  {mark:3} {check.what}: {_numbers(check)}")
    return text


def _numbers(check: "Check") -> str:
    value = "not measured" if check.value is None else f"{check.value:.4g}"
    bounds = []
    if check.low is not None:
        bounds.append(f"at least {check.low:.4g}")
    if check.high is not None:
        bounds.append(f"at most {check.high:.4g}")
    return ", ".join([value, *bounds, *([check.needs] if check.needs else [])])
