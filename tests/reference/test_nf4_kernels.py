"""The NF4 kernels, interpreted on a CPU and compiled for GPUs that are not here."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

triton = pytest.importorskip("triton", reason="triton is not installed")

from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from tests.interpreted_nf4 import CHECKS  # noqa: E402
from thinktune.kernels import nf4, nf4_decode  # noqa: E402

if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("the interpreter compiles nothing", allow_module_level=True)

ROOT = Path(__file__).parents[2]
KERNELS: dict[str, tuple[Any, dict[str, Any]]] = {
    "quantise": (nf4._quantize, {"BLOCKS": 16, "LEAST": nf4.LEAST}),
    "dequantise": (nf4._dequantize, {"BLOCKS": 16, "WIDTH": 14336}),
    "dequantise, blocks across rows": (nf4._dequantize, {"BLOCKS": 16, "WIDTH": 67}),
    "multiply": (
        nf4_decode._multiply,
        {"WIDTH": 4096, "STEPS": 4, "ROWS": nf4_decode._ROWS, "BLOCK_T": 16},
    ),
}
POINTERS = {"CODES": "*u8", "ABSMAX": "*u8"}


@pytest.fixture(scope="module")
def told() -> str:
    """What the interpreter said: triton reads the variable when it is imported."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.interpreted_nf4"],
        cwd=ROOT,
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", CHECKS)
def test_a_kernel_gives_what_the_plain_path_gives(name: str, told: str):
    assert f"{name}: equal" in told.splitlines(), told


def compiled(name: str, capability: int) -> Any:
    kernel, constants = KERNELS[name]
    half = "*fp16" if capability < 80 else "*bf16"
    types = {"W": half, "OUT": half, "X": half, **POINTERS}
    if kernel is nf4._quantize:
        types["ABSMAX"] = "*fp32"
    if kernel is nf4_decode._multiply:
        types["OUT"] = "*fp32"
    names = kernel.arg_names
    signature = {
        n: "constexpr"
        if n in constants
        else types.get(n, "*fp32" if n.isupper() and n != "T" else "i32")
        for n in names
    }
    source = ASTSource(
        fn=kernel,
        signature=signature,
        constexprs={(names.index(n),): value for n, value in constants.items()},
        attrs={(i,): [["tt.divisibility", 16]] for i, n in enumerate(names) if n not in constants},
    )
    options = {"num_warps": 4, "num_stages": 1, "enable_fp_fusion": False}
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)


@pytest.mark.parametrize("capability", [75, 80, 90])
@pytest.mark.parametrize("name", KERNELS)
def test_a_kernel_compiles_spills_nothing_and_rounds_every_step(
    name: str, capability: int, tmp_path: Path
):
    """A fused multiply-add, or denormals flushed, would give other bits than bitsandbytes."""
    built = compiled(name, capability)
    if name != "multiply":  # its sums are another matter
        assert not re.search(r"\bfma\.|\.ftz\.|div\.(full|approx)", built.asm["ptx"])
    binary = tmp_path / "kernel.cubin"
    binary.write_bytes(built.asm["cubin"])
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    command = [str(tool), "--dump-resource-usage", str(binary)]
    usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    stack = re.search(r"STACK:(\d+)", usage)
    assert stack is not None, usage
    assert int(stack[1]) == 0, usage


@pytest.mark.parametrize("capability", [75, 80, 90])
def test_dequantising_loads_and_stores_whole_words_without_shared_memory(capability: int):
    built = compiled("dequantise", capability)
    assert built.metadata.shared == 0
    stores = re.findall(r"st\.global\S*", built.asm["ptx"])
    assert stores == ["st.global.v4.b32"]  # 16 bytes
    assert len(re.findall(r"ld\.global\S*", built.asm["ptx"])) == 1 + 3 + 1 + 8  # codes, absmax


@pytest.mark.parametrize("capability", [80, 90])
def test_codes_reach_the_tensor_cores_without_shared_memory(capability: int):
    """In it is one step of x: two halves of 16 rows of 64 in two bytes."""
    built = compiled("multiply", capability)
    assert built.metadata.shared <= 2 * 16 * 64 * 2
    # The sums are moved once, for the store; weights never.
    assert built.asm["ttgir"].count("ttg.convert_layout") == 1
    assert len(re.findall(r"mma\.sync", built.asm["ptx"])) == 8
