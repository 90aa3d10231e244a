"""Make a decoder follow a memory plan on the device it is on."""

import os
import time
from collections.abc import Callable

import torch
from torch.nn import functional as F

from thinktune.cards import MARGIN
from thinktune.model.decoder import Decoder
from thinktune.model.kept import Keep
from thinktune.model.lora import LoRAConfig
from thinktune.ops import ragged_attention
from thinktune.training.memory_plan import HostLink, MemoryPlan, plan_memory
from thinktune.training.step_memory import Workload, widths

_GIB = 2**30


def fit(
    decoder: Decoder,
    lora: LoRAConfig,
    max_tokens: int,
    budget_gib: float | None,
    *,
    keep: Keep | None = None,
) -> MemoryPlan | None:
    """Plan a CUDA device's memory for rows of so many tokens, and make the decoder follow it.

    Args:
        decoder: with its adapter attached.
        lora: the adapter's configuration.
        max_tokens: of the longest packed row.
        budget_gib: most to allocate; None for what is free.
        keep: the same for all layers, whatever the budget.

    Returns:
        The plan; None on a CPU, whose layers keep everything.

    Raises:
        ConfigError: it does not fit.
    """
    device, shape = decoder.device, decoder.shape
    if device.type != "cuda":
        decoder.plan((keep or Keep.ALL,) * shape.num_hidden_layers, max_tokens)
        return None
    ragged = ragged_attention.is_available(device, decoder.dtype, shape.head_dim)
    work = Workload(shape, lora, max_tokens, decoder.dtype, ragged, decoder.quantize)
    free = free_bytes(device)
    budget = min(free, int(budget_gib * _GIB)) if budget_gib else free
    room = host_room()
    plan = plan_memory(work, budget, keep=keep, host_room=room)
    if Keep.NO_MLP in plan.keep and keep is None:
        plan = plan_memory(work, budget, link=measure_link(work, device), host_room=room)
    decoder.plan(plan.keep, max_tokens, host_embedding=plan.host_embedding)
    return plan


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of PyTorch's, or of Python's, says that memory ran out."""
    wanted = torch.OutOfMemoryError, MemoryError
    return isinstance(error, wanted) or "can't allocate memory" in str(error)


def out_of_memory(device: torch.device, plan: MemoryPlan | None) -> str:
    """What to tell a user whose device ran out of memory."""
    if device.type == "cpu":
        return (
            "the machine is out of memory: close other programs, lower packing.max_tokens or "
            "training.batch_size, or take a smaller model"
        )
    planned = "" if plan is None else f"; planned were {plan.total_bytes / _GIB:.1f} GiB"
    return (
        f"the GPU is out of memory{planned}: another program may hold some (nvidia-smi shows it); "
        "lower training.memory_budget_gib, so that layers keep less, or packing.max_tokens"
    )


def free_bytes(device: torch.device) -> int:
    """What a run may use of a device: what is free, and what PyTorch holds already."""
    free, total = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - int(MARGIN * total)


def host_room() -> int:
    """What a step may take of the host's memory: half of what is free."""
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def measure_link(work: Workload, device: torch.device) -> HostLink:
    """Time the link to the host, and a product like those that would be sent over it."""
    rows, D = min(work.max_tokens, 2048), work.shape.hidden_size
    width = 2 * work.shape.intermediate_size
    there = torch.randn(rows, width, dtype=work.dtype, device=device)
    here = torch.empty(there.shape, dtype=work.dtype, pin_memory=True)
    x, weight = there[:, :D].contiguous(), there.new_empty(width, D).normal_()
    send = _timed(lambda: here.copy_(there, non_blocking=True), device)
    product = _timed(lambda: F.linear(x, weight), device)
    shape = work.shape
    others = sum(a * b for a, b in widths(shape).values())
    attended = shape.num_attention_heads * shape.head_dim * work.max_tokens
    share = (others + attended) / (D * width)
    scale = work.max_tokens / rows
    return HostLink(send * scale, product * share * scale)


def _timed(call: Callable[[], object], device: torch.device) -> float:
    """Seconds a call takes once it is warm."""
    num = 5
    for _ in range(3):
        call()
    torch.cuda.synchronize(device)
    started = time.perf_counter()
    for _ in range(num):
        call()
    torch.cuda.synchronize(device)
    return (time.perf_counter() - started) / num
