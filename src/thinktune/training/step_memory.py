"""What each part of a training step takes on the device.

The numbers follow the code that allocates: `thinktune.model.layer` (what is kept, and what
backward needs beside it), `thinktune.model.adapter`, `thinktune.ops.linear_cross_entropy`.
"""

from dataclasses import dataclass

import torch

from thinktune.kernels.swiglu import rows_summed
from thinktune.model.held_weights import FORWARD_AS_IT_IS, Quantize, spare_columns
from thinktune.model.kept import Keep
from thinktune.model.lora import LoRAConfig
from thinktune.model.shape import DecoderShape
from thinktune.ops import ragged_attention
from thinktune.ops.linear_cross_entropy import chunk_of

_NF4_BYTES = 1 / 2 + 1 / 64 + 4 / (64 * 256)
"""A weight's code, and its share of the scales of 64 weights and of 256 scales."""
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
    """Of products, and of base weights that are not quantised."""
    ragged: bool
    """Whether attention is cuDNN's ragged kernel, which has a workspace."""
    quantize: Quantize | None = None
    """How the projections are held."""

    @property
    def stream_size(self) -> int:
        """Bytes of a value of the residual stream."""
        return 4 if self.dtype is torch.float16 else self.dtype.itemsize


def widths(shape: DecoderShape) -> dict[str, tuple[int, int]]:
    """Input and output width of each projection."""
    D, inner = shape.hidden_size, shape.intermediate_size
    q = shape.num_attention_heads * shape.head_dim
    kv = shape.num_key_value_heads * shape.head_dim
    widths = {"q_proj": (D, q), "k_proj": (D, kv), "v_proj": (D, kv), "o_proj": (q, D)}
    return widths | {"gate_proj": (D, inner), "up_proj": (D, inner), "down_proj": (inner, D)}


def embedding_bytes(work: Workload) -> int:
    """Of the embedding, or of the head."""
    return work.shape.vocab_size * work.shape.hidden_size * work.dtype.itemsize


def base_bytes(work: Workload) -> int:
    """Of the frozen weights, and of the buffer where those of a product are written out."""
    shape, size = work.shape, work.dtype.itemsize
    sizes = widths(shape)
    projections = sum(a * b for a, b in sizes.values())
    outputs = sum(b for _, b in sizes.values())
    each, buffer = projections * size, 0
    if work.quantize is Quantize.NF4:
        each, buffer = int(projections * _NF4_BYTES), size * _largest_product(work)
    elif work.quantize is Quantize.FP8:
        each = 2 * projections + 6 * outputs
    elif work.quantize is Quantize.FP8_DGRAD:
        each += projections + 6 * outputs
    # FP8's last layers hold their weights as they are too.
    last = FORWARD_AS_IT_IS * projections * (size - 1) if work.quantize is Quantize.FP8 else 0
    norms = size * (2 * shape.num_hidden_layers + 1) * shape.hidden_size
    heads = 1 if shape.tie_word_embeddings else 2
    return shape.num_hidden_layers * each + last + buffer + norms + heads * embedding_bytes(work)


def _largest_product(work: Workload) -> int:
    """Weights of the largest product, with room for B beside them."""
    sizes, adapted, most = widths(work.shape), _adapted(work), 0
    for stack in _STACKS:
        inputs, outputs = sizes[stack[0]][0], sum(sizes[name][1] for name in stack)
        columns = work.lora.rank * sum(name in adapted for name in stack)
        spare = spare_columns(columns) if len(stack) > 1 else 0
        most = max(most, outputs * (inputs + spare))
    return most


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
        beside = len(stack) > 1 and work.quantize is None
        copies_B += outputs * (spare_columns(columns) if beside else columns)
    size = work.dtype.itemsize
    each = 16 * (numbers_A + numbers_B) + size * (numbers_A + copies_B)
    return work.shape.num_hidden_layers * each


def kept_bytes_per_token(work: Workload, keep: Keep) -> int:
    """Of one layer."""
    shape, size, stream = work.shape, work.dtype.itemsize, work.stream_size
    D, inner = shape.hidden_size, shape.intermediate_size
    q = shape.num_attention_heads * shape.head_dim
    kv = shape.num_key_value_heads * shape.head_dim
    adapted, rank = _adapted(work), work.lora.rank
    S = dict.fromkeys(adapted, size * rank)
    kept = 4 + S.get("down_proj", 0)  # a statistic, S of down
    if keep is Keep.NOTHING:
        return kept
    kept += stream * D  # the layer's input
    if keep is Keep.INPUT:
        return kept
    # What was attended to, its log-sum-exp, the middle and its statistic.
    kept += size * q + stream * D + 4 * shape.num_attention_heads + 4
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
    shape, size, stream, T = work.shape, work.dtype.itemsize, work.stream_size, work.max_tokens
    D, inner = shape.hidden_size, shape.intermediate_size
    q = shape.num_attention_heads * shape.head_dim
    kv = shape.num_key_value_heads * shape.head_dim
    again = 0  # what is computed again for one layer stands beside what is kept
    if least is not Keep.ALL:
        kept = kept_bytes_per_token(work, Keep.INPUT if least is Keep.NOTHING else least)
        again = kept_bytes_per_token(work, Keep.ALL) - kept + size * D
    # The stream's gradient, the activation's, and the norm's; what stretches of rows come to.
    sums = 12 * work.lora.rank * inner * -(-T // rows_summed(T))
    narrow = D * size if stream != size else 0  # the stream's gradient in the type of products
    mlp = (again + stream * D + narrow + size * (inner + D)) * T + sums
    # Query, key and value as they were turned and their gradients; key's and value's come apart.
    turned = 2 * (q + 2 * kv) + 2 * kv + (q + kv if shape.qk_norm else 0)
    if work.dtype is torch.float16:
        turned += 4 * q  # keys, values and their gradients, repeated for each query head
        turned += 2 * q  # and the kernel's sums of the query's gradient, in float32
    attention = (again + stream * D + narrow + size * (q + turned)) * T
    chunk = min(T, chunk_of(shape.vocab_size, work.dtype, torch.device("cuda")))
    head = (2 * size + 2 * stream) * D * T + size * shape.vocab_size * chunk
    workspace = 0
    if work.ragged:
        heads = shape.num_attention_heads, shape.num_key_value_heads, shape.head_dim
        stride = q + kv if shape.qk_norm else q + 2 * kv
        workspace = ragged_attention.workspace_bytes(*heads, T, stride)
    return max(mlp, attention, head) + workspace
