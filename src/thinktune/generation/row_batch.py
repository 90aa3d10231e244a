"""Rows decoded together where no fused kernels run: on a CPU, and in float64."""

from collections.abc import Sequence

import torch
from torch import Tensor

from thinktune.data.packing import shared_prefix
from thinktune.generation.drawing import next_tokens
from thinktune.generation.rows import Row, Rules, by_prompt
from thinktune.model.decoder import Decoder
from thinktune.model.kv_cache import KeyValueCache


class RowBatch:
    """Up to so many rows; one that ends makes place for another."""

    def __init__(self, decoder: Decoder, rules: Rules, num_rows: int) -> None:
        """Start with no rows."""
        self.rows: list[Row] = []
        self._decoder, self._rules, self._num_rows = decoder, rules, num_rows
        self._cache: KeyValueCache | None = None
        self._draws: list[Tensor] = []
        self._last = torch.zeros(0, dtype=torch.long, device=decoder.device)

    def room(self, waiting: Sequence[Row]) -> int:
        """How many of the first rows that wait can begin now."""
        return min(len(waiting), self._num_rows - len(self.rows))

    def start(self, rows: Sequence[Row]) -> None:
        """Read the prompts of new rows, and write their first tokens."""
        groups = by_prompt(rows)
        prompts = list(groups)
        order = [place for places in groups.values() for place in places]
        of_row = [number for number, places in enumerate(groups.values()) for _ in places]
        # What all prompts begin with is computed once; the last token must be each one's own.
        prefix = shared_prefix(prompts, min(map(len, prompts)) - 1)
        lengths = [len(prompt) - prefix for prompt in prompts]
        ids = [*prompts[0][:prefix], *(token for prompt in prompts for token in prompt[prefix:])]
        places = [torch.arange(prefix), *(torch.arange(prefix, prefix + n) for n in lengths)]
        device = self._decoder.device
        cache = KeyValueCache(self._decoder.shape, self._decoder.dtype, device)
        ends = torch.tensor(lengths, device=device).cumsum(0) + prefix - 1
        hidden = self._decoder(
            torch.tensor(ids, device=device),
            torch.cat(places).to(device),
            cache.prefill(lengths, prefix, of_row),
            ends,
        )
        if self._cache is None:
            self._cache = cache
        else:
            self._cache.join(cache)
        new = [rows[place] for place in order]
        self._draws += [self._rules.draws(row) for row in new]
        old, self.rows = self.rows, [*self.rows, *new]
        chosen = self._choose(hidden[torch.tensor(of_row, device=device)], len(old))
        self._take(torch.cat((self._last, chosen)), len(old))

    def step(self) -> list[Row]:
        """Write one more token of each row.

        Returns:
            The rows, those that have ended by it too.
        """
        assert self._cache is not None
        stepped = self.rows
        positions, attend = self._cache.advance()
        hidden = self._decoder(self._last, positions, attend)
        self._take(self._choose(hidden, 0), 0)
        return stepped

    def _choose(self, hidden: Tensor, first: int) -> Tensor:
        rows = self.rows[first:]
        numbers = [
            float(own[len(row.tokens)]) for row, own in zip(rows, self._draws[first:], strict=True)
        ]
        draws = torch.tensor(numbers, device=hidden.device)
        config = self._rules.config
        return next_tokens(
            self._decoder.logits(hidden), draws, temperature=config.temperature, top_p=config.top_p
        )

    def _take(self, tokens: Tensor, first: int) -> None:
        """Add the tokens of the rows from the first on, and let those go that end."""
        for row, token in zip(self.rows[first:], tokens[first:].tolist(), strict=True):
            row.add(token, self._rules.stops)
        going = [place for place, row in enumerate(self.rows) if row.stop is None]
        if len(going) < len(self.rows):
            assert self._cache is not None
            self._cache.keep(going)
            self.rows = [self.rows[place] for place in going]
            self._draws = [self._draws[place] for place in going]
            tokens = tokens[torch.tensor(going, dtype=torch.long, device=tokens.device)]
        self._last = tokens
