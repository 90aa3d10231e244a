"""One optimizer update. The arithmetic of training is all in this file.

Nothing here waits for the device: a step is launched, and its numbers are read when they are
there. The update itself is guarded on the device, so that a loss or gradient that is not finite
changes nothing even though nobody has looked at it yet. In float16 the loss is scaled before it
is differentiated and the gradient scaled back, by powers of two (`LossScale`).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from thinktune.data.loader import PackedRow
from thinktune.errors import TrainingError
from thinktune.model.decoder import Decoder
from thinktune.ops.attention import PackedAttention
from thinktune.ops.linear_cross_entropy import linear_cross_entropy
from thinktune.training.optimizer import AdapterOptimizer
from thinktune.training.overflow import describe_overflow


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
    """L2 norm of all adapter gradients before clipping; not finite if the step was skipped."""
    num_tokens: int
    """Tokens of the step; packed rows hold no padding."""
    loss_scale: float | None = None
    """What the loss was multiplied by; None: nothing, because this is not float16."""
    skipped_steps: int | None = None
    """Steps of the run whose gradient overflowed float16 and that changed nothing, so far."""


@dataclass(frozen=True, slots=True)
class LaunchedStep:
    """A step that the device may still be busy with."""

    decoder: Decoder
    rows: Sequence[PackedRow]
    nlls: Sequence[Tensor]
    sums: Tensor
    """nll weighted, of the reasoning, of the answer, and the gradient norm, on their way here; in
    float16 the loss scale, and the steps skipped before this one, too."""
    arrived: torch.cuda.Event | None

    def read(self) -> StepMetrics:
        """Wait for the step and give its numbers.

        Raises:
            TrainingError: the loss was not finite (rows and layer are named), or the gradient
                was not and no smaller loss scale is left. The adapter and the optimizer are as
                they were before this step, whatever was launched since.
        """
        if self.arrived is not None:
            self.arrived.synchronize()
        weighted, reasoning, answer, grad_norm, *scaling = self.sums.tolist()
        _refuse_non_finite(self.decoder, self.rows, self.nlls)
        losses = _losses(self.rows, weighted, reasoning, answer)
        metrics = StepMetrics(losses, grad_norm, sum(row.num_tokens for row in self.rows))
        if scaling:
            skipped = scaling[1] + (not math.isfinite(grad_norm))
            metrics = replace(metrics, loss_scale=scaling[0], skipped_steps=int(skipped))
        _refuse_lost_gradient(self.rows, metrics)
        return metrics


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


def _refuse_lost_gradient(rows: Sequence[PackedRow], metrics: StepMetrics) -> None:
    if math.isfinite(metrics.grad_norm):
        return
    if metrics.loss_scale is None:
        raise TrainingError(
            f"the gradient is not finite on {_name(rows)}: nothing was updated; lower "
            "optimizer.learning_rate"
        )
    if metrics.loss_scale <= 1:
        raise TrainingError(
            f"the gradient overflows float16 on {_name(rows)}, even of a loss that is not scaled: "
            "use a card with bfloat16, base_dtype=float32, or a lower optimizer.learning_rate"
        )


def _refuse_non_finite(decoder: Decoder, rows: Sequence[PackedRow], nlls: Sequence[Tensor]) -> None:
    bad, first = [], None
    for row, nll_C in zip(rows, nlls, strict=True):
        ends = torch.tensor(row.lengths).cumsum(0) + row.prefix_length
        documents = torch.bucketize(row.predictors_C[~nll_C.isfinite()].cpu(), ends, right=True)
        bad += [row.where[document] for document in documents.unique().tolist()]
        first = row if bad and first is None else first
    if first is not None:
        raise TrainingError(
            f"the loss is not finite on {', '.join(bad[:8])}: nothing was updated; "
            f"{describe_overflow(decoder, first)}"
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
    nlls, scale = [], optimizer.loss_scale
    for row in rows:
        weighted_sum, nll_C = target_nlls(decoder, row)
        nlls.append(nll_C)
        if row.num_targets:
            loss = weighted_sum / total
            (loss if scale is None else loss * scale.value).backward()
    adapter.scale_gradient()
    if scale is not None:
        adapter.gradient.div_(scale.value)
    grad_norm = torch.linalg.vector_norm(adapter.gradient)
    sums = torch.cat((_sums(rows, nlls), grad_norm.double()[None]))
    optimizer.look(sums)
    if scale is not None:
        sums = torch.cat((sums, torch.stack((scale.value, scale.skipped)).double()))
    adapter.gradient.mul_((max_grad_norm / (grad_norm + 1e-6)).clamp(max=1.0))
    optimizer.step()
    return LaunchedStep(decoder, rows, nlls, *_send_home(sums))


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
    _refuse_non_finite(decoder, rows, nlls)
    return _losses(rows, *_sums(rows, nlls).tolist())
