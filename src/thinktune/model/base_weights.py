"""Frozen linear layers of the base model, and the products of those that read the same input."""

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from thinktune.kernels.language import runs_fused
from thinktune.model.held_weights import (
    Dense,
    Gradients,
    HeldWeights,
    Quantize,
    Rows,
    SharedBuffer,
    quantized,
)
from thinktune.ops.linear import linear
from thinktune.ops.update import GradA, GradB, Update, add_in_place, dropout


class BaseLinear(nn.Module):
    """Weight and bias of one linear layer, and the place its adapter stands in.

    The base weight never gets a gradient. ``lora_A`` and ``lora_B`` are None until
    `thinktune.model.lora.attach` puts them there. The products are made by `LinearStack`. Where
    that holds the weight quantised, ``weight`` tells its shape and the type of products, and has
    no values (it is on the meta device).
    """

    weight: Tensor
    bias: Tensor | None
    lora_A: nn.Parameter | None
    lora_B: nn.Parameter | None

    def __init__(self, in_features: int, out_features: int, bias: bool) -> None:
        """Make room for the weight; its values come from a checkpoint."""
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_features, in_features), requires_grad=False)
        self.bias = nn.Parameter(torch.empty(out_features), requires_grad=False) if bias else None
        self.register_parameter("lora_A", None)
        self.register_parameter("lora_B", None)
        self.scale = 0.0
        self.dropout = 0.0
        self._home: torch.device | None = None

    @property
    def device(self) -> torch.device:
        """Where products are made."""
        return self._home or self.weight.device

    def hollow(self, dtype: torch.dtype, device: torch.device) -> None:
        """Let go of the weight's values, which are held elsewhere."""
        self._home = device
        empty = torch.empty(self.weight.shape, dtype=dtype, device="meta")
        self.weight = nn.Parameter(empty, requires_grad=False)


class LinearStack:
    """Linear layers that read the same input: one product for their base, one for their A.

    ``y = x W^T + bias``, plus ``(dropout(x) A^T) B^T`` where an adapter is attached. The
    members' weights are views of one matrix, so that each keeps its name. Where fused kernels
    run, B of several members stands in spare columns of that matrix: one product of ``[W, B]``
    then gives the gradients of both ``x`` and ``x A^T``.
    """

    def __init__(self, *members: BaseLinear) -> None:
        """Join the members; `bind` gives the stack its adapter."""
        self.members = members
        self.widths = tuple(len(member.weight) for member in members)
        self.held: HeldWeights
        """The members' weights, one below the other."""
        self.quantize: Quantize | None = None
        """How they are held, if not as they are."""
        self.A: Tensor | None = None
        """(M R, in), of the M adapted members, in the type products are made in."""
        self.B: Tensor | None = None
        """(out, M R), block-diagonal and scaled."""
        self.grad_A: Tensor | None = None
        self._grad_B: tuple[Tensor | None, ...] = ()
        self.join()

    def join(self) -> None:
        """Put the members' weights into one matrix, if they are not, and all have arrived."""
        if self.quantize is not None:
            return
        parts = [x for m in self.members for x in (m.weight, m.bias) if x is not None]
        if len({part.device for part in parts}) > 1:
            return
        self._join_biases()
        self._share(_joined([member.weight for member in self.members]))

    def _join_biases(self) -> None:
        biases = [member.bias for member in self.members if member.bias is not None]
        self.bias = _joined(biases) if biases else None
        for member, rows in zip(self.members, self._rows(), strict=True):
            if self.bias is not None:
                member.bias = nn.Parameter(self.bias[rows], requires_grad=False)

    def _share(self, weight: Tensor) -> None:
        """Make the members' weights views of one tensor."""
        self.held = Dense(weight)
        self._name(weight)

    def _name(self, weight: Tensor) -> None:
        for member, rows in zip(self.members, self._rows(), strict=True):
            member.weight = nn.Parameter(weight[rows], requires_grad=False)

    def _rows(self) -> Iterator[slice]:
        """Where each member's outputs stand."""
        first = 0
        for width in self.widths:
            yield slice(first, first + width)
            first += width

    def hold(self, kind: Quantize, dtype: torch.dtype, buffer: SharedBuffer) -> None:
        """Quantise the members' weights, which have all arrived, and let go of them.

        Args:
            kind: how to hold them.
            dtype: of products.
            buffer: of the whole decoder.
        """
        weights = [member.weight for member in self.members]
        device = weights[0].device
        self.take(quantized(weights, kind, dtype, buffer), kind, dtype, device)

    def take(
        self, held: HeldWeights, kind: Quantize, dtype: torch.dtype, device: torch.device
    ) -> None:
        """Hold weights that are quantised already; the members keep their shapes alone."""
        self.held, self.quantize = held, kind
        self._join_biases()
        for member in self.members:
            member.hollow(dtype, device)

    def dense(self, member: BaseLinear) -> Tensor:
        """One member's weights (out, in) in the type of products, whatever they are held as."""
        rows = list(self._rows())[self.members.index(member)]
        return self.held.dense(rows.start, rows.stop)

    def bind(
        self, A: Tensor | None, grad_A: Tensor | None, grad_B: Sequence[Tensor]
    ) -> list[Tensor]:
        """Take A's working copy, and where gradients are added up.

        Returns:
            The places for the working copies of B, scaled: a block for each adapted member.
        """
        self.A, self.grad_A, self.B = A, grad_A, None
        self._adapted = [m for m in self.members if m.lora_A is not None]
        self._rank = len(A) // len(self._adapted) if A is not None else 0
        places: list[int | None] = []
        for member in self.members:
            past = sum(place is not None for place in places)
            places.append(None if member.lora_A is None else past)
        self._columns = tuple(None if place is None else place * self._rank for place in places)
        self._grad_B = tuple(None if place is None else grad_B[place] for place in places)
        if A is None:
            return []
        together = len(self.members) > 1
        self.B = self.held.room_for_b(len(A), together)
        if isinstance(self.held, Dense):
            self._name(self.held.weight)
        return [
            self.B[first : first + width, column : column + self._rank]
            for first, width, column in self._blocks()
        ]

    def _blocks(self) -> Iterator[tuple[int, int, int]]:
        """First row, number of rows and first column of each adapted member's block of B."""
        first = 0
        for width, column in zip(self.widths, self._columns, strict=True):
            if column is not None:
                yield first, width, column
            first += width

    @property
    def is_adapted(self) -> bool:
        """Whether an adapter is attached and its scale is not 0."""
        return self.A is not None and self._adapted[0].scale != 0.0

    def project(
        self, x: Tensor, seed: int, room: Tensor | None = None, rows: Rows = None
    ) -> tuple[Tensor, Tensor | None, Update | None]:
        """The base product of each row, and the adapter's part.

        Args:
            x: (T, in).
            seed: of the dropout mask, if there is one.
            room: memory for the product; None for new memory.
            rows: ``x`` in eight bits, where who made it gives them too.

        Returns:
            The product (T, out); ``S = dropout(x) A^T`` (T, M R), which backward needs; and
            what a fused kernel has yet to add to the product. Elsewhere it is added already.
        """
        y = self.held.product(x, self.bias, room, rows)
        if not self.is_adapted:
            return y, None, None
        S = self.low_rank(x, seed)
        update = self.pending(y, S)
        if update is None:
            add_in_place(y, self.update(S))
        return y, S, update

    def low_rank(self, x: Float[Tensor, "T in"], seed: int) -> Float[Tensor, "T MR"]:
        """``S = dropout(x) A^T``."""
        assert self.A is not None
        return linear(self._seen(x, seed), self.A, None)

    def update(self, S: Float[Tensor, "T MR"]) -> Update:
        """``S B^T``, still to be added."""
        assert self.B is not None
        return Update(S, self.B, self._columns, self.widths, self._rank)

    def pending(self, y: Tensor, S: Tensor | None) -> Update | None:
        """What `project` left to be added to ``y``."""
        return self.update(S) if S is not None and runs_fused(y) else None

    def _seen(self, x: Tensor, seed: int) -> Tensor:
        """What the adapter sees of ``x``; the members share one mask."""
        return dropout(x, self._adapted[0].dropout, seed) if self._drops else x

    @property
    def _drops(self) -> bool:
        return self._adapted[0].dropout > 0 and self._adapted[0].training

    def grad_b(self, S: Tensor | None) -> GradB | None:
        """How B's gradients are to be added up; ``S`` is from the forward pass."""
        if S is None:
            return None
        return GradB(S, self._grad_B, self._columns, self.widths, self._rank)

    def grad_a(self, grad_S: Tensor | None) -> GradA | None:
        """How A's gradient is to be added up, by who passes over what A saw.

        None where nobody can: without an adapter, and with dropout (see `add_grad_a`).
        """
        if grad_S is None or self.grad_A is None or self._drops:
            return None
        return GradA(grad_S, self.grad_A)

    def add_grad_a(self, grad_S: Tensor | None, x: Tensor, seed: int) -> None:
        """Add A's gradient to where it is kept; ``x`` and ``seed`` as in the forward pass."""
        if grad_S is not None and self.grad_A is not None:
            GradA(grad_S, self.grad_A).add(self._seen(x, seed))

    def grad_low_rank(self, grad: Tensor) -> Tensor | None:
        """Gradient of ``S``, without that of the input."""
        return None if self.B is None or not self.is_adapted else grad @ self.B

    def backward_input(self, grad: Tensor, rows: Rows = None) -> Gradients:
        """`HeldWeights.input_gradient`; the adapter's part is not yet added to the input's."""
        return self.held.input_gradient(grad, self.B if self.is_adapted else None, rows)

    def through_a(
        self, grad_x: Tensor, grad_S: Tensor | None, seed: int
    ) -> tuple[Tensor, Tensor] | None:
        """The adapter's part of the input's gradient, still to be added: (T, R) @ (R, in).

        With dropout it is added to ``grad_x`` at once; the seed is that of the forward pass.
        """
        if grad_S is None or self.A is None:
            return None
        if not self._drops:
            return grad_S, self.A
        grad_x.add_(dropout(grad_S @ self.A, self._adapted[0].dropout, seed))
        return None


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """One tensor of which the parts are consecutive rows; their own memory, if it is that."""
    first = parts[0]
    if len(parts) == 1:
        return first.detach()
    expected = first.data_ptr()
    for part in parts:
        if part.is_meta or part.data_ptr() != expected or part.stride() != first.stride():
            return torch.cat([part.detach() for part in parts])
        expected += len(part) * part.stride(0) * part.element_size()
    whole = first.untyped_storage().nbytes() - first.storage_offset() * first.element_size()
    if first.stride(-1) != 1 or whole < expected - first.data_ptr():
        return torch.cat([part.detach() for part in parts])
    rows = sum(len(part) for part in parts)
    return first.detach().as_strided((rows, *first.shape[1:]), first.stride())
