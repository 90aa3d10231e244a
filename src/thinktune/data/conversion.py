"""Any accepted format to ours, another script, chosen fixes: rows stay, and their text changes."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from thinktune.data.cards import Mended, Touched
from thinktune.data.example import Example
from thinktune.data.fixes import FIXES, apply_fix, choose_fixes
from thinktune.data.intake import AnySource, Source, as_source, usable
from thinktune.data.mending import Output, finished
from thinktune.data.provenance import Step
from thinktune.errors import ConfigError

SHOWN_REPLACEMENTS = 10
MOST_REPLACEMENTS = 100_000
"""Different replacements counted for the card."""


def convert(
    source: AnySource, out: Path, *, to_script: str | None = None, force: bool = False
) -> Mended:
    """Write a source of any accepted format as JSON Lines in our own fields.

    Streams: memory does not grow with the rows.

    Args:
        source: what to read.
        out: the .jsonl file to write.
        to_script: ``traditional``, ``simplified`` or ``taiwan`` (Traditional with Taiwan's words);
            converts every text, the reference too, and writes each replacement to OUT's stem +
            ``.diff.txt``. Metadata stays as it is.
        force: replace files that are there.

    Raises:
        DataError: rows cannot be used and ``source.skip_unusable`` is off; or nothing is left.
        ConfigError: an unknown script, or ``out`` is a source or there already.
    """
    source = as_source(source)
    step = Step.of("convert", to_script=to_script, **source.options())
    with Output(step, [source], out, force=force) as output:
        if to_script is None:
            for example in output.read(source):
                output.keep(example)
        else:
            _convert_script(source, output, to_script)
    return finished(output)


def _convert_script(source: Source, output: Output, target: str) -> None:
    from thinktune.data import scripts  # noqa: PLC0415 - slow to import

    counts: dict[tuple[str, str], int] = {}
    scripts.to_script("", target)  # refuses an unknown one before the first row
    for example in output.read(source):
        replaced: list[tuple[str, list[tuple[str, str]]]] = []

        def convert_field(name: str, text: str) -> str:
            if text.isascii():
                return text
            converted = scripts.to_script(text, target)
            if converted != text:
                replaced.append((name, scripts.differences(text, converted)))  # noqa: B023
            return converted

        converted = _with_text(example, convert_field)
        for name, pairs in replaced:
            output.differ(example.where, name, pairs)
            for pair in pairs:
                if pair in counts or len(counts) < MOST_REPLACEMENTS:
                    counts[pair] = counts.get(pair, 0) + 1
        if replaced:
            output.change(target, len(replaced))
            names = list(dict.fromkeys(name for name, _ in replaced))
            output.keep(converted, changed=names)
        else:
            output.keep(converted)
    most = sorted(counts, key=lambda pair: (-counts[pair], pair))[:SHOWN_REPLACEMENTS]
    told = ", ".join(f"{before} -> {after} {counts[before, after]:,}" for before, after in most)
    output.notes.append(
        f"{sum(counts.values()):,} replacements, most often {told}"
        if told
        else "nothing to replace"
    )


def clean(source: AnySource, out: Path, *, fix: Sequence[str], force: bool = False) -> Mended:
    """Make the chosen fixes in every text of a source; a row without need of them stays as it is.

    A row whose question, reasoning or answer is empty after it is dropped. Streams.

    Args:
        source: what to read.
        out: the .jsonl file to write.
        fix: names of ``FIXES``, at least one.
        force: replace files that are there.

    Raises:
        DataError: as ``convert``.
        ConfigError: no fix or an unknown one; or as ``convert``.
    """
    if not fix:
        raise ConfigError(f"clean needs a fix; known: {', '.join(FIXES)}")
    source, fixes = as_source(source), choose_fixes(fix)
    step = Step.of("clean", fix=list(fixes), **source.options())
    needed = ("question",) if source.questions_only else ("question", "reasoning", "answer")
    with Output(step, [source], out, force=force) as output:
        for example in output.read(source):
            fixed, touched = _fix(example, fixes)
            empty = [name for name in needed if not getattr(fixed, name).strip()]
            if empty:
                output.drop(example, f"empty {empty[0]} after cleaning")
                continue
            for name, num_fields in touched.items():
                output.change(name, num_fields)
            if touched:
                output.keep(fixed, fixed=list(touched))
            else:
                output.keep(fixed)
    return finished(output)


def survey_fixes(source: AnySource) -> dict[str, Touched]:
    """Say what each fix would touch, each by itself; writes nothing.

    Raises:
        DataError: rows cannot be used and ``source.skip_unusable`` is off.
    """
    counts = dict.fromkeys(FIXES, Touched())
    for example in usable(as_source(source)):
        for name, fix in FIXES.items():
            _, touched = _fix(example, {name: fix})
            if touched:
                held = counts[name]
                counts[name] = Touched(held.rows + 1, held.fields + touched[name])
    return counts


def _fix(
    example: Example, fixes: dict[str, Callable[[str], str]]
) -> tuple[Example, dict[str, int]]:
    """The example after all fixes, and in how many fields each of them changed something."""
    touched: dict[str, int] = {}

    def fix_field(_: str, text: str) -> str:
        for name, fix in fixes.items():
            fixed = apply_fix(fix, text)
            if fixed is not text and fixed != text:
                touched[name] = touched.get(name, 0) + 1
                text = fixed
        return text

    return _with_text(example, fix_field), touched


def _with_text(example: Example, change: Callable[[str, str], str]) -> Example:
    """Change every text of an example, given the name of its field and the text."""
    changed: dict[str, object] = {}
    for name in ("question", "reasoning", "answer", "reference", "system"):
        text = getattr(example, name)
        if text and (new := change(name, text)) != text:
            changed[name] = new
    if example.history:
        changed["history"] = tuple(
            replace(
                turn,
                content=change("history", turn.content),
                reasoning=change("history", turn.reasoning),
            )
            for turn in example.history
        )
    return replace(example, **changed) if changed else example  # pyright: ignore[reportArgumentType]
