"""Triton, where it is installed; without it the modules of this folder import and do nothing."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

_INSTALLED = find_spec("triton") is not None
triton: Any = import_module("triton") if _INSTALLED else None
tl: Any = import_module("triton.language") if _INSTALLED else None

_TYPES = (torch.bfloat16, torch.float16, torch.float32)
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
"""Kernels run step by step on the CPU, for tests."""


def jit(kernel: Any) -> Any:
    """Compile a kernel at its first launch."""
    return kernel if triton is None else triton.jit(kernel)


def runs_fused(x: Tensor) -> bool:
    """Whether Triton kernels take ``x``: on a CUDA device, in 16 or 32 bits."""
    placed = x.is_cuda or INTERPRETED
    return triton is not None and placed and x.dtype in _TYPES


BFLOAT16_FROM, FP8_FROM = (8, 0), (8, 9)
"""Compute capabilities: Ampere, and Ada (CUDA C++ Programming Guide, compute capabilities)."""


# No ContextVar, which a backward pass, in a thread of its own, would not see.
_EMULATED: tuple[int, int] | None = None


def capability(device: torch.device) -> tuple[int, int]:
    """What the device can do, as (major, minor) of its architecture; (0, 0) off CUDA."""
    if device.type != "cuda":
        return 0, 0
    return _EMULATED or torch.cuda.get_device_capability(device)


@contextmanager
def as_capability(emulated: tuple[int, int]) -> Iterator[None]:
    """Choose every kernel as on an older card; its speed and its memory are not emulated."""
    global _EMULATED
    before, _EMULATED = _EMULATED, emulated
    try:
        yield
    finally:
        _EMULATED = before


def power_of_two(number: int, least: int = 16) -> int:
    """The smallest power of two that holds ``number``, and is ``least`` or more."""
    return max(least, 1 << max(number - 1, 0).bit_length())
