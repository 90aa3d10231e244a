"""What the layers of a training step keep, to stay within the memory there is."""

from dataclasses import dataclass
from itertools import pairwise

from thinktune.errors import ConfigError
from thinktune.model.held_weights import Quantize
from thinktune.model.host_store import NUM_SLOTS
from thinktune.model.kept import Keep
from thinktune.training.step_memory import (
    Workload,
    adapter_bytes,
    base_bytes,
    embedding_bytes,
    kept_bytes_per_token,
    working_bytes,
)

_GIB = 2**30
_LADDER = (Keep.NOTHING, Keep.INPUT, Keep.ATTENTION, Keep.NO_MLP, Keep.ALL)
"""From the least memory to the least time; a byte buys about the same time on every rung."""


@dataclass(frozen=True, slots=True)
class HostLink:
    """How fast products go to the host, beside how fast they are made."""

    send_seconds: float
    """To send one layer's gate and up products of a full row."""
    layer_seconds: float
    """Of one layer's forward on it."""


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """What is kept by each layer, and the bytes it comes to."""

    keep: tuple[Keep, ...]
    base_bytes: int
    adapter_bytes: int
    """Weights, gradient, running means and working copy."""
    kept_bytes: int
    """What all layers leave for their backward."""
    working_bytes: int
    """The most that is needed beside it at one time."""
    host_bytes: int
    budget_bytes: int
    host_embedding: bool = False
    """Whether the embedding lies in host memory."""

    @property
    def total_bytes(self) -> int:
        """Peak of what is allocated on the device."""
        return self.base_bytes + self.adapter_bytes + self.kept_bytes + self.working_bytes

    @property
    def keeps_all(self) -> bool:
        """Whether nothing is computed again, or waits on the host."""
        return {*self.keep} == {Keep.ALL}

    def sentence(self) -> str:
        """The plan, for whoever watches."""
        host = f", {self.host_bytes / _GIB:.1f} GiB on the host" if self.host_bytes else ""
        return (
            f"Memory: {self.total_bytes / _GIB:.1f} GiB planned of {self.budget_bytes / _GIB:.1f}"
            f"{host}; layers keep for backward: {self.choices()}"
            f"{'; the embedding lies on the host' if self.host_embedding else ''}."
        )

    def choices(self) -> str:
        """Layers by what they keep, in words."""
        counts = {kind: self.keep.count(kind) for kind in Keep}
        return ", ".join(f"{num} x {kind}" for kind, num in counts.items() if num)


def plan_memory(
    work: Workload,
    budget_bytes: int,
    *,
    link: HostLink | None = None,
    keep: Keep | None = None,
    host_room: int | None = None,
) -> MemoryPlan:
    """Choose what each layer keeps: as much as the budget holds.

    All layers keep alike as far up the ladder as fits; then as many as fit keep one rung more.
    Where the host takes gate and up products in time, it takes those of as many layers as would
    otherwise compute them again.

    Args:
        work: the step.
        budget_bytes: most to allocate on the device.
        link: to the host, if there is one to use.
        keep: the same for all layers, whatever the budget.
        host_room: most to take of the host; None for whatever is wanted.

    Raises:
        ConfigError: it does not fit with all on the host that may be there.
    """
    layers = work.shape.num_hidden_layers
    if keep is not None:
        return _summed(work, (keep,) * layers, budget_bytes)
    fitting = _most_kept(work, budget_bytes, host_room)
    if not work.shape.tie_word_embeddings and (fitting is None or not fitting.keeps_all):
        # What it takes to read the embedding over the link, one layer kept more gives back.
        moved = _most_kept(work, budget_bytes, host_room, host_embedding=True)
        if moved is not None and (fitting is None or _rungs(moved) > _rungs(fitting)):
            fitting = moved
    if fitting is None:
        raise ConfigError(_does_not_fit(work, budget_bytes, host_room))
    again = fitting.keep.count(Keep.NO_MLP)
    if link is None or again <= NUM_SLOTS or again + fitting.keep.count(Keep.ALL) < layers:
        return fitting
    return _with_host(work, fitting, link, host_room)


def _most_kept(
    work: Workload, budget_bytes: int, host_room: int | None, *, host_embedding: bool = False
) -> MemoryPlan | None:
    """The plan that keeps as much as fits; None if nothing does."""
    layers, fitting = work.shape.num_hidden_layers, None
    for lower, upper in pairwise(_LADDER):
        for num_upper in range(layers + 1):
            chosen = _spread(layers, {upper: num_upper, lower: layers - num_upper})
            plan = _summed(work, chosen, budget_bytes, host_embedding=host_embedding)
            on_host = host_room is None or plan.host_bytes <= host_room
            if plan.total_bytes <= budget_bytes and on_host:
                fitting = plan
    return fitting


def _rungs(plan: MemoryPlan) -> int:
    return sum(_LADDER.index(kind) for kind in plan.keep)


def _with_host(
    work: Workload, plan: MemoryPlan, link: HostLink, host_room: int | None
) -> MemoryPlan:
    """Let the host hold what it can take in time; its slots cost the room of two layers."""
    layers = work.shape.num_hidden_layers
    each = work.max_tokens * 2 * work.shape.intermediate_size * work.dtype.itemsize
    most = int(layers * link.layer_seconds / link.send_seconds)
    if host_room is not None:
        taken = embedding_bytes(work) if plan.host_embedding else 0
        most = min(most, max(0, host_room - taken) // each)
    most += NUM_SLOTS
    full = max(0, plan.keep.count(Keep.ALL) - NUM_SLOTS)
    while full >= 0:
        hosted = min(most, layers - full)
        counts = {Keep.ALL: full, Keep.HOST: hosted, Keep.NO_MLP: layers - full - hosted}
        better = _summed(
            work, _spread(layers, counts), plan.budget_bytes, host_embedding=plan.host_embedding
        )
        if better.total_bytes <= plan.budget_bytes:
            return better if better.keep.count(Keep.NO_MLP) < plan.keep.count(Keep.NO_MLP) else plan
        full -= 1
    return plan


def _spread(layers: int, counts: dict[Keep, int]) -> tuple[Keep, ...]:
    """Each kind evenly over the layers, so that copies to the host have time between them."""
    taken = dict.fromkeys(counts, 0)
    keep = []
    for layer in range(1, layers + 1):
        behind = {kind: num * layer / layers - taken[kind] for kind, num in counts.items()}
        kind = max(behind, key=lambda kind: behind[kind])
        taken[kind] += 1
        keep.append(kind)
    return tuple(keep)


def _summed(
    work: Workload, keep: tuple[Keep, ...], budget_bytes: int, *, host_embedding: bool = False
) -> MemoryPlan:
    T, shape = work.max_tokens, work.shape
    kept = sum(keep.count(kind) * kept_bytes_per_token(work, kind) for kind in {*keep}) * T
    waiting = {
        Keep.HOST: T * 2 * shape.intermediate_size * work.dtype.itemsize,
        Keep.NOTHING: T * shape.hidden_size * work.stream_size,
    }
    host = embedding_bytes(work) if host_embedding else 0
    for kind, each in waiting.items():
        on_device = min(keep.count(kind), NUM_SLOTS)
        kept += on_device * each
        host += (keep.count(kind) - on_device) * each
    kinds = [Keep.NO_MLP if kind is Keep.HOST else kind for kind in keep]
    least = min((kind for kind in kinds), key=_LADDER.index)
    if Keep.HOST in keep and Keep.NO_MLP not in keep:
        least = Keep.ALL
    return MemoryPlan(
        keep,
        base_bytes(work) - (embedding_bytes(work) if host_embedding else 0),
        adapter_bytes(work),
        kept,
        working_bytes(work, least),
        host,
        budget_bytes,
        host_embedding,
    )


def least_plan(work: Workload, budget_bytes: int) -> MemoryPlan:
    """All on the host that can be there, whether or not it fits."""
    keep = (Keep.NOTHING,) * work.shape.num_hidden_layers
    moved = not work.shape.tie_word_embeddings
    return _summed(work, keep, budget_bytes, host_embedding=moved)


def _does_not_fit(work: Workload, budget_bytes: int, host_room: int | None) -> str:
    plan = least_plan(work, budget_bytes)
    if host_room is not None and plan.total_bytes <= budget_bytes:
        return (
            f"a step needs {plan.host_bytes / _GIB:.1f} GiB of the host's memory, of "
            f"{host_room / _GIB:.1f} GiB that may be used; lower packing.max_tokens (and "
            "template.max_length)"
        )
    smaller = "" if work.quantize is Quantize.NF4 else "take base_dtype=nf4, or "
    return (
        f"a step needs {plan.total_bytes / _GIB:.1f} GiB at least, of "
        f"{budget_bytes / _GIB:.1f} GiB that may be used: base model "
        f"{plan.base_bytes / _GIB:.1f}, adapter and optimizer {plan.adapter_bytes / _GIB:.1f}, "
        f"a row of {work.max_tokens} tokens {(plan.kept_bytes + plan.working_bytes) / _GIB:.1f}; "
        f"{smaller}lower packing.max_tokens (and template.max_length), or lora.rank, or take a "
        "smaller model"
    )
