"""A base model of any known shape with random weights, for timing."""

import torch
from torch import nn

from thinktune.errors import ConfigError
from thinktune.model.checkpoint_io import Precision
from thinktune.model.decoder import Decoder
from thinktune.model.projections import RMSNorm
from thinktune.model.shape import shape_from_config
from thinktune.workload import SHAPES


def random_decoder(shape: str, precision: Precision, device: torch.device) -> Decoder:
    """A decoder of one of the known shapes with random weights, made where they will be.

    Memory: the weights as they are held, and those of one product as they were before.

    Raises:
        ConfigError: there is no such shape.
    """
    if shape not in SHAPES:
        raise ConfigError(f"no shape {shape!r}; known: {', '.join(SHAPES)}")
    dtype, quantize = precision
    with torch.device("meta"):
        decoder = Decoder(shape_from_config(SHAPES[shape])).to(dtype)
    torch.manual_seed(0)
    kinds = decoder.kinds(quantize) if quantize else [None] * len(list(decoder.stacks))
    homes = zip(decoder.stacks, kinds, strict=True)
    stacks = {id(stack.members[-1]): (stack, kind) for stack, kind in homes}
    for module in decoder.modules():
        for name, weight in module.named_parameters(recurse=False):
            filled = torch.empty_like(weight, device=device)
            filled.fill_(1.0) if isinstance(module, RMSNorm) else filled.normal_(0, 0.02)
            setattr(module, name, nn.Parameter(filled, requires_grad=False))
        stack, kind = stacks.get(id(module), (None, None))
        if stack is not None and kind is None:
            stack.join()
        elif stack is not None and kind is not None:
            stack.hold(kind, dtype, decoder.buffer)
    if decoder.shape.tie_word_embeddings:
        decoder.lm_head.weight = decoder.model.embed_tokens.weight
    return decoder.eval()
