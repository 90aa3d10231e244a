"""The verb ``thinktune runs``: which runs there are, how they compare, how one is going."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

console = Console()


def runs_command(
    folders: Annotated[
        list[Path] | None, typer.Argument(help="Runs, or folders of runs; without, runs/.")
    ] = None,
    compare: Annotated[
        bool, typer.Option("--compare", help="Side by side; so are two or more runs named.")
    ] = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Follow one until it ends; without a name, the newest.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one line of JSON.")] = False,
) -> None:
    """List runs, newest first; compare their losses, settings and verdicts; or follow one.

    Example: `thinktune runs runs/first runs/second`
    """
    from thinktune.errors import ConfigError  # noqa: PLC0415
    from thinktune.paths import user_path  # noqa: PLC0415
    from thinktune.run_table import RUNS, find_runs, is_run, read_runs  # noqa: PLC0415

    named = [user_path(folder) for folder in folders or [RUNS]]
    if watch:
        if len(named) > 1 or compare or as_json:
            raise ConfigError("--watch follows one run; leave out --compare, --json and the rest")
        _watch(named[0])
    elif compare or (len(named) > 1 and all(map(is_run, named))):
        _compare(find_runs(named), as_json)
    else:
        runs = read_runs(named)
        if as_json:
            print(json.dumps([run.to_plain() for run in runs]))
            return
        from thinktune.runs_view import list_view  # noqa: PLC0415

        console.print(list_view(runs, width=console.width))


def _compare(folders: list[Path], as_json: bool) -> None:
    from thinktune.run_comparison import compare_runs  # noqa: PLC0415
    from thinktune.runs_view import comparison_view  # noqa: PLC0415

    compared = compare_runs(folders)
    if as_json:
        print(json.dumps(compared.to_plain()))
    else:
        console.print(comparison_view(compared, width=console.width))


def _watch(folder: Path) -> None:
    from thinktune.run_watching import watch  # noqa: PLC0415

    try:
        watch(folder, console)
    except KeyboardInterrupt:
        return
