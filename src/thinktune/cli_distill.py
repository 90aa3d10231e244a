"""The verb ``thinktune distill``: ask a teacher for reasonings, with its progress and result."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from thinktune.cli_source import Column, Patterns
from thinktune.errors import ConfigError
from thinktune.live_view import LiveView

if TYPE_CHECKING:
    from thinktune.teacher.card import Distilled

console = Console()

Questions = Annotated[str, typer.Argument(help="A file, a folder, or a Hub data set.")]
Url = Annotated[str, typer.Option(help="Base URL of an OpenAI-compatible endpoint.")]
Model = Annotated[str, typer.Option(help="The teacher's name there.")]
Out = Annotated[Path | None, typer.Option(help="Rows to write; NAME-distilled.jsonl without.")]
Split = Annotated[str | None, typer.Option(help="Which split of the questions.")]
Limit = Annotated[int | None, typer.Option(help="Only the first so many questions.", min=1)]
Samples = Annotated[int, typer.Option("--samples", "-k", help="Reasonings a question.")]
Temperature = Annotated[str, typer.Option(help="`none` leaves it to the endpoint.")]
TopP = Annotated[str, typer.Option(help="`none` leaves it to the endpoint.")]
MaxTokens = Annotated[int, typer.Option(help="Limit of a completion, reasoning included.")]
LimitField = Annotated[str, typer.Option(help="Its name there; or max_completion_tokens.")]
Seed = Annotated[str, typer.Option(help="Of a question's first sample; `none` sends none.")]
Instruction = Annotated[str, typer.Option(help="Put under each question for the teacher alone.")]
ExtraBody = Annotated[str, typer.Option(help="Further request fields, as a JSON object.")]
VerifyBy = Annotated[str, typer.Option(help="auto, label, number, choice, maths, text or judge.")]
Label = Annotated[
    list[str] | None, typer.Option(help="A label with its aliases, as `influenza=flu,grippe`.")
]
Lenient = Annotated[
    bool, typer.Option("--lenient", help="Labels: named first; texts: contained, is right.")
]
JudgeModel = Annotated[str | None, typer.Option(help="Who judges; without, the teacher.")]
JudgeTokens = Annotated[int, typer.Option(help="Limit of a judgement.")]
MinAgreement = Annotated[float, typer.Option(help="Share that must agree without a reference.")]
KeepRule = Annotated[str, typer.Option(help="shortest, longest, first or all.")]
Concurrency = Annotated[int, typer.Option(help="Requests at a time.")]
PerMinute = Annotated[float | None, typer.Option(help="Requests begun in a minute, at most.")]
Retries = Annotated[int, typer.Option(help="Of a failed request, before it is set aside.")]
Timeout = Annotated[float, typer.Option(help="Seconds of one attempt.")]
Backoff = Annotated[float, typer.Option(help="Seconds before the first retry; doubles.")]
TokenCap = Annotated[int | None, typer.Option(help="Cap on the tokens of all starts.")]
CostCap = Annotated[float | None, typer.Option(help="Cap on the cost of all starts.")]
PriceInput = Annotated[float | None, typer.Option(help="Of a million prompt tokens.")]
PriceOutput = Annotated[float | None, typer.Option(help="Of a million completion tokens.")]
KeyVariable = Annotated[
    str | None,
    typer.Option(help="Variable with the key; without, OPENAI_API_KEY, for https only."),
]


def distill_command(
    questions: Questions,
    teacher: Url,
    model: Model,
    out: Out = None,
    split: Split = None,
    column: Column = None,
    pattern: Patterns = None,
    limit: Limit = None,
    samples: Samples = 4,
    temperature: Temperature = "0.6",
    top_p: TopP = "0.95",
    max_tokens: MaxTokens = 8192,
    max_tokens_field: LimitField = "max_tokens",
    seed: Seed = "0",
    instruction: Instruction = "",
    extra_body: ExtraBody = "{}",
    verify: VerifyBy = "auto",
    label: Label = None,
    lenient: Lenient = False,
    judge_model: JudgeModel = None,
    judge_max_tokens: JudgeTokens = 2048,
    min_agreement: MinAgreement = 0.5,
    keep: KeepRule = "shortest",
    concurrency: Concurrency = 8,
    requests_per_minute: PerMinute = None,
    max_retries: Retries = 6,
    timeout: Timeout = 600,
    backoff: Backoff = 1,
    max_tokens_total: TokenCap = None,
    max_cost: CostCap = None,
    price_input: PriceInput = None,
    price_output: PriceOutput = None,
    api_key_env: KeyVariable = None,
) -> None:
    """Let a teacher reason about questions; keep the verified best as training rows.

    Started again, it goes on where it was. Exit code 1: something is left to ask, or no row.

    Example: `thinktune distill questions.jsonl --teacher http://localhost:8000/v1 --model r1`
    """
    settings = dict(locals())
    source = {name: settings.pop(name) for name in ("questions", "split", "limit")}
    source |= {name: _pairs(name, settings.pop(name)) for name in ("column", "pattern")}
    name = Path(questions).name.partition(".")[0]
    result = _distill(source, settings, settings.pop("out") or Path(f"{name}-distilled.jsonl"))
    _show(result)
    if not result.is_complete or not result.num_rows:
        raise typer.Exit(1)


def _settings(options: dict[str, Any]) -> dict[str, Any]:
    """The options under the names and in the forms of ``TeacherConfig``."""
    options = dict(options)
    labels = _pairs("label", options.pop("label"))
    return options | {
        "url": options.pop("teacher"),
        "extra_body": _object(options.pop("extra_body")),
        "labels": {k: v.split(",") if v else [] for k, v in labels.items()},
        "timeout_seconds": options.pop("timeout"),
        "backoff_seconds": options.pop("backoff"),
        **{
            name: None if options[name].lower() == "none" else options[name]
            for name in ("temperature", "top_p", "seed")
        },
    }


def _distill(source: dict[str, Any], settings: dict[str, Any], out: Path) -> "Distilled":
    from thinktune.data.sources import DataConfig, read_examples  # noqa: PLC0415
    from thinktune.settings import parse_settings  # noqa: PLC0415
    from thinktune.teacher.config import TeacherConfig  # noqa: PLC0415
    from thinktune.teacher.distilling import distill  # noqa: PLC0415

    config = parse_settings(TeacherConfig, _settings(settings))
    named = {"columns": source["column"], "patterns": source["pattern"]}
    data = parse_settings(DataConfig, {"train": source["questions"], **named})
    if out.suffix != ".jsonl" or out.resolve() == Path(source["questions"]).resolve():
        raise ConfigError(f"--out {out}: name another file, ending in .jsonl")
    try:
        with LiveView(console) as view:
            view.stage(f"Reading {source['questions']}")
            examples = read_examples(
                source["questions"],
                split=source["split"],
                columns=data.columns,
                patterns=data.patterns,
                limit=source["limit"],
                required=("question",),
            )
            return distill(examples, config, out, watcher=view)
    except KeyboardInterrupt:
        console.print("interrupted; what came is kept; the same command goes on", style="yellow")
        raise


def _show(result: "Distilled") -> None:
    table = Table(box=box.SIMPLE_HEAD, show_header=False)
    for name, value in result.lines:
        table.add_row(Text(name), Text(value))
    console.print(table)
    if result.stopped:
        console.print(Text(f"stopped: {result.stopped}", style="yellow"), soft_wrap=True)
    for where, why in result.set_aside[:20]:
        console.print(Text(f"set aside: {where}: {why}", style="yellow"), soft_wrap=True)
    if not result.is_complete:
        console.print(Text("the same command goes on from here", style="yellow"))
    files = [("Rows", result.out)] if result.num_rows else []
    files += [("Rejected", result.rejected_file)] if result.rejected else []
    for what, path in (*files, ("Data card", result.card)):
        console.print(Text.assemble((f"{what}: ", "dim"), str(path)), soft_wrap=True)


def _pairs(option: str, given: list[str] | None) -> dict[str, str]:
    pairs = [text.partition("=") for text in given or []]
    for name, equals, value in pairs:
        if not name or (not equals and option != "label") or (not value and option != "label"):
            raise ConfigError(f"--{option} {name}: write NAME=VALUE")
    return {name: value for name, _, value in pairs}


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"--extra-body is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ConfigError("--extra-body: write a JSON object")
    return value
