"""Frozen linear layers of the base model, and the products of those that read the same input."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from thinktune.kernels.language import runs_fused
from thinktune.ops.update import Update, add_in_place, dropout


class BaseLinear(nn.Module):
    """Weight and bias of one linear layer, and the place its adapter stands in.

    The base weight never gets a gradient. ``lora_A`` and ``lora_B`` are None until
    `thinktune.model.lora.attach` puts them there. The products are made by `LinearStack`.
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


class LinearStack:
    """Linear layers that read the same input: one product for their base, one for their A.

    ``y = x W^T + bias``, plus ``(dropout(x) A^T) B^T`` where an adapter is attached. The
    members' weights are views of one matrix, so that each keeps its name.
    """

    def __init__(self, *members: BaseLinear) -> None:
        """Join the members; `bind` gives the stack its adapter."""
        self.members = members
        self.widths = tuple(len(member.weight) for member in members)
        self.A: Tensor | None = None
        """(M R, in), of the M adapted members, in the type products are made in."""
        self.B: Tensor | None = None
        """(out, M R), block-diagonal and scaled."""
        self.grad_A: Tensor | None = None
        self.grad_B: tuple[Tensor, ...] = ()
        self.join()

    def join(self) -> None:
        """Put the members' weights into one matrix, if they are not, and all have arrived."""
        parts = [x for m in self.members for x in (m.weight, m.bias) if x is not None]
        if len({part.device for part in parts}) > 1:
            return
        self.weight = _joined([member.weight for member in self.members])
        biases = [member.bias for member in self.members if member.bias is not None]
        self.bias = _joined(biases) if biases else None
        first = 0
        for member, width in zip(self.members, self.widths, strict=True):
            rows = slice(first, first + width)
            member.weight = nn.Parameter(self.weight[rows], requires_grad=False)
            if self.bias is not None:
                member.bias = nn.Parameter(self.bias[rows], requires_grad=False)
            first += width

    def bind(
        self,
        A: Tensor | None,
        B: Tensor | None,
        grad_A: Tensor | None,
        grad_B: Sequence[Tensor],
    ) -> None:
        """Take the working copies of the adapter's matrices, and where gradients are added up."""
        self.A, self.B, self.grad_A, self.grad_B = A, B, grad_A, tuple(grad_B)
        self._adapted = [m for m in self.members if m.lora_A is not None]
        self._rank = len(A) // len(self._adapted) if A is not None else 0
        columns: list[int | None] = []
        for member in self.members:
            past = sum(column is not None for column in columns)
            columns.append(None if member.lora_A is None else past * self._rank)
        self._columns = tuple(columns)

    @property
    def is_adapted(self) -> bool:
        """Whether an adapter is attached and its scale is not 0."""
        return self.A is not None and self._adapted[0].scale != 0.0

    def project(
        self, x: Tensor, seed: int, room: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None, Update | None]:
        """The base product of each row, and the adapter's part.

        Args:
            x: (T, in).
            seed: of the dropout mask, if there is one.
            room: memory for the product; None for new memory.

        Returns:
            The product (T, out); ``S = dropout(x) A^T`` (T, M R), which backward needs; and
            what a fused kernel has yet to add to the product. Elsewhere it is added already.
        """
        y = self.base_product(x, room)
        if not self.is_adapted:
            return y, None, None
        S = self.low_rank(x, seed)
        update = self.pending(y, S)
        if update is None:
            add_in_place(y, self.update(S))
        return y, S, update

    def base_product(
        self, x: Float[Tensor, "T in"], room: Tensor | None = None
    ) -> Float[Tensor, "T out"]:
        """``x W^T + bias``."""
        if room is None:
            return F.linear(x, self.weight, self.bias)
        if self.bias is None:
            return torch.mm(x, self.weight.T, out=room)
        return torch.addmm(self.bias, x, self.weight.T, out=room)

    def low_rank(self, x: Float[Tensor, "T in"], seed: int) -> Float[Tensor, "T MR"]:
        """``S = dropout(x) A^T``."""
        assert self.A is not None
        return F.linear(self._seen(x, seed), self.A)

    def update(self, S: Float[Tensor, "T MR"]) -> Update:
        """``S B^T``, still to be added."""
        assert self.B is not None
        return Update(S, self.B, self._columns, self.widths, self._rank)

    def pending(self, y: Tensor, S: Tensor | None) -> Update | None:
        """What `project` left to be added to ``y``."""
        return self.update(S) if S is not None and runs_fused(y) else None

    def _seen(self, x: Tensor, seed: int) -> Tensor:
        """What the adapter sees of ``x``; the members share one mask."""
        member = self._adapted[0]
        if member.dropout and member.training:
            return dropout(x, member.dropout, seed)
        return x

    def backward_lora_b(self, grad: Tensor, S: Tensor | None) -> Tensor | None:
        """Gradient of S; B's gradient is added to where it is kept.

        Args:
            grad: of the product, (T, out).
            S: from the forward pass.
        """
        if S is None or self.B is None:
            return None
        first, grads = 0, iter(self.grad_B)
        for column, width in zip(self._columns, self.widths, strict=True):
            if column is not None:
                block = S[:, column : column + self._rank]
                _add_product(next(grads), grad[:, first : first + width], block)
            first += width
        return grad @ self.B

    def backward_lora_a(self, grad_S: Tensor | None, x: Tensor, seed: int) -> None:
        """Add A's gradient to where it is kept."""
        if grad_S is not None and self.grad_A is not None:
            _add_product(self.grad_A, grad_S, self._seen(x, seed))

    def backward_input(
        self, grad: Tensor, grad_S: Tensor | None, seed: int
    ) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
        """Gradient of the input: the base's part, and the adapter's, still to be added.

        Args:
            grad: of the product, (T, out).
            grad_S: from `backward_lora_b`.
            seed: of the dropout mask, as in the forward pass.
        """
        grad_x = grad @ self.weight
        if grad_S is None or self.A is None:
            return grad_x, None
        member = self._adapted[0]
        if member.dropout and member.training:
            return grad_x.add_(dropout(grad_S @ self.A, member.dropout, seed)), None
        return grad_x, (grad_S, self.A)


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """One tensor of which the parts are consecutive rows; their own memory, if it is that."""
    first = parts[0]
    if len(parts) == 1:
        return first.detach()
    expected = first.data_ptr()
    for part in parts:
        if part.is_meta or part.data_ptr() != expected or not part.is_contiguous():
            return torch.cat([part.detach() for part in parts])
        expected += part.numel() * part.element_size()
    whole = first.untyped_storage().nbytes() - first.storage_offset() * first.element_size()
    if whole < expected - first.data_ptr():
        return torch.cat([part.detach() for part in parts])
    rows = sum(len(part) for part in parts)
    return first.detach().as_strided((rows, *first.shape[1:]), first.stride())


def _add_product(total: Tensor, a_TM: Tensor, b_TN: Tensor) -> None:
    """``total += a^T b`` in ``total``'s type, not rounded to 16 bits where that can be avoided."""
    if a_TM.dtype == total.dtype:
        total.addmm_(a_TM.T, b_TN)
    elif a_TM.is_cuda:
        torch.ops.aten.addmm.dtype_out(total, a_TM.T, b_TN, total.dtype, out=total)
    else:
        total.add_(a_TM.T @ b_TN)
