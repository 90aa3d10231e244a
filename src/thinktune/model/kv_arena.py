"""Keys and values of all rows in one arena, for decoding on a GPU without waste."""

from collections.abc import Sequence
from itertools import takewhile

import torch
from torch import Tensor

from thinktune.model.layer import Attend
from thinktune.model.shape import DecoderShape
from thinktune.ops.attention import PackedAttention
from thinktune.ops.decode_attention import decode_attention


def bytes_per_token(shape: DecoderShape, dtype: torch.dtype) -> int:
    """Memory of one token's keys and values in all layers."""
    width = shape.num_key_value_heads * shape.head_dim
    return 2 * shape.num_hidden_layers * width * dtype.itemsize


class KeyValueArena:
    """Room for so many tokens in every layer, given out in stretches, one for each row.

    A row's stretch holds its prompt and all it may write, so that no row is ever turned out.
    Memory: `bytes_per_token` times the tokens.
    """

    def __init__(
        self, shape: DecoderShape, dtype: torch.dtype, device: torch.device, num_tokens: int
    ) -> None:
        """Make the room; nothing of it is taken."""
        size = (shape.num_key_value_heads, num_tokens, shape.head_dim)
        self._keys, self._values = (
            [torch.zeros(size, dtype=dtype, device=device) for _ in range(shape.num_hidden_layers)]
            for _ in range(2)
        )
        self._device = device
        self._free = [(0, num_tokens)]

    def take(self, num_tokens: int) -> int | None:
        """Take the first free stretch of that length; None if there is none.

        Returns:
            Where it begins.
        """
        return _take(self._free, num_tokens)

    def num_fitting(self, sizes: Sequence[int]) -> int:
        """How many of the first of these stretches could be taken now."""
        free = list(self._free)
        return sum(1 for _ in takewhile(lambda size: _take(free, size) is not None, sizes))

    def give_back(self, first: int, num_tokens: int) -> None:
        """Free a stretch; neighbours become one."""
        joined: list[tuple[int, int]] = []
        for start, length in sorted([*self._free, (first, num_tokens)]):
            if joined and sum(joined[-1]) == start:
                joined[-1] = (joined[-1][0], joined[-1][1] + length)
            else:
                joined.append((start, length))
        self._free = joined

    def prefill(self, lengths: Sequence[int], starts: Sequence[Sequence[int]]) -> Attend:
        """Store packed prompts; use the result in one forward pass.

        Args:
            lengths: tokens of each prompt.
            starts: where each of the rows that begin with that prompt has its stretch.
        """
        source, target, first = [], [], 0
        for length, places in zip(lengths, starts, strict=True):
            for start in places:
                source.append(torch.arange(first, first + length))
                target.append(torch.arange(start, start + length))
            first += length
        source_S, target_S = (torch.cat(x).to(self._device) for x in (source, target))
        attention = PackedAttention(lengths)

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, None]:
            for store, new in ((self._keys[layer], k), (self._values[layer], v)):
                store.index_copy_(1, target_S, new.index_select(0, source_S).transpose(0, 1))
            return attention(layer, q, k, v)

        return attend

    def decode(self, starts_B: Tensor, lengths_B: Tensor, longest: int) -> Attend:
        """Store and attend for one new token a row; see `decode_attention`."""

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, None]:
            cached = self._keys[layer], self._values[layer]
            return decode_attention(q, k, v, *cached, starts_B, lengths_B, longest=longest), None

        return attend


def _take(free: list[tuple[int, int]], num_tokens: int) -> int | None:
    for place, (first, length) in enumerate(free):
        if length >= num_tokens:
            rest = (first + num_tokens, length - num_tokens)
            free[place : place + 1] = [rest] if rest[1] else []
            return first
    return None
