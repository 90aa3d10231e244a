"""Small files to mend, and what comes out of them."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path


def row(question: str, answer: str = "A", **more: object) -> dict[str, object]:
    """One row in our own fields."""
    return {"question": question, "reasoning": "Because.", "answer": answer, **more}


def put(path: Path, rows: Iterable[Mapping[str, object]]) -> Path:
    """JSON Lines."""
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8")
    return path


def read(path: Path) -> list[dict]:
    """Rows of a JSON Lines file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def questions(path: Path) -> list[str]:
    """The questions of a JSON Lines file, in order."""
    return [row["question"] for row in read(path)]
