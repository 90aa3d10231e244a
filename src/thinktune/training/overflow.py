"""Where in the decoder a row's numbers stop being finite."""

import torch
from torch import Tensor, nn

from thinktune.data.loader import PackedRow
from thinktune.model.decoder import Decoder
from thinktune.model.kept import Kept
from thinktune.ops.attention import PackedAttention


@torch.no_grad()
def describe_overflow(decoder: Decoder, row: PackedRow) -> str:
    """Run a row once more, without dropout and gradients; what was found, and the way out.

    Takes the memory of a forward pass, and waits for every layer: for a run that is lost anyway.

    Returns:
        One clause on the first layer (counted from 0, as in the names of its weights) and part
        whose result is not finite, unless all are this time, and one on what to do.
    """
    found: list[str] = []

    def look(layer: nn.Module, _: object, result: tuple[Tensor, Kept]) -> None:
        out_TD, kept = result
        parts = {
            "the embedding": kept.x,
            f"layer {layer.index}'s attention": kept.mid,
            f"layer {layer.index}'s feed-forward": out_TD,
        }
        for name, x_TD in parts.items():
            if not found and x_TD is not None and not x_TD.isfinite().all():
                found.append(_told(name, x_TD, decoder.dtype))

    handles = [layer.register_forward_hook(look) for layer in decoder.model.layers]
    was_training = decoder.training
    decoder.eval()
    try:
        decoder(row.tokens_T, row.positions_T, PackedAttention(row.lengths, row.prefix_length))
    finally:
        decoder.train(was_training)
        for handle in handles:
            handle.remove()
    way_out = "look at these rows, or lower optimizer.learning_rate"
    if decoder.dtype == torch.float16:
        way_out = "use a card with bfloat16, base_dtype=float32, or leave the row out"
    return "; ".join([*found, way_out])


def _told(name: str, x_TD: Tensor, dtype: torch.dtype) -> str:
    if dtype != torch.float16:
        return f"{name} gives the first result that is not"
    largest = x_TD.abs().nan_to_num(0.0, posinf=0.0).amax().item()
    return f"{name} overflows float16 (largest finite value {largest:.2g})"
