"""Every Triton kernel compiles for Turing in float16, with the residual stream in float32."""

from pathlib import Path

import pytest

pytest.importorskip("triton", reason="triton is not installed")

from tests.reference import test_kernels_compile as compiled

STREAM = ("X", "OUT", "RESIDUAL")
"""Of the kernels of norms: float32. The others call their inputs differently."""
SMALLER = {"add": {"BLOCK_D": 128}, "decode attention": {"BLOCK_L": 32}}
"""What is chosen by the card. `swiglu.sizes_summed` is asked by the test itself."""


@pytest.mark.parametrize("name", compiled.KERNELS)
def test_a_kernel_compiles_for_turing(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    type_of, of_stream = compiled._type, "norm" in name or name == "add"

    def in_float16(argument: str) -> str:
        if of_stream and argument in STREAM:
            return "*fp32"
        return type_of(argument).replace("bf16", "fp16")

    kernel, num_warps, constants = compiled.KERNELS[name]
    constants = constants | SMALLER.get(name, {})
    monkeypatch.setitem(compiled.KERNELS, name, (kernel, num_warps, constants))
    monkeypatch.setattr(compiled, "_type", in_float16)
    compiled.test_a_kernel_compiles_and_spills_nothing(name, 75, tmp_path)
    assert list(tmp_path.iterdir()), "nothing was compiled"
