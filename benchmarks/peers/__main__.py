"""Our training step beside other people's: same documents, same shape, one table.

usage: python -m benchmarks.peers --shape llama-3.1-8b --documents 4x4096
       [--documents lognormal:16384] [--peers peft,liger,trl,unsloth] [--recompute default|none]
       [--base bfloat16|nf4] [--steps 5] [--ours [--ours-options "..."]]

Each peer trains each case in a process of its own; README.md beside this file has the rules.
"""

import argparse
import json
import sys
import tempfile
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

from benchmarks.peers.case import Case, UnavailableError
from benchmarks.peers.processes import MARK, time_ours, time_peer
from thinktune.errors import ConfigError
from thinktune.workload import SHAPES, document_lengths

PEERS = {
    "peft": "peft_loop",
    "liger": "liger_loop",
    "trl": "trl_trainer",
    "unsloth": "unsloth_loop",
}
"""Who can be asked for, and the file that runs it."""
HEADINGS = ("case", "who", "ms", "slowest", "tokens/s", "peak GiB", "ours/peer", "settings")


def main() -> None:
    """Run all sides and print the table."""
    options = parse_options()
    if options.side:
        run_side(options.side, Case(**json.loads(options.case)))
        return
    with tempfile.TemporaryDirectory(prefix="peers-", dir=options.scratch) as scratch:
        table = [line for spec in options.documents for line in time_case(spec, options, scratch)]
    print(
        f"torch {version('torch')}, transformers {version('transformers')}, "
        f"{options.shape}, LoRA rank 16 on 7 projections, median of {options.steps} steps"
    )
    print_table(table)
    if options.json:
        options.json.write_text(json.dumps(table, indent=1))


def parse_options() -> argparse.Namespace:
    summary = (__doc__ or "").splitlines()[0]
    parser = argparse.ArgumentParser("python -m benchmarks.peers", description=summary)
    parser.add_argument("--shape", choices=SHAPES, default="llama-3.1-8b")
    parser.add_argument("--documents", action="append", metavar="SPEC")
    parser.add_argument("--peers", default=",".join(PEERS))
    parser.add_argument("--recompute", choices=("default", "none"), default="default")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--attention", default="auto", help="auto, or transformers' name of one")
    parser.add_argument("--flash", choices=("torch", "installed"), default="torch")
    parser.add_argument("--base", choices=("bfloat16", "nf4"), default="bfloat16")
    parser.add_argument("--ours", action="store_true", help="time our own step too")
    parser.add_argument("--ours-options", default="", help="more options for our own step")
    parser.add_argument("--timeout", type=int, default=540, help="seconds a side may take")
    parser.add_argument("--scratch", help="where random weights may be written (16 GB at 8B)")
    parser.add_argument("--json", type=Path, help="also write the table to this file")
    parser.add_argument("--side", choices=(*PEERS, "checkpoint"), help=argparse.SUPPRESS)
    parser.add_argument("--case", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.documents = options.documents or ["4x4096"]
    try:
        for spec in options.documents:
            document_lengths(spec, seed=0)
    except ConfigError as error:
        parser.error(str(error))
    options.peers = [name for name in options.peers.split(",") if name]
    if unknown := set(options.peers) - set(PEERS):
        parser.error(f"unknown peers {sorted(unknown)}; known: {', '.join(PEERS)}")
    return options


def run_side(side: str, case: Case) -> None:
    """What the process of one peer does."""
    try:
        if side == "checkpoint":
            import_module("benchmarks.peers.random_model").write_checkpoint(case)
            result = {}
        elif case.base == "nf4" and side != "unsloth":
            raise UnavailableError("only Unsloth is timed with an NF4 base here")
        else:
            result = import_module(f"benchmarks.peers.{PEERS[side]}").run(case)
    except (ImportError, UnavailableError) as reason:
        result = {"skipped": str(reason).strip().splitlines()[0]}
    print(MARK + json.dumps(result), flush=True)


def time_case(spec: str, options: argparse.Namespace, scratch: str) -> list[dict]:
    """Lines of the table for one kind of documents."""
    case = Case(
        shape=options.shape,
        documents=spec,
        recompute=options.recompute,
        steps=options.steps,
        attention=options.attention,
        flash=options.flash,
        base=options.base,
        scratch=scratch,
    )
    lines = []
    if options.ours:
        result = time_ours(case, options.ours_options, options.timeout)
        lines.append({"case": spec, "who": "thinktune"} | result)
        report(lines[-1])
    for peer in options.peers:
        result = time_peer(peer, case, options.timeout)
        lines.append({"case": spec, "who": peer} | result)
        report(lines[-1])
    rate = lines[0].get("tokens_per_second") if options.ours else None
    for line in lines:
        if rate and "tokens_per_second" in line:
            line["ratio"] = rate / line["tokens_per_second"]
    return lines


def report(line: dict) -> None:
    """Say on stderr what a side came to, when it did; with the end of its log if it failed."""
    print(json.dumps({k: v for k, v in line.items() if k != "log"}), file=sys.stderr, flush=True)
    for said in line.get("log", ()):
        print(f"    {said}", file=sys.stderr, flush=True)


def print_table(table: list[dict]) -> None:
    cells = [HEADINGS, *(row_of(line) for line in table)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(HEADINGS) - 1)]
    for row in cells:
        head = "  ".join(
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=False))
        )
        print(f"{head}  {row[-1]}")


def row_of(line: dict) -> tuple[str, ...]:
    who = f"{line['who']} {line.get('version', '')}".strip()
    for outcome in ("skipped", "failed"):
        if outcome in line:
            return line["case"], who, "", "", "", "", "", f"{outcome}: {line[outcome]}"
    numbers = (
        (line.get("milliseconds"), ".0f"),
        (line.get("slowest_milliseconds"), ".0f"),
        (line.get("tokens_per_second"), ".0f"),
        (line.get("peak_gib"), ".1f"),
        (line.get("ratio"), ".2f"),
    )
    cells = ("-" if number is None else format(number, form) for number, form in numbers)
    return line["case"], who, *cells, str(line.get("settings", ""))


if __name__ == "__main__":
    main()
