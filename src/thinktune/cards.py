"""GPUs by name: how much memory a step finds there, what the card can multiply, and its rent."""

import difflib
from dataclasses import dataclass

from thinktune.errors import ConfigError
from thinktune.kernels.language import BFLOAT16_FROM, FP8_FROM

GIB = 2**30
MARGIN = 0.04
"""Share of a card left to fragments of memory, as in `thinktune.training.fitting`."""
_CONTEXT_GIB = 0.5
"""What CUDA and the code of its libraries take before anything is computed."""


@dataclass(frozen=True, slots=True)
class Rent:
    """What a card costs by the hour, and who said so when."""

    usd_an_hour: float
    source: str
    read_on: str


@dataclass(frozen=True, slots=True)
class Speed:
    """Peaks of a card by its datasheet; nothing reaches them."""

    tflops: float
    """Dense products of 16-bit numbers, summed in float32."""
    fp8_tflops: float | None
    """Dense products of 8-bit floats, summed in float32; None where there are none."""
    gb_a_second: float
    """From and to the card's memory."""
    link_gb_a_second: float
    """From and to the host, each way."""


@dataclass(frozen=True, slots=True)
class Card:
    """A GPU. What is not known of one that was given by its memory alone is None."""

    title: str
    total_gib: float
    """As PyTorch tells it, which is less than what it is sold as."""
    capability: tuple[int, int] | None = None
    speed: Speed | None = None
    rent: Rent | None = None

    @property
    def allocatable_bytes(self) -> int:
        """All but CUDA's own."""
        return int((self.total_gib - _CONTEXT_GIB) * GIB)

    @property
    def usable_bytes(self) -> int:
        """What a step finds: of that, all but what is left to fragments."""
        return int((self.total_gib * (1 - MARGIN) - _CONTEXT_GIB) * GIB)

    @property
    def has_bfloat16(self) -> bool:
        """Whether it multiplies bfloat16; taken for granted where nothing is known."""
        return self.capability is None or self.capability >= BFLOAT16_FROM

    @property
    def has_fp8(self) -> bool:
        """Whether it multiplies 8-bit floats; taken for granted where nothing is known."""
        return self.capability is None or self.capability >= FP8_FROM

    @property
    def attends_ragged(self) -> bool:
        """Whether cuDNN's ragged attention, which wants a workspace, runs on it."""
        return self.capability is None or self.capability[0] in (9, 10)


# List prices, not offers: on demand, one GPU. Modal's as quoted with its date at
# techbytes.app/posts/serverless-gpu-pricing-matrix-modal-replicate-lambda-2026; RunPod's (Secure
# Cloud) and Lambda's as transcribed from their pages in github.com/datareceipts/data-receipts
# (109-gpu-pricing) and github.com/api-evangelist/runpod. No price was found for the others that
# could be traced to its owner.
_MODAL = ("modal.com/pricing", "2026-05-07")
_RUNPOD_NOVEMBER = ("runpod.io/pricing", "2026-11-09")
_RUNPOD_OCTOBER = ("runpod.io/pricing", "2026-10-07")
_LAMBDA = ("lambda.ai/pricing", "2026-11-09")

# Memory: the capacity in PyTorch's out-of-memory messages. Peaks: NVIDIA's datasheets (T4, A100,
# L4, L40S, H100 SXM, H200 SXM, HGX B200), AWS's of the A10G, and for GeForce the appendices of the
# Ampere GA102, Ada and RTX Blackwell architecture papers; without sparsity everywhere. Links: PCIe
# 3, 4 and 5 of 16 lanes. Volta is left out: CUDA 13, and so PyTorch's wheels, do not run on it.
CARDS: dict[str, Card] = {
    "t4": Card("T4", 14.7, (7, 5), Speed(65, None, 320, 16), Rent(0.59, *_MODAL)),
    "rtx3090": Card("RTX 3090", 23.7, (8, 6), Speed(71, None, 936, 32)),
    "rtx4090": Card("RTX 4090", 23.6, (8, 9), Speed(165.2, 330.3, 1008, 32)),
    "rtx5090": Card("RTX 5090", 31.4, (12, 0), Speed(209.5, 419, 1792, 64)),
    "a10g": Card("A10G", 22.1, (8, 6), Speed(70, None, 600, 32)),
    "l4": Card("L4", 22.1, (8, 9), Speed(121, 242, 300, 32), Rent(0.80, *_MODAL)),
    "l40s": Card("L40S", 44.4, (8, 9), Speed(362, 733, 864, 32), Rent(1.95, *_MODAL)),
    "a100-40": Card("A100 40GB", 39.4, (8, 0), Speed(312, None, 1555, 32), Rent(1.99, *_LAMBDA)),
    "a100-80": Card(
        "A100 80GB", 79.2, (8, 0), Speed(312, None, 2039, 32), Rent(1.79, *_RUNPOD_NOVEMBER)
    ),
    "h100": Card("H100", 79.1, (9, 0), Speed(989.4, 1979, 3350, 64), Rent(3.99, *_RUNPOD_NOVEMBER)),
    "h200": Card("H200", 139.8, (9, 0), Speed(989.4, 1979, 4800, 64), Rent(4.59, *_RUNPOD_OCTOBER)),
    "b200": Card("B200", 178.3, (10, 0), Speed(2250, 4500, 8000, 64), Rent(6.79, *_RUNPOD_OCTOBER)),
}
"""Cards by the name they are asked for."""
_NICKNAMES = {
    "3090": "rtx3090",
    "4090": "rtx4090",
    "5090": "rtx5090",
    "a10": "a10g",
    "a100": "a100-80",
    "a100-40gb": "a100-40",
    "a100-80gb": "a100-80",
    "h100-80": "h100",
    "h100-80gb": "h100",
}


def find_card(asked: str) -> Card:
    """The card of a name, or one of so many GiB about which nothing else is known.

    Args:
        asked: a name in any spelling (``t4``, ``RTX 4090``, ``tesla-t4``), or GiB (``24``).

    Raises:
        ConfigError: there is no such card; the nearest names are told.

    >>> find_card("RTX 4090").title, find_card("24").total_gib
    ('RTX 4090', 24.0)
    """
    name = asked.lower().replace(" ", "-").replace("_", "-")
    for maker in ("nvidia-", "geforce-", "tesla-"):
        name = name.removeprefix(maker)
    name = name.replace("rtx-", "rtx")
    name = _NICKNAMES.get(name, name)
    if name in CARDS:
        return CARDS[name]
    if (gib := _number(asked)) is not None:
        if _CONTEXT_GIB < gib * (1 - MARGIN) < float("inf"):
            return Card(f"card of {gib:g} GiB", gib)
        raise ConfigError(
            f"--gpu {asked}: no card has {gib:g} GiB; known cards: {', '.join(CARDS)}"
        )
    near = difflib.get_close_matches(name, [*CARDS, *_NICKNAMES], n=1, cutoff=0.75)
    hint = f"did you mean {_NICKNAMES.get(near[0], near[0])}? " if near else ""
    raise ConfigError(
        f"--gpu {asked}: no such card is known; {hint}known: {', '.join(CARDS)}; of any other give "
        "its memory in GiB, as in --gpu 24"
    )


def card_of_device(device_name: str, total_gib: float, capability: tuple[int, int]) -> Card:
    """The card that a driver calls so, with the memory it has.

    >>> card_of_device("NVIDIA A100-SXM4-40GB", 39.4, (8, 0)).rent.usd_an_hour
    1.99
    """
    letters = device_name.upper().replace("-", " ").split()
    for card in CARDS.values():
        words = card.title.upper().split()
        known = [word for word in words if not word.endswith("GB")]
        near = abs(card.total_gib - total_gib) < 0.1 * card.total_gib
        if near and all(word in letters for word in known):
            return Card(card.title, total_gib, capability, card.speed, card.rent)
    return Card(device_name, total_gib, capability)


def _number(text: str) -> float | None:
    try:
        return float(text.lower().removesuffix("gib").removesuffix("gb"))
    except ValueError:
        return None
