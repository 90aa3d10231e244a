"""Loading holds the weights once."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tests.tiny_models import tiny_checkpoint

PROGRAM = """
import sys
from pathlib import Path
import torch
from thinktune.model.checkpoint_io import load_decoder

def kilobytes(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(key)).split()[1])

small, large, dtype = sys.argv[1], sys.argv[2], torch.float32
load_decoder(Path(small), dtype=dtype, device=torch.device("cpu"))  # what torch imports lazily
before = kilobytes("VmRSS")
decoder = load_decoder(Path(large), dtype=dtype, device=torch.device("cpu"))
assert sum(float(p.sum()) for p in decoder.parameters()) == 0  # every page is touched
print(1024 * (kilobytes("VmHWM") - before))
"""

LIMIT = 1.2
"""Growth of the peak over the size of the file; measured 1.004: the weights are the mapped file."""


@pytest.fixture(scope="module")
def large_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("large")
    with torch.device("meta"):
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=8192,
                hidden_size=1024,
                intermediate_size=2048,
                num_hidden_layers=3,
                num_attention_heads=8,
            )
        )
    model.to_empty(device="cpu")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    model.save_pretrained(folder)
    return folder


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_loading_holds_no_second_copy_of_the_weights(large_model: Path):
    size = (large_model / "model.safetensors").stat().st_size
    assert size > 180e6
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tiny_checkpoint("llama")), str(large_model)],
        capture_output=True,
        text=True,
        check=True,
    )
    growth = int(done.stdout) / size
    assert 0.9 < growth <= LIMIT, growth
