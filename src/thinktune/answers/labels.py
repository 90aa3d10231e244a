"""Labels: one of a few known answers, each under several names."""

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence

from thinktune.answers.wording import wording_pattern
from thinktune.errors import ConfigError

Labels = Mapping[str, Sequence[str]]
"""Label to its aliases; a label is always an alias of itself."""


def find_labels(answer: str, labels: Labels) -> tuple[str, ...]:
    """List the labels an answer names, each once, in the order of first mention.

    Case and width do not matter; a space, a hyphen and an underscore in an alias are one. A Latin
    alias must stand as a word of its own, one in a script without spaces may stand inside other
    text. Where aliases overlap the longest wins: "stomach flu" is not also "flu". A one-letter
    alias must appear in its own case, so that option "A" is not every article.

    Meaning is not read: "non-influenza" names influenza.

    >>> find_labels("Stomach flu.", {"gastroenteritis": ["stomach flu"], "influenza": ["flu"]})
    ('gastroenteritis',)

    Raises:
        ConfigError: an alias is empty or belongs to two labels.
    """
    return tuple(dict.fromkeys(mentions(answer, labels)))


def mentions(text: str, labels: Labels) -> list[str]:
    """List the labels a text names, in order, as often as it names them; as ``find_labels``."""
    text = unicodedata.normalize("NFKC", text)
    places = [
        (match.start(), match.end(), label)
        for alias, label in _aliases(labels).items()
        for match in _alias_pattern(alias).finditer(text)
    ]
    taken = bytearray(len(text))
    kept: list[tuple[int, str]] = []
    for start, end, label in sorted(places, key=lambda p: (p[0] - p[1], p[0])):  # longest first
        if taken.find(1, start, end) < 0:
            taken[start:end] = b"\1" * (end - start)
            kept.append((start, label))
    return [label for _, label in sorted(kept)]


def label_of(reference: str, labels: Labels) -> str:
    """Give the label a reference stands for: its name, an alias, or the only label it names.

    Raises:
        ConfigError: the reference is not one of the labels.
    """
    exact = _aliases(labels).get(_alias_key(reference))
    if exact is not None:
        return exact
    found = find_labels(reference, labels)
    if len(found) == 1:
        return found[0]
    known = ", ".join(labels)
    raise ConfigError(
        f"reference {reference!r} is not one of the labels ({known}); "
        "add it to evaluation.labels as a label or an alias"
    )


def labels_from(references: Iterable[str]) -> dict[str, list[str]]:
    """Take the distinct references as labels, in order of first appearance, without aliases."""
    labels: dict[str, str] = {}
    for reference in references:
        labels.setdefault(_alias_key(reference), reference.strip())
    return {label: [] for label in labels.values()}


def _alias_key(alias: str) -> str:
    key = re.sub(r"[\s_-]+", " ", unicodedata.normalize("NFKC", alias).strip())
    return key if len(key) == 1 else key.lower()


def _aliases(labels: Labels) -> dict[str, str]:
    owners: dict[str, str] = {}
    for label, aliases in labels.items():
        for alias in (label, *aliases):
            key = _alias_key(alias)
            if not key:
                raise ConfigError(f"label {label!r} has an empty alias; remove it")
            if owners.setdefault(key, label) != label:
                raise ConfigError(
                    f"alias {alias!r} belongs to both {owners[key]!r} and {label!r}; keep it in one"
                )
    return owners


def _alias_pattern(alias: str) -> re.Pattern[str]:
    return re.compile(wording_pattern(alias), 0 if len(alias) == 1 else re.IGNORECASE)
