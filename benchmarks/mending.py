"""Rows a second and peak memory of every step that mends data, each in a process of its own.

usage: python benchmarks/mending.py [--rows 1000000] [--near] [--folder DIR]
"""

import argparse
import json
import multiprocessing
import random
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from thinktune.data.cards import Mended
from thinktune.data.conversion import clean, convert
from thinktune.data.curation import decontaminate, dedup
from thinktune.data.mixing import mix
from thinktune.data.sampling import sample
from thinktune.data.splitting import split

WORDS = [f"{first}{last}" for first in "bcdfghklmnprstvw" for last in ("ain", "ode", "ith", "ull")]
LABELS = ("influenza", "common cold", "gastroenteritis", "bronchitis", "sinusitis", "腸胃炎")
SAME_RATE, SPACED_RATE = 0.05, 0.1
Call = Callable[[Path, Path], Mended]


def write_source(path: Path, num_rows: int, seed: int) -> None:
    """Rows of about 600 characters; some ask what an earlier one asked, some need cleaning."""
    draw = random.Random(seed)
    recent: list[str] = []
    with path.open("w", encoding="utf-8") as file:
        for number in range(num_rows):
            question = " ".join(draw.choices(WORDS, k=32)) + "?"
            if recent and draw.random() < SAME_RATE:
                question = draw.choice(recent)
            recent = [*recent[-99:], question]
            end = " \r\n" if draw.random() < SPACED_RATE else ""
            row = {
                "question": question,
                "reasoning": " ".join(draw.choices(WORDS, k=64)) + "." + end,
                "answer": " ".join(draw.choices(WORDS, k=16)),
                "reference": LABELS[number % 6 if number % 5 else 0],
                "age": number % 90,
            }
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def steps(other: Path, near: float | None) -> dict[str, Call]:
    """Every verb, from a source to an output."""
    return {
        "convert": lambda source, out: convert(source, out.with_suffix(".jsonl")),
        "convert to traditional": lambda source, out: convert(
            source, out.with_suffix(".jsonl"), to_script="traditional"
        ),
        "clean": lambda source, out: clean(
            source, out.with_suffix(".jsonl"), fix=["html", "control", "unicode", "whitespace"]
        ),
        "dedup": lambda source, out: dedup(source, out.with_suffix(".jsonl"), near=near),
        "split": lambda source, out: split(source, out, heldout=0.1, by=["reference"], near=near),
        "sample": lambda source, out: sample(
            source, out.with_suffix(".jsonl"), fraction=0.5, by=["reference"]
        ),
        "mix": lambda source, out: mix(
            [(source, 0.7), (str(other), 0.3)], out.with_suffix(".jsonl")
        ),
        "decontaminate": lambda source, out: decontaminate(
            source, out.with_suffix(".jsonl"), against=str(other)
        ),
    }


def measure(
    name: str, source: Path, other: Path, warm: Path, near: float | None
) -> tuple[float, float, str]:
    """CPU seconds, MiB above those of the imports, and the account; in this process."""
    call = steps(other, near)[name]
    steps(warm, near)[name](
        source.parent / "small.jsonl", source.parent / f"warm-{name.replace(' ', '-')}"
    )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    mended = call(source, source.parent / name.replace(" ", "-"))
    seconds = time.process_time() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return seconds, (peak - before) / 1024, f"peak {peak / 1024:5.0f} MiB, {mended.line}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--near", action="store_true", help="also look for near-duplicates")
    parser.add_argument("--folder", type=Path, help="where the files go; about 9 times 0.7 GB")
    parser.add_argument("--only", nargs="*", help="names of steps")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=asked.folder) as name:
        source, other = Path(name, "source.jsonl"), Path(name, "other.jsonl")
        write_source(source, asked.rows, seed=1)
        write_source(other, asked.rows // 2, seed=2)  # no smaller: mix draws 3 rows of 10 of it
        warm, small = Path(name, "warm.jsonl"), Path(name, "small.jsonl")
        write_source(warm, 1000, seed=3)
        write_source(small, 1000, seed=4)
        size = source.stat().st_size / 2**20
        print(f"{asked.rows:,} rows, {size:,.0f} MiB")
        near = 0.8 if asked.near else None
        print(f"{'step':24}{'CPU s':>9}{'rows/s':>10}{'MiB more':>10}")
        spawn = multiprocessing.get_context("spawn")
        for step in asked.only or steps(other, near):
            second = other if step == "mix" else warm
            with spawn.Pool(1) as pool:
                seconds, more, account = pool.apply(measure, (step, source, second, warm, near))
            rate = asked.rows / seconds
            print(f"{step:24}{seconds:9.1f}{rate:10,.0f}{more:10.0f}  {account}", flush=True)
            for path in Path(name).glob(f"*{step.replace(' ', '-')}*"):
                if path.is_file():
                    path.unlink()


if __name__ == "__main__":
    main()
