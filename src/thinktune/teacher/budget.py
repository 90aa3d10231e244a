"""How many tokens and how much money are spent, held back for requests under way, and left."""

from dataclasses import dataclass, field

Tokens = tuple[int, int]
"""Prompt and completion tokens."""


@dataclass(slots=True)
class Budget:
    """Counts what was spent; a request starts only if the most it can take is still there.

    The most is known: a completion ends at its limit, and a prompt has no more tokens than bytes.
    """

    max_tokens: int | None = None
    max_cost: float | None = None
    prices: tuple[float, float] | None = None
    """Of a million prompt and completion tokens."""
    spent: list[int] = field(default_factory=lambda: [0, 0])
    held: list[int] = field(default_factory=lambda: [0, 0])

    def hold(self, bound: Tokens) -> bool:
        """Hold back ``bound`` for a request; False, and nothing held, if a cap would be passed."""
        after = [s + h + b for s, h, b in zip(self.spent, self.held, bound, strict=True)]
        if self.max_tokens is not None and sum(after) > self.max_tokens:
            return False
        if self.max_cost is not None and (self.cost_of(after) or 0.0) > self.max_cost:
            return False
        self._move(self.held, bound, 1)
        return True

    def settle(self, bound: Tokens, used: Tokens) -> None:
        """End a request that took ``used``; its ``bound`` is no longer held back."""
        self._move(self.held, bound, -1)
        self._move(self.spent, used, 1)

    @property
    def cost(self) -> float | None:
        """Money spent; None without prices."""
        return self.cost_of(self.spent)

    def cost_of(self, tokens: list[int]) -> float | None:
        """Price of prompt and completion tokens; None without prices."""
        if self.prices is None:
            return None
        return sum(n * price for n, price in zip(tokens, self.prices, strict=True)) / 1e6

    @property
    def cap(self) -> str:
        """The caps, for messages."""
        tokens = "" if self.max_tokens is None else f"max_tokens_total={self.max_tokens}"
        money = "" if self.max_cost is None else f"max_cost={self.max_cost:g}"
        return " and ".join(part for part in (tokens, money) if part)

    def _move(self, account: list[int], tokens: Tokens, sign: int) -> None:
        for place, number in enumerate(tokens):
            account[place] += sign * number
