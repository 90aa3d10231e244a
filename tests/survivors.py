"""Processes that are killed in the middle of real work, many a minute.

One process imports everything once and forks a child for each job; a child kills itself, as
`kill -9` would, after so many seconds or at so manieth of the calls by which files are made safe.
"""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

KILLED = -signal.SIGKILL
_CALLS = ("fsync", "replace", "rename", "mkdir", "unlink", "rmdir")


class Nursery:
    """Starts children; use it as a context manager."""

    def __enter__(self) -> "Nursery":
        """Import everything once."""
        command = [sys.executable, "-W", "ignore", "-m", "tests.survivors"]
        # One thread: tiny products are no work for two, and the others are busy elsewhere.
        self._process = subprocess.Popen(
            command,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        return self

    def __exit__(self, *_: object) -> None:
        """No child outlives it."""
        self._process.communicate(timeout=60)

    def run(
        self, job: str, argument: Any, *, seconds: float | None = None, call: int | None = None
    ) -> dict[str, Any]:
        """Run a job in a child, and kill it after ``seconds`` or in that call, if it gets so far.

        Returns:
            ``status`` (negative: the signal), ``seconds`` and ``calls`` it took to the end, what it
            ``told``.
        """
        assert self._process.stdin
        assert self._process.stdout
        order = {"job": job, "argument": argument, "seconds": seconds, "call": call}
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _count_calls(deadly: int | None) -> list[int]:
    """Count the calls by which files are made safe; the ``deadly``th is not survived."""
    count = [0]

    def counted(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            count[0] += 1
            if count[0] == deadly:
                _die()
            return original(*args, **options)

        return call

    for name in _CALLS:
        setattr(os, name, counted(getattr(os, name)))
    return count


def _train(settings: dict[str, Any]) -> str:
    from tests.small_runs import Interrupter  # noqa: PLC0415
    from thinktune.config import check  # noqa: PLC0415
    from thinktune.pipeline import run_recipe  # noqa: PLC0415

    watcher = Interrupter("nothing", 0)
    run_recipe(check(settings, where="test"), "small", resume="auto", watcher=watcher)
    return "\n".join(watcher.said)


def _command(arguments: list[str]) -> str:
    from typer.testing import CliRunner  # noqa: PLC0415

    from thinktune.cli import app  # noqa: PLC0415

    result = CliRunner().invoke(app, arguments)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.output


_JOBS: dict[str, Callable[[Any], str]] = {"train": _train, "command": _command}


def _child(order: dict[str, Any], told: Path) -> None:
    import time  # noqa: PLC0415

    count = _count_calls(order["call"])
    if order["seconds"] is not None:
        timer = threading.Timer(order["seconds"], _die)
        timer.daemon = True
        timer.start()
    started = time.perf_counter()
    text = _JOBS[order["job"]](order["argument"])
    seconds = time.perf_counter() - started
    told.write_text(json.dumps({"seconds": seconds, "calls": count[0], "told": text}))


def _serve() -> None:
    import tempfile  # noqa: PLC0415

    # Imported once; nothing is computed, so that no thread of PyTorch's is there to be lost.
    from thinktune import cli, evaluating, pipeline  # noqa: F401, PLC0415
    from thinktune.data import sources  # noqa: F401, PLC0415

    with tempfile.TemporaryDirectory() as folder:
        told = Path(folder) / "told"
        for line in sys.stdin:
            told.unlink(missing_ok=True)
            if not (child := os.fork()):
                os.dup2(2, 1)
                try:
                    _child(json.loads(line), told)
                except BaseException:
                    import traceback  # noqa: PLC0415

                    traceback.print_exc()
                    os._exit(1)
                os._exit(0)
            _, status = os.waitpid(child, 0)
            result = json.loads(told.read_text()) if told.is_file() else {}
            print(json.dumps({"status": os.waitstatus_to_exitcode(status), **result}), flush=True)


if __name__ == "__main__":
    _serve()
