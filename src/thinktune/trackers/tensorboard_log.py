"""TensorBoard: event files in the run folder; ``tensorboard --logdir runs`` shows all runs."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from thinktune.trackers.identity import recall, remember
from thinktune.trackers.relay import Numbers, Rows, Start, Value, flat

LOG_FOLDER = "tensorboard"


class TensorboardLog:
    """Event files. A resumed run adds one with all of its history, and has the rest purged."""

    def __init__(self, start: Start) -> None:
        """Open the log folder, and write the settings as hyperparameters."""
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415 - optional, slow
        from torch.utils.tensorboard.summary import hparams  # noqa: PLC0415 - optional, slow

        folder = start.folder / LOG_FOLDER
        goes_on = "tensorboard" in recall(start.folder)
        remember(start.folder, "tensorboard", LOG_FOLDER)
        self._writer: Any = SummaryWriter(str(folder), purge_step=0 if goes_on else None)
        settings = {
            name: value if isinstance(value, bool | int | float | str) else json.dumps(value)
            for name, value in flat(start.settings).items()
        }
        experiment, beginning, self._end = hparams(settings, {"train/loss": 0.0})
        for each in (experiment, beginning):
            self._writer.file_writer.add_summary(each)
        self._writer.flush()

    def log(self, step: int, metrics: Numbers) -> None:
        """Draw the curves on."""
        for name, number in metrics.items():
            self._writer.add_scalar(name, number, step)
        self._writer.flush()  # else it keeps two minutes' worth

    def samples(self, step: int, rows: Rows) -> None:
        """Write a table as text named samples."""
        self._writer.add_text("samples", _table(rows), step)

    def artifact(self, path: Path) -> None:
        """Write a list of the files; TensorBoard keeps none itself."""
        rows = [
            {"file": str(file.relative_to(path)), "bytes": file.stat().st_size}
            for file in sorted(path.rglob("*"))
            if file.is_file()
        ]
        self._writer.add_text(f"artifact/{path.name}", f"{path.absolute()}\n\n{_table(rows)}")

    def summary(self, step: int, values: Mapping[str, Value]) -> None:
        """Write numbers as points at the last step, and words as text."""
        for name, value in values.items():
            if isinstance(value, int | float):
                self._writer.add_scalar(name, value, step)
            else:
                self._writer.add_text(name, str(value), step)

    def close(self, *, failed: bool) -> None:
        """End the session and flush."""
        self._writer.file_writer.add_summary(self._end)
        self._writer.close()


def _table(rows: Rows) -> str:
    """A table in Markdown."""
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(list(row.values()) for row in rows)]
    return "\n".join(f"| {' | '.join(_cell(value) for value in line)} |" for line in lines)


def _cell(value: Value) -> str:
    text = "" if value is None else str(value)
    for mark, escaped in (("&", "&amp;"), ("<", "&lt;"), ("|", "&#124;"), ("\n", "<br>")):
        text = text.replace(mark, escaped)
    return text
