"""The Triton kernels, interpreted on the CPU, against the plain PyTorch paths."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.interpreted_kernels import CHECKS

ROOT = Path(__file__).parents[2]
# Largest relative Frobenius error in float32, or float16, of value or gradient.
TOLERANCE = {
    "cross_entropy": 5e-6,  # measured 1.1e-6, of the gradient of 4099 logits
    "decoder": 1e-5,  # measured 1.7e-6
    "float16": 1e-2,  # measured 3.1e-3
    "any other": 1e-6,  # measured 2.6e-7
}

pytestmark = pytest.mark.skipif(
    find_spec("triton") is None, reason="triton, which interprets its kernels, is not installed"
)


@pytest.fixture(scope="module")
def found() -> dict[str, float | str]:
    """Errors by check. A process of its own: triton reads the variable when it is imported."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.interpreted_kernels"],
        cwd=ROOT,
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", CHECKS)
def test_a_kernel_equals_the_plain_path(name: str, found: dict[str, float | str]):
    error = found[name]
    assert isinstance(error, float), error
    assert error <= TOLERANCE.get(name.split()[0], TOLERANCE["any other"])
