"""One optimizer update. The arithmetic of training is all in this file."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from thinktune.data.loader import PackedRow
from thinktune.errors import TrainingError
from thinktune.model.decoder import Decoder, attend_within
from thinktune.ops.linear_cross_entropy import linear_cross_entropy


@dataclass(frozen=True, slots=True)
class Losses:
    """Mean negative log-likelihoods, in nats a target token."""

    loss: float
    """Weighted as the segments are; what is minimised."""
    loss_reasoning: float | None
    """Over reasoning tokens and think tags; None if none carried loss."""
    loss_answer: float | None
    """Over answer tokens and EOS; None if none carried loss."""
    num_targets: int
    """Tokens that carried loss."""


@dataclass(frozen=True, slots=True)
class StepMetrics:
    """What one update did."""

    losses: Losses
    grad_norm: float
    """L2 norm of all adapter gradients before clipping."""
    num_tokens: int
    """Tokens of the step; packed rows hold no padding."""


def _nll(decoder: Decoder, row: PackedRow) -> tuple[Tensor, Tensor]:
    hidden_TD = decoder(
        row.tokens_T, row.positions_T, attend_within(row.lengths, row.prefix_length)
    )
    return linear_cross_entropy(
        hidden_TD.index_select(0, row.predictors_C),
        decoder.lm_head.weight,
        row.targets_C,
        row.weights_C,
    )


def _summarise(rows: Sequence[PackedRow], nlls: Sequence[Tensor]) -> Losses:
    nll = torch.cat(list(nlls)).double()
    weights = torch.cat([row.weights_C for row in rows]).double()
    reasoning = torch.cat([row.is_reasoning_C for row in rows]).double()

    def mean(share: Tensor) -> float | None:
        return float((nll * share).sum() / share.sum()) if bool(share.any()) else None

    loss = mean(weights)
    if loss is None:
        raise TrainingError(
            f"no token carries loss in {_name(rows)}; check the rows with `thinktune data inspect`"
        )
    return Losses(loss, mean(reasoning), mean(1 - reasoning), len(nll))


def _name(rows: Sequence[PackedRow]) -> str:
    names = [name for row in rows for name in row.where]
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def _refuse_non_finite(rows: Sequence[PackedRow], nlls: Sequence[Tensor]) -> None:
    bad = []
    for row, nll_C in zip(rows, nlls, strict=True):
        ends = torch.tensor(row.lengths).cumsum(0) + row.prefix_length
        documents = torch.bucketize(row.predictors_C[~nll_C.isfinite()].cpu(), ends, right=True)
        bad += [row.where[document] for document in documents.unique().tolist()]
    if bad:
        raise TrainingError(
            f"the loss is not finite on {', '.join(bad[:8])}: nothing was updated; look at these "
            "rows, or lower optimizer.learning_rate"
        )


def train_step(
    decoder: Decoder,
    adapter: Sequence[nn.Parameter],
    optimizer: torch.optim.Optimizer,
    rows: Sequence[PackedRow],
    *,
    max_grad_norm: float,
) -> StepMetrics:
    """Accumulate gradients over ``rows``, one micro-batch each, then update the adapter once.

    Every target weighs the same however the examples were packed: the divisor is counted over
    the whole step before the first backward pass.

    Raises:
        TrainingError: loss or gradient is not finite (the rows are named), or nothing carries
            loss. The adapter and the optimizer are as they were.
    """
    total = sum(float(row.weights_C.sum(dtype=torch.float64)) for row in rows)
    nlls = []
    try:
        for row in rows:
            weighted_sum, nll_C = _nll(decoder, row)
            nlls.append(nll_C)
            if row.num_targets:
                (weighted_sum / total).backward()
        grad_norm = float(nn.utils.clip_grad_norm_(adapter, max_grad_norm))
        _refuse_non_finite(rows, nlls)
        losses = _summarise(rows, nlls)
        if not grad_norm < float("inf"):
            raise TrainingError(
                f"the gradient is not finite on {_name(rows)}: nothing was updated; lower "
                "optimizer.learning_rate"
            )
        optimizer.step()
    finally:
        optimizer.zero_grad(set_to_none=True)
    return StepMetrics(losses, grad_norm, sum(row.num_tokens for row in rows))


@torch.no_grad()
def heldout_loss(decoder: Decoder, rows: Sequence[PackedRow]) -> Losses:
    """Losses of rows that are not trained on; no logits of a whole sequence exist."""
    return _summarise(rows, [_nll(decoder, row)[1] for row in rows])
