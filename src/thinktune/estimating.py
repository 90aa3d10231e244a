"""Whether a recipe fits a GPU, what to change if not, and how long it takes; before it is run."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from thinktune.cards import CARDS, GIB, Card, Rent, card_of_device, find_card
from thinktune.config import RunConfig
from thinktune.errors import ConfigError
from thinktune.fed_run import FedRun, read_fed_run
from thinktune.model.checkpoint_io import BaseDtype, Precision, resolve_precision
from thinktune.model.held_weights import Quantize
from thinktune.model.kept import Keep
from thinktune.model.shape import DecoderShape
from thinktune.roofline import host_link, row_seconds, update_seconds
from thinktune.training.fitting import free_bytes
from thinktune.training.memory_plan import MemoryPlan, least_plan, plan_memory
from thinktune.training.step_memory import Workload

_LEAST_TOKENS, _LEAST_RANK = 256, 4
"""As far down as a way out goes."""
_LENGTHS = (1024, 2048, 4096, 8192, 16384, 32768)


@dataclass(frozen=True, slots=True)
class Change:
    """Settings with which a recipe fits."""

    overrides: tuple[str, ...]
    plan: MemoryPlan
    num_longer: int
    """Rows that are longer than they may then be."""


@dataclass(frozen=True, slots=True)
class CardEstimate:
    """What a recipe needs on one card."""

    card: Card
    budget_bytes: int
    """What a step may take."""
    held: str
    """How the base is held, and the type of products; empty where the card cannot."""
    plan: MemoryPlan | None
    """None if it does not fit."""
    problem: str
    """Why not; empty if it fits."""
    change: Change | None
    """The nearest that fits, where it does not."""
    seconds: float | None
    """Of all steps; None without a plan, or where nothing is known of the card's speed."""
    rent: Rent | None

    @property
    def usd(self) -> float | None:
        """Of all steps."""
        if self.seconds is None or self.rent is None:
            return None
        return self.seconds / 3600 * self.rent.usd_an_hour


@dataclass(frozen=True, slots=True)
class Need:
    """Peak bytes of a step, by what layers keep."""

    least: int
    """If they keep nothing, and their inputs and the embedding lie on the host."""
    most: int
    """If nothing is computed again."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """What one recipe needs, on one card or on all that are known."""

    shape: DecoderShape
    num_examples: int
    num_steps: int
    tokens_a_step: float
    max_tokens: int
    """Of the longest packed row."""
    cards: list[CardEstimate]
    lengths: dict[int, dict[str, Need]]
    """Needs by tokens of a packed row, and base_dtype; empty for more than one card."""
    smallest: str | None
    """The smallest known card that takes the recipe as it is, where the one asked for does not."""


def estimate(
    config: RunConfig, gpu: str | None = None, *, usd_an_hour: float | None = None
) -> Estimate:
    """Read and render the rows, and plan the memory of a step; no weights are read.

    Args:
        config: the recipe. A training.memory_budget_gib bounds what a step may take.
        gpu: a card's name, or its GiB; None for the GPU here, or all known cards without one.
        usd_an_hour: rent of the card, instead of the known one.

    Raises:
        CheckpointError: the base model's configuration or tokenizer cannot be read.
        ConfigError: there is no such card, or the checkpoint cannot be held so on any.
        DataError: the rows cannot be read or used.
    """
    budgets = _cards(gpu)
    run = read_fed_run(config)
    resolve_precision(config.base_dtype, torch.device("cpu"), run.checkpoint)
    cards = [_on_card(run, card, budget, usd_an_hour) for card, budget in budgets]
    return Estimate(
        run.shape,
        len(run.train),
        run.num_steps,
        run.tokens_a_step,
        run.max_tokens(config.packing.max_tokens),
        cards,
        _by_length(run, budgets[0][0]) if len(budgets) == 1 else {},
        _smallest(run) if len(cards) == 1 and cards[0].plan is None else None,
    )


def _cards(gpu: str | None) -> list[tuple[Card, int]]:
    if gpu is not None:
        card = find_card(gpu)
        return [(card, card.usable_bytes)]
    if torch.cuda.is_available():
        here = torch.cuda.get_device_properties(0)
        total = here.total_memory / GIB
        card = card_of_device(here.name, total, (here.major, here.minor))
        return [(card, free_bytes(torch.device("cuda")))]
    return [(card, card.usable_bytes) for card in CARDS.values()]


def _precision(run: FedRun, kind: BaseDtype, card: Card) -> Precision:
    """How the base is held on a card.

    Raises:
        ConfigError: the card cannot; says what it can.
    """
    precision = resolve_precision(kind, torch.device("cpu"), run.checkpoint)
    own = torch.bfloat16 if card.has_bfloat16 else torch.float16
    if kind is BaseDtype.BFLOAT16 and not card.has_bfloat16:
        raise ConfigError(f"the {card.title} does not multiply bfloat16")
    if precision.quantize in (Quantize.FP8, Quantize.FP8_DGRAD) and not card.has_fp8:
        raise ConfigError(f"the {card.title} has no FP8; Ada and Hopper have")
    plain = kind is not BaseDtype.AUTO and precision.quantize is None
    return Precision(precision.dtype if plain else own, precision.quantize)


def _workload(
    run: FedRun, precision: Precision, card: Card, max_tokens: int, rank: int
) -> Workload:
    shape = run.shape
    half = precision.dtype in (torch.bfloat16, torch.float16)
    ragged = half and card.attends_ragged and shape.head_dim % 16 == 0 and shape.head_dim <= 128
    lora = run.config.lora.model_copy(update={"rank": rank})
    return Workload(shape, lora, max_tokens, precision.dtype, ragged, precision.quantize)


def _on_card(run: FedRun, card: Card, room: int, usd_an_hour: float | None) -> CardEstimate:
    config, rent = run.config, card.rent
    if usd_an_hour is not None:
        rent = Rent(usd_an_hour, "--price", "")
    budget = room
    if config.training.memory_budget_gib:
        budget = min(room, int(config.training.memory_budget_gib * GIB))
    result = CardEstimate(card, budget, "", None, "", None, None, rent)
    max_tokens = run.max_tokens(config.packing.max_tokens)
    try:
        precision = _precision(run, config.base_dtype, card)
        result = replace(result, held=_told(precision))
        work = _workload(run, precision, card, max_tokens, config.lora.rank)
        plan = _plan(work, card, budget)
    except ConfigError as error:
        return replace(result, problem=str(error), change=_nearest(run, card, budget))
    return replace(result, plan=plan, seconds=_seconds(run, work, plan, card))


def _plan(work: Workload, card: Card, budget: int) -> MemoryPlan:
    """As `thinktune.training.fitting` plans; the host is taken to have the card's memory."""
    link = None if card.speed is None else host_link(work, card.speed)
    return plan_memory(work, budget, link=link, host_room=int(card.total_gib * GIB) // 2)


def _told(precision: Precision) -> str:
    dtype = str(precision.dtype).removeprefix("torch.")
    return dtype if precision.quantize is None else f"{precision.quantize}, products in {dtype}"


def _seconds(run: FedRun, work: Workload, plan: MemoryPlan, card: Card) -> float | None:
    if card.speed is None:
        return None
    rows = [row for step in run.sampled for row in step]
    passes = sum(
        row_seconds(
            work, [tokens for tokens, _ in row], sum(n for _, n in row), plan.keep, card.speed
        )
        for row in rows
    )
    return run.num_steps * (passes / len(run.sampled) + update_seconds(work, card.speed))


def _nearest(run: FedRun, card: Card, budget: int) -> Change | None:
    """The first change that fits."""
    for kind, limit, rank in _candidates(run, card):
        try:
            precision = _precision(run, kind, card)
            work = _workload(run, precision, card, run.max_tokens(limit), rank)
            if least_plan(work, 0).total_bytes > budget:  # sooner found than by planning
                continue
            plan = _plan(work, card, budget)
        except ConfigError:
            continue
        config = run.config
        changed = {
            "base_dtype": (config.base_dtype, kind),
            "packing.max_tokens": (config.packing.max_tokens, limit),
            "lora.rank": (config.lora.rank, rank),
        }
        overrides = (f"{name}={new}" for name, (old, new) in changed.items() if new != old)
        return Change(tuple(overrides), plan, run.num_longer(limit))
    return None


def _candidates(run: FedRun, card: Card) -> Iterator[tuple[BaseDtype, int, int]]:
    """What to try, the dearest last: shorter rows that cut nothing change no result at all.

    Then four bits, then rows that are cut, then a smaller rank.
    """
    config = run.config
    limit, rank = config.packing.max_tokens, config.lora.rank
    try:
        _precision(run, config.base_dtype, card)
        asked = config.base_dtype
    except ConfigError:
        asked = BaseDtype.AUTO
    halves = list(_halves(run.max_tokens(limit), _LEAST_TOKENS))
    whole = [limit, *(half for half in halves if half >= run.longest)]
    for kind in (asked, BaseDtype.NF4):
        yield from ((kind, tokens, rank) for tokens in whole)
    cut = [half for half in halves if half < run.longest]
    yield from ((BaseDtype.NF4, tokens, rank) for tokens in cut)
    shortest = min((limit, *halves))
    yield from ((BaseDtype.NF4, shortest, fewer) for fewer in _halves(rank, _LEAST_RANK))


def _halves(number: int, least: int) -> Iterator[int]:
    """Powers of two below a number, down to the least."""
    half = 1 << (number - 1).bit_length() - 1 if number > 1 else 0
    while half >= least:
        yield half
        half //= 2


def _smallest(run: FedRun) -> str | None:
    limit, rank = run.config.packing.max_tokens, run.config.lora.rank
    for name, card in sorted(CARDS.items(), key=lambda item: item[1].total_gib):
        try:
            precision = _precision(run, run.config.base_dtype, card)
        except ConfigError:
            continue
        work = _workload(run, precision, card, run.max_tokens(limit), rank)
        if least_plan(work, 0).total_bytes <= card.usable_bytes:
            return name
    return None


def _by_length(run: FedRun, card: Card) -> dict[int, dict[str, Need]]:
    kinds: dict[str, Precision] = {}
    for kind in (BaseDtype.AUTO, *map(BaseDtype, Quantize)):
        try:
            precision = _precision(run, kind, card)
        except ConfigError:
            continue
        kinds.setdefault(precision.quantize or _told(precision), precision)
    return {
        tokens: {name: _need(run, precision, card, tokens) for name, precision in kinds.items()}
        for tokens in _LENGTHS
        if tokens <= run.shape.max_position_embeddings
    }


def _need(run: FedRun, precision: Precision, card: Card, tokens: int) -> Need:
    work = _workload(run, precision, card, tokens, run.config.lora.rank)
    return Need(least_plan(work, 0).total_bytes, plan_memory(work, 0, keep=Keep.ALL).total_bytes)
