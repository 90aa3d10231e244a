"""Causal attention inside each document of a packed row, all documents in one call of cuDNN.

The ragged ("THD") kernel reads from device memory where the documents lie: one compiled plan
serves packs of any lengths, and nothing synchronises. The small wheel nvidia-cudnn-frontend
gives access to it, in the libcudnn that came with PyTorch.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from thinktune.errors import ConfigError
from thinktune.kernels.language import capability, power_of_two

_LEAST_WHEEL, _LEAST_CUDNN = (1, 18), 91900
"""As measured. Before 9.18 the backward pass on Hopper read workspace that nothing had written
(TransformerEngine issue 2186)."""
_CAPABILITIES = (9, 10)
"""Elsewhere cuDNN does not heed the bound on tokens: its workspace is tens of GiB."""
_LEAST_DOCUMENTS, _LEAST_TOKENS, _TILE = 32, 1024, 128
_TENSORS = "q", "k", "v", "out", "lse"
_BACKWARD_TENSORS = "q", "k", "v", "out", "grad", "lse", "grad_q", "grad_k", "grad_v"
"""In the order in which cuDNN takes and gives them."""


@dataclass(frozen=True, slots=True, eq=False)
class RaggedDocuments:
    """Where each document of a packed row lies, on the device; made once a row for all layers."""

    lengths_B: Int[Tensor, " B"]
    """Tokens in each document; 0 past the last one. B is a power of two."""
    starts: Int[Tensor, " B+1"]
    """First token of each document; T past the last one."""
    num_documents: int
    num_tokens: int
    longest: int
    _offsets: dict[int, Tensor] = field(default_factory=dict, repr=False)

    def offsets(self, stride: int) -> Tensor:
        """Where each document starts in a tensor whose tokens lie ``stride`` elements apart."""
        if stride not in self._offsets:
            self._offsets[stride] = self.starts * stride
        return self._offsets[stride]


def ragged_documents(lengths: Sequence[int], device: torch.device) -> RaggedDocuments:
    """Send the lengths of a row's documents, in order, to the device, without waiting for it."""
    ends = list(accumulate(lengths, initial=0))
    unused = power_of_two(len(lengths), _LEAST_DOCUMENTS) - len(lengths)
    starts = torch.tensor(ends + ends[-1:] * unused, dtype=torch.int64)
    if device.type == "cuda":
        starts = starts.pin_memory().to(device, non_blocking=True)
    lengths_B = starts.diff().to(torch.int32)
    return RaggedDocuments(lengths_B, starts, len(lengths), ends[-1], max(lengths))


def is_available(device: torch.device, dtype: torch.dtype, head_dim: int) -> bool:
    """Whether such heads can be attended to here; looks for the wheel once, and never raises."""
    half = dtype in (torch.bfloat16, torch.float16)
    if device.type != "cuda" or not torch.cuda.is_available() or not half:
        return False
    if head_dim % 16 or head_dim > 128:
        return False
    return capability(device)[0] in _CAPABILITIES and _cudnn() is not None


@cache
def _cudnn() -> Any:
    """The wheel's module; None without it, or where it or its libcudnn is too old."""
    if find_spec("cudnn") is None:
        return None
    try:
        cudnn = import_module("cudnn")
        wheel = tuple(int(part) for part in cudnn.__version__.split(".")[:2])
        suits = wheel >= _LEAST_WHEEL and cudnn.backend_version() >= _LEAST_CUDNN
    except Exception:  # whatever it is that keeps it from finding libcudnn
        return None
    return cudnn if suits else None


def ragged_attention(
    q_TNH: Float[Tensor, "T N H"],
    k_TKH: Float[Tensor, "T K H"],
    v_TKH: Float[Tensor, "T K H"],
    documents: RaggedDocuments,
) -> tuple[Float[Tensor, "T N H"], Float[Tensor, "T N"]]:
    """Attend, with scores scaled by ``H ** -0.5``; no key is repeated for its group.

    Args:
        q_TNH: queries; may be a view, like keys and values, whose heads stand side by side.
        k_TKH: keys; N is a multiple of K (arXiv:2305.13245).
        v_TKH: values.
        documents: where the row's documents lie; they sum to T.

    Returns:
        What was attended to, and the log-sum-exp of each row of scores, in nats.
    """
    out_TNH = torch.empty(q_TNH.shape, dtype=q_TNH.dtype, device=q_TNH.device)
    lse_TN = torch.empty(q_TNH.shape[:2], dtype=torch.float32, device=q_TNH.device)
    _run((q_TNH, k_TKH, v_TKH, out_TNH, lse_TN), documents)
    return out_TNH, lse_TN


def ragged_attention_backward(
    grad_TNH: Float[Tensor, "T N H"],
    q_TNH: Float[Tensor, "T N H"],
    k_TKH: Float[Tensor, "T K H"],
    v_TKH: Float[Tensor, "T K H"],
    out_TNH: Float[Tensor, "T N H"],
    lse_TN: Float[Tensor, "T N"],
    documents: RaggedDocuments,
    grad_q: Float[Tensor, "T N H"] | None = None,
    *,
    deterministic: bool = False,
) -> tuple[Float[Tensor, "T N H"], Float[Tensor, "T K H"], Float[Tensor, "T K H"]]:
    """Gradients of query, key and value.

    The last bits of the query's vary from call to call where a document is longer than a tile,
    unless ``deterministic``: then the workspace grows with the square of the longest document
    (16 GiB at 16,384 tokens and 32 heads), and any other number of documents, or longest length
    in tiles, has its own plan. The other arguments are those and the results of the forward pass.

    ``grad_q`` is memory for the query's gradient, taken if its strides are the query's: cuDNN 9.19
    looks for both by the same offsets, and of other strides it makes wrong gradients.
    """
    if grad_q is None or grad_q.stride() != q_TNH.stride():
        room = q_TNH.new_empty(len(q_TNH), q_TNH.stride(0))
        grad_q = room[:, : q_TNH[0].numel()].unflatten(1, q_TNH.shape[1:])
    grads = grad_q, k_TKH.new_empty(k_TKH.shape), v_TKH.new_empty(v_TKH.shape)
    given = (q_TNH, k_TKH, v_TKH, out_TNH, grad_TNH, lse_TN)
    _run((*given, *grads), documents, deterministic=deterministic)
    return grads


def workspace_bytes(num_q: int, num_k: int, width: int, num_tokens: int, stride: int) -> int:
    """What the backward pass takes beside its tensors; one such buffer serves all layers.

    ``stride`` is from token to token in the query, and so in its gradient.
    """
    # In float32: the queries' gradient, each query head's share of the keys' and values', a sum.
    per_token = stride + num_q
    per_token += 2 * num_q * width if num_q > num_k else 0
    return 4 * power_of_two(num_tokens, _LEAST_TOKENS) * per_token + 2**20


class _Layout(NamedTuple):
    """What a plan is compiled for, apart from sizes; strides are from token to token."""

    device: torch.device
    dtype: torch.dtype
    num_q: int
    num_k: int
    width: int
    documents: int
    strides: tuple[int, ...]
    deterministic: bool


class _Plan(NamedTuple):
    """A compiled call, and by which numbers it knows its tensors; offsets have their stride."""

    graph: Any
    tensors: list[int]
    lengths: list[int]
    offsets: dict[int, int]
    workspace_bytes: int


_PLANS: dict[_Layout, dict[tuple[int, int], _Plan]] = {}
_WORKSPACES: dict[tuple[torch.device, int], Tensor] = {}


def _run(
    given: Sequence[Tensor], documents: RaggedDocuments, *, deterministic: bool = False
) -> None:
    (tokens, num_q, width), device = given[0].shape, given[0].device
    if tokens != documents.num_tokens:
        raise ValueError(f"{documents.num_tokens} tokens in documents, {tokens} in the row")
    room = documents.num_documents if deterministic else len(documents.lengths_B)
    heads, strides = (num_q, given[1].shape[1], width), tuple(map(_token_stride, given))
    plan = _plan(_Layout(device, given[0].dtype, *heads, room, strides, deterministic), documents)
    pointers = dict(zip(plan.tensors, (x.data_ptr() for x in given), strict=True))
    pointers |= dict.fromkeys(plan.lengths, documents.lengths_B.data_ptr())
    pointers |= {uid: documents.offsets(n).data_ptr() for uid, n in plan.offsets.items()}
    with torch.cuda.device(device):
        stream = torch.cuda.current_stream().cuda_stream
        _cudnn().set_stream(handle=_handle(device), stream=stream)
        workspace = _workspace(device, stream, plan.workspace_bytes)
        plan.graph.execute(pointers, workspace.data_ptr(), handle=_handle(device))


def _token_stride(x: Tensor) -> int:
    packed = x.stride(-1) == 1 and (x.ndim == 2 or x.stride(1) == x.shape[2])
    if not packed or x.data_ptr() % 16 or (x.ndim == 3 and x.stride(0) % 8):
        raise ValueError(f"heads {tuple(x.shape)} with strides {x.stride()}: apart or not aligned")
    return x.stride(0)


def _plan(layout: _Layout, documents: RaggedDocuments) -> _Plan:
    """The smallest plan that holds the documents; compiled where there is none, in 1 to 2 s."""
    longest, tokens = documents.longest, power_of_two(documents.num_tokens, _LEAST_TOKENS)
    if layout.deterministic:
        room = most = -(-longest // _TILE) * _TILE
    else:
        # Of the blocks that start, as many find nothing to do whatever the number of documents.
        share = _LEAST_DOCUMENTS * tokens // layout.documents
        room = max(share, power_of_two(longest, _TILE))
        most = 16 * room
    plans = _PLANS.setdefault(layout, {})
    held = [size for size in plans if longest <= size[0] <= most and tokens <= size[1]]
    if held:
        return plans[min(held)]
    cudnn = _cudnn()
    if cudnn is None:
        raise ConfigError("ragged attention needs nvidia-cudnn-frontend 1.18 and cuDNN 9.19")
    try:
        with torch.cuda.device(layout.device):
            plan = plans[room, tokens] = _compiled(cudnn, layout, room, tokens)
    except Exception as error:
        raise ConfigError(
            f"cuDNN {cudnn.backend_version_string()} has no plan for {layout}: {str(error)[:200]}; "
            f"uninstall nvidia-cudnn-frontend {cudnn.__version__}, or choose another attention"
        ) from error
    return plan


def _compiled(cudnn: Any, layout: _Layout, longest: int, tokens: int) -> _Plan:
    kinds = cudnn.data_type
    half = kinds.BFLOAT16 if layout.dtype == torch.bfloat16 else kinds.HALF
    wide = {"intermediate_data_type": kinds.FLOAT, "compute_data_type": kinds.FLOAT}
    graph = cudnn.pygraph(io_data_type=half, handle=_handle(layout.device), **wide)
    starts: dict[tuple[str, int], Any] = {}

    def numbers(name: str, length: int, kind: Any) -> Any:
        return graph.tensor(name=name, dim=[length, 1, 1, 1], stride=[1, 1, 1, 1], data_type=kind)

    def place(name: str, stride: int) -> dict[str, Any]:
        """Dimensions are document, head, token and width."""
        owner = "out" if name == "grad" else name.removeprefix("grad_")
        if (owner, stride) not in starts:
            starts[owner, stride] = numbers(f"{name}_offsets", layout.documents + 1, kinds.INT64)
        heads = layout.num_k if owner in ("k", "v") else layout.num_q
        width, kind = (1, kinds.FLOAT) if name == "lse" else (layout.width, half)
        return {
            "dim": [layout.documents, heads, longest, width],
            "stride": [longest * stride, width, stride, 1],
            "data_type": kind,
            "ragged_offset": starts[owner, stride],
        }

    forward = len(layout.strides) == len(_TENSORS)
    names, num_inputs = (_TENSORS, 3) if forward else (_BACKWARD_TENSORS, 6)
    places = [(n, place(n, stride)) for n, stride in zip(names, layout.strides, strict=True)]
    tensors = [graph.tensor(name=name, **where) for name, where in places[:num_inputs]]
    lengths = [numbers(name, layout.documents, kinds.INT32) for name in ("queries", "keys")]
    options: dict[str, Any] = {"attn_scale": layout.width**-0.5, "use_padding_mask": True}
    options |= {"seq_len_q": lengths[0], "seq_len_kv": lengths[1], "diagonal_band_right_bound": 0}
    if forward:
        results = graph.sdpa(*tensors, generate_stats=True, **options)
    else:
        options |= {"max_total_seq_len_q": tokens, "max_total_seq_len_kv": tokens}
        options |= {"use_deterministic_algorithm": layout.deterministic}
        results = graph.sdpa_backward(*tensors, **options)
    for (_, where), result in zip(places[num_inputs:], results, strict=True):
        result.set_output(True)
        for what, value in where.items():
            getattr(result, f"set_{what}")(value)
    graph.build([cudnn.heur_mode.A, cudnn.heur_mode.FALLBACK])
    uids = [x.get_uid() for x in (*tensors, *results)]
    offsets = {x.get_uid(): stride for (_, stride), x in starts.items()}
    return _Plan(graph, uids, [x.get_uid() for x in lengths], offsets, graph.get_workspace_size())


@cache
def _handle(device: torch.device) -> int:
    with torch.cuda.device(device):
        return _cudnn().create_handle()


def _workspace(device: torch.device, stream: int, num_bytes: int) -> Tensor:
    """Memory that all plans of a stream share."""
    key = device, stream
    if key not in _WORKSPACES or _WORKSPACES[key].numel() < num_bytes:
        _WORKSPACES.pop(key, None)  # given back first: the larger one may take its place
        _WORKSPACES[key] = torch.empty(num_bytes, dtype=torch.uint8, device=device)
    return _WORKSPACES[key]
