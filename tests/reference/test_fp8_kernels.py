"""The kernels that round to eight bits: interpreted on the CPU, and compiled for GPUs elsewhere.

usage: TRITON_INTERPRET=1 python tests/reference/test_fp8_kernels.py

Run as a program it prints one JSON object: for every check what differed from the plain path.
"""

import json
import os
import re
import subprocess
import sys
import traceback
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.tiny_models import CPU, attach_trained, hidden_of, random_documents, tiny_checkpoint
from thinktune.kernels import fp8 as kernel
from thinktune.model.checkpoint_io import load_decoder
from thinktune.model.held_weights import Quantize
from thinktune.model.kept import Keep
from thinktune.ops import fp8
from thinktune.ops.fp8 import (
    FP8Rows,
    add_rms_norm_rows,
    quantize_rows,
    rms_norm_backward_rows,
    rms_norm_rows,
)
from thinktune.ops.rms_norm import add_rms_norm, rms_norm_backward, rms_norm_forward
from thinktune.ops.update import Update

ROOT = Path(__file__).parents[2]
TYPES = (torch.float32, torch.bfloat16)
EPS = 1e-5

pytestmark = pytest.mark.skipif(
    find_spec("triton") is None, reason="triton, which interprets its kernels, is not installed"
)


def _randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _difference(ours: Tensor, plain: Tensor) -> float:
    """Relative Frobenius error."""
    difference = (ours.double() - plain.double()).norm()
    return float(difference / plain.double().norm().clamp_min(1e-300))


def _codes(
    ours: FP8Rows | None, x: Tensor, columns: Tensor | None = None, *, short: bool = False
) -> None:
    """The very bits of the plain path; rows that are not finite may be so in another way."""
    assert ours is not None
    plain = fp8._plain_rows(x, columns, short=short)
    finite = plain.scales.isfinite()
    assert torch.equal(ours.scales.isfinite(), finite)
    assert torch.equal(ours.scales[finite], plain.scales[finite])
    bits = [rows.codes.view(torch.uint8)[finite] for rows in (ours, plain)]
    assert torch.equal(*bits), (bits[0] != bits[1]).sum()
    assert ours.codes.float()[~finite].isnan().any(1).all()


def _rows(tokens: int, width: int, dtype: torch.dtype) -> float:
    x, columns = _randn(tokens, width) * 3, _randn(width, seed=1).abs()
    for place, value in enumerate((0.0, torch.inf, torch.nan, -torch.inf)[:tokens]):
        x[-1 - place, : 1 if place else None] = value
    if tokens > 8:
        x[4] *= 1e-37
        x[5] *= 1e-43 if dtype == torch.float32 else 1e-38
        x[6] *= 1e37
    wide = torch.zeros(tokens, width + 8).to(dtype)
    wide[:, 3 : width + 3] = x.to(dtype)
    x, apart = x.to(dtype), wide[:, 3 : width + 3]
    _codes(quantize_rows(x), x)
    _codes(quantize_rows(apart, columns), x, columns)
    _codes(quantize_rows(apart, columns.bfloat16()), x, columns.bfloat16())
    turned = x.T.contiguous().T
    _codes(quantize_rows(turned, short=True), x, short=True)
    return 0.0


def _ties() -> float:
    """Between codes, as large as they get, and below the smallest normal one."""
    exponents = 2.0 ** torch.arange(-12, 8)
    x = (exponents[:, None] * (1 + torch.arange(17) / 16)).flatten()
    x = torch.cat([x, x * (1 + 2**-20), x * (1 - 2**-20)])
    x = torch.cat([x, -x, torch.tensor([448.0])])[None]
    _codes(quantize_rows(x), x)
    return 0.0


def _norm(tokens: int, width: int, dtype: torch.dtype) -> float:
    x, weight = _randn(tokens, width).to(dtype), _randn(width, seed=1).to(dtype)
    h, rrms, rows = rms_norm_rows(x, weight, EPS, wanted=True)
    plain, plain_rrms = rms_norm_forward(x, weight, EPS)
    _codes(rows, h)
    return max(_difference(h, plain), _difference(rrms, plain_rrms))


def _add_norm(tokens: int, width: int, dtype: torch.dtype, rank: int = 0) -> float:
    x, base = _randn(tokens, width).to(dtype), _randn(tokens, width, seed=2).to(dtype)
    weight, update = _randn(width, seed=1).to(dtype), None
    if rank:
        left, right = _randn(tokens, rank).to(dtype), _randn(width, rank, seed=4).to(dtype)
        update = Update(left, right, (0,), (width,), rank)
    truth = add_rms_norm(x, base.clone(), update, weight, EPS)
    out, h, rrms, rows = add_rms_norm_rows(x, base, update, weight, EPS, wanted=True)
    assert out is base
    _codes(rows, h)
    return max(_difference(*pair) for pair in zip((out, h, rrms), truth, strict=True))


def _norm_backward(tokens: int, width: int, dtype: torch.dtype) -> float:
    grad, x, residual = (_randn(tokens, width, seed=seed).to(dtype) for seed in range(3))
    weight, columns = _randn(width, seed=3).to(dtype), _randn(width, seed=4).abs().bfloat16()
    low_rank = _randn(tokens, 3).to(dtype), _randn(3, width).to(dtype)
    _, rrms = rms_norm_forward(x, weight, EPS)
    args = grad.clone(), low_rank, x, weight, rrms, residual.clone()
    truth = rms_norm_backward(*args)
    out, h, rows = rms_norm_backward_rows(grad, low_rank, x, weight, rrms, residual, columns)
    assert out is residual
    _codes(rows, out, columns)
    return max(_difference(*pair) for pair in zip((out, h), truth, strict=True))


def _decoder(kind: Quantize) -> float:
    """All that layers do, whatever they keep; in float32, against the plain path in float64."""
    lengths, kept = (5, 1), (Keep.ALL, Keep.NO_MLP, Keep.INPUT)
    found: dict[torch.dtype, list[Tensor]] = {}
    for dtype in (torch.float32, torch.float64):
        checkpoint = tiny_checkpoint("qwen2")
        decoder = load_decoder(checkpoint, dtype=dtype, device=CPU, quantize=kind)
        attach_trained(decoder)
        assert decoder.adapter is not None
        for keep in kept if dtype == torch.float32 else (Keep.ALL,):
            decoder.plan((keep,) * 2, sum(lengths))
            decoder.adapter.gradient.zero_()
            hidden = hidden_of(decoder, random_documents(lengths))
            (hidden * torch.linspace(-1, 1, hidden.numel()).view_as(hidden)).sum().backward()
            made = [hidden.detach(), decoder.adapter.gradient.clone()]
            assert all(map(torch.equal, made, found.setdefault(dtype, made))), keep
    errors = [_difference(*pair) for pair in zip(*found.values(), strict=True)]
    assert max(errors) < 0.02, errors  # where a code flips, it moves by a step
    return 0.0


CHECKS: dict[str, Callable[[], float]] = {
    "ties": _ties,
    **{
        f"{name} of {tokens} x {width} in {str(dtype)[6:]}": (
            lambda check=check, sizes=(tokens, width, dtype): check(*sizes)
        )
        for name, check in {
            "rows": _rows,
            "norm": _norm,
            "add and norm": _add_norm,
            "norm backward": _norm_backward,
        }.items()
        for tokens, width in ((1, 1), (17, 300), (3, 2053))
        for dtype in TYPES
    },
    "add and norm with an update": lambda: _add_norm(17, 29, torch.float32, rank=5),
    **{
        f"decoder in {kind}": partial(_decoder, kind) for kind in (Quantize.FP8, Quantize.FP8_DGRAD)
    },
}


def _round_as_ada_does() -> None:
    """Put what triton does on Ada in place of the interpreter's rounding to eight bits.

    It cuts to half precision and rounds that, as torch does. The interpreter loses carries: 31.9
    becomes 16.
    """
    from triton.runtime import interpreter  # noqa: PLC0415 - may not be installed

    theirs, build = interpreter._convert_float, interpreter.InterpreterBuilder

    def convert(self: Any, source: Any, to: Any, mode: Any) -> Any:
        kinds = source.dtype.scalar, to.scalar
        if kinds[1] == interpreter.tl.float8e4nv:
            cut = torch.from_numpy(source.data).view(torch.int32) & ~0x1FFF
            codes = cut.view(torch.float32).half().to(torch.float8_e4m3fn)
            data = codes.view(torch.uint8).numpy()
        else:
            data = theirs(source.data, *kinds, mode).view(interpreter._get_np_dtype(to))
        return interpreter.TensorHandle(data, to.scalar)

    build.create_fp_to_fp = convert


def main() -> None:
    """Run every check and print what came of it."""
    _round_as_ada_does()
    results: dict[str, float | str] = {}
    for name, check in CHECKS.items():
        try:
            results[name] = check()
        except Exception:  # every check is to be reported
            results[name] = traceback.format_exc()
    print(json.dumps(results))


@pytest.fixture(scope="module")
def found() -> dict[str, float | str]:
    """Errors by check. A process of its own: triton reads the variable when it is imported."""
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "ignore::RuntimeWarning", __file__]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", CHECKS)
def test_a_kernel_gives_the_bits_of_the_unfused_one_and_of_the_plain_rounding(
    name: str, found: dict[str, float | str]
):
    error = found[name]
    assert error == 0.0, error


ROW = {"D": 4096, "BLOCK_D": 4096}
KERNELS: dict[str, tuple[str, int, dict[str, Any]]] = {
    "rows": ("_rows", 8, ROW | {"HAS_COLUMNS": False, "SHORT": True}),
    "rows of 28672": (
        "_rows",
        16,
        {"D": 28672, "BLOCK_D": 32768, "HAS_COLUMNS": True, "SHORT": False},
    ),
    "norm": ("_norm_rows", 8, ROW | {"HAS_BASE": False}),
    "add and norm": ("_norm_rows", 8, ROW | {"HAS_BASE": True}),
    "norm backward": ("_norm_backward_rows", 8, ROW),
}
WIDE = {"SCALES": "*fp32", "RRMS": "*fp32", "CODES": "*fp8e4nv", "eps": "fp32"}


def _type(name: str) -> str:
    return WIDE.get(name, "*bf16" if name.isupper() and name != "T" else "i32")


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="nothing is compiled")
@pytest.mark.parametrize("capability", [89, 90])
@pytest.mark.parametrize("name", KERNELS)
def test_a_kernel_compiles_and_spills_nothing(name: str, capability: int, tmp_path: Path):
    import triton  # noqa: PLC0415 - may not be installed
    from triton.backends.compiler import GPUTarget  # noqa: PLC0415
    from triton.compiler import ASTSource  # noqa: PLC0415

    attribute, num_warps, constants = KERNELS[name]
    halves = capability < 90
    constants = constants | {"VIA_HALF": halves}
    function = getattr(kernel, attribute)
    names = function.arg_names
    signature = {n: "constexpr" if n in constants else _type(n) for n in names}
    source = ASTSource(
        fn=function,
        signature=signature,
        constexprs={(names.index(n),): value for n, value in constants.items()},
        attrs={
            (at,): [["tt.divisibility", 16]]
            for at, n in enumerate(names)
            if signature[n] not in ("constexpr", "fp32")
        },
    )
    target = GPUTarget("cuda", capability, 32)
    compiled = triton.compile(source, target=target, options={"num_warps": num_warps})
    steps = set(re.findall(r"cvt\.r[nz]\.(?:f16|sat)\S+", compiled.asm["ptx"]))
    ada = {"cvt.rz.f16.f32", "cvt.rn.satfinite.e4m3x2.f16x2"}
    assert steps == (ada if halves else {"cvt.rn.satfinite.e4m3x2.f32"})
    assert compiled.metadata.shared <= {89: 101_376, 90: 232_448}[capability]
    binary = tmp_path / "kernel.cubin"
    binary.write_bytes(compiled.asm["cubin"])
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    command = [str(tool), "--dump-resource-usage", str(binary)]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    stack = re.search(r"STACK:(\d+)", told)
    assert stack is not None, told
    assert int(stack[1]) == 0, told


if __name__ == "__main__":
    main()
