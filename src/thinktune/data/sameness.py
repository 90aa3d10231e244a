"""When rows ask and answer the same, or nearly: by keys small enough for a million rows."""

from array import array
from enum import StrEnum
from hashlib import blake2b

import numpy as np

from thinktune.answers.wording import normalise
from thinktune.data.example import Example, spoken
from thinktune.data.intake import Source, usable
from thinktune.data.names import Names
from thinktune.data.near_duplicates import NearDuplicates, Progress
from thinktune.errors import ConfigError


class Keep(StrEnum):
    """Which of several alike rows stays."""

    FIRST = "first"
    LONGEST_REASONING = "longest-reasoning"
    """The first of those with the most characters of reasoning."""

    @classmethod
    def named(cls, name: str) -> "Keep":
        """Give the choice of that name; there being none is a ConfigError."""
        if name not in list(cls):
            raise ConfigError(f"--keep {name}; known: {', '.join(cls)}")
        return cls(name)


def question_key(example: Example) -> int:
    """64 bits that are the same for the same question, earlier turns and system prompt."""
    said = (text for turn in example.history for text in (turn.role.value, turn.content))
    return _key(*map(_plain, (example.system, *said, example.question)))


class Sameness:
    """Which rows of a source ask and answer the same: keys of all its rows, and no text."""

    def __init__(self, source: Source, keep: Keep, *, near: bool) -> None:
        """Read the source once.

        Args:
            source: what to read.
            keep: which of several alike rows wins.
            near: also remember what near-duplicates are found by.

        Raises:
            DataError: rows cannot be used and ``source.skip_unusable`` is off.
        """
        questions, verdicts, contexts = array("Q"), array("Q"), array("Q")
        lengths = array("I")
        self._places = Names()
        self._near = NearDuplicates()
        for example in usable(source):
            questions.append(question_key(example))
            reference = example.reference
            told = example.answer if reference is None else reference
            verdicts.append(_key(_plain(told)))
            contexts.append(_key(_plain(example.system), _plain(reference or "")))
            lengths.append(len(example.reasoning) if keep is Keep.LONGEST_REASONING else 0)
            self._places.add(example.where)
            if near:
                self._near.add(spoken(example))
        self.questions = np.frombuffer(questions, np.uint64)
        """``question_key`` of each row."""
        self._verdicts = np.frombuffer(verdicts, np.uint64)
        self._contexts = np.frombuffer(contexts, np.uint64)
        self._lengths = np.frombuffer(lengths, np.uint32)
        self.num_alike_kept = 0
        """Rows with a near-duplicate that has another reference; known after ``winners``."""

    def __len__(self) -> int:
        """How many usable rows there are."""
        return len(self.questions)

    def where(self, place: int) -> str:
        """Where the row at ``place`` comes from."""
        return self._places[place]

    def contradictions(self) -> np.ndarray:
        """For each row the first one that answers its question otherwise; -1 where none does."""
        other = np.full(len(self), -1)
        order = np.argsort(self.questions, kind="stable")
        cuts = np.flatnonzero(np.diff(self.questions[order])) + 1
        starts = np.concatenate(([0], cuts))
        first = np.repeat(order[starts], np.diff([*starts, len(order)]))
        differs = self._verdicts[order] != self._verdicts[first]
        other[order[differs]] = first[differs]
        # A question's first row, and all that answer like it, contradict the first that differs.
        second = np.full(len(self), -1)
        second[first[differs][::-1]] = order[differs][::-1]
        other[order[~differs]] = second[first[~differs]]
        return other

    def winners(
        self, other: np.ndarray, near: float | None, progress: Progress | None
    ) -> np.ndarray:
        """For each row the one that stands for it: itself if it stays."""
        best = np.lexsort((np.arange(len(self)), -self._lengths.astype(np.int64)))
        winner = _best_of(best, self.questions, self._verdicts)
        if near is None:
            return winner
        group = np.arange(len(self))
        for places in self._near.groups(near, progress):
            group[places] = places[0]
        alone = (winner != np.arange(len(self))) | (other >= 0)
        group[alone] = np.flatnonzero(alone) + len(self)  # judged already, or not to be judged
        chosen = _best_of(best, group.astype(np.uint64), self._contexts)
        stays = chosen == np.arange(len(self))
        _, sizes = np.unique(group[stays], return_counts=True)
        self.num_alike_kept = int(sizes[sizes > 1].sum())
        return chosen[winner]


def _best_of(best: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """For each row the best (earliest in ``best``) of those with the same two keys."""
    order = best[np.lexsort((second[best], first[best]))]  # stable: best first in each class
    new = np.ones(len(order), bool)
    new[1:] = (np.diff(first[order]) != 0) | (np.diff(second[order]) != 0)
    winner = np.empty(len(order), np.int64)
    winner[order] = order[np.flatnonzero(new)[np.cumsum(new) - 1]]
    return winner


def _key(*texts: str) -> int:
    joined = "\x00".join(texts).encode("utf-8", "surrogatepass")
    return int.from_bytes(blake2b(joined, digest_size=8).digest(), "little")


def _plain(text: str) -> str:
    """Comparable text; one of punctuation alone is itself."""
    return normalise(text) or text
