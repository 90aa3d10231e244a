"""Weights & Biases: online where there is a key, else a folder to ``wandb sync``."""

import atexit
import contextlib
import netrc
import os
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from thinktune.errors import ConfigError
from thinktune.trackers.identity import recall, remember
from thinktune.trackers.relay import Numbers, Rows, Start, Value


class WandbRun:
    """A W&B run that goes on if the folder has one; never a prompt.

    The history of a resumed run is logged again. A server passes over the steps it has; offline,
    a folder of a process that was killed lacks what W&B had not written yet, which may be all, so
    the new folder has the whole run and takes the place of the older ones.
    """

    def __init__(self, start: Start) -> None:
        """Open it; project, entity and server come from W&B's own environment variables.

        Raises:
            ConfigError: ``WANDB_MODE=online`` without a key.
        """
        os.environ.setdefault("WANDB_SILENT", "true")  # it tells of the login before any settings
        import wandb  # noqa: PLC0415 - optional, slow to import

        mode = os.environ.get("WANDB_MODE") or ("online" if _has_key() else "offline")
        if mode == "online" and not _has_key():  # W&B would ask for one and wait
            raise ConfigError("WANDB_MODE=online needs WANDB_API_KEY, or `wandb login` before")
        identity = recall(start.folder).get("wandb") or secrets.token_hex(4)
        remember(start.folder, "wandb", identity)
        self._wandb: Any = wandb
        self._service: Any = wandb.setup()
        atexit.register(self._let_go)  # after W&B's own, so it is called before
        older = list(start.folder.glob(f"wandb/offline-run-*-{identity}"))
        self._run: Any = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "thinktune"),
            name=start.name,
            id=identity,
            resume="allow",
            reinit="create_new",
            dir=str(start.folder),
            mode=mode,  # pyright: ignore[reportArgumentType] - W&B checks the word itself
            config=dict(start.settings),
            # No command line and no git address: either may have a key in it.
            settings=wandb.Settings(
                silent=True, console="off", x_disable_meta=True, disable_git=True, save_code=False
            ),
        )
        for folder in older:
            if not any(folder.glob("*.synced")):
                shutil.rmtree(folder)

    def log(self, step: int, metrics: Numbers) -> None:
        """Draw the curves on."""
        self._run.log(dict(metrics), step=step)

    def samples(self, step: int, rows: Rows) -> None:
        """Keep a table named samples."""
        table = self._wandb.Table(columns=list(rows[0]), data=[list(row.values()) for row in rows])
        self._run.log({"samples": table}, step=step)

    def artifact(self, path: Path) -> None:
        """Keep a folder as an artifact of the type model; offline, its files stay in place."""
        artifact = self._wandb.Artifact(f"{path.name}-{self._run.id}", type="model")
        artifact.add_dir(str(path), policy="immutable")
        self._run.log_artifact(artifact)

    def summary(self, step: int, values: Mapping[str, Value]) -> None:
        """Set the values of the run's summary."""
        self._run.summary.update(dict(values))

    def close(self, *, failed: bool) -> None:
        """Upload or write what is pending."""
        self._run.finish(exit_code=int(failed))
        atexit.unregister(self._let_go)

    def _let_go(self) -> None:
        """Keep W&B from waiting for its server, for minutes, as Python exits."""
        with contextlib.suppress(AttributeError):  # it has no public way; at worst one waits
            self._service._connection._proc._process.terminate()
            self._service._connection._cleanup()


def _has_key() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname
    try:
        return netrc.netrc().authenticators(str(host)) is not None
    except (OSError, netrc.NetrcParseError):
        return False
