"""Which scripts the rows are in, and what is wrong where they are mixed."""

import re
from collections import Counter

from thinktune.data.example import Example
from thinktune.data.faults import FIELDS, Fault, Severity, Tally
from thinktune.data.scripts import CHINESE, Script, foreign_passages, script_of, simplified_only


class Scripts:
    """Which scripts the fields are in, and rows that mix them."""

    def __init__(self) -> None:
        """Start without rows."""
        self._counts: dict[str, Counter[Script]] = {field: Counter() for field in FIELDS}
        self._num_latin = 0
        self._variants: dict[Script, Tally] = {
            Script.SIMPLIFIED: Tally(*_VARIANT),
            Script.TRADITIONAL: Tally(*_VARIANT),
        }
        self._tallies = {name: Tally(*told) for name, told in _SCRIPT_FAULTS.items()}

    def add(self, example: Example, name: str) -> None:
        """Take in the next row."""
        texts = (example.question, example.reasoning, example.answer)
        if all(text.isascii() and _LETTER.search(text) for text in texts):
            self._num_latin += 1  # in most English rows; the names of an enum are slow to count
            return
        scripts = tuple(map(script_of, texts))
        for field, text, script in zip(FIELDS, texts, scripts, strict=True):
            self._counts[field][script] += 1
            if text.isascii():
                continue
            if script is Script.MIXED_HAN:
                strange = "".join(simplified_only(text)[:8])
                self._tallies["mixed"].add(name, f"{field}: {strange} is Simplified, more is not")
            if script in self._variants:
                self._variants[script].add(name, field)
            for _, passage in foreign_passages(text)[:1]:
                self._tallies["foreign"].add(name, f"{field}: {passage[:40]}")
        if len(set(scripts)) > 1 and len(set(map(_language, scripts)) - {Script.NONE}) > 1:
            told = (f"{field} {script}" for field, script in zip(FIELDS, scripts, strict=True))
            self._tallies["apart"].add(name, ", ".join(told))

    @property
    def counts(self) -> dict[str, Counter[Script]]:
        """How many rows are in which script, by field."""
        latin = Counter({Script.LATIN: self._num_latin})
        return {field: +(counted + latin) for field, counted in self._counts.items()}

    @property
    def faults(self) -> list[Fault]:
        """What was found so far; of Simplified and Traditional rows, the fewer are at fault."""
        rarer = min(self._variants.values(), key=lambda tally: tally.num_rows)
        return [tally.fault for tally in (*self._tallies.values(), rarer)]


_LETTER = re.compile("[A-Za-z]")


def _language(script: Script) -> Script:
    return Script.HAN if script in CHINESE else script


_VARIANT = (
    Severity.WARNING,
    "Simplified Chinese beside Traditional: fields in the rarer of the two",
    "convert them (thinktune data convert --to-script traditional, or simplified)",
)
_SCRIPT_FAULTS = {
    "mixed": (
        Severity.WARNING,
        "Simplified and Traditional characters in one text",
        "convert it (thinktune data convert --to-script traditional, or simplified)",
    ),
    "foreign": (
        Severity.WARNING,
        "a passage in another script than the rest of its text",
        "a model mixes languages as its data does; translate the passage or leave the row out",
    ),
    "apart": (
        Severity.WARNING,
        "question, reasoning and answer in different scripts",
        "fine if you want it to think in another language than it answers; else translate",
    ),
}
