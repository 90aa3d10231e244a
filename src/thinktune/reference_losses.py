"""How likely a model finds the reference texts, and how much the reasoning helps the answer."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from thinktune.data.example import Example
from thinktune.data.loader import ANSWER_SEGMENTS, REASONING_SEGMENTS, PackedRow, pack
from thinktune.data.segments import Rendered, Segment
from thinktune.evaluation.samples import ReferenceLosses
from thinktune.evaluation.tasks import Problem
from thinktune.loading import Model
from thinktune.tracking import Watcher, watched
from thinktune.training.step import target_nlls

_MAX_TOKENS = 8192
_EVERY: dict[Segment, float] = dict.fromkeys((*REASONING_SEGMENTS, *ANSWER_SEGMENTS), 1.0)
_Pair = tuple[float | None, float | None]
_ANSWER: dict[Segment, float] = dict.fromkeys(ANSWER_SEGMENTS, 1.0)


def reference_losses(
    model: Model, problems: Sequence[Problem], watcher: Watcher
) -> list[ReferenceLosses | None]:
    """Take the losses of each problem's reference reasoning and answer.

    The answer's loss is taken again with the reasoning cut out, and with that of the next problem
    that has another answer: a model whose answer rests on its reasoning must find both harder
    (after arXiv:2307.13702, which cuts and corrupts a model's own reasoning).

    Returns:
        One for each problem; None where it has no reference texts, or they do not fit the context.
    """
    rows = {place: row for place, p in enumerate(problems) if (row := _render(model, p))}
    swapped: dict[int, Rendered] = {}
    for place in rows:
        if (other := _other(problems, place, rows)) is not None:
            swapped[place] = _with_reasoning(rows[place], _reasoning(rows[other]))
    cut = {place: _with_reasoning(row, ()) for place, row in rows.items()}
    measured = ((rows, _EVERY), (cut, _ANSWER), (swapped, _ANSWER))
    packed = [(n, row) for n, of in enumerate(measured) for row in _pack(model, *of)]
    found: list[dict[int, _Pair]] = [dict.fromkeys(some, (None, None)) for some, _ in measured]
    if packed:
        title = "Losses of the reference answers"
        for number, row in watched(packed, watcher, title, len(packed)):
            found[number] |= _losses(model, row)
    whole, of_cut, of_swapped = found
    return [
        ReferenceLosses(
            reasoning=whole[place][0],
            answer=whole[place][1],
            answer_cut=of_cut[place][1],
            answer_swapped=of_swapped[place][1] if place in of_swapped else None,
        )
        if place in rows
        else None
        for place in range(len(problems))
    ]


def _render(model: Model, problem: Problem) -> Rendered | None:
    if not (problem.reasoning and problem.answer):
        return None
    row = model.template.render(
        Example(
            question=problem.question,
            reasoning=problem.reasoning,
            answer=problem.answer,
            system=problem.system,
            history=problem.history,
        )
    )
    return row if len(row.tokens) <= model.context else None


def _other(problems: Sequence[Problem], place: int, rows: dict[int, Rendered]) -> int | None:
    """The next problem, round the end, whose right answer is another."""
    right = problems[place].reference or problems[place].answer
    for step in range(1, len(problems)):
        other = (place + step) % len(problems)
        if other in rows and (problems[other].reference or problems[other].answer) != right:
            return other
    return None


def _reasoning(row: Rendered) -> tuple[int, ...]:
    pairs = zip(row.tokens, row.segments, strict=True)
    return tuple(token for token, segment in pairs if segment is Segment.REASONING)


def _with_reasoning(row: Rendered, reasoning: Sequence[int]) -> Rendered:
    """The same row with other reasoning tokens between its tags."""
    first = row.segments.index(Segment.REASONING)
    last = first + row.segments.count(Segment.REASONING)
    return replace(
        row,
        tokens=(*row.tokens[:first], *reasoning, *row.tokens[last:]),
        segments=(
            *row.segments[:first],
            *[Segment.REASONING] * len(reasoning),
            *row.segments[last:],
        ),
    )


def _pack(
    model: Model, rows: dict[int, Rendered], weights: dict[Segment, float]
) -> list[PackedRow]:
    """Those of the rows that fit the context; each document is named by its place."""
    fitting = {place: row for place, row in rows.items() if len(row.tokens) <= model.context}
    named = [replace(row, where=str(place)) for place, row in fitting.items()]
    longest = max((len(row.tokens) for row in named), default=0)
    return pack(named, weights, max(longest, _MAX_TOKENS)) if named else []


@torch.inference_mode()
def _losses(model: Model, packed: PackedRow) -> dict[int, _Pair]:
    """Mean nats a target token of each document's reasoning and answer."""
    was_training = model.decoder.training
    model.decoder.eval()
    nll_C = target_nlls(model.decoder, packed.to(model.decoder.device))[1].double().cpu()
    model.decoder.train(was_training)
    ends = torch.tensor(packed.lengths).cumsum(0)
    document_C = torch.bucketize(packed.predictors_C, ends, right=True)
    is_reasoning_C = packed.is_reasoning_C.bool()
    found = {}
    for document, place in enumerate(packed.where):
        mine_C = document_C == document
        parts = [nll_C[mine_C & of] for of in (is_reasoning_C, ~is_reasoning_C)]
        reasoning, answer = (float(x.mean()) if len(x) else None for x in parts)
        found[int(place)] = (reasoning, answer)
    return found
