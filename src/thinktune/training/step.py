"""One optimizer update. The arithmetic of training is all in this file.

Nothing here waits for the device: a step is launched, and its numbers are read when they are
there. The update itself is guarded on the device, so that a loss or gradient that is not finite
changes nothing even though nobody has looked at it yet.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from thinktune.data.loader import PackedRow
from thinktune.errors import TrainingError
from thinktune.model.decoder import Decoder
from thinktune.ops.attention import PackedAttention
from thinktune.ops.linear_cross_entropy import linear_cross_entropy
from thinktune.training.optimizer import AdapterOptimizer


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


@dataclass(frozen=True, slots=True)
class LaunchedStep:
    """A step that the device may still be busy with."""

    rows: Sequence[PackedRow]
    nlls: Sequence[Tensor]
    sums: Tensor
    """nll weighted, of the reasoning, of the answer, and the gradient norm, on their way here."""
    arrived: torch.cuda.Event | None

    def read(self) -> StepMetrics:
        """Wait for the step and give its numbers.

        Raises:
            TrainingError: loss or gradient was not finite (the rows are named). The adapter
                and the optimizer are as they were before this step, whatever was launched since.
        """
        if self.arrived is not None:
            self.arrived.synchronize()
        weighted, reasoning, answer, grad_norm = self.sums.tolist()
        _refuse_non_finite(self.rows, self.nlls)
        if not grad_norm < float("inf"):
            raise TrainingError(
                f"the gradient is not finite on {_name(self.rows)}: nothing was updated; lower "
                "optimizer.learning_rate"
            )
        losses = _losses(self.rows, weighted, reasoning, answer)
        return StepMetrics(losses, grad_norm, sum(row.num_tokens for row in self.rows))


def target_nlls(decoder: Decoder, row: PackedRow) -> tuple[Tensor, Tensor]:
    """The row's weighted sum, and each target's negative log-likelihood (C), in nats."""
    attend = PackedAttention(row.lengths, row.prefix_length)
    hidden_CD = decoder(row.tokens_T, row.positions_T, attend, row.predictors_C)
    return linear_cross_entropy(hidden_CD, decoder.lm_head.weight, row.targets_C, row.weights_C)


def _sums(rows: Sequence[PackedRow], nlls: Sequence[Tensor]) -> Tensor:
    nll = torch.cat(list(nlls)).double()
    weighted = (nll * torch.cat([row.weights_C for row in rows])).sum()
    reasoning = (nll * torch.cat([row.is_reasoning_C for row in rows])).sum()
    return torch.stack((weighted, reasoning, nll.sum() - reasoning))


def _losses(rows: Sequence[PackedRow], weighted: float, reasoning: float, answer: float) -> Losses:
    total = sum(row.total_weight for row in rows)
    if not total:
        raise _nothing_to_learn(rows)
    num_targets = sum(row.num_targets for row in rows)
    num_reasoning = sum(row.total_reasoning for row in rows)
    num_answer = num_targets - num_reasoning
    return Losses(
        weighted / total,
        reasoning / num_reasoning if num_reasoning else None,
        answer / num_answer if num_answer else None,
        num_targets,
    )


def _nothing_to_learn(rows: Sequence[PackedRow]) -> TrainingError:
    return TrainingError(
        f"no token carries loss in {_name(rows)}; check the rows with `thinktune data inspect`"
    )


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
    optimizer: AdapterOptimizer,
    rows: Sequence[PackedRow],
    *,
    max_grad_norm: float,
) -> LaunchedStep:
    """Accumulate gradients over ``rows``, one micro-batch each, then update the adapter once.

    Every target weighs the same however the examples were packed: the divisor is counted over
    the whole step before the first backward pass.

    Raises:
        TrainingError: no adapter is attached, or nothing carries loss. Nothing has changed.
    """
    adapter = decoder.adapter
    if adapter is None:
        raise TrainingError("no adapter is attached: there is nothing to train")
    total = sum(row.total_weight for row in rows)
    if not total:
        raise _nothing_to_learn(rows)
    adapter.gradient.zero_()
    nlls = []
    for row in rows:
        weighted_sum, nll_C = target_nlls(decoder, row)
        nlls.append(nll_C)
        if row.num_targets:
            (weighted_sum / total).backward()
    adapter.scale_gradient()
    grad_norm = torch.linalg.vector_norm(adapter.gradient)
    sums = torch.cat((_sums(rows, nlls), grad_norm.double()[None]))
    optimizer.look(sums)
    adapter.gradient.mul_((max_grad_norm / (grad_norm + 1e-6)).clamp(max=1.0))
    optimizer.step()
    return LaunchedStep(rows, nlls, *_send_home(sums))


def _send_home(sums: Tensor) -> tuple[Tensor, torch.cuda.Event | None]:
    if not sums.is_cuda:
        return sums, None
    home = torch.empty(sums.shape, dtype=sums.dtype, pin_memory=True)
    home.copy_(sums, non_blocking=True)
    arrived = torch.cuda.Event()
    arrived.record()
    return home, arrived


@torch.no_grad()
def heldout_loss(decoder: Decoder, rows: Sequence[PackedRow]) -> Losses:
    """Losses of rows that are not trained on; no logits of a whole sequence exist.

    Raises:
        TrainingError: a loss is not finite (the rows are named), or nothing carries loss.
    """
    nlls = [target_nlls(decoder, row)[1] for row in rows]
    _refuse_non_finite(rows, nlls)
    return _losses(rows, *_sums(rows, nlls).tolist())
