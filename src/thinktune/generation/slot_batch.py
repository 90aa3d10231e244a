"""Rows decoded together on a GPU: fixed slots, one arena, and the step as a CUDA graph."""

from collections.abc import Sequence

import torch
from torch import Tensor

from thinktune.generation.drawing import next_tokens
from thinktune.generation.rows import Row, Rules, by_prompt
from thinktune.model.decoder import Decoder
from thinktune.model.kv_arena import KeyValueArena

_STEPS = 8
"""Between two looks at what was written; a row that ends rests until the next."""
_MAX_PREFILL_TOKENS = 16_384
_RESTING = -1


class SlotBatch:
    """A fixed number of slots; a row that ends leaves its slot to another.

    All state is on the device and of fixed shape, so that one step is the same launches whatever
    the rows: it is captured once and replayed.
    """

    def __init__(
        self, decoder: Decoder, rules: Rules, num_slots: int, num_tokens: int, longest: int
    ) -> None:
        """Make the arena and capture the step.

        Args:
            decoder: as it is now; an adapter attached later has no effect.
            rules: of all rows.
            num_slots: rows decoded together.
            num_tokens: room of the arena.
            longest: no row is longer, prompt included.
        """
        device = decoder.device
        self._decoder, self._rules, self._longest = decoder, rules, longest
        self._arena = KeyValueArena(decoder.shape, decoder.dtype, device, num_tokens)
        self._slots: list[Row | None] = [None] * num_slots
        self._stretches: list[tuple[int, int]] = [(0, 0)] * num_slots
        self._stops = torch.tensor(sorted(rules.stops), dtype=torch.long, device=device)
        self._last, self._starts, self._written, self._limits = (
            torch.zeros(num_slots, dtype=torch.long, device=device) for _ in range(4)
        )
        self._lengths = torch.full((num_slots,), _RESTING, dtype=torch.long, device=device)
        width = rules.config.max_new_tokens if rules.config.temperature else 1
        self._draws = torch.zeros(num_slots, width, device=device)
        self._history = torch.zeros(_STEPS, num_slots, dtype=torch.long, device=device)
        self._graph = self._capture() if device.type == "cuda" else None

    @property
    def rows(self) -> list[Row]:
        """Rows that are going."""
        return [row for row in self._slots if row is not None]

    def room(self, waiting: Sequence[Row]) -> int:
        """How many of the first rows that wait can begin now, their prompts read in one pass."""
        rows = waiting[: self._slots.count(None)]
        fitting = self._arena.num_fitting([len(row.prompt) + row.limit for row in rows])
        prompts, tokens = set(), 0
        for number, row in enumerate(rows[:fitting]):
            tokens += 0 if row.prompt in prompts else len(row.prompt)
            prompts.add(row.prompt)
            if number and tokens > _MAX_PREFILL_TOKENS:
                return number
        return fitting

    def start(self, rows: Sequence[Row]) -> None:
        """Read the prompts of new rows, and write their first tokens."""
        free = [slot for slot, row in enumerate(self._slots) if row is None][: len(rows)]
        for slot, row in zip(free, rows, strict=True):
            size = len(row.prompt) + row.limit
            start = self._arena.take(size)
            assert start is not None, "room() said otherwise"
            self._slots[slot], self._stretches[slot] = row, (start, size)
        groups = by_prompt(rows)
        lengths = [len(prompt) for prompt in groups]
        device = self._decoder.device
        starts = [[self._stretches[free[p]][0] for p in places] for places in groups.values()]
        hidden = self._decoder(
            torch.tensor([token for prompt in groups for token in prompt], device=device),
            torch.cat([torch.arange(n) for n in lengths]).to(device),
            self._arena.prefill(lengths, starts),
            (torch.tensor(lengths).cumsum(0) - 1).to(device),
        )
        of_row = [0] * len(rows)
        for number, places in enumerate(groups.values()):
            for place in places:
                of_row[place] = number
        slots = torch.tensor(free, device=device)
        if self._rules.config.temperature:
            for slot, row in zip(free, rows, strict=True):
                self._draws[slot, : row.limit] = self._rules.draws(row).to(device)
        first = self._choose(
            hidden[torch.tensor(of_row, device=device)], self._draws[slots, 0].clone()
        )
        for row, token in zip(rows, first.tolist(), strict=True):
            row.add(token, self._rules.stops)
        self._last[slots] = first
        self._written[slots] = 1
        for store, values in (
            (self._starts, [self._stretches[slot][0] for slot in free]),
            (self._limits, [row.limit for row in rows]),
            (self._lengths, [len(r.prompt) if r.stop is None else _RESTING for r in rows]),
        ):
            store[slots] = torch.tensor(values, device=device)
        self._let_go()

    def step(self) -> list[Row]:
        """Write some more tokens of each row.

        Returns:
            The rows, those that have ended by it too.
        """
        going = [(slot, row) for slot, row in enumerate(self._slots) if row is not None]
        for step in range(_STEPS):
            if self._graph is None:
                self._advance()
            else:
                self._graph.replay()
            self._history[step].copy_(self._last)
        written = self._history.T.tolist()
        for slot, row in going:
            for token in written[slot]:
                row.add(token, self._rules.stops)
                if row.stop is not None:
                    break
        self._let_go()
        return [row for _, row in going]

    def _let_go(self) -> None:
        for slot, row in enumerate(self._slots):
            if row is not None and row.stop is not None:
                self._slots[slot] = None
                self._arena.give_back(*self._stretches[slot])

    def _advance(self) -> None:
        """One token more in every slot that is not at rest."""
        hidden = self._decoder(
            self._last,
            self._lengths.clamp(min=0),
            self._arena.decode(self._starts, self._lengths, self._longest),
        )
        draws = self._draws[:, 0]
        if self._draws.shape[1] > 1:
            place = self._written.clamp(max=self._draws.shape[1] - 1)
            draws = self._draws.gather(1, place[:, None]).squeeze(1)
        chosen = self._choose(hidden, draws)
        self._written += 1
        ends = (chosen[:, None] == self._stops).any(1) | (self._written >= self._limits)
        rests = ends | (self._lengths < 0)
        self._lengths.copy_(torch.where(rests, _RESTING, self._lengths + 1))
        self._last.copy_(chosen)

    def _choose(self, hidden: Tensor, draws: Tensor) -> Tensor:
        config = self._rules.config
        return next_tokens(
            self._decoder.logits(hidden), draws, temperature=config.temperature, top_p=config.top_p
        )

    def _capture(self) -> torch.cuda.CUDAGraph:
        """The launches of one step; made while every slot is at rest, so that nothing is lost."""
        stream = torch.cuda.Stream(self._decoder.device)
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(2):  # compiles what has to be compiled
                self._advance()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._advance()
        return graph
