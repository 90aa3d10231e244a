"""Near-duplicates among many texts: time, memory, and what is found of those that were planted.

usage: python benchmarks/near_duplicates.py [--texts 200000] [--kind mixed|template|same]

mixed: 3 in 10 texts are Chinese; 1 in 10 is a copy of an earlier text with a few words changed,
2 in 100 an exact copy. template: every text fills 4 words into one and the same text of 45, so
that any two are 0.6 alike, the worst case of the search; 1 in 100 is a copy with a word changed.
same: half of the texts differ in one word only. Recall counts planted pairs whose exact
similarity is 0.8 or more; precision counts neighbours in a group that were planted as copies.
"""

import argparse
import random
import resource
import time
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

from thinktune.data.near_duplicates import NearDuplicates
from thinktune.data.word_runs import similarity

WORDS, CHARACTERS = 45, 250
VOCABULARY = 30_000
CHANGES = (1, 1, 1, 2, 2, 3, 5)
Planted = tuple[list[str], int]
"""The words of a text, and the text it copies: its own place if none."""


def zipf(units: list[str], count: int, chance: random.Random) -> list[str]:
    """Words as frequent as in a language: the k-th about 1/k times as often as the first."""
    return [units[int(len(units) ** chance.random()) - 1] for _ in range(count)]


def mixed(count: int, chance: random.Random) -> Iterator[Planted]:
    words = [f"{chance.randrange(26**4):x}" for _ in range(VOCABULARY)]
    han = [chr(0x4E00 + place) for place in chance.sample(range(20_000), 3_500)]
    kept: list[tuple[int, list[str]]] = []
    for place in range(count):
        kind = chance.random()
        if kind < 0.12 and kept:
            source, text = chance.choice(kept)
            units = words if " " in text else han
            text = list(text)
            for _ in range(chance.choice(CHANGES) if kind < 0.1 else 0):
                spot = chance.randrange(len(text) // 2) * 2
                text[spot] = chance.choice(units)
            yield text, source
            continue
        units, length, between = (
            (han, CHARACTERS, "") if chance.random() < 0.3 else (words, WORDS, " ")
        )
        text = [part for unit in zipf(units, length, chance) for part in (unit, between)]
        if chance.random() < 0.2:
            kept.append((place, text))
        yield text, place


def template(count: int, chance: random.Random) -> Iterator[Planted]:
    words = [f"{chance.randrange(26**4):x}" for _ in range(VOCABULARY)]
    frame = chance.choices(words, k=WORDS)
    texts: list[list[str]] = []
    for place in range(count):
        source, text = place, list(frame)
        if place % 100 == 99:
            source = chance.randrange(place)
            text = list(texts[source])
            text[chance.randrange(WORDS)] = chance.choice(words)
        else:
            for spot in range(2, WORDS, 11):
                text[spot] = chance.choice(words)
        texts.append(text)
        yield [part for word in text for part in (word, " ")], source


def same(count: int, chance: random.Random) -> Iterator[Planted]:
    frame = [f"{chance.randrange(26**4):x}" for _ in range(WORDS)]
    for place in range(count):
        if place % 2:
            yield [part for word in chance.sample(frame, WORDS) for part in (word, " ")], place
        else:
            text = [*frame[:20], str(place), *frame[20:]]
            yield [part for word in text for part in (word, " ")], 0


KINDS = {"mixed": mixed, "template": template, "same": same}


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Add, group, and compare with what was planted."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--texts", type=int, default=200_000)
    parser.add_argument("--kind", choices=KINDS, default="mixed")
    parser.add_argument("--threshold", type=float, default=0.8)
    options = parser.parse_args()
    texts, sources = [], []
    for text, source in KINDS[options.kind](options.texts, random.Random(0)):
        texts.append("".join(text).strip())
        sources.append(source)
    before = peak_mib()

    started = time.perf_counter()
    near = NearDuplicates()
    for text in texts:
        near.add(text)
    adding = time.perf_counter() - started
    groups = near.groups(options.threshold)
    total = time.perf_counter() - started
    memory = peak_mib() - before

    group_of = {place: number for number, group in enumerate(groups) for place in group}
    pairs, found = Counter[str](), Counter[str]()
    for place, source in enumerate(sources):
        alike = similarity(texts[place], texts[source]) if source != place else 0.0
        if alike >= options.threshold:
            low = min(int(alike * 20 + 1e-9) / 20, 0.95)
            pairs[f"{low:.2f}"] += 1
            found[f"{low:.2f}"] += group_of.get(place, -1) == group_of.get(source, -2)
    neighbours = [(a, b) for group in groups for a, b in pairwise(group)]
    right = sum(sources[a] == sources[b] for a, b in neighbours)

    characters = sum(map(len, texts)) / len(texts)
    print(f"{options.kind}: {len(texts):,} texts of {characters:.0f} characters")
    print(f"adding {adding:.1f} s, in all {total:.1f} s, {len(texts) / total:,.0f} texts/s")
    print(f"peak {memory:.0f} MiB above the start")
    print(f"{len(groups):,} groups, the largest of {max(map(len, groups), default=0):,}")
    for low in sorted(pairs):
        print(f"similarity from {low}: {found[low]:,} of {pairs[low]:,} planted pairs found")
    if neighbours:
        print(f"precision {right / len(neighbours):.5f} of {len(neighbours):,}")


if __name__ == "__main__":
    main()
