"""Ctrl-C and SIGTERM: a step under way is finished first, and a second signal ends at once."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_NOTICE = b"\nStopping: what is under way is finished and saved first; once more ends at once.\n"


class _State:
    """What the handler knows; signals belong to the process, so there is one."""

    held = False
    """Whether a signal has to wait."""
    waiting: int | None = None
    """The signal that waits."""
    received: int | None = None
    """The first that came."""


def _handle(number: int, _: FrameType | None) -> None:
    for each in _SIGNALS:
        signal.signal(each, signal.SIG_DFL)
    _State.received = number
    if not _State.held:
        raise KeyboardInterrupt
    os.write(2, _NOTICE)  # not print: it may be what was interrupted
    _State.waiting = number


@contextmanager
def interruptible() -> Iterator[None]:
    """Make SIGTERM an exception as Ctrl-C is one, and a second signal the end.

    Off the main thread, where Python hands out no signals, nothing changes. Blocks may be
    nested; the outermost counts.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before: dict[int, Any] = {number: signal.getsignal(number) for number in _SIGNALS}
    if _handle in before.values():
        yield
        return
    # Whoever ignores a signal (nohup) or handles it otherwise goes on doing so.
    ours = [n for n in _SIGNALS if before[n] in (signal.SIG_DFL, signal.default_int_handler)]
    for number in ours:
        signal.signal(number, _handle)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, before[number])


def exit_code() -> int:
    """What a process that was interrupted ends with, as a shell counts: 128 and the signal."""
    return 128 + (_State.received or signal.SIGINT)


@contextmanager
def held() -> Iterator[None]:
    """Let a signal wait until the block is over.

    Raises:
        KeyboardInterrupt: at the end of the block, if a signal came in it.
    """
    _State.held = True
    try:
        yield
    finally:
        _State.held = False
        number, _State.waiting = _State.waiting, None
    if number is not None:
        raise KeyboardInterrupt
