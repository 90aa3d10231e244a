"""Rows that must not be there twice, and rows that an evaluation file holds."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from thinktune.data.cards import Mended, RowList
from thinktune.data.example import Example
from thinktune.data.intake import AnySource, Source, as_source, reread, usable
from thinktune.data.mending import Output, finished
from thinktune.data.overlap import Contamination
from thinktune.data.provenance import Step
from thinktune.data.sameness import Keep, Sameness

SAME = "same question and answer"
NEAR = "nearly the same question"
CONTRADICTORY = "same question, another answer"
CONTAMINATED = "shared with the evaluation file"


def dedup(
    source: AnySource,
    out: Path,
    *,
    near: float | None = None,
    keep: Keep | str = Keep.FIRST,
    drop_contradictory: bool = False,
    force: bool = False,
) -> Mended:
    """Keep one of several rows that ask and answer the same.

    Questions are the same if system prompt, earlier turns and question are, but for case, width,
    spaces and punctuation at their ends; answers, if the references are or, where a row has none,
    the answers' texts. The same question with another answer contradicts: such rows are kept,
    each with ``contradicts`` in its provenance, and listed in the notes.

    With ``near``, a question nearly the same as another is dropped too if it has the same
    reference (or both have none) and system prompt; one with another reference is another
    question ("3 apples" and "5 apples") and stays. Contradictory rows are never dropped so.

    Reads the source twice. Holds about 130 bytes a row at most, and with ``near`` about 900 (what
    ``NearDuplicates`` holds, and its search). Keys have 64 bits: among a million questions the
    chance that two different ones are taken for the same is 3 in 100 million.

    Args:
        source: what to read.
        out: the .jsonl file to write.
        near: least similarity of two questions, from 0.7 to 1; None for the same ones only.
        keep: which row stays.
        drop_contradictory: leave out all rows whose question is answered in several ways.
        force: replace files that are there.

    Raises:
        DataError: rows cannot be used and ``source.skip_unusable`` is off; nothing is left; or the
            source changed while it was read.
        ConfigError: ``near`` is out of range, or ``out`` is a source or there already.
    """
    source, keep = as_source(source), Keep.named(keep)
    step = Step.of(
        "dedup",
        near=near,
        keep=None if keep is Keep.FIRST else str(keep),
        drop_contradictory=drop_contradictory,
        **source.options(),
    )
    with Output(step, [source], out, force=force) as output:
        rows = Sameness(source, keep, near=near is not None)
        _judge(rows, source, output, near, drop_contradictory)
    return finished(output)


def _judge(
    rows: Sameness,
    source: Source,
    output: Output,
    near: float | None,
    drop_contradictory: bool,
) -> None:
    """Read the source again, and keep or drop each row."""
    other = rows.contradictions()
    winner = rows.winners(other, near, source.search_progress())
    contradictory = RowList()
    for place, example in reread(output.read(source), len(rows)):
        first = int(winner[place])
        contradicts = rows.where(int(other[place])) if other[place] >= 0 else ""
        if contradicts and drop_contradictory:
            output.drop(example, CONTRADICTORY, contradicts)
        elif first != place:
            same = rows.questions[first] == rows.questions[place]
            output.drop(example, SAME if same else NEAR, rows.where(first))
        elif contradicts:
            contradictory = contradictory.add(example.where)
            output.keep(example, contradicts=contradicts)
        else:
            output.keep(example)
    if contradictory.num_rows:
        output.notes.append(
            f"{CONTRADICTORY}, kept (--drop-contradictory drops them): {contradictory}"
        )
    if rows.num_alike_kept:
        output.notes.append(
            f"{NEAR} as another but with another reference, kept: {rows.num_alike_kept:,} rows"
        )


def decontaminate(
    source: AnySource, out: Path, *, against: AnySource, force: bool = False
) -> Mended:
    """Leave out rows that share a run of words with an evaluation file.

    ``overlap.Contamination`` says what is shared: 13 words in a row, or a whole question. Looked
    at are question, reasoning, answer and earlier turns. The shared run is in the rejected rows.
    Streams; the evaluation file's runs are held, 8 bytes each.

    Args:
        source: what to read.
        out: the .jsonl file to write.
        against: the evaluation file; its rows need a question, and reasoning and answer count too.
        force: replace files that are there.

    Raises:
        DataError: rows cannot be used; or nothing is left.
        ConfigError: ``out`` is a source or the evaluation file, or there already.
    """
    source, against = as_source(source), replace(as_source(against), questions_only=True)
    step = Step.of("decontaminate", **_against_options(against), **source.options())
    with Output(step, [source], out, beside=[against.name], force=force) as output:
        evaluation = list(usable(against))
        contamination = Contamination(
            (example.question for example in evaluation),
            (text for example in evaluation for text in (example.reasoning, example.answer)),
        )
        for example in output.read(source):
            found = next(_shared(example, contamination.overlap), None)
            if found is None:
                output.keep(example)
            else:
                name, run = found
                output.drop(example, CONTAMINATED, f"{name}: {run}")
        output.notes.append(
            f"held against {len(evaluation):,} rows of {against.name}; "
            f"{contamination.num_boilerplate:,} runs of its boilerplate left aside"
        )
    return finished(output)


def _shared(example: Example, overlap: Callable[[str], str | None]) -> Iterator[tuple[str, str]]:
    texts = (
        ("question", example.question),
        ("reasoning", example.reasoning),
        ("answer", example.answer),
        *(("history", turn.content) for turn in example.history),
    )
    return ((name, run) for name, text in texts if text and (run := overlap(text)) is not None)


def _against_options(against: Source) -> dict[str, object]:
    return {
        "against": against.name,
        "against_split": against.split,
        "against_column": dict(against.columns),
        "against_pattern": dict(against.patterns),
    }
