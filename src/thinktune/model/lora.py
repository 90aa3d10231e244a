"""LoRA: attach an adapter to a decoder, detach it, merge it into the base and take it out."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, field_validator
from torch import Tensor, nn

from thinktune.errors import ConfigError
from thinktune.model.base_weights import BaseLinear
from thinktune.model.decoder import Decoder
from thinktune.settings import Settings

ALL_LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""The seven projections of a layer."""


class LoRAConfig(Settings):
    """Which layers get an adapter, and how large it is."""

    rank: PositiveInt = 16
    """Inner dimension r of B @ A."""
    alpha: PositiveFloat = 16.0
    """Numerator of the scale the update is multiplied by."""
    dropout: NonNegativeFloat = Field(default=0.0, lt=1.0)
    """Share of the adapter's inputs set to zero while training."""
    target_modules: tuple[str, ...] = ALL_LINEAR
    """Layers that get an adapter, by the last parts of their name."""
    use_rslora: bool = False
    """Scale by alpha / sqrt(rank) instead of alpha / rank (arXiv:2312.03732)."""

    @field_validator("target_modules")
    @classmethod
    def _not_empty(cls, targets: tuple[str, ...]) -> tuple[str, ...]:
        if not targets:
            raise ValueError("no layer would get an adapter")
        return targets

    @property
    def scale(self) -> float:
        """Factor of the update."""
        return self.alpha / (math.sqrt(self.rank) if self.use_rslora else self.rank)


def adapted_layers(decoder: Decoder) -> dict[str, BaseLinear]:
    """Layers that carry an adapter, by full name, in the decoder's order."""
    return {
        name: module
        for name, module in decoder.named_modules()
        if isinstance(module, BaseLinear) and module.lora_A is not None
    }


def adapter_parameters(decoder: Decoder) -> dict[str, nn.Parameter]:
    """The trainable matrices, by full name (``...q_proj.lora_A``), in the decoder's order."""
    return {name: p for name, p in decoder.named_parameters() if p.requires_grad}


def match_targets(decoder: Decoder, target_modules: Sequence[str]) -> dict[str, BaseLinear]:
    """Linear layers whose name ends with one of ``target_modules``.

    Raises:
        ConfigError: a target matches no layer; the names that exist are listed.
    """
    layers = {n: m for n, m in decoder.named_modules() if isinstance(m, BaseLinear)}
    layers.pop("lm_head", None)
    matched: dict[str, BaseLinear] = {}
    for target in target_modules:
        hits = {n: m for n, m in layers.items() if n == target or n.endswith("." + target)}
        if not hits:
            known = sorted({name.rsplit(".", 1)[-1] for name in layers})
            raise ConfigError(
                f"lora.target_modules: {target!r} matches no layer; this model has "
                f"{', '.join(known)}"
            )
        matched |= hits
    return {name: layers[name] for name in layers if name in matched}


def attach(decoder: Decoder, config: LoRAConfig, *, seed: int) -> list[nn.Parameter]:
    """Give the target layers a fresh float32 adapter whose update is zero.

    A is uniform in +-1/sqrt(in) and B zero, as PEFT starts them. Each layer's A depends on
    the seed and the layer's place alone, so it is the same on every device.

    Args:
        decoder: the model to adapt.
        config: which layers, and how large.
        seed: of the initial values.

    Returns:
        The trainable matrices, A before B, layer by layer.

    Raises:
        ConfigError: a target matches no layer, or an adapter is attached already.
    """
    if adapted_layers(decoder):
        raise ConfigError("the model carries an adapter already; detach it first")
    generator = torch.Generator().manual_seed(seed)
    for layer in match_targets(decoder, config.target_modules).values():
        width_out, width_in = layer.weight.shape
        bound = 1 / math.sqrt(width_in)
        first = torch.empty(config.rank, width_in).uniform_(-bound, bound, generator=generator)
        place(layer, first, torch.zeros(width_out, config.rank), config)
    decoder.bind_adapter()
    return list(adapter_parameters(decoder).values())


def place(layer: BaseLinear, lora_A: Tensor, lora_B: Tensor, config: LoRAConfig) -> None:
    """Put the two matrices of one layer in place; `Decoder.bind_adapter` makes them work."""
    device = layer.device
    layer.lora_A = nn.Parameter(lora_A.to(device, torch.float32))
    layer.lora_B = nn.Parameter(lora_B.to(device, torch.float32))
    layer.scale, layer.dropout = config.scale, config.dropout


def detach(decoder: Decoder) -> None:
    """Remove the adapter; the base model is as it was before `attach`."""
    for layer in adapted_layers(decoder).values():
        layer.lora_A = layer.lora_B = None
        layer.scale = layer.dropout = 0.0
    decoder.bind_adapter()


@contextmanager
def base_only(decoder: Decoder) -> Iterator[None]:
    """Within the block the adapter's scale is 0: the same weights, without the adapter."""
    layers = adapted_layers(decoder).values()
    scales = [layer.scale for layer in layers]
    for layer in layers:
        layer.scale = 0.0
    try:
        yield
    finally:
        for layer, scale in zip(layers, scales, strict=True):
            layer.scale = scale


@dataclass(frozen=True, slots=True)
class Unmerged:
    """What one layer was before `merge`."""

    weight: nn.Parameter
    lora_A: nn.Parameter
    lora_B: nn.Parameter
    scale: float
    dropout: float
    sample: bytes | None
    """Of the weight as it was stored (`Decoder.samples`)."""


@torch.no_grad()
def merge(decoder: Decoder) -> dict[str, Unmerged]:
    """Add the adapter's update to the base weights, in float32 arithmetic, and detach it.

    Returns:
        The layers as they were, for `unmerge`; let go of them to free their memory.

    Raises:
        ConfigError: the base is quantised: to quantise the sum would lose most of the update.
    """
    if kinds := {stack.quantize for stack in decoder.stacks if stack.quantize is not None}:
        raise ConfigError(
            f"an adapter cannot be merged into a base held as {', '.join(kinds)}; load the base "
            "with base_dtype=bfloat16 or float32 to merge"
        )
    originals: dict[str, Unmerged] = {}
    for name, layer in adapted_layers(decoder).items():
        weight, first, second = layer.weight, layer.lora_A, layer.lora_B
        assert isinstance(weight, nn.Parameter)
        assert first is not None
        assert second is not None
        sample = decoder.samples.pop(f"{name}.weight", None)
        originals[name] = Unmerged(weight, first, second, layer.scale, layer.dropout, sample)
        update = (second @ first).mul_(layer.scale)
        layer.weight = nn.Parameter(update.add_(weight).to(weight.dtype), requires_grad=False)
    detach(decoder)
    decoder.join()
    return originals


def unmerge(decoder: Decoder, originals: dict[str, Unmerged]) -> None:
    """Put back, bit for bit, the base weights and the adapter that `merge` returned."""
    for name, was in originals.items():
        layer = decoder.get_submodule(name)
        assert isinstance(layer, BaseLinear)
        layer.weight, layer.lora_A, layer.lora_B = was.weight, was.lora_A, was.lora_B
        layer.scale, layer.dropout = was.scale, was.dropout
        if was.sample is not None:
            decoder.samples[f"{name}.weight"] = was.sample
    decoder.join()
    decoder.bind_adapter()
