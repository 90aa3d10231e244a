"""The memory plan: its sums, its choices, and what it says when nothing fits."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tiny_models import attach_trained, tiny_decoder
from thinktune.errors import ConfigError
from thinktune.model.held_weights import Quantize
from thinktune.model.kept import Keep
from thinktune.model.lora import LoRAConfig
from thinktune.model.shape import shape_from_config
from thinktune.training.fitting import fit, out_of_memory
from thinktune.training.memory_plan import HostLink, plan_memory
from thinktune.training.step_memory import Workload, kept_bytes_per_token
from thinktune.workload import SHAPES

GIB = 2**30
# Peak GiB that an H100 allocated in whole steps of `thinktune bench step`, and what was kept.
MEASURED = [
    ("llama-3.1-8b", 4096, 16, Keep.ALL, 28.15),
    ("llama-3.1-8b", 4096, 64, Keep.ALL, 30.56),
    ("llama-3.1-8b", 16384, 16, Keep.NO_MLP, 36.30),
    ("llama-3.1-8b", 32768, 16, Keep.INPUT, 29.62),
    ("qwen3-8b", 4096, 16, Keep.ALL, 28.59),
]
FAST_LINK = HostLink(send_seconds=0.017, layer_seconds=0.0125)


def _work(shape: str = "llama-3.1-8b", tokens: int = 16384, rank: int = 16) -> Workload:
    config = shape_from_config(SHAPES[shape])
    return Workload(config, LoRAConfig(rank=rank), tokens, torch.bfloat16, ragged=True)


@pytest.mark.parametrize(("shape", "tokens", "rank", "keep", "peak"), MEASURED)
def test_the_plan_is_within_three_percent_of_what_a_gpu_allocated(shape, tokens, rank, keep, peak):
    plan = plan_memory(_work(shape, tokens, rank), 80 * GIB, keep=keep)
    assert plan.total_bytes / GIB == pytest.approx(peak, rel=0.03)


@given(st.floats(18.0, 90.0), st.integers(1, 20_000))
@settings(deadline=None, max_examples=30)
def test_a_plan_never_exceeds_its_budget(budget, tokens):
    try:
        plan = plan_memory(_work(tokens=tokens), int(budget * GIB), link=FAST_LINK)
    except ConfigError as error:
        assert f"of {budget:.1f} GiB" in str(error)  # noqa: PT017 - either outcome is right
        return
    assert plan.total_bytes <= plan.budget_bytes
    assert len(plan.keep) == 32


def test_a_larger_budget_never_keeps_less():
    budgets = [23, 25, 28, 32, 36, 45, 60, 80]
    plans = [plan_memory(_work(), budget * GIB) for budget in budgets]
    kept = [sum(kept_bytes_per_token(_work(), kind) for kind in plan.keep) for plan in plans]
    assert all(fewer <= more for fewer, more in pairwise(kept))
    assert Keep.INPUT in plans[0].keep
    assert set(plans[-1].keep) == {Keep.ALL}


def test_the_host_takes_products_that_would_be_computed_again_and_no_more_than_it_can_in_time():
    alone = plan_memory(_work(), 45 * GIB)
    helped = plan_memory(_work(), 45 * GIB, link=FAST_LINK)
    assert alone.keep.count(Keep.NO_MLP) > 20
    assert helped.keep.count(Keep.NO_MLP) < 4
    assert helped.host_bytes > 15 * GIB
    slow = HostLink(send_seconds=0.2, layer_seconds=0.0125)
    assert plan_memory(_work(), 45 * GIB, link=slow).keep.count(Keep.HOST) <= 4
    little = plan_memory(_work(), 45 * GIB, link=FAST_LINK, host_room=5 * GIB)
    assert little.host_bytes <= 5 * GIB


def test_what_does_not_fit_is_refused_with_its_parts_and_the_way_out():
    with pytest.raises(ConfigError, match=r"at least, of 15\.0 GiB") as caught:
        plan_memory(_work(), 15 * GIB)
    assert "base model 14.0" in str(caught.value)  # without the embedding, which may move
    assert "lower packing.max_tokens" in str(caught.value)


def test_on_a_cpu_everything_is_kept():
    decoder = tiny_decoder("llama")
    attach_trained(decoder)
    assert fit(decoder, LoRAConfig(rank=3), 100, budget_gib=None) is None
    assert set(decoder.keep) == {Keep.ALL}


def test_an_out_of_memory_error_says_what_was_planned_and_what_to_lower():
    told = out_of_memory(torch.device("cuda"), plan_memory(_work(), 45 * GIB))
    assert "planned were 44." in told
    assert "training.memory_budget_gib" in told
    assert "lower packing.max_tokens or training.batch_size" in out_of_memory(
        torch.device("cpu"), None
    )


def test_no_more_is_put_on_the_host_than_it_has_room_for():
    work = _work(tokens=32768)
    free = plan_memory(work, 26 * GIB)
    assert Keep.NOTHING in free.keep
    assert free.host_bytes > 2 * GIB
    with pytest.raises(ConfigError, match=r"of the host's memory, of 0\.5 GiB.*max_tokens"):
        plan_memory(work, 23 * GIB, host_room=GIB // 2)
    assert plan_memory(work, 40 * GIB, host_room=2 * GIB).host_bytes <= 2 * GIB


@pytest.mark.parametrize(
    ("quantize", "tokens", "keep", "peak"),
    [
        (Quantize.NF4, 4096, Keep.ALL, 18.69),
        (Quantize.FP8, 16384, Keep.ALL, 63.72),
    ],
)
def test_the_plan_of_a_quantised_base_is_within_three_percent_too(quantize, tokens, keep, peak):
    work = _work(tokens=tokens)
    work = Workload(work.shape, work.lora, tokens, torch.bfloat16, ragged=True, quantize=quantize)
    plan = plan_memory(work, 80 * GIB, keep=keep)
    assert plan.total_bytes / GIB == pytest.approx(peak, rel=0.03)


def test_the_embedding_moves_before_anything_is_computed_twice_and_not_without_need():
    assert not plan_memory(_work(tokens=4096), 40 * GIB).host_embedding
    tight = plan_memory(_work(tokens=4096), 27 * GIB)
    assert tight.host_embedding
    assert "the embedding lies on the host" in tight.sentence()
    tied = _work("qwen2.5-1.5b", tokens=65536)
    assert not plan_memory(tied, 16 * GIB).host_embedding
