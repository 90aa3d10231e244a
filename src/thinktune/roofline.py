"""How long a training step takes on a card: its arithmetic and traffic against the card's peaks.

The shares of the peaks that are reached were measured on an H100 (docs/log.md); that other cards
reach the same is an assumption.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from thinktune.cards import Speed
from thinktune.model.kept import Keep
from thinktune.training.memory_plan import HostLink
from thinktune.training.step_memory import Workload, adapter_bytes, widths

_PRODUCTS, _ATTENTION, _MEMORY, _LINK = 0.75, 0.57, 0.48, 0.84
"""Shares of the peaks. Of 254 ms, Llama-3.1-8B at 1 x 4,096 on an H100: products with base and
head 165, attention 42, elementwise passes, low-rank products and the rest 47. The link: 54 of 64
GB/s."""
_DIAGONAL_TOKENS = 2400
"""Attention takes as long as if each document of n tokens had n + this many keys: tiles on the
diagonal, and what short documents leave idle. From documents of 4,096 and 16,384 tokens."""
_KERNELS_A_LAYER, _LAUNCH_SECONDS = 61, 10e-6
"""1,941 kernels of 32 layers; what launching one takes at least is an assumption."""


@dataclass(frozen=True, slots=True)
class Operations:
    """Floating-point operations of one packed row."""

    base: float
    """Products with the layers' weights, forward; the gradients of their inputs take as many, and
    a frozen weight has none of its own."""
    head: float
    """Of both passes."""
    low_rank: float
    """The adapter's, of both passes."""
    attention: float
    """Of both passes; no key after the query is counted."""
    base_again: float
    """What is computed again for backward, by what layers keep."""
    attention_again: float

    @property
    def total(self) -> float:
        """What the step is for: nothing that is computed again is counted."""
        return 2 * self.base + self.head + self.low_rank + self.attention


def operations(
    work: Workload, lengths: Sequence[int], num_targets: int, keep: Sequence[Keep]
) -> Operations:
    """Count those of one packed row.

    Args:
        work: the step.
        lengths: tokens of each document.
        num_targets: tokens that carry loss; the head is multiplied for them alone.
        keep: what each layer keeps.
    """
    shape, tokens, layers = work.shape, sum(lengths), work.shape.num_hidden_layers
    each = {name: 2.0 * tokens * a * b for name, (a, b) in widths(shape).items()}
    adapted = {target.rsplit(".", 1)[-1] for target in work.lora.target_modules}
    low_rank = sum(a + b for name, (a, b) in widths(shape).items() if name in adapted)
    attended = sum(n * n / 2 for n in lengths) * shape.num_attention_heads * shape.head_dim
    return Operations(
        base=layers * sum(each.values()),
        head=4.0 * num_targets * shape.hidden_size * shape.vocab_size,
        low_rank=6.0 * layers * tokens * work.lora.rank * low_rank,
        attention=layers * attended * (4 + 10),
        base_again=sum((each[name] for kind in keep for name in _AGAIN[kind]), 0.0),
        attention_again=4 * attended * sum(kind in _NO_ATTENTION for kind in keep),
    )


_NO_ATTENTION = Keep.INPUT, Keep.NOTHING
_MLP, _QKV = ("gate_proj", "up_proj"), ("q_proj", "k_proj", "v_proj")
_AGAIN: dict[Keep, tuple[str, ...]] = {
    Keep.ALL: (),
    Keep.HOST: (),
    Keep.NO_MLP: _MLP,
    Keep.ATTENTION: (*_MLP, *_QKV),
    **dict.fromkeys(_NO_ATTENTION, (*_MLP, *_QKV, "o_proj")),
}
"""Products of a layer that backward makes again (`thinktune.model.layer`)."""


_READERS = ("q_proj", "o_proj", "gate_proj", "down_proj")
"""One projection of each that read the same input."""


def traffic_bytes(work: Workload, num_tokens: int, keep: Sequence[Keep]) -> float:
    """What passes over memory outside the large products read and write, for one packed row.

    Norms, rotation, SwiGLU, residual and the adapter's products, counted pass by pass in
    `thinktune.model.layer`, and what quantised weights add.
    """
    shape = work.shape
    D, F = shape.hidden_size, shape.intermediate_size
    q = shape.num_attention_heads * shape.head_dim
    kv = shape.num_key_value_heads * shape.head_dim
    again = {Keep.NO_MLP: 3 * D, Keep.ATTENTION: 6 * D + 2 * q + 4 * kv}
    again |= dict.fromkeys(_NO_ATTENTION, 8 * D + 3 * q + 4 * kv)
    layer = 27 * D + 9 * F + 10 * q + 8 * kv
    passes = sum(layer + again.get(kind, 0) for kind in keep)
    return passes * num_tokens * work.dtype.itemsize + _quantised_traffic(work, num_tokens, keep)


def _quantised_traffic(work: Workload, num_tokens: int, keep: Sequence[Keep]) -> float:
    """NF4 weights are written out before each product; FP8 reads and writes inputs once more."""
    sizes = widths(work.shape)
    total = 0.0
    for kind in keep:
        forward = [*sizes, *_AGAIN[kind]]
        if work.quantize == "nf4":
            weights = sum(sizes[name][0] * sizes[name][1] for name in [*forward, *sizes])
            total += weights * (0.5 + work.dtype.itemsize)
        elif work.quantize is not None:
            numbers = sum(b for _, b in sizes.values())
            if work.quantize == "fp8":
                numbers += sum(sizes[name][0] for name in forward if name in _READERS)
            total += numbers * num_tokens * (work.dtype.itemsize + 1)
    return total


def row_seconds(
    work: Workload,
    lengths: Sequence[int],
    num_targets: int,
    keep: Sequence[Keep],
    speed: Speed,
) -> float:
    """Forward and backward of one packed row.

    Args:
        work: the step.
        lengths: tokens of each document.
        num_targets: tokens that carry loss.
        keep: what each layer keeps.
        speed: the card's peaks.
    """
    count, held = operations(work, lengths, num_targets, keep), work.quantize
    half = _PRODUCTS * speed.tflops * 1e12
    eight = _PRODUCTS * (speed.fp8_tflops or speed.tflops) * 1e12
    seconds = (count.base + count.base_again) / (eight if held == "fp8" else half)
    seconds += count.base / (eight if held in ("fp8", "fp8_dgrad") else half)
    seconds += (count.head + count.low_rank) / half
    wasted = _DIAGONAL_TOKENS * sum(lengths) / sum(n * n for n in lengths)
    attention = (count.attention + count.attention_again) * (1 + wasted)
    seconds += attention / (_ATTENTION * speed.tflops * 1e12)
    seconds += traffic_bytes(work, sum(lengths), keep) / (_MEMORY * speed.gb_a_second * 1e9)
    return max(seconds, work.shape.num_hidden_layers * _KERNELS_A_LAYER * _LAUNCH_SECONDS)


def update_seconds(work: Workload, speed: Speed) -> float:
    """The optimizer's: it reads and writes the adapter, its gradient and two means once each."""
    return 2 * adapter_bytes(work) / (_MEMORY * speed.gb_a_second * 1e9)


def host_link(work: Workload, speed: Speed) -> HostLink:
    """How fast a card's products go to its host, as `thinktune.training.fitting` measures it."""
    sent = work.max_tokens * 2 * work.shape.intermediate_size * work.dtype.itemsize
    base = 2.0 * work.max_tokens * sum(a * b for a, b in widths(work.shape).values())
    attended = work.shape.num_attention_heads * work.shape.head_dim * work.max_tokens
    layer = base + 2.0 * work.max_tokens * attended
    return HostLink(
        sent / (_LINK * speed.link_gb_a_second * 1e9),
        layer / (_PRODUCTS * speed.tflops * 1e12),
    )
