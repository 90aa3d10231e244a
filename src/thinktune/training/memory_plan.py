"""What a training step will need on the device, and what its layers keep to stay within it.

The numbers follow the code that allocates: `thinktune.model.layer` (what is kept, and what
backward needs beside it), `thinktune.model.adapter`, `thinktune.ops.linear_cross_entropy`.
"""

from dataclasses import dataclass
from itertools import pairwise

import torch

from thinktune.errors import ConfigError
from thinktune.kernels.swiglu import rows_summed
from thinktune.model.base_weights import spare_columns
from thinktune.model.host_store import NUM_SLOTS
from thinktune.model.kept import Keep
from thinktune.model.lora import LoRAConfig
from thinktune.model.shape import DecoderShape
from thinktune.ops import ragged_attention
from thinktune.ops.linear_cross_entropy import chunk_of

_GIB = 2**30
_LADDER = (Keep.INPUT, Keep.ATTENTION, Keep.NO_MLP, Keep.ALL)
"""From the least memory to the least time; a byte buys about the same time on every rung."""


_STACKS = (
    ("q_proj", "k_proj", "v_proj"),
    ("o_proj",),
    ("gate_proj", "up_proj"),
    ("down_proj",),
)


@dataclass(frozen=True, slots=True)
class Workload:
    """What decides the memory of a step."""

    shape: DecoderShape
    lora: LoRAConfig
    max_tokens: int
    """Tokens of the longest packed row."""
    dtype: torch.dtype
    """Of base weights and products."""
    ragged: bool
    """Whether attention is cuDNN's ragged kernel, which has a workspace."""


@dataclass(frozen=True, slots=True)
class HostLink:
    """How fast products go to the host, beside how fast they are made."""

    send_seconds: float
    """To send one layer's gate and up products of a full row."""
    layer_seconds: float
    """Of one layer's forward on it."""
    room_bytes: int
    """Host memory that may be used."""


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

    @property
    def total_bytes(self) -> int:
        """Peak of what is allocated on the device."""
        return self.base_bytes + self.adapter_bytes + self.kept_bytes + self.working_bytes

    def sentence(self) -> str:
        """The plan, for whoever watches."""
        host = f", {self.host_bytes / _GIB:.1f} GiB on the host" if self.host_bytes else ""
        return (
            f"Memory: {self.total_bytes / _GIB:.1f} GiB planned of {self.budget_bytes / _GIB:.1f}"
            f"{host}; layers keep for backward: {self.choices()}."
        )

    def choices(self) -> str:
        """Layers by what they keep, in words."""
        counts = {kind: self.keep.count(kind) for kind in Keep}
        return ", ".join(f"{num} x {kind}" for kind, num in counts.items() if num)


def widths(shape: DecoderShape) -> dict[str, tuple[int, int]]:
    """Input and output width of each projection."""
    D, inner = shape.hidden_size, shape.intermediate_size
    q = shape.num_attention_heads * shape.head_dim
    kv = shape.num_key_value_heads * shape.head_dim
    widths = {"q_proj": (D, q), "k_proj": (D, kv), "v_proj": (D, kv), "o_proj": (q, D)}
    return widths | {"gate_proj": (D, inner), "up_proj": (D, inner), "down_proj": (inner, D)}


def base_bytes(work: Workload) -> int:
    """Of the frozen weights."""
    shape, D = work.shape, work.shape.hidden_size
    layer = sum(a * b for a, b in widths(shape).values()) + 2 * D
    heads = 1 if shape.tie_word_embeddings else 2
    total = shape.num_hidden_layers * layer + heads * shape.vocab_size * D + D
    return total * work.dtype.itemsize


def _adapted(work: Workload) -> dict[str, tuple[int, int]]:
    targets = {target.rsplit(".", 1)[-1] for target in work.lora.target_modules}
    return {name: width for name, width in widths(work.shape).items() if name in targets}


def adapter_bytes(work: Workload) -> int:
    """Master, gradient and two running means in float32, and working copies."""
    adapted, rank = _adapted(work), work.lora.rank
    numbers_A = rank * sum(a for a, _ in adapted.values())
    numbers_B = rank * sum(b for _, b in adapted.values())
    copies_B = 0  # of layers that read the same input it stands in spare columns of their weights
    for stack in _STACKS:
        members = [name for name in stack if name in adapted]
        outputs = sum(widths(work.shape)[name][1] for name in stack)
        columns = rank * len(members)
        copies_B += outputs * (spare_columns(columns) if len(stack) > 1 else columns)
    size = work.dtype.itemsize
    each = 16 * (numbers_A + numbers_B) + size * (numbers_A + copies_B)
    return work.shape.num_hidden_layers * each


def kept_bytes_per_token(work: Workload, keep: Keep) -> int:
    """Of one layer."""
    shape, size = work.shape, work.dtype.itemsize
    D, inner = shape.hidden_size, shape.intermediate_size
    q = shape.num_attention_heads * shape.head_dim
    kv = shape.num_key_value_heads * shape.head_dim
    adapted, rank = _adapted(work), work.lora.rank
    S = dict.fromkeys(adapted, size * rank)
    kept = size * D + 4 + S.get("down_proj", 0)  # its input, a statistic, S of down
    if keep is Keep.INPUT:
        return kept
    # What was attended to, its log-sum-exp, the middle and its statistic.
    kept += size * (q + D) + 4 * shape.num_attention_heads + 4
    kept += sum(S.values()) - S.get("down_proj", 0)
    if keep is Keep.ATTENTION:
        return kept
    kept += size * (q + 2 * kv)
    return kept + (size * 2 * inner if keep is Keep.ALL else 0)


def working_bytes(work: Workload, least: Keep) -> int:
    """The most that a layer, or the head, needs beside what is kept.

    Args:
        work: the step.
        least: what the layer that keeps least keeps.
    """
    shape, size, T = work.shape, work.dtype.itemsize, work.max_tokens
    D, inner = shape.hidden_size, shape.intermediate_size
    q = shape.num_attention_heads * shape.head_dim
    kv = shape.num_key_value_heads * shape.head_dim
    again = 0  # what is computed again for one layer stands beside what is kept
    if least is not Keep.ALL:
        whole = kept_bytes_per_token(work, Keep.ALL)
        again = whole - kept_bytes_per_token(work, least) + size * D
    # The stream's gradient, the activation's, and the norm's; what stretches of rows come to.
    sums = 12 * work.lora.rank * inner * -(-T // rows_summed(T))
    mlp = (again + size * (D + inner + D)) * T + sums
    # Query, key and value as they were turned and their gradients; key's and value's come apart.
    turned = 2 * (q + 2 * kv) + 2 * kv + (q + kv if shape.qk_norm else 0)
    attention = (again + size * (D + q + turned)) * T
    chunk = min(T, chunk_of(shape.vocab_size, work.dtype, torch.device("cuda")))
    head = 4 * size * D * T + size * shape.vocab_size * chunk
    workspace = 0
    if work.ragged:
        heads = shape.num_attention_heads, shape.num_key_value_heads, shape.head_dim
        stride = q + kv if shape.qk_norm else q + 2 * kv
        workspace = ragged_attention.workspace_bytes(*heads, T, stride)
    return max(mlp, attention, head) + workspace


def plan_memory(
    work: Workload, budget_bytes: int, *, link: HostLink | None = None, keep: Keep | None = None
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

    Raises:
        ConfigError: not even the inputs of all layers fit.
    """
    layers = work.shape.num_hidden_layers
    if keep is not None:
        return _summed(work, (keep,) * layers, budget_bytes)
    fitting = None
    for lower, upper in pairwise(_LADDER):
        for num_upper in range(layers + 1):
            chosen = _spread(layers, {upper: num_upper, lower: layers - num_upper})
            plan = _summed(work, chosen, budget_bytes)
            if plan.total_bytes <= budget_bytes:
                fitting = plan
    if fitting is None:
        raise ConfigError(_does_not_fit(work, budget_bytes))
    again = fitting.keep.count(Keep.NO_MLP)
    if link is None or again <= NUM_SLOTS or again + fitting.keep.count(Keep.ALL) < layers:
        return fitting
    return _with_host(work, fitting, link)


def _with_host(work: Workload, plan: MemoryPlan, link: HostLink) -> MemoryPlan:
    """Let the host hold what it can take in time; its slots cost the room of two layers."""
    layers = work.shape.num_hidden_layers
    each = work.max_tokens * 2 * work.shape.intermediate_size * work.dtype.itemsize
    in_time = int(layers * link.layer_seconds / link.send_seconds)
    most = min(in_time, link.room_bytes // each) + NUM_SLOTS
    full = max(0, plan.keep.count(Keep.ALL) - NUM_SLOTS)
    while full >= 0:
        hosted = min(most, layers - full)
        counts = {Keep.ALL: full, Keep.HOST: hosted, Keep.NO_MLP: layers - full - hosted}
        better = _summed(work, _spread(layers, counts), plan.budget_bytes)
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


def _summed(work: Workload, keep: tuple[Keep, ...], budget_bytes: int) -> MemoryPlan:
    kept = sum(kept_bytes_per_token(work, kind) for kind in keep) * work.max_tokens
    each = work.max_tokens * 2 * work.shape.intermediate_size * work.dtype.itemsize
    hosted = keep.count(Keep.HOST)
    slots = min(hosted, NUM_SLOTS) * each
    kinds = [Keep.NO_MLP if kind is Keep.HOST else kind for kind in keep]
    least = min((kind for kind in kinds), key=_LADDER.index)
    if hosted and Keep.NO_MLP not in keep:
        least = Keep.ALL
    return MemoryPlan(
        keep,
        base_bytes(work),
        adapter_bytes(work),
        kept + slots,
        working_bytes(work, least),
        max(0, hosted - NUM_SLOTS) * each,
        budget_bytes,
    )


def _does_not_fit(work: Workload, budget_bytes: int) -> str:
    plan = _summed(work, (Keep.INPUT,) * work.shape.num_hidden_layers, budget_bytes)
    return (
        f"a step needs {plan.total_bytes / _GIB:.1f} GiB at least, of "
        f"{budget_bytes / _GIB:.1f} GiB that may be used: base model "
        f"{plan.base_bytes / _GIB:.1f}, adapter and optimizer {plan.adapter_bytes / _GIB:.1f}, "
        f"a row of {work.max_tokens} tokens {(plan.kept_bytes + plan.working_bytes) / _GIB:.1f}; "
        "lower packing.max_tokens (and template.max_length), or lora.rank, or take a smaller model"
    )
