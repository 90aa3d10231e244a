"""Every Triton kernel compiles for GPUs that are not here, and needs no stack for its registers."""

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

triton = pytest.importorskip("triton", reason="triton is not installed")

from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from thinktune.kernels import (  # noqa: E402
    adapter,
    cross_entropy,
    decode_attention,
    dropout,
    low_rank,
    norm,
    rope,
    swiglu,
)

if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("the interpreter compiles nothing", allow_module_level=True)

ROW = {"D": 4096, "BLOCK_D": 4096}
UPDATE = {"rank": 16, "BLOCK_R": 16}
KERNELS: dict[str, tuple[Any, int | None, dict[str, Any]]] = {
    "norm": (norm._norm, 8, ROW | {"HAS_RRMS": False}),
    "norm again": (norm._norm, 8, ROW | {"HAS_RRMS": True}),
    "add and norm": (norm._add_and_norm, 8, ROW),
    "norm backward": (norm._backward, 8, ROW),
    "add": (norm._add, 4, UPDATE | {"D": 4096, "BLOCK_T": 32, "BLOCK_D": 256}),
    "swiglu": (
        swiglu._forward,
        8,
        UPDATE
        | {"F": 14336, "gate_at": 0, "up_at": 16, "ROWS": 512, "STAGES": 3}
        | {"BLOCK_T": 32, "BLOCK_F": 128},
    ),
    "swiglu backward": (
        swiglu._backward,
        8,
        UPDATE
        | {"F": 14336, "gate_at": 0, "up_at": 16, "BLOCK_T": 32, "BLOCK_F": 64}
        | {"grad_rank": 16, "HAS_GRAD_UPDATE": True},
    ),
    **{
        f"swiglu backward, summed, rank {rank}": (
            swiglu._backward_summed,
            None,
            {"F": 14336, "rank": rank, "gate_at": 0, "up_at": rank}
            | {"grad_rank": rank, "ROWS": 4096},
        )
        for rank in (16, 64)
    },
    "rope": (
        rope._forward,
        4,
        UPDATE
        | {"HALF": 64, "HAS_UPDATE": True, "HAS_NORM": True, "ROWS": 256}
        | {"BLOCK_T": 32, "BLOCK_H": 64},
    ),
    "decode attention, store": (
        decode_attention._store,
        4,
        {"num_k": 8, "WIDTH": 128, "BLOCK": 1024},
    ),
    "decode attention": (
        decode_attention._attend,
        4,
        {"GROUP": 4, "WIDTH": 128, "BLOCK_G": 16, "BLOCK_H": 128, "BLOCK_L": 64, "CHUNK": 512},
    ),
    "decode attention, join": (
        decode_attention._join,
        1,
        {"WIDTH": 128, "BLOCK_S": 8, "BLOCK_H": 128, "CHUNK": 512},
    ),
    "rope backward": (
        rope._backward,
        4,
        UPDATE
        | {"HALF": 64, "HAS_NORM": True, "HAS_SUMS": True, "ROWS": 256}
        | {"BLOCK_T": 32, "BLOCK_H": 64},
    ),
    "rope backward, no norms": (
        rope._backward,
        4,
        UPDATE
        | {"HALF": 64, "HAS_NORM": False, "HAS_SUMS": True, "ROWS": 256}
        | {"BLOCK_T": 32, "BLOCK_H": 64},
    ),
    "add up": (low_rank._add_up, 4, {"PARTS_AT_MOST": 16, "BLOCK": 1024}),
    "scaled copies": (
        adapter._scaled_copies,
        4,
        {"rank": 16, "BLOCK_ROWS": 256, "BLOCK_R": 16},
    ),
    "cross entropy": (
        cross_entropy._rows,
        8,
        {"V": 128256, "HAS_GRAD": True, "BLOCK_V": 4096},
    ),
    "dropout": (dropout._drop, 4, {"BLOCK": 1024, "AROUND": 2**21}),
}
WIDE = ("RRMS", "COS", "SIN", "NLL", "WEIGHTS", "PARTS", "FIRST", "SECOND", "THIRD", "MASTER")
"""Pointers to float32; tables and targets are 64-bit integers, others have the model's type."""


def _type(name: str) -> str:
    if name in WIDE:
        return "*fp32"
    if name in ("TARGETS", "TABLE", "STARTS", "LENGTHS"):
        return "*i64"
    if name in ("eps", "share", "scale"):
        return "fp32"
    return "*bf16" if name.isupper() and name != "T" else "i32"


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("name", KERNELS)
def test_a_kernel_compiles_and_spills_nothing(name: str, capability: int, tmp_path: Path):
    kernel, num_warps, constants = KERNELS[name]
    if num_warps is None:
        constants = constants | swiglu.sizes_summed(capability // 10, constants["rank"])
        num_warps = constants.pop("num_warps")
    names = kernel.arg_names
    signature = {n: "constexpr" if n in constants else _type(n) for n in names}
    aligned = {(i,): [["tt.divisibility", 16]] for i, n in enumerate(names) if n not in constants}
    source = ASTSource(
        fn=kernel,
        signature=signature,
        constexprs={(names.index(n),): value for n, value in constants.items()},
        attrs={at: v for at, v in aligned.items() if signature[names[at[0]]] != "fp32"},
    )
    target = GPUTarget("cuda", capability, 32)
    compiled = triton.compile(source, target=target, options={"num_warps": num_warps})
    binary = tmp_path / "kernel.cubin"
    binary.write_bytes(compiled.asm["cubin"])
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    command = [str(tool), "--dump-resource-usage", str(binary)]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    stack = re.search(r"STACK:(\d+)", told)
    assert stack is not None, told
    assert int(stack[1]) == 0, told
