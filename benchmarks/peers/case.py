"""What is timed, the same for every side; and its documents as the tensors a peer takes."""

from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from thinktune.data.segments import Rendered
from thinktune.workload import SHAPES, document_lengths, examples_of_timed_step

RANK, ALPHA, LEARNING_RATE, MAX_GRAD_NORM = 16, 32, 1e-4, 1.0
WARMUP_STEPS = 2
"""Steps before the timed ones, as many as ours has, so that all time the same documents."""
TARGET_MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
IGNORED = -100


class UnavailableError(Exception):
    """This machine cannot run this peer; the message says why."""


@dataclass(frozen=True, slots=True)
class Case:
    """One line of the table, but for who trains."""

    shape: str
    documents: str
    recompute: str
    """``default``: as the peer recomputes activations by itself; ``none``: keep them all."""
    steps: int
    attention: str
    """``auto``, or the name transformers has for an attention."""
    flash: str
    """``installed``: only the flash attention a peer finds; ``torch``: also the one in torch."""
    base: str
    """How the base is held: ``bfloat16``, or ``nf4`` through bitsandbytes."""
    scratch: str
    """Folder for what this run may write."""

    to_dict = asdict

    @property
    def config(self) -> dict:
        """The shape's ``config.json``."""
        return SHAPES[self.shape]

    @property
    def is_uniform(self) -> bool:
        """Whether all documents of all steps are equally long, so need neither pack nor padding."""
        return ":" not in self.documents

    @property
    def longest_row(self) -> int:
        """Tokens of the longest row any step has."""
        lengths = document_lengths(self.documents, seed=0)
        return max(lengths) if self.is_uniform else sum(lengths)

    def examples(self, step: int) -> list[Rendered]:
        """Documents of step ``step``, warm-up counted."""
        return examples_of_timed_step(self.documents, self.config["vocab_size"], step)


def find_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def labels_of(example: Rendered) -> list[int]:
    """The tokens that carry loss; the model shifts them itself."""
    prompt = example.prompt_length
    return [IGNORED] * prompt + list(example.tokens[prompt:])


def rows(examples: list[Rendered], device: torch.device) -> dict[str, Tensor]:
    """Equally long documents, one a row."""
    return {
        "input_ids": torch.tensor([e.tokens for e in examples], device=device),
        "labels": torch.tensor([labels_of(e) for e in examples], device=device),
    }


def packed(examples: list[Rendered], device: torch.device) -> dict[str, Tensor]:
    """All documents in one row, positions restarting in each."""
    positions = [torch.arange(len(example.tokens)) for example in examples]
    batch = {
        "input_ids": torch.tensor([t for e in examples for t in e.tokens]),
        "labels": torch.tensor([label for e in examples for label in labels_of(e)]),
        "position_ids": torch.cat(positions),
    }
    return {name: tensor.unsqueeze(0).to(device) for name, tensor in batch.items()}


def flash_boundaries(examples: list[Rendered], device: torch.device) -> dict[str, Tensor | int]:
    """Where documents end, as transformers hands it to flash attention without a search."""
    lengths = torch.tensor([0, *(len(example.tokens) for example in examples)])
    ends, longest = lengths.cumsum(0).to(device, torch.int32), int(lengths.max())
    return {
        "cu_seq_lens_q": ends,
        "cu_seq_lens_k": ends,
        "max_length_q": longest,
        "max_length_k": longest,
    }
