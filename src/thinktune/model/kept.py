"""What a layer's forward leaves for its backward."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from torch import Tensor


class Keep(StrEnum):
    """What a layer's forward keeps for its backward; the rest is computed again, bit for bit."""

    ALL = "all"
    """Everything but what a pass over memory gives back."""
    HOST = "host"
    """Everything, but the gate and up products in host memory."""
    NO_MLP = "no_mlp"
    """Not the gate and up products: they are most of the memory and half of the arithmetic."""
    ATTENTION = "attention"
    """Input, attention's result and the middle of the layer."""
    INPUT = "input"
    """The layer's input alone."""
    NOTHING = "nothing"
    """Not even the layer's input: it waits in host memory."""


@dataclass(slots=True)
class Kept:
    """What a layer's forward leaves for its backward; None is computed again."""

    x: Tensor
    rrms_x: Tensor | None = None
    S_qkv: Tensor | None = None
    qkv: Tensor | None = None
    attended: Tensor | None = None
    saved: Any = None
    S_o: Tensor | None = None
    mid: Tensor | None = None
    rrms_mid: Tensor | None = None
    S_gate_up: Tensor | None = None
    gate_up: Tensor | None = None
    S_down: Tensor | None = None

    def reduce(self, keep: Keep) -> None:
        """Let go of what is to be computed again."""
        if keep is not Keep.ALL:
            self.gate_up = None  # in host memory, or to be computed again
        if keep in (Keep.ATTENTION, Keep.INPUT, Keep.NOTHING):
            self.qkv = None
        if keep is Keep.NOTHING:
            self.x = self.x.new_empty(0)  # backward fetches it
        if keep in (Keep.INPUT, Keep.NOTHING):
            self.S_qkv = self.S_o = self.S_gate_up = None
            self.attended = self.saved = self.mid = self.rrms_mid = None
