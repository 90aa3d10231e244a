"""What waits in host memory between a layer's forward and its backward.

The gate and up products are most of what a layer keeps, its input the least. Where the device is
short of memory and its link to the host is fast, sending them away costs nothing: the copies run
beside the arithmetic of other layers.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

NUM_SLOTS = 2
"""Layers whose products are on the device at the same time."""


@dataclass(slots=True)
class _Slot:
    """Room on the device for what one layer sends."""

    memory: Tensor
    free: torch.cuda.Event | None = None
    """When what was in it has been copied away."""
    filled: torch.cuda.Event | None = None
    """When what is in it has come back."""


class HostStore:
    """What some layers send: of two on the device, of the others in pinned host memory.

    The layers take the slots in turn, going up in forward and down in backward, so the last two
    of forward never leave. No call waits for the device: events keep two streams in order.
    """

    def __init__(
        self,
        layers: Sequence[int],
        max_tokens: int,
        width: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        """Make room for at most ``max_tokens`` rows of a layer, each ``width`` wide."""
        self._turn = {layer: turn for turn, layer in enumerate(sorted(layers))}
        size = (max_tokens, width)
        self._slots = [
            _Slot(torch.empty(size, dtype=dtype, device=device)) for _ in range(NUM_SLOTS)
        ]
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        pinned = self._stream is not None
        self._host = [
            torch.empty(size, dtype=dtype, pin_memory=pinned)
            for _ in range(len(self._turn) - NUM_SLOTS)
        ]
        self._rows = slice(0)

    def room(self, layer: int, num_tokens: int) -> Tensor:
        """Where a layer's forward puts what it sends, (T, width)."""
        slot = self._slot(self._turn[layer])
        self._wait(slot.free)
        self._rows = slice(num_tokens)
        return slot.memory[self._rows]

    def send(self, layer: int) -> None:
        """Copy it to the host; the layer's forward has read it for the last time."""
        turn = self._turn[layer]
        slot = self._slot(turn)
        slot.filled = None
        if turn < len(self._host):
            with self._beside():
                self._host[turn][self._rows].copy_(slot.memory[self._rows], non_blocking=True)
                slot.free = self._mark()

    def fetch(self, layer: int) -> Tensor:
        """What a layer sent, for its backward, which may overwrite it."""
        slot = self._slot(self._turn[layer])
        self._wait(slot.filled)
        return slot.memory[self._rows]

    def release(self, layer: int) -> None:
        """Backward is done with it; what is needed next but one takes its place."""
        turn = self._turn[layer] - NUM_SLOTS
        if turn >= 0:
            slot = self._slot(turn)
            with self._beside():
                slot.memory[self._rows].copy_(self._host[turn][self._rows], non_blocking=True)
                slot.filled = self._mark()

    def _slot(self, turn: int) -> _Slot:
        return self._slots[turn % NUM_SLOTS]

    def _beside(self) -> AbstractContextManager:
        """Run on the copying stream, after all that was launched so far."""
        if self._stream is None:
            return nullcontext()
        self._stream.wait_stream(torch.cuda.current_stream())
        return torch.cuda.stream(self._stream)

    def _mark(self) -> torch.cuda.Event | None:
        if self._stream is None:
            return None
        event = torch.cuda.Event()
        event.record()
        return event

    def _wait(self, event: torch.cuda.Event | None) -> None:
        if event is not None:
            torch.cuda.current_stream().wait_event(event)
