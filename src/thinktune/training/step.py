"""One optimizer update. The arithmetic of training is all in this file.

Nothing here waits for the device: a step is launched, and its numbers are read when they are
there. The update itself is guarded on the device, so that a loss or gradient that is not finite,
or stands out too far, changes nothing even though nobody has looked at it yet. In float16 the loss
is scaled before it is differentiated and the gradient scaled back, by powers of two (`LossScale`).
"""

import math
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
from thinktune.training.overflow import describe_overflow
from thinktune.training.quarantine import Response, SpoiledStepError, Trouble, told_rows
from thinktune.training.schedule import OnSpike


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
    """Steps of the run that changed nothing, so far: the gradient overflowed float16, or there was
    a spike that was to be skipped; None if neither can be."""
    times_usual: float = 0.0
    """How many times the usual the loss or the gradient's norm was, if that is a spike; else 0."""
    trouble: Trouble | None = None
    """Whatever is to be said about the step's rows."""


@dataclass(frozen=True, slots=True)
class LaunchedStep:
    """A step that the device may still be busy with."""

    decoder: Decoder
    optimizer: AdapterOptimizer
    rows: Sequence[PackedRow]
    nlls: Sequence[Tensor]
    sums: Tensor
    """Loss, nll of the reasoning and of the answer, the gradient's norm, and what the optimizer
    made of it (`AdapterOptimizer.look`), on their way here."""
    arrived: torch.cuda.Event | None

    def read(self) -> StepMetrics:
        """Wait for the step and give its numbers.

        Raises:
            SpoiledStepError: the loss was not finite (rows and layer are named), or the gradient
                was not and no smaller loss scale is left, or it was zero, or there was a spike
                that is to stop the run. The adapter and the optimizer are as they were before
                this step, whatever was launched since.
        """
        if self.arrived is not None:
            self.arrived.synchronize()
        loss, reasoning, answer, grad_norm, scale, skipped, *times = self.sums.tolist()
        _refuse_non_finite(self.decoder, self.rows, self.nlls, loss, grad_norm)
        losses = _losses(self.rows, loss, reasoning, answer)
        if grad_norm == 0 or not (math.isfinite(grad_norm) or scale > 1):
            self._refuse(loss, grad_norm)
        scaled, spikes = self.optimizer.loss_scale is not None, self.optimizer.spikes
        skips = scaled or (spikes is not None and spikes.on_spike is OnSpike.SKIP)
        return StepMetrics(
            losses,
            grad_norm,
            sum(row.num_tokens for row in self.rows),
            scale if scaled else None,
            int(skipped) if skips else None,
            max(times),
            self._spike(loss, grad_norm, times) if max(times) else None,
        )

    def _refuse(self, loss: float, grad_norm: float) -> None:
        """End over a gradient from which nothing can be learned."""
        half = self.optimizer.loss_scale is not None
        if grad_norm == 0:
            what, detail = "the gradient is exactly zero", _ZERO_HALF if half else _ZERO
        elif half:
            what, detail = "the gradient overflows float16", _OVERFLOWS
        else:
            what, detail = "the gradient is not finite", "lower optimizer.learning_rate"
        rows = _by_loss(self.rows, self.nlls)
        raise SpoiledStepError(Trouble(what, rows, Response.STOPPED, loss, grad_norm, detail))

    def _spike(self, loss: float, grad_norm: float, times: Sequence[float]) -> Trouble:
        assert self.optimizer.spikes is not None
        response = _RESPONSES[self.optimizer.spikes.on_spike]
        of_loss, of_gradient = times
        told = [
            f"the {name} is {value:.3g}, {high:.3g} times the usual"
            for name, value, high in (
                ("loss", loss, of_loss),
                ("gradient's norm", grad_norm, of_gradient),
            )
            if high
        ]
        detail = _LOOK if response is Response.STOPPED else ""
        rows = _by_loss(self.rows, self.nlls)
        trouble = Trouble(" and ".join(told), rows, response, loss, grad_norm, detail)
        if response is Response.STOPPED:
            raise SpoiledStepError(trouble)
        return trouble


_RESPONSES = {
    OnSpike.WARN: Response.WARNED,
    OnSpike.SKIP: Response.SKIPPED,
    OnSpike.STOP: Response.STOPPED,
}
_LOOK = "look at these rows, lower optimizer.learning_rate, or set training.on_spike=skip"
_ZERO = (
    "A and B are both zero, or dropout left nothing: start from a fresh adapter, or lower "
    "lora.dropout"
)
_ZERO_HALF = (
    f"it is too small for float16: use a card with bfloat16, or base_dtype=float32; or {_ZERO}"
)
_OVERFLOWS = (
    "even of a loss that is not scaled it does: use a card with bfloat16, base_dtype=float32, or a "
    "lower optimizer.learning_rate"
)


def target_nlls(decoder: Decoder, row: PackedRow) -> tuple[Tensor, Tensor]:
    """The row's weighted sum, and each target's negative log-likelihood (C), in nats."""
    attend = PackedAttention(row.lengths, row.prefix_length)
    hidden_CD = decoder(row.tokens_T, row.positions_T, attend, row.predictors_C)
    return linear_cross_entropy(hidden_CD, decoder.lm_head.weight, row.targets_C, row.weights_C)


def _sums(rows: Sequence[PackedRow], nlls: Sequence[Tensor], total: float) -> Tensor:
    nll = torch.cat(list(nlls)).double()
    weighted = (nll * torch.cat([row.weights_C for row in rows])).sum() / total
    reasoning = (nll * torch.cat([row.is_reasoning_C for row in rows])).sum()
    return torch.stack((weighted, reasoning, nll.sum() - reasoning))


def _losses(rows: Sequence[PackedRow], loss: float, reasoning: float, answer: float) -> Losses:
    num_targets = sum(row.num_targets for row in rows)
    num_reasoning = sum(row.total_reasoning for row in rows)
    num_answer = num_targets - num_reasoning
    return Losses(
        loss,
        reasoning / num_reasoning if num_reasoning else None,
        answer / num_answer if num_answer else None,
        num_targets,
    )


def _total_weight(rows: Sequence[PackedRow]) -> float:
    total = sum(row.total_weight for row in rows)
    if not total:
        raise nothing_to_learn([name for row in rows for name in row.where])
    return total


def nothing_to_learn(names: Sequence[str]) -> TrainingError:
    """What to raise where no token of these rows carries loss."""
    return TrainingError(
        f"no token carries loss in {told_rows(names)}; check the rows with `thinktune data "
        "inspect`, and reasoning.loss_weight and answer.loss_weight"
    )


def _of_documents(row: PackedRow, chosen_C: Tensor) -> Tensor:
    """Which document of the row each chosen target is in."""
    ends = torch.tensor(row.lengths).cumsum(0) + row.prefix_length
    return torch.bucketize(row.predictors_C[chosen_C].cpu(), ends, right=True)


def _by_loss(rows: Sequence[PackedRow], nlls: Sequence[Tensor]) -> tuple[str, ...]:
    """Names of the documents, that with the highest mean loss first; waits for the device."""
    found: list[tuple[float, str]] = []
    for row, nll_C in zip(rows, nlls, strict=True):
        document_C = _of_documents(row, torch.ones_like(nll_C, dtype=torch.bool))
        sums = torch.zeros(len(row.lengths), dtype=torch.float64)
        sums.index_add_(0, document_C, nll_C.detach().cpu().double())
        means = sums / document_C.bincount(minlength=len(row.lengths)).clamp_min(1)
        found += zip(means.tolist(), row.where, strict=True)
    return tuple(name for _, name in sorted(found, key=lambda pair: pair[0], reverse=True))


def _refuse_non_finite(
    decoder: Decoder,
    rows: Sequence[PackedRow],
    nlls: Sequence[Tensor],
    loss: float,
    grad_norm: float | None = None,
) -> None:
    bad, first = [], None
    for row, nll_C in zip(rows, nlls, strict=True):
        bad += [row.where[n] for n in _of_documents(row, ~nll_C.isfinite()).unique().tolist()]
        first = row if bad and first is None else first
    if first is not None:
        detail = describe_overflow(decoder, first)
        raise SpoiledStepError(
            Trouble("the loss is not finite", tuple(bad), Response.STOPPED, loss, grad_norm, detail)
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
    total = _total_weight(rows)
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
    sums = torch.cat((_sums(rows, nlls, total), grad_norm.double()[None]))
    sums = torch.cat((sums, optimizer.look(sums)))
    adapter.gradient.mul_((max_grad_norm / (grad_norm + 1e-6)).clamp(max=1.0))
    optimizer.step()
    return LaunchedStep(decoder, optimizer, rows, nlls, *_send_home(sums))


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
        SpoiledStepError: a loss is not finite (the rows are named).
        TrainingError: nothing carries loss.
    """
    total = _total_weight(rows)
    nlls = [target_nlls(decoder, row)[1] for row in rows]
    sums = _sums(rows, nlls, total).tolist()
    _refuse_non_finite(decoder, rows, nlls, sums[0])
    return _losses(rows, *sums)
