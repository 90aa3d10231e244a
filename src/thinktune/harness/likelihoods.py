"""How likely given texts are: continuations scored by the decoder, many to a packed row."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from thinktune.data.packing import PackingConfig, plan_rows
from thinktune.errors import DataError
from thinktune.model.decoder import Decoder
from thinktune.ops.attention import PackedAttention
from thinktune.ops.linear_cross_entropy import chunk_of

Pair = tuple[Sequence[int], Sequence[int]]
"""Tokens of a context, and of the continuation that is scored after it."""
Score = tuple[float, bool]
"""Summed log-probability of a continuation in nats, and whether greedy decoding gives it."""


@torch.inference_mode()
def log_likelihoods(
    decoder: Decoder, pairs: Sequence[Pair], on_done: Callable[[int], object] | None = None
) -> list[Score]:
    """Score continuations.

    What does not fit the model's context is cut from the left. Pairs that give the model the same
    tokens, such as the letters of a multiple-choice question, are computed once. Memory beyond
    the forward pass of a packed row: the logits of one chunk of scored tokens, in float32.

    Args:
        decoder: the model, with or without an adapter.
        pairs: neither side may be empty.
        on_done: called with the number of pairs that are done.

    Raises:
        DataError: a side is empty, or a continuation alone is longer than the context.
    """
    context = decoder.shape.max_position_embeddings
    served: dict[tuple[int, ...], list[int]] = {}
    for index, (before, after) in enumerate(pairs):
        if not before or not 0 < len(after) <= context:
            raise DataError(
                f"request {index}: {len(before)} tokens of context and {len(after)} to score; both "
                f"need one, and no more than {context} can be scored"
            )
        served.setdefault((*before, *after)[-(context + 1) :][:-1], []).append(index)
    documents = list(served.items())
    lengths = [len(tokens) for tokens, _ in documents]
    scores: dict[int, Score] = {}
    was_training = decoder.training
    decoder.eval()
    try:
        for row in plan_rows(lengths, max([PackingConfig().max_tokens, *lengths])):
            scores |= _score_row(decoder, pairs, [documents[place] for place in row])
            if on_done:
                on_done(len(scores))
    finally:
        decoder.train(was_training)
    return [scores[index] for index in range(len(pairs))]


def _score_row(
    decoder: Decoder, pairs: Sequence[Pair], row: Sequence[tuple[tuple[int, ...], list[int]]]
) -> dict[int, Score]:
    """Score the pairs of one packed row; each document comes with the pairs it serves."""
    device = decoder.device
    lengths = [len(tokens) for tokens, _ in row]
    ends = torch.tensor(lengths).cumsum(0).tolist()
    order = [(pair, end) for (_, served), end in zip(row, ends, strict=True) for pair in served]
    counts = [len(pairs[pair][1]) for pair, _ in order]
    wanted = [torch.arange(end - n, end) for (_, end), n in zip(order, counts, strict=True)]
    hidden_CD = decoder(
        torch.tensor([token for tokens, _ in row for token in tokens], device=device),
        torch.cat([torch.arange(length) for length in lengths]).to(device),
        PackedAttention(lengths),
        torch.cat(wanted).to(device),
    )
    targets_C = torch.tensor([t for pair, _ in order for t in pairs[pair][1]], device=device)
    found: list[Tensor] = []
    chunk = chunk_of(decoder.shape.vocab_size, torch.float32, device)
    for hidden, targets in zip(hidden_CD.split(chunk), targets_C.split(chunk), strict=True):
        logits = decoder.logits(hidden).float()
        log_probability = logits.log_softmax(-1).gather(1, targets[:, None]).squeeze(1)
        is_likeliest = logits.argmax(-1) == targets
        found.append(torch.stack((log_probability.double(), is_likeliest.double())))
    parts = torch.cat(found, 1).cpu().split(counts, dim=1)
    return {
        pair: (float(part[0].sum()), bool(part[1].all()))
        for (pair, _), part in zip(order, parts, strict=True)
    }
