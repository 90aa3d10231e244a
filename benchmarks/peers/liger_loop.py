"""The same with Liger's kernels, fused linear cross-entropy among them, and a bf16 adapter."""

from importlib.metadata import version

from liger_kernel.transformers import (
    apply_liger_kernel_to_llama,
    apply_liger_kernel_to_qwen2,
    apply_liger_kernel_to_qwen3,
)

from benchmarks.peers.case import Case, UnavailableError, find_device
from benchmarks.peers.peft_loop import choose_form, describe, recompute_layers
from benchmarks.peers.random_model import choose_attention, random_model, with_adapter
from benchmarks.peers.timing import time_loop

PATCHES = {
    "llama": apply_liger_kernel_to_llama,
    "qwen2": apply_liger_kernel_to_qwen2,
    "qwen3": apply_liger_kernel_to_qwen3,
}


def run(case: Case) -> dict:
    """Time it.

    Raises:
        UnavailableError: there is no GPU for its Triton kernels.
    """
    if find_device().type != "cuda":
        raise UnavailableError("Liger's kernels need a GPU")
    PATCHES[case.config["model_type"]](
        rope=True, rms_norm=True, swiglu=True, fused_linear_cross_entropy=True
    )
    attention = choose_attention(case)
    model = random_model(case, attention)
    recompute_layers(model, case)
    result = time_loop(
        case,
        with_adapter(model, in_float32=False),
        choose_form(case, attention),
        autocast=False,
    )
    settings = f"bf16 adapter, fused linear cross-entropy, {describe(case, attention)}"
    return result | {"version": version("liger-kernel"), "settings": settings}
