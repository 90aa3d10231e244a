"""What a set of examples holds, how long it is and what is wrong with it, in one value."""

from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, islice

from thinktune.data.example import Example
from thinktune.data.faults import FIELDS, Fault, RowFaults, Severity, row_name
from thinktune.data.names import Names
from thinktune.data.near_duplicates import THRESHOLD, Progress
from thinktune.data.script_faults import Scripts
from thinktune.data.segments import Segment
from thinktune.data.set_faults import Leaks, Near, Openings, Repeated, imbalance
from thinktune.data.sources import Unusable
from thinktune.data.template import Overlong, Template, fit
from thinktune.errors import DataError
from thinktune.words import count_words_each

COLLAPSE_RATE = 0.2
"""Reasoning with less than this share of the words that the base model writes is far shorter."""
BATCH_ROWS = 256
MAX_REFERENCES = 100_000
"""So many different references are counted; more than this are no labels."""


@dataclass(frozen=True, slots=True)
class Quantiles:
    """Lengths of a set of texts."""

    minimum: int
    median: float
    p95: int
    """Nearest rank: 95 % of the texts are no longer than this."""
    maximum: int

    @classmethod
    def of(cls, lengths: Sequence[int] | Mapping[int, int]) -> "Quantiles":
        """Summarise at least one length, or lengths and how often each occurs.

        >>> Quantiles.of([4, 1, 2, 3])
        Quantiles(minimum=1, median=2.5, p95=4, maximum=4)
        """
        counted = sorted(Counter(lengths).items())
        ends = list(accumulate(count for _, count in counted))
        total = ends[-1]

        def at(rank: int) -> int:
            return next(
                length for (length, _), end in zip(counted, ends, strict=True) if end > rank
            )

        middle = (at((total - 1) // 2) + at(total // 2)) / 2
        return cls(counted[0][0], middle, at(-(-95 * total // 100) - 1), counted[-1][0])


@dataclass(frozen=True, slots=True)
class TokenLengths:
    """Lengths as a template renders them, and what the length limit does."""

    segments: dict[str, Quantiles]
    """``prompt``, ``reasoning``, ``answer`` and ``row``, before anything is shortened."""
    max_length: int | None
    overlong: Overlong
    """What becomes of longer rows."""
    dropped: tuple[tuple[str, int], ...]
    """Rows that do not fit and cannot be made to, with their tokens."""
    shortened: tuple[tuple[str, int], ...]
    """Rows that fit once the middle of their reasoning is gone, with the tokens removed."""


@dataclass(frozen=True, slots=True)
class Inspection:
    """What ``thinktune data inspect`` shows."""

    num_rows: int
    """All of them, those that cannot be used too."""
    num_examples: int
    num_heldout: int
    num_with_reference: int
    num_with_system: int
    num_with_history: int
    references: dict[str, int]
    """How often each reference occurs, most frequent first; empty if there are too many."""
    words: dict[str, Quantiles]
    """By field: question, reasoning, answer. A Chinese or Japanese character is a word."""
    characters: dict[str, Quantiles]
    histograms: dict[str, dict[int, int]]
    """By field: how many rows have so many words."""
    scripts: dict[str, dict[str, int]]
    """By field: how many rows are in which script, most frequent first."""
    tokens: TokenLengths | None
    """None without a template."""
    faults: tuple[Fault, ...] = field(default=())
    """Errors first."""

    @property
    def num_unusable(self) -> int:
        """Rows that cannot become examples."""
        return self.num_rows - self.num_examples


def inspect(
    examples: Iterable[Example | Unusable],
    *,
    heldout: Sequence[Example] = (),
    template: Template | None = None,
    max_length: int | None = None,
    near: float | None = THRESHOLD,
    base_words: int | None = None,
    progress: Progress | None = None,
) -> Inspection:
    """Count, measure and check ``examples`` as they come; nothing is changed.

    Memory grows by 84 bytes a row, and with ``near`` by about 500 more; no text is kept.

    Args:
        examples: at least one; rows that cannot be used are counted as a fault of theirs.
        heldout: held-out questions, to find those that are also among the examples.
        template: renders the examples to measure them in tokens.
        max_length: most tokens of a row, beside the template's own limit.
        near: least similarity of questions that are nearly the same; None does not look for them.
        base_words: words of the base model's reasoning before training, as a median, to say
            whether this data would make it collapse; None does not ask.
        progress: told how far the search for near-duplicates is.

    Raises:
        ValueError: there are no rows.
    """
    found = _Found(heldout, near)
    tokens = None if template is None else _Tokens(template, max_length)
    items = iter(examples)
    while batch := list(islice(items, BATCH_ROWS)):
        for example, name in found.add(batch):
            if tokens is not None:
                tokens.add(example, name)
    if not found.num_rows:
        raise ValueError("nothing to inspect: no examples")
    return found.inspection(None if tokens is None else tokens.lengths, base_words, progress)


class _Found:
    """What was seen of the rows so far."""

    def __init__(self, heldout: Sequence[Example], near: float | None) -> None:
        self.num_rows = 0
        self._row_faults = RowFaults()
        self._num_heldout = len(heldout)
        self._num_examples = self._num_with_reference = 0
        self._num_with_system = self._num_with_history = 0
        self._references: Counter[str] = Counter()
        self._words, self._characters = array("L"), array("L")  # of the fields in turn
        self._names, self._scripts, self._leaks = Names(), Scripts(), Leaks(heldout)
        self._repeated, self._openings = Repeated(), Openings()
        self._near = None if near is None else Near(heldout, near)

    def add(self, batch: Sequence[Example | Unusable]) -> list[tuple[Example, str]]:
        """Take in the next rows, check by check, which is faster; give examples and names."""
        rows: list[tuple[Example, str]] = []
        for item in batch:
            self.num_rows += 1
            if isinstance(item, Example):
                rows.append((item, row_name(item, self.num_rows)))
            else:
                self._row_faults.add_unusable(item.reasons, item.where)
        for (example, name), words in zip(rows, self._count(rows), strict=True):
            self._row_faults.add(example, name, reasoning_words=words)
        for example, name in rows:
            self._scripts.add(example, name)
        for example, name in rows:
            self._names.add(name)
            self._leaks.add(example, name)
            self._repeated.add(example)
            self._openings.add(example)
        if self._near is not None:
            for example, _ in rows:
                self._near.add(example)
        return rows

    def _count(self, rows: Sequence[tuple[Example, str]]) -> Iterable[int]:
        """Count what the rows hold; give the words of each reasoning."""
        before = len(self._words)
        for example, _ in rows:
            self._num_examples += 1
            self._num_with_system += bool(example.system)
            self._num_with_history += bool(example.history)
            if example.reference is not None:
                self._num_with_reference += 1
                if len(self._references) < MAX_REFERENCES:
                    self._references[example.reference] += 1
            texts = (example.question, example.reasoning, example.answer)
            self._words.extend(count_words_each(texts))
            self._characters.extend(map(len, texts))
        return self._words[before + 1 :: 3]

    def inspection(
        self, tokens: TokenLengths | None, base_words: int | None, progress: Progress | None
    ) -> Inspection:
        """What was found, once all rows are in."""
        usable = self._num_examples
        histograms = {of: Counter(self._words[at::3]) for at, of in enumerate(FIELDS)}
        characters = {of: Counter(self._characters[at::3]) for at, of in enumerate(FIELDS)}
        words = {of: Quantiles.of(counts) for of, counts in histograms.items()} if usable else {}
        few = len(self._references) < MAX_REFERENCES
        references = dict(self._references.most_common()) if few else {}
        faults = [self._leaks.fault, *self._row_faults.faults, *self._scripts.faults]
        if usable:
            faults += self._repeated.faults(self._names) + self._openings.faults(self._names)
            faults += _collapse(words["reasoning"], base_words, usable)
        if self._near is not None and usable:
            faults += self._near.faults(self._names, progress)
        faults += imbalance(references)
        return Inspection(
            num_rows=self.num_rows,
            num_examples=usable,
            num_heldout=self._num_heldout,
            num_with_reference=self._num_with_reference,
            num_with_system=self._num_with_system,
            num_with_history=self._num_with_history,
            references=references,
            words=words,
            characters={of: Quantiles.of(n) for of, n in characters.items()} if usable else {},
            histograms={of: dict(sorted(counts.items())) for of, counts in histograms.items()},
            scripts={
                of: {str(script): number for script, number in counted.most_common()}
                for of, counted in self._scripts.counts.items()
            },
            tokens=tokens,
            faults=_by_severity(faults),
        )


def _by_severity(faults: Iterable[Fault]) -> tuple[Fault, ...]:
    """Faults that concern a row, errors first."""
    found = [fault for fault in faults if fault.num_rows]
    return tuple(sorted(found, key=lambda fault: list(Severity).index(fault.severity)))


def _collapse(reasoning: Quantiles, base_words: int | None, num_examples: int) -> list[Fault]:
    if base_words is None or reasoning.median >= COLLAPSE_RATE * base_words:
        return []
    return [
        Fault(
            Severity.WARNING,
            f"reasoning far shorter than the base model's: {reasoning.median:.0f} words to "
            f"{base_words}",
            (),
            "the tuned model will think as briefly as its data; write the steps out, or let a "
            "teacher (thinktune distill)",
            num_examples,
        )
    ]


class _Tokens:
    """Lengths in tokens of the rows that can be rendered."""

    def __init__(self, template: Template, max_length: int | None) -> None:
        limits = [n for n in (max_length, template.config.max_length) if n is not None]
        self._template, self._limit = template, min(limits, default=None)
        self._counts: dict[str, Counter[int]] = defaultdict(Counter)
        self._dropped: list[tuple[str, int]] = []
        self._shortened: list[tuple[str, int]] = []

    def add(self, example: Example, name: str) -> None:
        """Measure a row, if it can be rendered."""
        try:
            rendered = self._template.render(example)
        except DataError:
            return  # a tag within a text, which is a fault of its own
        for kind in (Segment.PROMPT, Segment.REASONING, Segment.ANSWER):
            self._counts[kind.name.lower()][rendered.segments.count(kind)] += 1
        self._counts["row"][len(rendered.tokens)] += 1
        if self._limit is None or len(rendered.tokens) <= self._limit:
            return
        fitted = fit(self._template, example, rendered, self._limit)
        if fitted is None:
            self._dropped.append((name, len(rendered.tokens)))
        else:
            self._shortened.append((name, fitted.removed_tokens))

    @property
    def lengths(self) -> TokenLengths:
        """Lengths of the rows so far."""
        return TokenLengths(
            segments={kind: Quantiles.of(counts) for kind, counts in self._counts.items()},
            max_length=self._limit,
            overlong=self._template.config.overlong,
            dropped=tuple(self._dropped),
            shortened=tuple(self._shortened),
        )
