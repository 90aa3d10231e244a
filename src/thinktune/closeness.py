"""How near a base model as it is held comes to its float32 weights: predictions and gradients."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import fmean
from typing import TypeVar

import torch
from torch import Tensor

from thinktune.data.loader import PackedRow
from thinktune.model.decoder import Decoder
from thinktune.model.lora import LoRAConfig, adapted_layers, adapter_parameters, attach, detach
from thinktune.ops.attention import PackedAttention
from thinktune.training.fitting import fit
from thinktune.training.optimizer import AdapterOptimizer, OptimizerConfig
from thinktune.training.step import train_step

_CHUNK_TOKENS = 128
"""Targets whose two distributions over the vocabulary exist in float64 at the same time."""
_B_DEVIATION = 0.02
"""Of B's random values: the update is then some percent of a projection's result."""
_SEED = 0
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class Nearness:
    """Of a gradient to the float32 base's."""

    error: float
    """Frobenius norm of the difference over that of the float32 gradient."""
    cosine: float


@dataclass(frozen=True, slots=True)
class Closeness:
    """Of a base to its float32 weights, before any training."""

    num_targets: int
    kl: float
    """KL(float32 || this), mean nats a target token."""
    nll_shift: float
    """Mean nats a target token that the targets are less likely than in float32."""
    top_1: float
    """Share of targets where both find the same token likeliest."""
    gradient: Nearness
    """Of a random adapter, mean over steps."""
    by_module: Mapping[str, Nearness]
    """The same for each kind of projection."""

    @property
    def worst_module(self) -> str:
        """The kind of projection whose gradient is farthest off."""
        return max(self.by_module, key=lambda name: self.by_module[name].error)


class _NoUpdate(AdapterOptimizer):
    """Leaves the weights, and so the step's gradient, as they are."""

    def step(self, closure: None = None) -> None:
        """Do nothing."""


class Yardstick:
    """What the float32 base predicts, and its gradients, to measure others against.

    Memory: on the host, the hidden state of every target and the adapter's gradient of every
    step, in float32; on the device, the float32 head.
    """

    def __init__(
        self, decoder: Decoder, steps: Sequence[Sequence[PackedRow]], lora: LoRAConfig
    ) -> None:
        """Run the float32 base over the rows of every step.

        Args:
            decoder: in float32, without an adapter; left without one.
            steps: packed rows of each step.
            lora: which projections get the adapter whose gradient is compared.
        """
        self._steps = steps
        self._lora = lora.model_copy(update={"dropout": 0.0})
        self._head_VD = decoder.lm_head.weight.detach()
        with true_float32():
            self._hidden = [_hidden(decoder, row).cpu() for rows in steps for row in rows]
            self._gradients = self._of_each_step(decoder, lambda _, g: g.to("cpu", copy=True))

    def measure(self, decoder: Decoder) -> Closeness:
        """Compare another form of the same base; it has no adapter, and is left without one."""
        rows = [row for rows in self._steps for row in rows]
        with true_float32():
            pairs = zip(rows, self._hidden, strict=True)
            sums = torch.stack([self._compare(decoder, row, hidden) for row, hidden in pairs])
            near = self._of_each_step(
                decoder, lambda n, g: _nearness(decoder, g, self._gradients[n].to(g.device))
            )
        num_targets = sum(row.num_targets for row in rows)
        kl, nll_shift, top_1 = (sums.sum(0) / num_targets).tolist()
        mean = {
            name: Nearness(
                fmean(step[name].error for step in near), fmean(step[name].cosine for step in near)
            )
            for name in near[0]
        }
        return Closeness(num_targets, kl, nll_shift, top_1, mean.pop(""), mean)

    @torch.no_grad()
    def _compare(self, decoder: Decoder, row: PackedRow, hidden_CD: Tensor) -> Tensor:
        """Sums over a row's targets: KL, rise of the NLL, and agreement on the likeliest."""
        device = decoder.device
        sums = torch.zeros(3, dtype=torch.float64, device=device)
        parts = (_hidden(decoder, row), hidden_CD.to(device), row.targets_C.to(device))
        for mine_CD, theirs_CD, targets_C in zip(
            *(part.split(_CHUNK_TOKENS) for part in parts), strict=True
        ):
            # Its own logits, in the type it makes them in: that is what it trains and answers by.
            mine = decoder.logits(mine_CD).double().log_softmax(-1)
            theirs = (theirs_CD @ self._head_VD.T).double().log_softmax(-1)
            rise = (theirs - mine).gather(1, targets_C[:, None])
            agreed = mine.argmax(-1) == theirs.argmax(-1)
            kl = (theirs.exp() * (theirs - mine)).sum()
            sums += torch.stack((kl, rise.sum(), agreed.sum().double()))
        return sums.cpu()

    def _of_each_step(
        self, decoder: Decoder, of: Callable[[int, Tensor], _Result]
    ) -> list[_Result]:
        """What ``of`` makes of each step's gradient, of the same random adapter on every base."""
        attach(decoder, self._lora, seed=_SEED)
        generator = torch.Generator().manual_seed(_SEED + 1)
        for layer in adapted_layers(decoder).values():
            assert layer.lora_B is not None
            values = torch.randn(layer.lora_B.shape, generator=generator) * _B_DEVIATION
            with torch.no_grad():
                layer.lora_B.copy_(values)
        assert decoder.adapter is not None
        longest = max(row.num_tokens for rows in self._steps for row in rows)
        fit(decoder, self._lora, longest, None)
        optimizer = _NoUpdate(decoder.adapter.weights, OptimizerConfig(), decoder.dtype)
        results = []
        for number, rows in enumerate(self._steps):
            there = [row.to(decoder.device) for row in rows]
            train_step(decoder, optimizer, there, max_grad_norm=float("inf")).read()
            results.append(of(number, decoder.adapter.gradient))
        detach(decoder)
        return results


@contextmanager
def true_float32() -> Iterator[None]:
    """Within the block no product of float32 matrices is rounded to TF32."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@torch.no_grad()
def _hidden(decoder: Decoder, row: PackedRow) -> Tensor:
    """The states (C, D) that predict a row's targets."""
    row = row.to(decoder.device)
    attend = PackedAttention(row.lengths, row.prefix_length)
    return decoder(row.tokens_T, row.positions_T, attend, row.predictors_C)


def _nearness(decoder: Decoder, mine: Tensor, theirs: Tensor) -> dict[str, Nearness]:
    """Of the gradients of each kind of projection, by its name, and of all as ``""``."""
    assert decoder.adapter is not None
    products: dict[str, Tensor] = defaultdict(lambda: torch.zeros(4, dtype=torch.float64))
    for name, parameter in adapter_parameters(decoder).items():
        a, b = (decoder.adapter.part(of, parameter).double() for of in (mine, theirs))
        sums = torch.stack([((a - b) ** 2).sum(), (a * b).sum(), (a * a).sum(), (b * b).sum()])
        for group in ("", name.split(".")[-2]):
            products[group] += sums.cpu()
    found = {}
    for group, sums in products.items():
        difference, dot, own, reference = sums.tolist()
        found[group] = Nearness(
            (difference / reference) ** 0.5, dot / max((own * reference) ** 0.5, 1e-300)
        )
    return found
