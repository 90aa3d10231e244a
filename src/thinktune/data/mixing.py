"""Several sources in one file, by weight, in an order drawn by lot."""

import os
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np

from thinktune.data.cards import Mended
from thinktune.data.drawing import allot, choose_rows, lots
from thinktune.data.example import Example
from thinktune.data.formats import write_rows
from thinktune.data.intake import AnySource, Source, as_source, reread, usable
from thinktune.data.mending import Output, finished
from thinktune.data.provenance import Step, row_after
from thinktune.errors import ConfigError, DataError


def mix(
    sources: Sequence[tuple[AnySource, int | float | str]],
    out: Path,
    *,
    count: int | None = None,
    repeat: bool = False,
    seed: int = 0,
    force: bool = False,
) -> Mended:
    """Draw rows of several sources by weight, and write them in an order drawn by lot.

    Counts are exact: each source gives what the largest remainder says. No row comes twice unless
    ``repeat``; then every row of a small source comes equally often, give or take one. A metadata
    field called split moves into the provenance, since the mix is one file.

    Reads each source twice and holds about 100 bytes a row; texts wait in a file beside ``out``.

    Args:
        sources: what to read, each with its weight, a number above 0.
        out: the .jsonl file to write.
        count: rows to write; None for as many as the weights allow without repeating any.
        repeat: let a source that is too small give rows several times.
        seed: of the draw and the order.
        force: replace files that are there.

    Raises:
        DataError: a source is too small and ``repeat`` is off; rows cannot be used; or a source
            changed while it was read.
        ConfigError: a weight or ``count`` is out of range; a source is named twice; or ``out`` is
            a source or there already.
    """
    read = [as_source(source) for source, _ in sources]
    shares = [_weight(source, weight) for source, (_, weight) in zip(read, sources, strict=True)]
    if len({source.name for source in read}) < len(read) or not read:
        raise ConfigError("mix needs sources, each named once; give a larger weight instead")
    if count is not None and count < 1:
        raise ConfigError(f"--count {count}, but at least one row is needed")
    named = [f"{source.name}={weight}" for source, (_, weight) in zip(read, sources, strict=True)]
    own = {"count": count, "repeat": repeat, "seed": seed}
    steps = [Step.of("mix", sources=named, **own, **source.options()) for source in read]
    alike = all(step == steps[0] for step in steps)
    step = Step.of("mix", **own, **(read[0].options() if alike else {}))
    with Output(step, read, out, force=force, arguments=named) as output, _waiting(out) as path:
        sizes = [sum(1 for _ in usable(source)) for source in read]
        quotas = _quotas(read, sizes, shares, count, repeat=repeat, seed=seed)
        times = _times(sizes, quotas, seed)
        write_rows(path, _drawn(read, sizes, times, output, steps))
        for line in _shuffled(path, times[times > 0], seed):
            output.write_line(line)
        output.num_repeated = int((times[times > 0] - 1).sum())
        lines = zip(named, sizes, quotas, strict=True)
        output.table = (
            ("source=weight", "rows", "written"),
            *((name, f"{size:,}", f"{quota:,}") for name, size, quota in lines),
        )
    return finished(output)


def _weight(source: Source, weight: int | float | str) -> Fraction:
    try:
        share = Fraction(str(weight))
    except (ValueError, ZeroDivisionError):
        share = Fraction(0)
    if share <= 0:
        raise ConfigError(f"{source.name}={weight}: a weight is a number above 0")
    return share


def _quotas(
    sources: Sequence[Source],
    sizes: Sequence[int],
    shares: Sequence[Fraction],
    count: int | None,
    *,
    repeat: bool,
    seed: int,
) -> list[int]:
    """How many rows each source gives."""
    ties = lots(seed, len(sizes), 1).tolist()
    most = min(int(size * sum(shares) / share) for size, share in zip(sizes, shares, strict=True))
    while most and any(q > n for q, n in zip(allot(most, shares, ties), sizes, strict=True)):
        most -= 1  # a remainder was rounded up past the last row
    quotas = allot(most if count is None else count, shares, ties)
    given = zip(sources, sizes, quotas, strict=True)
    if unable := [source.name for source, size, quota in given if quota and not size]:
        raise DataError(f"{unable[0]} has no usable row to give")
    given = zip(sources, sizes, quotas, strict=True)
    short = [f"{s.name} has {size:,} of {quota:,}" for s, size, quota in given if quota > size]
    if short and not repeat:
        raise DataError(
            f"too few rows: {'; '.join(short)}; write at most --count {most}, or let rows come "
            "again with --repeat"
        )
    if unused := [s.name for s, quota in zip(sources, quotas, strict=True) if not quota]:
        raise ConfigError(f"{unused[0]} would give no row; raise its weight or --count")
    return quotas


def _times(sizes: Sequence[int], quotas: Sequence[int], seed: int) -> np.ndarray:
    """How often each row of all sources comes; those of one source differ by one at most."""
    whole, rest = np.divmod(quotas, sizes)
    strata = np.repeat(np.arange(len(sizes)), sizes)
    return whole[strata] + choose_rows(strata, rest.tolist(), seed)


def _drawn(
    sources: Sequence[Source],
    sizes: Sequence[int],
    times: np.ndarray,
    output: Output,
    steps: Sequence[Step],
) -> Iterator[dict[str, object]]:
    """Rows that come at least once, in the sources' order; the others are dropped."""
    start = 0
    for source, size, step in zip(sources, sizes, steps, strict=True):
        for place, example in reread(output.read(source), size):
            num = int(times[start + place])
            if num:
                example, was = _without_split(example)
                more = ({"times": num} if num > 1 else {}) | ({"was": was} if was else {})
                yield row_after(example, step, **more)
            else:
                output.drop(example, "not drawn")
        start += size


def _shuffled(path: Path, times: np.ndarray, seed: int) -> Iterator[str]:
    """Lines of a file, each as often as ``times`` says, in an order drawn by lot."""
    with path.open("rb") as file:
        ends = array("Q", [0])
        for line in file:
            ends.append(ends[-1] + len(line))
        order = np.repeat(np.arange(len(times)), times)
        order = order[np.argsort(lots(seed, len(order), 2), kind="stable")]
        for place in order.tolist():
            yield os.pread(file.fileno(), ends[place + 1] - ends[place], ends[place]).decode()


@contextmanager
def _waiting(out: Path) -> Iterator[Path]:
    """A file beside ``out`` that is gone when the block ends."""
    path = out.with_name(f".{out.name}.{os.getpid()}.rows")
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def _without_split(example: Example) -> tuple[Example, str]:
    """Take out a metadata field called split; the mix is one file."""
    named = [name for name in example.metadata if name.strip().casefold() == "split"]
    if not named:
        return example, ""
    kept = {name: value for name, value in example.metadata.items() if name not in named}
    return replace(example, metadata=kept), str(example.metadata[named[0]])
