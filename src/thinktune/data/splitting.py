"""Training rows and held-out rows parted by lot or rule, near-duplicates on one side."""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from thinktune.data.cards import Mended
from thinktune.data.drawing import choose_groups, how_many
from thinktune.data.example import Example, spoken
from thinktune.data.intake import AnySource, Source, as_source, reread, usable
from thinktune.data.mending import Output, finished
from thinktune.data.near_duplicates import NearDuplicates
from thinktune.data.provenance import Step
from thinktune.data.sameness import question_key
from thinktune.data.strata import SHOWN_STRATA, Rule, Strata, Stratifier, all_hold, count_table
from thinktune.errors import ConfigError, DataError

TRAIN, TEST = "train", "test"
NEAR = 0.8


def split(
    source: AnySource,
    out: Path,
    *,
    heldout: float | None = None,
    heldout_count: int | None = None,
    by: Sequence[str] = (),
    rule: Sequence[str] = (),
    near: float | None = NEAR,
    seed: int = 0,
    force: bool = False,
) -> Mended:
    """Part the rows into OUT/train.jsonl and OUT/test.jsonl, each in the source's order.

    Rows that ask the same, or nearly so, are on one side. By lot, the held-out rows are exactly as
    many as asked for, and of each stratum what the largest remainder gives; where groups make that
    impossible, the notes say so. By rule, a row is held out if all rules hold for it, or for
    a near-duplicate of it. A metadata field called split gets the new side's name, and the old
    one stays in the provenance.

    Reads the source twice. Holds about 110 bytes a row at most, and with ``near`` about 900.

    Args:
        source: what to read.
        out: the folder to write.
        heldout: the part to hold out, below 1; or
        heldout_count: how many rows; or
        rule: comparisons as ``metadata.year>=2024``.
        by: fields whose values are equally frequent on both sides, as ``reference``.
        near: least similarity of questions that stay together; None for the same ones only.
        seed: of the draw.
        force: replace files that are there.

    Raises:
        DataError: rows cannot be used; no row has a field of ``by``; or one side would be empty.
        ConfigError: not one of ``heldout``, ``heldout_count`` and ``rule``; one of them, ``near``
            or ``seed`` is out of range; or ``out`` is the source or there already.
    """
    source, rules = as_source(source), [Rule.parse(text) for text in rule]
    if rules and (heldout is not None or heldout_count is not None or by):
        raise ConfigError("hold out by --rule, or by --heldout or --heldout-count with --by")
    step = Step.of(
        "split",
        heldout=heldout,
        heldout_count=heldout_count,
        by=[*by],
        rule=[*rule],
        near=0 if near is None else near,
        seed=None if rule else seed,
        **source.options(),
    )
    with Output(step, [source], out, parts=(TRAIN, TEST), force=force) as output:
        rows = _read(source, by, rules, near)
        lot = (heldout_count, heldout, seed)
        held = _by_rule(rows, output.notes) if rules else _by_lot(rows, *lot, output.notes)
        output.table = count_table(rows.strata, {TRAIN: ~held, TEST: held})
        _write(source, held, output)
    return finished(output)


def _write(source: Source, held: np.ndarray, output: Output) -> None:
    if held.all() or not held.any():
        raise DataError(f"{source.name}: {_one_side(held)}; nothing was written")
    for place, example in reread(output.read(source), len(held)):
        part = TEST if held[place] else TRAIN
        renamed, was = _rename_split(example, part)
        output.keep(renamed, part, side=part, **({"was": was} if was else {}))


@dataclass(frozen=True, slots=True)
class _Read:
    """What a split must know of all rows."""

    strata: Strata
    groups: np.ndarray
    """Rows with the same number ask the same, or nearly; numbers from 0 without gaps."""
    matches: np.ndarray
    """By rule: 1 held out, 0 not, -1 the row lacks a field of it."""


def _read(source: Source, by: Sequence[str], rules: Sequence[Rule], near: float | None) -> _Read:
    stratifier, keys, matches = Stratifier(by), array("Q"), array("b")
    alike = NearDuplicates()
    for example in usable(source):
        stratifier.add(example)
        keys.append(question_key(example))
        if near is not None:
            alike.add(spoken(example))
        if rules:
            held = all_hold(rules, example)
            matches.append(-1 if held is None else held)
    _, first, group = np.unique(
        np.frombuffer(keys, np.uint64), return_index=True, return_inverse=True
    )
    group = first[group]  # the place of the first that asks the same
    if near is not None:
        # Near groups hold all that ask the same words; the same key under another context too.
        roots = np.arange(len(keys))
        for places in alike.groups(near, source.search_progress()):
            roots[places] = places[0]
        group = _united(group, roots)
    _, group = np.unique(group, return_inverse=True)
    return _Read(stratifier.strata(), group, np.frombuffer(matches, np.int8))


def _united(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Join two groupings, each given as the place of a row's first companion."""
    roots = np.minimum(first, second)
    while True:
        joined = roots.copy()
        np.minimum.at(joined, first, roots)
        np.minimum.at(joined, second, roots)
        joined = np.minimum(joined[first], joined[second])
        if (joined == roots).all():
            return roots
        roots = joined


def _by_lot(
    rows: _Read, count: int | None, fraction: float | None, seed: int, notes: list[str]
) -> np.ndarray:
    total = how_many(count, fraction, len(rows.groups), ("--heldout-count", "--heldout"))
    chosen = choose_groups(rows.strata.rows, rows.groups, total, seed)
    got = sum(chosen.got)
    if got != total:
        notes.append(f"{got:,} rows held out instead of {total:,}: near-duplicates stay together")
    both = zip(rows.strata.names, chosen.wanted, chosen.got, strict=True)
    unlike = [f"{name} {num} for {wanted}" for name, wanted, num in both if wanted != num]
    if unlike and len(rows.strata.names) > 1:
        more = ", ..." if len(unlike) > SHOWN_STRATA else ""
        told = ", ".join(unlike[:SHOWN_STRATA])
        notes.append(f"not exact, since near-duplicates stay together: {told}{more}")
    _tell_groups(rows.groups, notes)
    return chosen.rows


def _by_rule(rows: _Read, notes: list[str]) -> np.ndarray:
    matched = rows.matches == 1
    held = (np.bincount(rows.groups, weights=matched) > 0)[rows.groups]
    if lacking := int((rows.matches == -1).sum()):
        lack = "row lacks" if lacking == 1 else "rows lack"
        notes.append(f"{lacking:,} {lack} a value that the rule can compare: not matched")
    if followed := int((held & ~matched).sum()):
        rows_held = "row" if followed == 1 else "rows"
        notes.append(
            f"{followed:,} {rows_held} held out for a near-duplicate that the rule holds for"
        )
    _tell_groups(rows.groups, notes)
    return held


def _tell_groups(groups: np.ndarray, notes: list[str]) -> None:
    sizes = np.bincount(groups)
    together = sizes[sizes > 1]
    if len(together):
        num = f"{len(together):,} group{'' if len(together) == 1 else 's'}"
        notes.append(f"{together.sum():,} rows in {num} of near-duplicates, none parted")


def _one_side(held: np.ndarray) -> str:
    return f"all {len(held):,} rows would be {'held out' if held.all() else 'training rows'}"


def _rename_split(example: Example, side: str) -> tuple[Example, str]:
    """Give a metadata field called split the new side's name, and tell the old one."""
    named = [name for name in example.metadata if name.strip().casefold() == "split"]
    if not named:
        return example, ""
    was = str(example.metadata[named[0]])
    return replace(example, metadata={**example.metadata, **dict.fromkeys(named, side)}), was
