"""What can be wrong with rows together: repeated, leaked, template-like, unbalanced."""

from array import array
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from thinktune.answers.numbers import is_number
from thinktune.data.example import Example, spoken
from thinktune.data.faults import NAMED_ROWS, Fault, Severity, Tally, row_name
from thinktune.data.names import Names
from thinktune.data.near_duplicates import NearDuplicates, Progress, across
from thinktune.words import find_words

OPENING_WORDS = 5
OPENING_RATE, MANY_OPENINGS_RATE = 0.1, 0.2
"""Share of the rows that may begin alike; above the second it is a warning."""
MIN_SAME_OPENING = 3
MAX_LABELS = 50
MAX_IMBALANCE = 4
"""Most times that the most frequent reference may be as frequent as the rarest."""


def _fault_at(
    names: Names, severity: Severity, what: str, places: Sequence[int], way_out: str
) -> Fault:
    """A fault of the rows at ``places``."""
    named = tuple(names[place] for place in places[:NAMED_ROWS])
    return Fault(severity, what, named, way_out, len(places))


class Repeated:
    """The same question again, with the same answer or another; 16 bytes a row."""

    def __init__(self) -> None:
        """Start without rows."""
        self._asked, self._answered = array("q"), array("q")

    def add(self, example: Example) -> None:
        """Take in the next row."""
        self._asked.append(hash(asked(example)))
        self._answered.append(hash(example.answer.strip()))

    def faults(self, names: Names) -> list[Fault]:
        """Rows whose question occurs more than once."""
        import numpy as np  # noqa: PLC0415 - slow to import

        questions, answers = np.array(self._asked), np.array(self._answered)
        _, inverse, counts = np.unique(questions, return_inverse=True, return_counts=True)
        again = np.flatnonzero(counts[inverse] > 1)
        groups: dict[int, list[int]] = defaultdict(list)
        for place in again.tolist():
            groups[int(inverse[place])].append(place)
        same: list[int] = []
        differing: list[int] = []
        for places in groups.values():
            one = len(set(answers[places].tolist())) == 1
            (same if one else differing).extend(places)
        return [
            _fault_at(
                names,
                Severity.WARNING,
                "the same question again, with the same answer",
                sorted(same),
                "keep one of each; repeated rows weigh more and are learned by heart "
                "(thinktune data dedup)",
            ),
            _fault_at(
                names,
                Severity.WARNING,
                "the same question with different answers",
                sorted(differing),
                "keep the right answer; if all are right, say in the question what tells them "
                "apart",
            ),
        ]


def asked(example: Example) -> tuple[object, ...]:
    """What makes two questions the same: the words, and what was said before them."""
    said = tuple((turn.role, turn.content.strip()) for turn in example.history)
    return (" ".join(example.question.split()), example.system.strip(), said)


def find_leaks(examples: Iterable[Example], heldout: Sequence[Example]) -> Fault:
    """Training rows whose question is also among the held-out ones; no rows if there is none."""
    leaks = Leaks(heldout)
    for place, example in enumerate(examples, start=1):
        leaks.add(example, row_name(example, place))
    return leaks.fault


class Leaks:
    """Training rows whose question is also among the held-out ones."""

    def __init__(self, heldout: Sequence[Example]) -> None:
        """Remember the held-out questions."""
        self._where: dict[str, str] = {}
        for place, example in enumerate(heldout, start=1):
            question = " ".join(example.question.split())
            self._where.setdefault(question, row_name(example, place))
        self._tally = Tally(
            Severity.ERROR,
            "the question is also among the held-out questions",
            "take it out of one of the two; a model is not tested on what it was taught",
        )

    def add(self, example: Example, name: str) -> None:
        """Take in the next row."""
        if self._where and (other := self._where.get(" ".join(example.question.split()))):
            self._tally.add(f"{name} = {other}")

    @property
    def fault(self) -> Fault:
        """Rows found so far; none if there is none."""
        return self._tally.fault


class Openings:
    """Reasoning that begins alike: 8 bytes a row."""

    def __init__(self) -> None:
        """Start without rows."""
        self._openings = array("q")

    def add(self, example: Example) -> None:
        """Take in the next row."""
        start = example.reasoning[:80].casefold()
        words = start.split(None, OPENING_WORDS) if start.isascii() else find_words(start)
        whole = len(words) >= OPENING_WORDS
        self._openings.append(hash(tuple(words[:OPENING_WORDS])) if whole else 0)

    def faults(self, names: Names) -> list[Fault]:
        """Rows that share the most frequent opening, if too many do."""
        import numpy as np  # noqa: PLC0415 - slow to import

        openings = np.array(self._openings)
        values, counts = np.unique(openings[openings != 0], return_counts=True)
        most = int(counts.max()) if len(counts) else 0
        wrong = most >= MIN_SAME_OPENING and most > OPENING_RATE * len(openings)
        same = openings == values[counts.argmax()] if wrong else openings != openings
        return [
            _fault_at(
                names,
                Severity.WARNING if most > MANY_OPENINGS_RATE * len(openings) else Severity.NOTE,
                f"reasoning that begins with the same {OPENING_WORDS} words",
                np.flatnonzero(same).tolist(),
                "a template is learned instead of thinking; vary how the reasoning starts",
            )
        ]


class Near:
    """Questions that are nearly the same, here and among the held-out ones."""

    def __init__(self, heldout: Sequence[Example], threshold: float) -> None:
        """Take in the held-out questions."""
        self._threshold = threshold
        self._here, self._there = NearDuplicates(), NearDuplicates()
        self._exact, self._names_there = array("q"), []
        for place, example in enumerate(heldout, start=1):
            self._there.add(spoken(example))
            self._names_there.append(row_name(example, place))
        self._heldout = {" ".join(example.question.split()) for example in heldout}
        self._leaked: set[int] = set()

    def add(self, example: Example) -> None:
        """Take in the next row."""
        question = " ".join(example.question.split())
        if question in self._heldout:
            self._leaked.add(len(self._here))
        self._exact.append(hash(asked(example)))
        self._here.add(spoken(example))

    def faults(self, names: Names, progress: Progress | None = None) -> list[Fault]:
        """Rows that are like another; those that are its equal are told of elsewhere."""
        places: list[int] = []
        for group in self._here.groups(self._threshold, progress):
            if len({self._exact[place] for place in group}) > 1:
                places += group
        near = _fault_at(
            names,
            Severity.WARNING,
            f"nearly the same question again (similarity at least {self._threshold})",
            sorted(places),
            "keep one of each (thinktune data dedup --near)",
        )
        leaks = Tally(
            Severity.ERROR,
            "nearly the same question is among the held-out questions",
            "keep both on one side (thinktune data split), or take one out "
            "(thinktune data decontaminate)",
        )
        for pair in across(self._here, self._there, self._threshold):
            if pair.first not in self._leaked:
                other, like = self._names_there[pair.second], pair.similarity
                leaks.add(f"{names[pair.first]} = {other} ({like:.2f})")
        return [leaks.fault, near]


def imbalance(references: Mapping[str, int]) -> list[Fault]:
    """One fault if some references are far more frequent than others."""
    if (
        not 2 <= len(references) <= MAX_LABELS
        or all(map(is_number, references))
        or max(references.values()) < len(references)
    ):
        return []
    most, least = max(references.values()), min(references.values())
    rare = [name for name, count in references.items() if count * MAX_IMBALANCE < most]
    if not rare:
        return []
    named = ", ".join(f"{name} {references[name]}" for name in rare[:10])
    return [
        Fault(
            Severity.NOTE,
            f"references far rarer than the most frequent ({most} rows to {least})",
            (named,),
            "add rows of the rare ones, or sample evenly (thinktune data sample --by reference "
            "--shares equal)",
            sum(references[name] for name in rare),
        )
    ]
