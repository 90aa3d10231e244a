"""Runs of words that texts share, and training texts that hold a run of an evaluation file."""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable
from hashlib import blake2b
from itertools import chain, repeat

import numpy as np
from numpy.typing import NDArray

from thinktune.data.word_runs import (
    Hashes,
    Places,
    are_numbers,
    plain_words,
    run_hashes,
    word_hashes,
)

RUN_WORDS, RUN_CHARACTERS = 13, 20
"""A shared run this long shows a copy: 13 words as for GPT-3 (arXiv:2005.14165, appendix C), and
as much said in a script without spaces. A run that begins with a character counts in characters."""
SHORT_WORDS, SHORT_CHARACTERS = 8, 12
"""A question shorter than a run, but this long, must stand in a text whole (8 as for GPT-3)."""
BOILERPLATE_TEXTS = 10
"""A run in more evaluation texts than this belongs to none of them (10 as for GPT-3)."""
FILTER = 8
"""Places of a table of runs for each run in it, at least."""


class Contamination:
    """What must not be in the training data: the runs of words of an evaluation file.

    ====================  ========================================================================
    evaluation text       a training text is contaminated if
    ====================  ========================================================================
    13 words or more      it shares any run of 13 words (20 characters without spaces)
    question of 8 to 12   it holds the whole question (12 to 19 characters without spaces)
    shorter question      it is that question, and nothing else
    shorter answer        never: a label or a number is no secret
    ====================  ========================================================================

    Two kinds of run count for nothing: one of more numbers than words, which any calculation may
    hold, and one in more than 10 different evaluation texts, which is boilerplate of the file (an
    instruction, a list of choices); ``num_boilerplate`` says how many of these there are. A run
    is compared without signs and punctuation, a short question with the signs of arithmetic.
    Holds 16 to 24 bytes a run, and about twice that while it is built.
    """

    def __init__(self, questions: Iterable[str], answers: Iterable[str] = ()) -> None:
        """Read an evaluation file's texts, once; about 6,000 of 250 characters a second."""
        runs: list[Hashes] = [np.zeros(0, np.uint64)]
        seen: set[bytes] = set()
        self._shorter: set[bytes] = set()
        self._short: dict[int, list[bytes]] = defaultdict(list)
        kinds = chain(zip(questions, repeat(True)), zip(answers, repeat(False)))
        for text, is_question in kinds:
            words = word_hashes(text, signs=False)
            hashes, ends = run_hashes(words, RUN_WORDS, RUN_CHARACTERS)
            starts = np.flatnonzero(ends <= len(words))
            if len(starts):
                digest = blake2b(words.tobytes(), digest_size=16).digest()
                if digest not in seen:
                    seen.add(digest)
                    said = _mostly_words(words, starts, ends[starts])
                    runs.append(np.unique(hashes[starts[said]]))
            elif is_question and len(words):
                self._add_short(text, words)
        known, counts = np.unique(np.concatenate(runs), return_counts=True)
        kept = known[counts <= BOILERPLATE_TEXTS]
        self.num_boilerplate = len(known) - len(kept)
        self._runs = _Known(kept)
        self._heads = _Known(np.array(sorted(self._short), np.uint64))

    def _add_short(self, question: str, words: Hashes) -> None:
        hashes, ends = run_hashes(words, SHORT_WORDS, SHORT_CHARACTERS)
        signed = word_hashes(question).tobytes()
        if ends[0] > len(words):
            self._shorter.add(signed)
        else:
            self._short[int(hashes[0])].append(signed)

    def overlap(self, text: str) -> str | None:
        """Give the first stretch of a text that an evaluation text holds too; None for none.

        Linear in the text: about 10,000 texts of 550 characters a second.
        """
        words = word_hashes(text, signs=False)
        shared = self._shared_run(words)
        if shared is not None:
            return _stretch(text, *shared, signs=False)
        if self._shorter and len(words) < SHORT_CHARACTERS:
            whole = word_hashes(text).tobytes() in self._shorter
            return text.strip() if whole else None
        shared = self._shared_question(text, words) if self._short else None
        return None if shared is None else _stretch(text, *shared, signs=True)

    def _shared_run(self, words: Hashes) -> tuple[int, int] | None:
        hashes, ends = run_hashes(words, RUN_WORDS, RUN_CHARACTERS)
        found = self._runs.among(hashes)  # never one cut short: the known ones are whole
        if not len(found):
            return None
        gaps = np.flatnonzero(np.diff(found) > 1)
        last = gaps[0] if len(gaps) else len(found) - 1
        return int(found[0]), int(ends[found[: last + 1]].max())

    def _shared_question(self, text: str, words: Hashes) -> tuple[int, int] | None:
        hashes, _ = run_hashes(words, SHORT_WORDS, SHORT_CHARACTERS)
        heads = self._heads.among(hashes)
        if not len(heads):
            return None
        signed = word_hashes(text)
        for question in (q for head in hashes[heads].tolist() for q in self._short[head]):
            wanted = np.frombuffer(question, np.uint64)
            for start in np.flatnonzero(signed == wanted[0]).tolist():
                if np.array_equal(signed[start : start + len(wanted)], wanted):
                    return start, start + len(wanted)
        return None


def _mostly_words(words: Hashes, starts: Places, ends: Places) -> NDArray[np.bool_]:
    """Which runs are not more numbers than words."""
    numbers = np.concatenate(([0], np.cumsum(are_numbers(words))))
    return 2 * (numbers[ends] - numbers[starts]) <= ends - starts


class _Known:
    """A set of hashes; a table of their first bits answers for nearly all that are not in it."""

    def __init__(self, hashes: Hashes) -> None:
        self._hashes = hashes
        bits = max((FILTER * len(hashes)).bit_length(), 1)
        self._shift = np.uint64(64 - bits)
        self._filter = np.zeros(1 << bits, bool)
        self._filter[hashes >> self._shift] = True

    def among(self, hashes: Hashes) -> Places:
        """Places of the hashes that are in the set."""
        places = np.flatnonzero(self._filter[hashes >> self._shift])
        if not len(places):
            return places
        hashes = hashes[places]
        return places[self._hashes[np.searchsorted(self._hashes[:-1], hashes)] == hashes]


def _stretch(text: str, start: int, end: int, *, signs: bool) -> str:
    """Cut the text from one plain word to another, with the punctuation between them."""

    def plain(begin: int, stop: int) -> list[str]:
        return plain_words(text[begin:stop], signs=signs)

    words = plain(0, len(text))
    stops, wanted = range(len(text)), words[start:end]
    stop = bisect_left(stops, True, key=lambda stop: plain(0, stop)[:end] == words[:end])
    begins = range(stop)
    begin = bisect_left(begins, True, key=lambda at: plain(at, stop)[start - end :] != wanted)
    return text[max(begin - 1, 0) : stop]
