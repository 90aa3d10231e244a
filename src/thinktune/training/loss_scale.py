"""What the loss is multiplied by in float16, so that gradients stay inside its range."""

import torch
from torch import Tensor

_START = 2.0**16
"""A token's gradient is about this over the targets of the step: 4 to 400, in the middle of the
range (6e-8 to 65504), so that few runs ever change it."""
_GROWTH_INTERVAL = 500
"""Steps without an overflow before the scale is doubled. Trying costs a step when it fails: a run
of 60 steps never tries, a long one loses one step in 500."""


class LossScale:
    """A power of two, halved when gradients overflow (arXiv:1710.03740).

    All of it is on the device and nobody waits for it: a step whose gradient is not finite is
    skipped, counted, and followed by one with half the scale.
    """

    def __init__(self, device: torch.device) -> None:
        """Start with what suits most runs."""
        self.value = torch.full((), _START, dtype=torch.float32, device=device)
        """What the loss of the next step is multiplied by."""
        self.skipped = torch.zeros((), dtype=torch.float32, device=device)
        """Steps skipped so far."""
        self._clean = torch.zeros((), dtype=torch.int32, device=device)

    @property
    def state(self) -> dict[str, Tensor]:
        """What a resumed run needs, by name; write into the tensors to restore it."""
        return {
            "loss_scale": self.value,
            "skipped_steps": self.skipped,
            "clean_steps": self._clean,
        }

    def update(self, overflowed: Tensor) -> None:
        """A step is over; ``overflowed`` is 1.0 if its gradient was not finite, else 0.0."""
        self.skipped.add_(overflowed)
        torch.ops.aten._amp_update_scale_(
            self.value, self._clean, overflowed, 2.0, 0.5, _GROWTH_INTERVAL
        )
