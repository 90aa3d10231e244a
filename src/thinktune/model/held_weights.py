"""Ways of holding the frozen weights of a product: as they are, in four bits, or in eight.

Whoever multiplies by them sees two products: that of the forward pass, and that which gives the
gradient of its input. A frozen weight has no gradient of its own.
"""

from collections.abc import Sequence
from enum import StrEnum
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from thinktune.kernels.language import runs_fused
from thinktune.ops.fp8 import (
    FP8Rows,
    fp8_product,
    quantize_fp8_weight,
    quantize_rows,
)
from thinktune.ops.linear import linear
from thinktune.ops.nf4 import FEW, NF4Weight, dequantize_nf4, nf4_linear, quantize_nf4

Rows = FP8Rows | None
"""What a product reads, in eight bits, from who made it; only `FP8` looks at it."""
Gradients = tuple[Tensor, Tensor | None]
"""Of a product's input, and of the adapter's ``S``."""


class Quantize(StrEnum):
    """How the projections of the layers are held, where it is not in the type of products."""

    NF4 = "nf4"
    """Four bits and a scale for 64 weights (arXiv:2305.14314), as bitsandbytes does."""
    FP8 = "fp8"
    """E4M3 (arXiv:2209.05433) with a scale for each output; products in eight bits."""
    FP8_DGRAD = "fp8_dgrad"
    """As they are, and in E4M3 beside it for the gradients of inputs."""


FORWARD_AS_IT_IS = 2
"""Last layers that `Quantize.FP8` multiplies forward in the type of products."""


class SharedBuffer:
    """Room for the weights of one product at a time, for all that are held smaller."""

    def __init__(self) -> None:
        """Take no memory yet."""
        self._memory: Tensor | None = None

    def reserve(self, size: int, dtype: torch.dtype, device: torch.device) -> None:
        """Have room for so many weights."""
        memory = self._memory
        if memory is None or (memory.dtype, memory.device) != (dtype, device):
            self._memory = memory = None
        if memory is None or len(memory) < size:
            self._memory = None
            self._memory = torch.empty(size, dtype=dtype, device=device)

    def take(self, rows: int, columns: int) -> Tensor:
        """A matrix (rows, columns); what was in the buffer before is lost."""
        assert self._memory is not None
        return self._memory[: rows * columns].view(rows, columns)


@runtime_checkable
class HeldWeights(Protocol):
    """The weights (out, in) of products that read the same input."""

    gradient_scales: Tensor | None
    """(out,), what a gradient is multiplied by in eight bits; None where it stays as it is."""

    def product(self, x: Tensor, bias: Tensor | None, room: Tensor | None, rows: Rows) -> Tensor:
        """``x W^T + bias``, (T, out); in ``room``, if there is one; ``rows`` may be ``x`` again."""
        ...

    def input_gradient(self, grad: Tensor, B: Tensor | None, rows: Rows) -> Gradients:
        """``grad W`` (T, in), and ``grad B`` (T, R) where there is a B (out, R).

        Args:
            grad: (T, out).
            B: of the adapter.
            rows: of the gradient times `gradient_scales`, in eight bits.
        """
        ...

    def room_for_b(self, columns: int, together: bool) -> Tensor:
        """Memory of zeros (out, columns) where B is to stand.

        Args:
            columns: of B.
            together: whether the weights are several members', whose B stand side by side.
        """
        ...

    def dense(self, first: int, last: int) -> Tensor:
        """Some rows of W in the type of products; new memory, or a view of it."""
        ...


class Dense:
    """Weights as they are. B of several members stands in spare columns of their matrix."""

    def __init__(self, weight: Tensor) -> None:
        """Hold (out, in)."""
        self.weight = weight
        self._wide: Tensor | None = None
        """(out, in + spare): base weights and B in one matrix."""
        self.gradient_scales: Tensor | None = None

    def product(self, x: Tensor, bias: Tensor | None, room: Tensor | None, rows: Rows) -> Tensor:
        """See `HeldWeights.product`."""
        return _product(x, self.weight, bias, room)

    def input_gradient(self, grad: Tensor, B: Tensor | None, rows: Rows) -> Gradients:
        """See `HeldWeights.input_gradient`; one product gives both where B stands beside W."""
        if B is None or self._wide is None:
            return grad @ self.weight, None if B is None else grad @ B
        return _cut(grad @ self._wide, self.weight.shape[1], B.shape[1])

    def room_for_b(self, columns: int, together: bool) -> Tensor:
        """See `HeldWeights.room_for_b`; the weights may move into a wider matrix."""
        self._wide = None
        outputs, inputs = self.weight.shape
        if not together or not runs_fused(self.weight):
            return self.weight.new_zeros(outputs, columns)
        wide = self.weight.new_zeros(outputs, inputs + spare_columns(columns))
        wide[:, :inputs].copy_(self.weight)
        self.weight, self._wide = wide[:, :inputs], wide
        return wide[:, inputs : inputs + columns]

    def dense(self, first: int, last: int) -> Tensor:
        """See `HeldWeights.dense`."""
        return self.weight[first:last]


class NF4:
    """Each member's weights in four bits, written out in a shared buffer before each product."""

    def __init__(
        self, parts: Sequence[NF4Weight | Tensor], dtype: torch.dtype, buffer: SharedBuffer
    ) -> None:
        """Hold the members' weights.

        Args:
            parts: of each member; a checkpoint may have left some as they were.
            dtype: of products.
            buffer: where they are written out.
        """
        self._parts, self._dtype, self._buffer = list(parts), dtype, buffer
        self._outputs = sum(part.shape[0] for part in parts)
        self._inputs = parts[0].shape[1]
        self._spare = 0
        self.gradient_scales: Tensor | None = None
        self._reserve()

    def _reserve(self) -> None:
        part = self._parts[0]
        device = part.device if isinstance(part, Tensor) else part.codes.device
        self._buffer.reserve(self._outputs * (self._inputs + self._spare), self._dtype, device)

    def _written_out(self, spare: int = 0) -> Tensor:
        """(out, in + spare); the spare columns hold anything."""
        whole = self._buffer.take(self._outputs, self._inputs + spare)
        first = 0
        for part in self._parts:
            rows = whole[first : first + part.shape[0], : self._inputs]
            if isinstance(part, Tensor):
                rows.copy_(part)
            else:
                dequantize_nf4(part, rows)
            first += part.shape[0]
        return whole

    def product(self, x: Tensor, bias: Tensor | None, room: Tensor | None, rows: Rows) -> Tensor:
        """See `HeldWeights.product`; in inference few rows meet the codes themselves."""
        if len(x) <= FEW and room is None and torch.is_inference_mode_enabled() and runs_fused(x):
            y = torch.cat([_with_codes(x, part) for part in self._parts], dim=1)
            return y if bias is None else y.add_(bias)
        return _product(x, self._written_out(), bias, room)

    def input_gradient(self, grad: Tensor, B: Tensor | None, rows: Rows) -> Gradients:
        """See `HeldWeights.input_gradient`; B is copied beside the weights of several members."""
        if B is None or not self._spare:
            return grad @ self._written_out(), None if B is None else grad @ B
        wide = self._written_out(self._spare)
        wide[:, self._inputs : self._inputs + B.shape[1]].copy_(B)
        return _cut(grad @ wide, self._inputs, B.shape[1])

    def room_for_b(self, columns: int, together: bool) -> Tensor:
        """See `HeldWeights.room_for_b`."""
        room = torch.zeros(self._outputs, columns, dtype=self._dtype, device=self._device)
        self._spare = spare_columns(columns) if together and runs_fused(room) else 0
        self._reserve()
        return room

    @property
    def _device(self) -> torch.device:
        part = self._parts[0]
        return part.device if isinstance(part, Tensor) else part.codes.device

    def dense(self, first: int, last: int) -> Tensor:
        """See `HeldWeights.dense`."""
        return self._written_out()[first:last].clone()


class FP8:
    """Weights in E4M3, with one layout for each product: a GPU wants both sides along the sum.

    Inputs and gradients are quantised by row on the way; the scales of the outputs go into the
    gradient before it is. Without ``keeps_forward`` the forward pass has the weights as they are.
    """

    def __init__(self, weight: Tensor, *, keeps_forward: bool = False) -> None:
        """Quantise (out, in).

        Args:
            weight: in the type of products.
            keeps_forward: whether the forward product stays in that type.
        """
        self._dtype = weight.dtype
        codes, self._scales = quantize_fp8_weight(weight)
        self.gradient_scales: Tensor | None = self._scales.bfloat16()
        self._transposed = codes.t().contiguous()
        self._codes = None if keeps_forward else codes
        self._weight = weight if keeps_forward else None

    def product(self, x: Tensor, bias: Tensor | None, room: Tensor | None, rows: Rows) -> Tensor:
        """See `HeldWeights.product`."""
        if self._codes is None:
            assert self._weight is not None
            return _product(x, self._weight, bias, room)
        rows = quantize_rows(x) if rows is None else rows
        y = fp8_product(rows, self._codes, self._scales, self._dtype, room)
        return y if bias is None else y.add_(bias)

    def input_gradient(self, grad: Tensor, B: Tensor | None, rows: Rows) -> Gradients:
        """See `HeldWeights.input_gradient`."""
        rows = quantize_rows(grad, self.gradient_scales) if rows is None else rows
        grad_x = fp8_product(rows, self._transposed, None, self._dtype)
        return grad_x, None if B is None else grad @ B

    def room_for_b(self, columns: int, together: bool) -> Tensor:
        """See `HeldWeights.room_for_b`."""
        outputs = len(self._scales)
        return torch.zeros(outputs, columns, dtype=self._dtype, device=self._scales.device)

    def dense(self, first: int, last: int) -> Tensor:
        """See `HeldWeights.dense`."""
        if self._weight is not None:
            return self._weight[first:last]
        assert self._codes is not None
        wide = torch.promote_types(self._dtype, torch.float32)
        rows = self._codes[first:last].to(wide) * self._scales[first:last, None].to(wide)
        return rows.to(self._dtype)


def quantized(
    weights: Sequence[Tensor], kind: Quantize, dtype: torch.dtype, buffer: SharedBuffer
) -> HeldWeights:
    """Hold the weights of some members, (out, in) each, otherwise than they are.

    Args:
        weights: in the type they were stored in.
        kind: how.
        dtype: of products.
        buffer: for what has to be written out before it is multiplied.
    """
    if kind is Quantize.NF4:
        return NF4([quantize_nf4(weight) for weight in weights], dtype, buffer)
    joined = torch.cat([weight.to(dtype) for weight in weights]) if len(weights) > 1 else None
    whole = weights[0].to(dtype) if joined is None else joined
    return FP8(whole, keeps_forward=kind is Quantize.FP8_DGRAD)


def spare_columns(columns: int) -> int:
    """How many the matrix that holds base weights and B has: products are fast in steps of 64."""
    return -(-columns // 64) * 64


def _product(x: Tensor, weight: Tensor, bias: Tensor | None, room: Tensor | None) -> Tensor:
    if room is None:
        return linear(x, weight, bias)
    if bias is None:
        return torch.mm(x, weight.T, out=room)
    return torch.addmm(bias, x, weight.T, out=room)


def _with_codes(x: Tensor, part: NF4Weight | Tensor) -> Tensor:
    return linear(x, part.to(x.dtype), None) if isinstance(part, Tensor) else nf4_linear(x, part)


def _cut(both: Tensor, inputs: int, rank: int) -> tuple[Tensor, Tensor]:
    return both[:, :inputs], both[:, inputs : inputs + rank]
