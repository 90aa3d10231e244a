"""Keys and values of what each row has seen, for decoding one token at a time."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from thinktune.model.layer import Attend
from thinktune.model.shape import DecoderShape
from thinktune.ops.attention import cached_attention, packed_attention

_GROWTH = 128


class KeyValueCache:
    """Keys (B, K, H, L) and values (B, K, L, H) of every layer; rows have their own lengths.

    Memory: 2 x layers x B x K x L x H values; L grows in blocks as rows get longer.
    """

    def __init__(self, shape: DecoderShape, dtype: torch.dtype, device: torch.device) -> None:
        """Start with no rows."""
        self._heads, self._width = shape.num_key_value_heads, shape.head_dim
        self._dtype, self._device = dtype, device
        self._keys = [self._empty(0, 0).mT for _ in range(shape.num_hidden_layers)]
        self._values = [self._empty(0, 0) for _ in range(shape.num_hidden_layers)]
        self.lengths: list[int] = []
        """Tokens each row has seen."""

    def _empty(self, rows: int, places: int) -> Tensor:
        size = (rows, self._heads, places, self._width)
        return torch.zeros(size, dtype=self._dtype, device=self._device)

    def prefill(
        self, lengths: Sequence[int], prefix_length: int = 0, rows: Sequence[int] | None = None
    ) -> Attend:
        """Start rows from packed prompts; use the result in one forward pass.

        Args:
            lengths: tokens of each prompt after the prefix.
            prefix_length: first tokens of the pack, which stand before every prompt.
            rows: the prompt each row begins with; None for a row a prompt.
        """
        rows = range(len(lengths)) if rows is None else rows
        self.lengths = [prefix_length + lengths[prompt] for prompt in rows]
        places = max(self.lengths) + _GROWTH
        ends = (torch.tensor(lengths).cumsum(0) + prefix_length).tolist()
        shared = slice(0, prefix_length)

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, None]:
            values = self._empty(len(rows), places)
            keys = torch.zeros_like(values.mT, memory_format=torch.contiguous_format)
            keys[..., shared] = k[shared].permute(1, 2, 0)
            values[:, :, shared] = v[shared].transpose(0, 1)
            for row, prompt in enumerate(rows):
                end, length = ends[prompt], lengths[prompt]
                own = slice(prefix_length, prefix_length + length)
                keys[row, :, :, own] = k[end - length : end].permute(1, 2, 0)
                values[row, :, own] = v[end - length : end].transpose(0, 1)
            self._keys[layer], self._values[layer] = keys, values
            return packed_attention(q, k, v, lengths, prefix_length), None

        return attend

    def advance(self) -> tuple[Tensor, Attend]:
        """Make place for one more token a row.

        Returns:
            The new tokens' positions (B), and the attention of one forward pass over them.
        """
        positions = torch.tensor(self.lengths, device=self._device)
        self.lengths = [length + 1 for length in self.lengths]
        filled = max(self.lengths)
        if filled > self._values[0].shape[2]:
            block = self._empty(len(self.lengths), max(_GROWTH, filled // 4))
            self._keys = [torch.cat((old, block.mT), dim=3) for old in self._keys]
            self._values = [torch.cat((old, block), dim=2) for old in self._values]
        rows = torch.arange(len(self.lengths), device=self._device)
        seen_BL = torch.arange(filled, device=self._device) <= positions[:, None]

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, None]:
            keys, values = self._keys[layer], self._values[layer]
            keys[rows, :, :, positions] = k
            values[rows, :, positions] = v
            return cached_attention(q, keys[..., :filled], values[:, :, :filled], seen_BL), None

        return positions, attend

    def keep(self, rows: Sequence[int]) -> None:
        """Drop every row but these, in this order."""
        index = torch.tensor(rows, dtype=torch.long, device=self._device)
        self.lengths = [self.lengths[row] for row in rows]
        for store in (self._keys, self._values):
            store[:] = [old.index_select(0, index) for old in store]

    def join(self, other: "KeyValueCache") -> None:
        """Put another cache's rows behind these; the other one is used up."""
        self.lengths = [*self.lengths, *other.lengths]
        for ours, theirs, dim in (
            (self._keys, other._keys, 3),
            (self._values, other._values, 2),
        ):
            for layer, (old, new) in enumerate(zip(ours, theirs, strict=True)):
                places = max(old.shape[dim], new.shape[dim])
                ours[layer] = torch.cat([_widened(x, dim, places) for x in (old, new)])
            theirs.clear()


def _widened(x: Tensor, dim: int, places: int) -> Tensor:
    missing = places - x.shape[dim]
    if not missing:
        return x
    return F.pad(x, (0, missing) if dim == 3 else (0, 0, 0, missing))
