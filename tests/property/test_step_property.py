"""What a step computes does not depend on how its examples are packed, split or ordered."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from tests.plain_decoder import plain_logits
from tests.tiny_models import KeepGradients, attach_trained, relative_error, tiny_decoder
from thinktune.data.loader import PackedRow, SegmentConfig, pack, pack_row, segment_weights
from thinktune.data.packing import MIN_SHARED_TOKENS
from thinktune.data.segments import Rendered, Segment
from thinktune.errors import TrainingError
from thinktune.model.decoder import Decoder
from thinktune.model.lora import LoRAConfig, adapter_parameters
from thinktune.training.optimizer import AdapterOptimizer, OptimizerConfig
from thinktune.training.step import Losses, StepMetrics, heldout_loss, train_step

# Relative errors in float64.
TOLERANCE = {
    "gradient": 1e-12,  # measured 3.2e-15
    "loss": 1e-12,  # measured 2.2e-16
}
few = settings(max_examples=8, deadline=None)
more = settings(max_examples=25, deadline=None)
WEIGHTS = segment_weights(SegmentConfig(loss_weight=0.5), SegmentConfig(loss_weight=1.0))


@st.composite
def parts(draw: st.DrawFn) -> tuple:
    """A document of any proportions, whose prompt may or may not open the reasoning.

    Not yet a `Rendered`: its checked types draw random numbers, which hypothesis forbids here.
    """
    prompt, reasoning, answer = (draw(st.integers(low, 6)) for low in (1, 0, 0))
    segments = [Segment.PROMPT] * prompt + [Segment.THINK_OPEN]
    segments += [Segment.REASONING] * reasoning + [Segment.THINK_CLOSE]
    segments += [Segment.ANSWER] * answer + [Segment.EOS]
    start, step = draw(st.integers(0, 400)), draw(st.sampled_from([0, 1, 7, 131]))
    tokens = tuple((start + place * step) % 401 for place in range(len(segments)))
    return tokens, tuple(segments), prompt + draw(st.booleans()), f"row {start}"


EXAMPLES = st.lists(parts(), min_size=1, max_size=5)


def _decoder() -> tuple[Decoder, list[nn.Parameter]]:
    decoder = tiny_decoder("qwen3", torch.float64)
    lora = LoRAConfig(rank=2, target_modules=("q_proj", "v_proj", "down_proj"))
    return decoder, attach_trained(decoder, lora)


DECODER, ADAPTER = _decoder()


def _step(rows: list[PackedRow]) -> tuple[StepMetrics, Tensor]:
    optimizer = KeepGradients(DECODER)
    metrics = train_step(DECODER, optimizer, rows, max_grad_norm=float("inf")).read()
    return metrics, torch.cat([gradient.flatten() for gradient in optimizer.kept.values()])


def _plain(examples: list[Rendered], weights: dict[Segment, float]) -> tuple[float, Tensor]:
    """Weighted mean over the targets and its gradient, one document at a time, by autograd."""
    total, count = torch.zeros((), dtype=torch.float64), 0.0
    for example in examples:
        tokens = torch.tensor(example.tokens)
        logits = plain_logits(DECODER, [tokens])
        for place in range(example.prompt_length, len(tokens)):
            weight = weights.get(example.segments[place], 0.0)
            total = total + weight * F.cross_entropy(logits[place - 1], tokens[place])
            count += weight
    grads = torch.autograd.grad(total / count, ADAPTER)
    return total.detach().item() / count, torch.cat([grad.flatten() for grad in grads])


def _assert_same(ours: tuple[StepMetrics, Tensor], loss: float, gradient: Tensor) -> None:
    assert relative_error(ours[1], gradient) <= TOLERANCE["gradient"]
    assert abs(ours[0].losses.loss / loss - 1) <= TOLERANCE["loss"]
    assert ours[0].grad_norm == pytest.approx(gradient.norm().item(), rel=TOLERANCE["gradient"])


@given(EXAMPLES, st.integers(0, 80))
@few
def test_the_gradient_does_not_depend_on_the_length_of_a_row(examples, extra):
    examples = [Rendered(*example) for example in examples]
    longest = max(len(example.tokens) for example in examples)
    rows = pack(examples, WEIGHTS, longest + extra)
    loss, gradient = _plain(examples, WEIGHTS)
    _assert_same(_step(rows), loss, gradient)
    assert sum(row.num_tokens for row in rows) == sum(len(e.tokens) for e in examples)


@given(EXAMPLES, st.randoms(use_true_random=False))
@few
def test_the_gradient_does_not_depend_on_the_order_of_the_examples(examples, random):
    examples = [Rendered(*example) for example in examples]
    metrics, gradient = _step([pack_row(examples, WEIGHTS)])
    shuffled = list(examples)
    random.shuffle(shuffled)
    _assert_same(_step([pack_row(shuffled, WEIGHTS)]), metrics.losses.loss, gradient)
    _assert_same(_step([pack_row([e], WEIGHTS) for e in shuffled]), metrics.losses.loss, gradient)


@given(EXAMPLES, st.integers(1, 40))
@few
def test_a_prefix_held_once_gives_the_gradient_of_a_prefix_in_each_document(examples, num):
    prefix = tuple(range(1, num + 1))
    examples = [
        Rendered(prefix + tokens, (Segment.PROMPT,) * num + segments, num + prompt, where)
        for tokens, segments, prompt, where in examples
    ]
    row = pack_row(examples, WEIGHTS, share_prefix=True)
    if row.prefix_length:
        assert row.prefix_length >= min(num, min(e.prompt_length for e in examples) - 1)
        assert len(row.tokens_T) < row.num_tokens
    else:
        assert len(examples) == 1 or num <= MIN_SHARED_TOKENS
    assert row.num_tokens == sum(len(e.tokens) for e in examples)
    _assert_same(_step([row]), *_plain(examples, WEIGHTS))


@given(EXAMPLES)
@few
def test_a_reasoning_weight_of_zero_leaves_the_gradient_of_the_answer_alone(examples):
    examples = [Rendered(*example) for example in examples]
    weights = segment_weights(SegmentConfig(loss_weight=0.0), SegmentConfig())
    answer_alone = {Segment.ANSWER: 1.0, Segment.EOS: 1.0}
    ours = _step(pack(examples, weights, 200))
    _assert_same(ours, *_plain(examples, answer_alone))
    assert ours[0].losses.loss_reasoning is None
    assert ours[0].losses.loss_answer == pytest.approx(ours[0].losses.loss)


@given(EXAMPLES, st.floats(0.01, 50))
@few
def test_scaling_every_weight_changes_nothing(examples, factor):
    examples = [Rendered(*example) for example in examples]
    metrics, gradient = _step(pack(examples, WEIGHTS, 200))
    scaled = {segment: float(weight * factor) for segment, weight in WEIGHTS.items()}
    again, other = _step(pack(examples, scaled, 200))
    # Weights travel in float32, so a factor costs their rounding.
    assert relative_error(other, gradient) <= 1e-6
    assert again.losses.loss == pytest.approx(metrics.losses.loss, rel=1e-6)


@given(EXAMPLES)
@few
def test_the_parts_of_the_loss_add_up_to_the_whole(examples):
    examples = [Rendered(*example) for example in examples]
    losses = heldout_loss(DECODER, pack(examples, segment_weights(*[SegmentConfig()] * 2), 60))
    opened = [e.segments[e.prompt_length :] for e in examples]
    answer = sum(s in (Segment.ANSWER, Segment.EOS) for segments in opened for s in segments)
    reasoning = sum(map(len, opened)) - answer
    assert losses.num_targets == reasoning + answer
    assert losses.loss_reasoning is not None
    assert losses.loss_answer is not None
    parts = losses.loss_reasoning * reasoning + losses.loss_answer * answer
    assert losses.loss == pytest.approx(parts / (reasoning + answer))


@given(EXAMPLES)
@more
def test_no_token_of_a_prompt_carries_loss_and_no_target_crosses_documents(examples):
    examples = [Rendered(*example) for example in examples]
    weights = dict.fromkeys(Segment, 1.0)  # the prompt's too, were it asked for
    row = pack_row(examples, weights)
    starts = [sum(row.lengths[:i]) for i in range(len(row.lengths))]
    wanted = [
        (start + place - 1, example.tokens[place])
        for start, example in zip(starts, examples, strict=True)
        for place in range(example.prompt_length, len(example.tokens))
    ]
    assert wanted == list(zip(row.predictors_C.tolist(), row.targets_C.tolist(), strict=True))
    assert row.positions_T.tolist() == [i for n in row.lengths for i in range(n)]
    assert row.where == tuple(example.where for example in examples)


@given(parts(), parts())
@more
def test_the_first_token_of_a_document_is_never_predicted_from_another(first, second):
    first, tokens = Rendered(*first), second[0]
    whole = Rendered(tokens, (Segment.ANSWER,) * len(tokens), prompt_length=0)
    row = pack_row([first, whole], WEIGHTS)
    own = [p for p in row.predictors_C.tolist() if p >= len(first.tokens) - 1]
    assert own == list(range(len(first.tokens), row.num_tokens - 1))


@given(EXAMPLES)
@few
def test_examples_without_a_target_are_refused_and_nothing_changes(examples):
    examples = [Rendered(*example) for example in examples]
    before = [parameter.detach().clone() for parameter in ADAPTER]
    with pytest.raises(TrainingError, match="no token carries loss in row"):
        _step(pack(examples, {}, 200))
    assert all(map(torch.equal, before, ADAPTER))


@given(EXAMPLES, parts(), st.integers(0, 4))
@few
def test_a_row_whose_loss_is_not_finite_is_named_and_nothing_changes(examples, bad, place):
    examples = [Rendered(*example) for example in examples]
    # One embedding is broken, and only one example has that token.
    tokens, segments, prompt_length, _ = bad
    bad = Rendered((tokens[0], 402, *tokens[2:]), segments, prompt_length, "the bad")
    decoder = tiny_decoder("qwen2", torch.float64)
    parameters = attach_trained(decoder, LoRAConfig(rank=2, target_modules=("v_proj",)))
    decoder.model.embed_tokens.weight[402] = float("nan")
    assert decoder.adapter is not None
    optimizer = AdapterOptimizer(decoder.adapter.weights, OptimizerConfig())
    train_step(decoder, optimizer, pack(examples, WEIGHTS, 60), max_grad_norm=1.0).read()
    before = [parameter.detach().clone() for parameter in parameters]
    moments = [v.clone() for s in optimizer.state.values() for v in s.values()]
    rows = pack([*examples[:place], bad, *examples[place:]], WEIGHTS, 60)
    launched = train_step(decoder, optimizer, rows, max_grad_norm=1.0)
    # On a GPU another step is launched before anybody looks at the first.
    train_step(decoder, optimizer, pack(examples, WEIGHTS, 60), max_grad_norm=1.0).read()
    with pytest.raises(TrainingError, match="not finite on the bad: nothing was updated"):
        launched.read()
    assert all(map(torch.equal, before, adapter_parameters(decoder).values()))
    assert all(map(torch.equal, moments, [v for s in optimizer.state.values() for v in s.values()]))


def test_losses_of_rows_split_in_two_are_those_of_one():
    tokens = tuple(range(3, 23))
    example = Rendered(tokens, (Segment.PROMPT,) * 5 + (Segment.ANSWER,) * 15, 5)
    one = heldout_loss(DECODER, [pack_row([example, example], WEIGHTS)])
    two = heldout_loss(DECODER, [pack_row([example], WEIGHTS)] * 2)
    assert isinstance(one, Losses)
    assert one.loss == pytest.approx(two.loss, rel=TOLERANCE["loss"])
    assert (one.num_targets, two.num_targets) == (30, 30)
