"""The trainable matrices of a decoder, in one piece of memory."""

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from thinktune.kernels import adapter as kernel
from thinktune.kernels.language import runs_fused
from thinktune.model.base_weights import BaseLinear, LinearStack


class Adapter:
    """Every A and B of a decoder in one piece of memory, with one gradient and one working copy.

    The layers' ``lora_A`` and ``lora_B`` are views of ``weights``, so one fused call updates
    them all, one call casts them, and their norm is that of one vector.
    """

    def __init__(self, layers: Sequence[BaseLinear], stacks: Sequence[LinearStack]) -> None:
        """Gather the matrices that stand in ``layers``, and hand the stacks their parts."""
        dtype = torch.promote_types(layers[0].weight.dtype, torch.float32)
        flat = torch.cat([x.detach().to(dtype).flatten() for x in _in_order(layers)])
        self._num_A = sum(layer.lora_A.numel() for layer in layers if layer.lora_A is not None)
        self.weights = nn.Parameter(flat)
        """All A, then all B, in float32 at least."""
        self.weights.grad = torch.zeros_like(flat)
        self.scale = layers[0].scale
        self._working_A = torch.empty_like(flat[: self._num_A], dtype=layers[0].weight.dtype)
        self._version = -1
        self._blocks: list[tuple[Tensor, Tensor]] = []
        """Where each working copy of B is, and its master."""
        self._place(layers)
        for stack in stacks:
            self._bind(stack)
        self._table = kernel.table(self._blocks) if runs_fused(self.weights) else None

    def _place(self, layers: Sequence[BaseLinear]) -> None:
        self._offsets: dict[int, int] = {}
        first = 0
        for name in ("lora_A", "lora_B"):
            for layer in layers:
                old = getattr(layer, name)
                view = self.weights.detach()[first : first + old.numel()].view(old.shape)
                parameter = nn.Parameter(view)
                parameter.grad = self._part(self.gradient, first, old.shape)
                setattr(layer, name, parameter)
                self._offsets[id(parameter)] = first
                first += old.numel()

    @property
    def gradient(self) -> Tensor:
        """Gradient of ``weights``; backward passes add to it."""
        assert self.weights.grad is not None
        return self.weights.grad

    def part(self, whole: Tensor, parameter: nn.Parameter) -> Tensor:
        """The piece of a tensor as long as ``weights`` that belongs to one layer's matrix."""
        return self._part(whole, self._offsets[id(parameter)], parameter.shape)

    @staticmethod
    def _part(whole: Tensor, first: int, shape: Sequence[int]) -> Tensor:
        return whole[first : first + math.prod(shape)].view(*shape)

    def _bind(self, stack: LinearStack) -> None:
        adapted = [member for member in stack.members if member.lora_A is not None]
        if not adapted:
            stack.bind(None, None, ())
            return
        rank, width_in = adapted[0].lora_A.shape  # pyright: ignore[reportOptionalMemberAccess]
        first = self._offsets[id(adapted[0].lora_A)]
        shape = (len(adapted) * rank, width_in)
        seconds = [member.lora_B for member in adapted if member.lora_B is not None]
        places = stack.bind(
            self._part(self._working_A, first, shape),
            self._part(self.gradient, first, shape),
            [self.part(self.gradient, second) for second in seconds],
        )
        masters = (self.part(self.weights.detach(), second) for second in seconds)
        self._blocks += zip(places, masters, strict=True)

    @torch.no_grad()
    def refresh(self) -> None:
        """Bring the working copies up to date, if the weights have changed since."""
        if self._version == self.weights._version:
            return
        self._version = self.weights._version
        self._working_A.copy_(self.weights[: self._num_A])
        if self._table is not None:
            kernel.scaled_copies(self._table, self._blocks, self.scale)
            return
        for place, master in self._blocks:
            torch.mul(master, self.scale, out=place)

    def scale_gradient(self) -> None:
        """Finish the gradient of a step: the working copy of B carries the scale, B does not."""
        self.gradient[self._num_A :].mul_(self.scale)


def _in_order(layers: Sequence[BaseLinear]) -> Iterator[Tensor]:
    for name in ("lora_A", "lora_B"):
        for layer in layers:
            yield getattr(layer, name)
