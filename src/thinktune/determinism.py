"""Runs that give the same numbers bit for bit, and how far a run promises to."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum

import torch

from thinktune.errors import ConfigError

_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
_WORKSPACES = (":4096:8", ":16:8")  # with these cuBLAS adds in one order


class Level(StrEnum):
    """What the same settings, run again, give."""

    BITWISE = "bitwise"
    """The same numbers and adapter, bit for bit."""
    SEEDED = "seeded"
    """The same rows in the same order, and the same draws; numbers up to rounding."""


@dataclass(frozen=True, slots=True)
class Guarantee:
    """What a run promises, and on what it rests."""

    level: Level
    why: str


def guarantee(device: torch.device) -> Guarantee:
    """What a run on this device promises as PyTorch is set now."""
    on = torch.are_deterministic_algorithms_enabled()
    if not on or torch.is_deterministic_algorithms_warn_only_enabled():
        return Guarantee(
            Level.SEEDED,
            "deterministic is off: a kernel may add in another order each time, and one as fast "
            "may be chosen in its place",
        )
    same = f"PyTorch {torch.__version__}, {torch.get_num_threads()} threads"
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        same = f"PyTorch {torch.__version__} and CUDA {torch.version.cuda}, {name}"
    return Guarantee(Level.BITWISE, f"every kernel adds in one order; with the same {same}")


@contextmanager
def deterministic(wanted: bool) -> Iterator[None]:
    """Within the block PyTorch uses nothing that gives other bits the next time, if ``wanted``.

    On a GPU attention is FlashAttention-2's kernel, or the memory-efficient one, with backward
    passes that add in one order; our own kernels use no atomic operations and are not tuned by
    timing. Memory is not filled before use, which costs time and makes nothing more alike.

    Raises:
        ConfigError: cuBLAS cannot be set any more, or something has no such implementation.
    """
    if not wanted:
        yield
        return
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.backends.cudnn.benchmark,
        torch.utils.deterministic.fill_uninitialized_memory,  # pyright: ignore[reportAttributeAccessIssue]
    )
    _set_workspace()
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    torch.utils.deterministic.fill_uninitialized_memory = False  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    except RuntimeError as error:
        if "deterministic" not in str(error):
            raise
        told = str(error).partition(".")[0]
        raise ConfigError(f"deterministic=true: {told}; leave it off") from error
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.backends.cudnn.benchmark = before[2]
        torch.utils.deterministic.fill_uninitialized_memory = before[3]  # pyright: ignore[reportAttributeAccessIssue]


def _set_workspace() -> None:
    """Set how cuBLAS takes memory, which it reads once, when CUDA is first used."""
    value = os.environ.get(_WORKSPACE)
    if value is None and not torch.cuda.is_initialized():
        os.environ[_WORKSPACE] = _WORKSPACES[0]
    elif value not in _WORKSPACES:
        raise ConfigError(
            f"deterministic=true: {_WORKSPACE} is {value or 'not set'}, and CUDA reads it when it "
            f"starts; set it to {_WORKSPACES[0]} in the environment and start again"
        )
