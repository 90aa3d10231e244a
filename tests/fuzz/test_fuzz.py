"""The targets of fuzzing hold on their seeds and, for a moment, under a coverage-guided fuzzer."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.targets import TARGETS, seeds


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.filterwarnings("ignore")
def test_seeds_cut_anywhere_are_read_or_refused(name: str) -> None:
    found = seeds(name)
    assert found
    for seed in found:
        for end in {0, 1, 2, len(seed) // 3, len(seed) // 2, len(seed) - 1, len(seed)}:
            TARGETS[name](seed[: max(0, end)])


def test_a_fuzzer_finds_nothing_in_a_moment(tmp_path: Path) -> None:
    pytest.importorskip("atheris", reason="atheris is not installed (it has no wheel here)")
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "tests.fuzz", "all", "-runs=400", "-seed=1"]
    done = subprocess.run(
        [*command, f"-artifact_prefix={tmp_path}/"],
        cwd=root, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Done 400 runs" in done.stderr
