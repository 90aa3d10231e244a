"""A sample of the rows, drawn by lot: proportional to its strata, or equal parts of them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from thinktune.data.cards import Mended
from thinktune.data.drawing import Shares, allot, choose_rows, how_many, lots
from thinktune.data.intake import AnySource, as_source, reread, usable
from thinktune.data.mending import Output, finished
from thinktune.data.provenance import Step
from thinktune.data.strata import SHOWN_STRATA, Strata, Stratifier, count_table
from thinktune.errors import ConfigError, DataError


def sample(
    source: AnySource,
    out: Path,
    *,
    count: int | None = None,
    fraction: float | None = None,
    by: Sequence[str] = (),
    shares: Shares | str = Shares.PROPORTIONAL,
    seed: int = 0,
    force: bool = False,
) -> Mended:
    """Draw rows without putting any back, in the source's order; the others are dropped.

    Reads the source twice. Holds about 30 bytes a row at most.

    Args:
        source: what to read.
        out: the .jsonl file to write.
        count: how many rows; or
        fraction: which part of them, above 0 and up to 1.
        by: fields by whose values to draw.
        shares: whether each stratum gives its part of the rows, or as many as any other.
        seed: of the draw.
        force: replace files that are there.

    Raises:
        DataError: rows cannot be used and ``source.skip_unusable`` is off; no row has a field of
            ``by``; a stratum is too small for an equal share; or the source changed meanwhile.
        ConfigError: not one of ``count`` and ``fraction``; one of them or ``seed`` is out of
            range; or ``out`` is the source or there already.
    """
    source, shares = as_source(source), Shares.named(shares)
    equal = shares is Shares.EQUAL
    if equal and not by:
        raise ConfigError("equal shares need strata: add --by FIELD")
    step = Step.of(
        "sample",
        count=count,
        fraction=fraction,
        by=[*by],
        shares=str(shares) if equal else None,
        seed=seed,
        **source.options(),
    )
    with Output(step, [source], out, force=force) as output:
        stratifier = Stratifier(by)
        for example in usable(source):
            stratifier.add(example)
        strata = stratifier.strata()
        total = how_many(count, fraction, len(strata.rows), ("--count", "--fraction"))
        quotas = _quotas(strata, total, equal, seed)
        chosen = choose_rows(strata.rows, quotas, seed)
        output.table = count_table(strata, {"drawn": chosen, "left": ~chosen})
        for place, example in reread(output.read(source), len(chosen)):
            if chosen[place]:
                output.keep(example)
            else:
                output.drop(example, "not drawn")
    return finished(output)


def _quotas(strata: Strata, total: int, equal: bool, seed: int) -> list[int]:
    sizes = np.bincount(strata.rows).tolist()
    ties = lots(seed, len(sizes), 1).tolist()
    quotas = allot(total, [1] * len(sizes) if equal else sizes, ties)
    named = zip(strata.names, sizes, quotas, strict=True)
    short = [f"{name} has {size}" for name, size, quota in named if quota > size]
    if short:
        raise DataError(
            f"{total:,} rows in equal shares are {total // len(sizes):,} of each stratum, but "
            f"{', '.join(short[:SHOWN_STRATA])}; at most {min(sizes) * len(sizes):,} in all"
        )
    return quotas
