"""What each way of holding the base was found to cost, and which claims that bears out."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf, nextafter
from statistics import fmean

from thinktune.closeness import Closeness
from thinktune.model.checkpoint_io import BaseDtype

MOST_GRADIENT_ERROR = 0.15
LEAST_COSINE = 0.99
"""Of fp8_dgrad, to be called equal to bfloat16."""
MOST_KL = 0.03
LEAST_FP8_COSINE = 0.93
MOST_LOSS_RATIO = 1.15
"""Of fp8, to be called better than QLoRA: the last is its held-out loss over bfloat16's."""
LEAST_SEEDS = 3
"""Trainings of a kind whose losses decide anything."""


@dataclass(frozen=True, slots=True)
class Asked:
    """How a trained adapter did on the held-out rows, on one base."""

    heldout_loss: float
    """Mean nats a target token."""
    strict: float
    """Share of questions answered strictly right, greedily."""
    num_questions: int


@dataclass(frozen=True, slots=True)
class Trained:
    """One training of the recipe."""

    kind: BaseDtype
    """How its base was held."""
    seed: int
    own: Asked
    """On the base it was trained on."""
    plain: Asked | None = None
    """On the base as it is commonly deployed; None until asked."""


@dataclass(frozen=True, slots=True)
class Spread:
    """A mean over seeds, and the ends."""

    mean: float
    low: float
    high: float
    num: int


@dataclass(frozen=True, slots=True)
class Quality:
    """Everything found so far."""

    closeness: Mapping[BaseDtype, Closeness] = field(default_factory=dict)
    trained: Sequence[Trained] = ()

    def spread(self, kind: BaseDtype, of: Callable[[Trained], float]) -> Spread | None:
        """Of a number over the seeds of a kind; None if it was not trained."""
        values = [of(trained) for trained in self.trained if trained.kind is kind]
        return Spread(fmean(values), min(values), max(values), len(values)) if values else None

    def heldout_loss(self, kind: BaseDtype) -> Spread | None:
        """On the base it was trained on, over the seeds."""
        return self.spread(kind, lambda trained: trained.own.heldout_loss)

    def error_of_nf4(self, kind: BaseDtype) -> float | None:
        """Its gradient error as a share of NF4's; None if one of them was not measured."""
        if not {kind, BaseDtype.NF4} <= self.closeness.keys():
            return None
        nf4 = self.closeness[BaseDtype.NF4].gradient.error
        return self.closeness[kind].gradient.error / nf4 if nf4 else None


@dataclass(frozen=True, slots=True)
class Check:
    """One number that a claim rests on."""

    what: str
    value: float | None
    """None if it was not measured often enough."""
    low: float | None
    """Least it may be; None for any."""
    high: float | None
    """Most it may be; None for any."""
    needs: str = ""
    """What to measure, if the value or a bound is missing."""

    @property
    def passed(self) -> bool | None:
        """None if something is missing."""
        if self.needs or self.value is None:
            return None
        above = self.low is None or self.value >= self.low
        return above and (self.high is None or self.value <= self.high)


@dataclass(frozen=True, slots=True)
class Gate:
    """A claim about one kind of base, which holds if all its checks pass."""

    kind: BaseDtype
    claim: str
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool | None:
        """None if no check failed and not all could be made."""
        results = [check.passed for check in self.checks]
        if False in results:
            return False
        return None if None in results else True


def gates(quality: Quality) -> Iterator[Gate]:
    """The claims about the kinds that were measured.

    ``fp8_dgrad`` equals bfloat16 if its gradient is within `MOST_GRADIENT_ERROR` and
    `LEAST_COSINE` of float32's and its mean held-out loss lies among those of bfloat16's seeds;
    ``fp8`` is better than QLoRA (arXiv:2305.14314) if its predictions, its gradient and its
    held-out loss stay within their bounds, and the loss below NF4's.
    """
    losses = {
        kind: loss
        for kind in BaseDtype
        if (loss := quality.heldout_loss(kind)) is not None and loss.num >= LEAST_SEEDS
    }
    plain, nf4 = losses.get(BaseDtype.BFLOAT16), losses.get(BaseDtype.NF4)

    def needs(*kinds: BaseDtype) -> str:
        missing = [kind for kind in kinds if kind not in losses]
        return f"train {', '.join(missing)} with {LEAST_SEEDS} seeds" if missing else ""

    if (near := quality.closeness.get(dgrad := BaseDtype.FP8_DGRAD)) is not None:
        loss = losses.get(dgrad)
        checks = (
            Check("gradient error", near.gradient.error, None, MOST_GRADIENT_ERROR),
            Check("gradient cosine", near.gradient.cosine, LEAST_COSINE, None),
            Check("held-out loss among those of bfloat16's seeds", loss and loss.mean,
                  plain and plain.low, plain and plain.high, needs(dgrad, BaseDtype.BFLOAT16)),
        )  # fmt: skip
        yield Gate(dgrad, "equal to bfloat16", checks)
    if (near := quality.closeness.get(fp8 := BaseDtype.FP8)) is not None:
        loss = losses.get(fp8)
        below = nf4 and nextafter(nf4.mean, -inf)  # an equal loss is not below
        checks = (
            Check("KL to float32", near.kl, None, MOST_KL),
            Check("gradient cosine", near.gradient.cosine, LEAST_FP8_COSINE, None),
            Check(f"held-out loss at most {MOST_LOSS_RATIO} times bfloat16's", loss and loss.mean,
                  None, plain and MOST_LOSS_RATIO * plain.mean, needs(fp8, BaseDtype.BFLOAT16)),
            Check("held-out loss below nf4's", loss and loss.mean, None, below,
                  needs(fp8, BaseDtype.NF4)),
        )  # fmt: skip
        yield Gate(fp8, "better than QLoRA", checks)
