"""Closeness to float32 against the plain formulas, gates at their bounds, journals that go on."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.tiny_models import KeepGradients, tiny_decoder
from thinktune.closeness import Closeness, Nearness, Yardstick, true_float32
from thinktune.data.loader import PackedRow, SegmentConfig, pack, segment_weights
from thinktune.data.segments import Rendered, Segment
from thinktune.model.checkpoint_io import BaseDtype
from thinktune.model.decoder import Decoder
from thinktune.model.lora import ALL_LINEAR, LoRAConfig, adapted_layers, attach
from thinktune.ops.attention import PackedAttention
from thinktune.quality_gates import Asked, Check, Quality, Trained, gates
from thinktune.training.step import train_step

LORA = LoRAConfig(rank=3, alpha=6, dropout=0.5)
B16, DGRAD, FP8, NF4 = BaseDtype.BFLOAT16, BaseDtype.FP8_DGRAD, BaseDtype.FP8, BaseDtype.NF4


def steps_of_rows(vocabulary: int) -> list[list[PackedRow]]:
    generator = torch.Generator().manual_seed(5)
    weights = segment_weights(SegmentConfig(), SegmentConfig())
    steps = []
    for lengths in ((7, 11), (23,), (5, 2, 13)):
        rows = []
        for n in lengths:
            tokens = tuple(torch.randint(vocabulary, (n,), generator=generator).tolist())
            segments = (Segment.PROMPT, *[Segment.ANSWER] * (n - 1))
            rows.append(Rendered(tokens, segments, prompt_length=1, where=f"row {n}"))
        steps.append(pack(rows, weights, 18 if len(rows) > 1 else 23))
    return steps


def disturb(decoder: Decoder, scale: float) -> Decoder:
    """Shift every projection's weights, as a coarse way of holding them would."""
    generator = torch.Generator().manual_seed(1)
    for member in (member for stack in decoder.stacks for member in stack.members):
        noise = torch.randn(member.weight.shape, generator=generator)
        member.weight.add_(noise * member.weight.std() * scale)
    return decoder


def log_probabilities(decoder: Decoder, rows: Sequence[PackedRow]) -> Tensor:
    with torch.no_grad():
        parts = [
            decoder.logits(decoder(r.tokens_T, r.positions_T, PackedAttention(r.lengths)))[
                r.predictors_C
            ]
            for r in rows
        ]
    return torch.cat(parts).double().log_softmax(-1)


def gradients(decoder: Decoder, rows: Sequence[PackedRow]) -> dict[str, Tensor]:
    """Of the same adapter that the yardstick puts there."""
    attach(decoder, LORA.model_copy(update={"dropout": 0.0}), seed=0)
    generator = torch.Generator().manual_seed(1)
    for layer in adapted_layers(decoder).values():
        with torch.no_grad():
            layer.lora_B.copy_(torch.randn(layer.lora_B.shape, generator=generator) * 0.02)
    keeper = KeepGradients(decoder)
    train_step(decoder, keeper, rows, max_grad_norm=float("inf"))
    return keeper.kept


def test_closeness_is_what_the_plain_formulas_give():
    exact, other = tiny_decoder("qwen2"), disturb(tiny_decoder("qwen2"), 0.1)
    steps = steps_of_rows(exact.shape.vocab_size)
    rows = [row for step in steps for row in step]
    found = Yardstick(exact, steps, LORA).measure(other)
    theirs, mine = log_probabilities(exact, rows), log_probabilities(other, rows)
    targets = torch.cat([row.targets_C for row in rows])[:, None]
    assert found.num_targets == len(targets) == 7 + 11 + 23 + 5 + 2 + 13 - 6
    kl = torch.nn.functional.kl_div(mine, theirs, log_target=True, reduction="batchmean")
    assert found.kl == pytest.approx(float(kl), rel=1e-4)
    shift = (theirs - mine).gather(1, targets).mean()
    assert found.nll_shift == pytest.approx(float(shift), rel=1e-4)
    assert found.top_1 == pytest.approx(float((mine.argmax(1) == theirs.argmax(1)).double().mean()))
    assert found.kl > 0.001
    assert found.top_1 < 1


def test_gradient_errors_are_means_over_steps_of_each_kind_of_projection():
    exact, other = tiny_decoder("qwen2"), disturb(tiny_decoder("qwen2"), 0.1)
    steps = steps_of_rows(exact.shape.vocab_size)
    found = Yardstick(exact, steps, LORA).measure(other)
    errors, cosines = dict.fromkeys(("", *ALL_LINEAR), 0.0), dict.fromkeys(("", *ALL_LINEAR), 0.0)
    for step in steps:
        pair = [gradients(tiny_decoder("qwen2"), step)]
        pair.append(gradients(disturb(tiny_decoder("qwen2"), 0.1), step))
        for name in errors:
            g32, g = (
                torch.cat([v.flatten() for k, v in of.items() if name in k]).double() for of in pair
            )
            errors[name] += float((g - g32).norm() / g32.norm()) / len(steps)
            cosines[name] += float(torch.cosine_similarity(g, g32, 0)) / len(steps)
    assert found.gradient.error == pytest.approx(errors.pop(""), rel=1e-4)
    assert found.gradient.cosine == pytest.approx(cosines.pop(""), rel=1e-6)
    assert set(found.by_module) == set(ALL_LINEAR)
    for name, near in found.by_module.items():
        assert near.error == pytest.approx(errors[name], rel=1e-3)
        assert near.cosine == pytest.approx(cosines[name], rel=1e-5)
    assert found.worst_module == max(errors, key=lambda name: errors[name])


def test_the_float32_base_is_as_near_as_can_be_to_itself():
    exact = tiny_decoder("llama")
    steps = steps_of_rows(exact.shape.vocab_size)
    found = Yardstick(exact, steps, LORA).measure(exact)
    assert abs(found.kl) < 1e-12
    assert found.nll_shift == 0
    assert found.top_1 == 1
    assert found.gradient.error < 1e-6
    assert found.gradient.cosine == pytest.approx(1)
    assert exact.adapter is None  # so that a training can attach its own


def test_a_base_is_the_farther_off_the_more_it_is_disturbed():
    exact = tiny_decoder("qwen3")
    yardstick = Yardstick(exact, steps_of_rows(exact.shape.vocab_size), LORA)
    found = [yardstick.measure(disturb(tiny_decoder("qwen3"), s)) for s in (0.003, 0.03, 0.3)]
    assert found[0].kl < found[1].kl < found[2].kl
    assert found[0].gradient.error < found[1].gradient.error < found[2].gradient.error
    assert found[0].gradient.cosine > found[1].gradient.cosine > found[2].gradient.cosine


def test_bfloat16_is_near_but_not_equal():
    exact = tiny_decoder("llama_rope_scaled")
    yardstick = Yardstick(exact, steps_of_rows(exact.shape.vocab_size), LORA)
    found = yardstick.measure(tiny_decoder("llama_rope_scaled", torch.bfloat16))
    assert 1e-7 < found.kl < 0.01
    assert 1e-4 < found.gradient.error < 0.1
    assert found.gradient.cosine > 0.99


def test_true_float32_gives_back_what_was_set_before():
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        with true_float32():
            assert torch.get_float32_matmul_precision() == "highest"
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)


def near(kl: float, error: float, cosine: float) -> Closeness:
    return Closeness(100, kl, 0.0, 1.0, Nearness(error, cosine), {})


def trained(kind: BaseDtype, *losses: float) -> tuple[Trained, ...]:
    return tuple(Trained(kind, seed, Asked(loss, 0.5, 8)) for seed, loss in enumerate(losses))


GOOD = Quality(
    {
        B16: near(0.001, 0.02, 0.9998),
        DGRAD: near(0.001, 0.15, 0.99),
        FP8: near(0.03, 0.4, 0.93),
        NF4: near(0.1, 0.6, 0.8),
    },
    (
        *trained(B16, 0.5, 0.52, 0.48),
        *trained(DGRAD, 0.52, 0.52, 0.52),
        *trained(FP8, 0.57, 0.57, 0.57),
        *trained(NF4, 0.6, 0.6, 0.6),
    ),
)


def with_losses(kind: BaseDtype, *losses: float) -> Quality:
    others = tuple(of for of in GOOD.trained if of.kind is not kind)
    return replace(GOOD, trained=(*others, *trained(kind, *losses)))


def with_near(kind: BaseDtype, closeness: Closeness) -> Quality:
    return replace(GOOD, closeness={**GOOD.closeness, kind: closeness})


def passed(quality: Quality) -> dict[BaseDtype, bool | None]:
    return {gate.kind: gate.passed for gate in gates(quality)}


def test_both_claims_hold_at_their_bounds():
    assert passed(GOOD) == {DGRAD: True, FP8: True}
    assert GOOD.error_of_nf4(DGRAD) == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("quality", "kind"),
    [
        (with_near(DGRAD, near(0.0, 0.151, 0.99)), DGRAD),
        (with_near(DGRAD, near(0.0, 0.15, 0.989)), DGRAD),
        (with_losses(DGRAD, 0.52, 0.52, 0.53), DGRAD),
        (with_losses(DGRAD, 0.47, 0.47, 0.47), DGRAD),
        (with_near(FP8, near(0.031, 0.1, 0.99)), FP8),
        (with_near(FP8, near(0.0, 0.1, 0.929)), FP8),
        (with_losses(FP8, 0.58, 0.58, 0.58), FP8),
        (with_losses(NF4, 0.57, 0.57, 0.57), FP8),
    ],
)
def test_a_claim_fails_if_one_of_its_numbers_does(quality: Quality, kind: BaseDtype):
    assert passed(quality) == {DGRAD: True, FP8: True} | {kind: False}


def test_a_claim_is_not_decided_by_too_few_seeds_or_without_what_it_is_compared_with():
    assert passed(with_losses(B16, 0.5, 0.52)) == {DGRAD: None, FP8: None}
    assert passed(with_losses(NF4)) == {DGRAD: True, FP8: None}
    assert passed(replace(GOOD, trained=())) == {DGRAD: None, FP8: None}
    (missing,) = [c for g in gates(with_losses(NF4)) for c in g.checks if c.needs]
    assert missing.needs == "train nf4 with 3 seeds"
    assert passed(replace(with_near(FP8, near(0.04, 0.0, 1.0)), trained=()))[FP8] is False


def test_no_claim_is_made_of_a_kind_that_was_not_measured():
    assert passed(replace(GOOD, closeness={NF4: near(0.1, 0.6, 0.8)})) == {}


def test_a_number_that_is_not_one_passes_no_check():
    assert Check("KL", float("nan"), None, 1.0).passed is False
    assert Check("cosine", float("nan"), 0.9, None).passed is False
