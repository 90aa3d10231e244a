"""One token out of many: greedy or from the nucleus, by numbers drawn beforehand."""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def next_tokens(
    logits_BV: Float[Tensor, "B V"],
    draws_B: Float[Tensor, " B"],
    *,
    temperature: float,
    top_p: float,
) -> Int[Tensor, " B"]:
    """Choose each row's next token.

    Args:
        logits_BV: scores.
        draws_B: a uniform number in [0, 1) a row; the same number draws the same token.
        temperature: 0 for the likeliest token.
        top_p: nucleus (arXiv:1904.09751).
    """
    if temperature == 0:
        return logits_BV.argmax(-1)
    probabilities, order = torch.sort(
        (logits_BV.float() / temperature).softmax(-1), descending=True, stable=True
    )
    before = _running_sum(probabilities) - probabilities
    kept = _running_sum(probabilities.masked_fill(before >= top_p, 0))
    place = torch.searchsorted(kept, (draws_B * kept[:, -1])[:, None], right=True)
    last = (kept < kept[:, -1:]).sum(-1, keepdim=True)
    return order.gather(1, torch.minimum(place, last)).squeeze(1)


def _running_sum(x_BV: Tensor) -> Tensor:
    """In whole numbers, whose sum is the same in whatever order a device adds."""
    return (x_BV.double() * 2**52).long().cumsum(-1).double() / 2**52
