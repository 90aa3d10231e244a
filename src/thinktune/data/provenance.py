"""What was done to a row, told in the row itself."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version

from thinktune.data.example import Example
from thinktune.data.records import to_row

PROVENANCE = "provenance"
"""The key in an example's metadata: a list of steps, oldest first."""


@dataclass(frozen=True, slots=True)
class Step:
    """One run of a verb: its name, and every option that decides what comes out."""

    name: str
    options: Mapping[str, object] = field(default_factory=dict)
    """By the option's name on the command line; what was not asked for is left out."""

    @classmethod
    def of(cls, name: str, **options: object) -> "Step":
        """Make a step of the options that were given.

        >>> Step.of("dedup", near=None, keep="first", drop_contradictory=False).options
        {'keep': 'first'}
        """
        given = {key.replace("_", "-"): value for key, value in options.items()}
        return cls(name, {key: value for key, value in given.items() if _given(value)})

    def record(self, where: str, **more: object) -> dict[str, object]:
        """Say what was done to the row at ``where``; ``more`` is what holds for this row alone.

        No date is in it: the same step on the same file gives the same bytes.
        """
        record: dict[str, object] = {"step": self.name, "source": where, "tool": tool()}
        if self.options:
            record["options"] = self.options
        return record | more


def _given(value: object) -> bool:
    return bool(value) or (value == 0 and value is not False)


@cache
def tool() -> str:
    """``thinktune 0.1.0``: what took the step."""
    return f"thinktune {version('thinktune')}"


def row_after(example: Example, step: Step, **more: object) -> dict[str, object]:
    """Write an example as a row whose provenance has one step more; the earlier ones stay."""
    row = to_row(example)
    steps = [*steps_of(example), step.record(example.where, **more)]
    row["metadata"] = {**example.metadata, PROVENANCE: steps}
    return row


def steps_of(example: Example) -> list[object]:
    """Read the example's provenance; text of that name from elsewhere counts as its first step."""
    held = example.metadata.get(PROVENANCE)
    if held is None:
        return []
    return list(held) if isinstance(held, list) else [{"step": "origin", "said": held}]
