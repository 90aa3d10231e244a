"""What a distillation came to, and the data card that tells it."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from thinktune.teacher.config import TeacherConfig

_MAX_NAMED = 20


@dataclass(frozen=True, slots=True)
class Distilled:
    """Counts and costs of all starts so far; files."""

    out: Path
    rejected_file: Path
    card: Path
    journal: Path
    num_questions: int
    """Distinct ones."""
    num_repeated: int
    """Rows that asked the same again, and were left out."""
    num_decided: int
    """Questions with all their samples."""
    num_answered: int
    """Questions with a kept sample."""
    num_rows: int
    num_samples: int
    """Of the decided questions."""
    rejected: Mapping[str, int]
    """Reason to samples."""
    verifications: Mapping[str, int]
    """How verified, to questions."""
    input_tokens: int
    output_tokens: int
    num_estimated: int
    """Requests without usage, counted as the most they can have taken."""
    cost: float | None
    stopped: str | None
    """Why asking stopped early."""
    set_aside: tuple[tuple[str, str], ...]
    """Rows whose requests failed too often in this start, and the last failure."""
    num_retries: int
    """In this start."""
    seconds: float
    """Of asking, in this start."""

    @property
    def is_complete(self) -> bool:
        """Nothing is left to ask."""
        return self.num_decided == self.num_questions

    @property
    def lines(self) -> list[tuple[str, str]]:
        """What to tell: a heading and a value each."""
        told = [
            ("questions", f"{self.num_questions:,} ({self.num_answered:,} with a kept sample)"),
            ("rows", f"{self.num_rows:,} of {self.num_samples:,} samples"),
        ]
        if self.num_repeated:
            told.append(("repeated questions left out", f"{self.num_repeated:,}"))
        if not self.is_complete:
            told.append(("not yet decided", f"{self.num_questions - self.num_decided:,}"))
        told += [(f"rejected: {why}", f"{n:,}") for why, n in _ranked(self.rejected)]
        told += [(f"verified by {how}", f"{n:,}") for how, n in _ranked(self.verifications)]
        told.append(("tokens", f"{self.input_tokens:,} in, {self.output_tokens:,} out"))
        if self.num_estimated:
            bound = f"{self.num_estimated:,} (tokens counted as the most they can be)"
            told.append(("requests without usage", bound))
        if self.cost is not None:
            told.append(("cost", f"{self.cost:.4f}"))
        return told


def distilled_card(result: Distilled, config: TeacherConfig) -> str:
    """Write the data card as Markdown."""
    today = datetime.now(UTC).date().isoformat()
    parameters = {k: v for k, v in config.parameters.items() if v not in (None, "", {})}
    rules = {
        "samples": config.samples,
        "verify": config.verify.value,
        "min_agreement": config.min_agreement,
        "keep": config.keep.value,
    }
    lines = [
        f"# {result.out.stem}",
        "",
        f"Reasonings of {config.model} at {config.host}, made with thinktune distill; {today}.",
        "Not checked by people. The teacher's terms of use may limit what they may be used for.",
        "",
        *_table(("", ""), result.lines),
        "",
        "## Parameters",
        "",
        *_table(("name", "value"), [(k, str(v)) for k, v in (parameters | rules).items()]),
    ]
    if not result.is_complete:
        lines += ["", "## Incomplete", ""]
        lines += [f"Asking stopped: {result.stopped}."] if result.stopped else []
        lines += [f"- {where}: {why}" for where, why in result.set_aside[:_MAX_NAMED]]
        lines += ["", "The same command goes on from here."]
    return "\n".join(lines) + "\n"


def _ranked(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))


def _table(head: tuple[str, str], rows: list[tuple[str, str]]) -> list[str]:
    def line(cells: tuple[str, str]) -> str:
        first, second = (" ".join(cell.replace("|", "\\|").split()) for cell in cells)
        return f"| {first} | {second} |"

    return [line(head), "|---|---|", *map(line, rows)]
