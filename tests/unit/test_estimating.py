"""An estimate says what fits, what to change, how long and at what cost, without any weights."""

import json
import shutil
from pathlib import Path

import pytest

from tests.small_runs import write_rows
from tests.tiny_models import tiny_checkpoint
from thinktune.cards import CARDS, GIB
from thinktune.config import RunConfig, check
from thinktune.errors import ConfigError
from thinktune.estimating import CardEstimate, Estimate, estimate
from thinktune.fed_run import read_fed_run
from thinktune.model.held_weights import Quantize
from thinktune.workload import SHAPES

NUM_ROWS = 50


@pytest.fixture(scope="module")
def llama_8b(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The configuration of an 8B model with a tokenizer, and no weights."""
    return _folder(tmp_path_factory.mktemp("models") / "8b", "llama-3.1-8b")


def _folder(folder: Path, shape: str) -> Path:
    shutil.copytree(
        tiny_checkpoint("llama"), folder, ignore=shutil.ignore_patterns("*.safetensors")
    )
    (folder / "config.json").write_text(json.dumps(SHAPES[shape]), encoding="utf-8")
    return folder


def _config(model: Path, folder: Path, **changes) -> RunConfig:
    rows = [
        {
            "question": f"Fever for {days} days?",
            "reasoning": f"It is {days} days. " * (11 + days),
            "answer": "flu",
        }
        for days in range(NUM_ROWS)
    ]
    settings = {
        "base_model": str(model),
        "data": {"train": str(write_rows(folder / "rows.jsonl", rows)), "heldout_split": None},
        "training": {"batch_size": 4},
        "packing": {"max_tokens": 2048},
    }
    return check(settings | changes, where="test")


@pytest.fixture(scope="module")
def config(llama_8b: Path) -> RunConfig:
    """Of 50 rows, the longest of some 800 tokens, 4 a step, in packed rows of at most 2,048."""
    return _config(llama_8b, llama_8b)


@pytest.fixture(scope="module")
def on_h100(config: RunConfig) -> Estimate:
    return estimate(config, "h100")


def _one(config: RunConfig, gpu: str) -> CardEstimate:
    (of,) = estimate(config, gpu).cards
    return of


def test_what_fits_is_planned_timed_and_priced(on_h100):
    (of,) = on_h100.cards
    assert of.plan is not None
    assert of.change is None
    assert of.held == "bfloat16"
    assert of.plan.total_bytes <= of.budget_bytes < 79 * GIB
    assert on_h100.num_steps == 38  # 3 epochs of 50 rows, 4 a step
    assert of.seconds is not None
    speed = on_h100.num_steps * on_h100.tokens_a_step / of.seconds
    assert 10_000 < speed < 20_000
    assert of.usd == pytest.approx(of.seconds / 3600 * 3.99)


def test_the_rent_may_be_the_users_and_is_none_where_none_is_known(config):
    assert _one(config, "rtx5090").usd is None
    (of,) = estimate(config, "rtx5090", usd_an_hour=0.5).cards
    assert of.usd == pytest.approx(of.seconds / 7200)


def test_of_a_card_known_by_its_memory_alone_no_time_is_told(config):
    of = _one(config, "40")
    assert of.plan is not None
    assert of.seconds is None
    assert of.usd is None


def test_a_change_that_is_told_fits_when_it_is_made(config, llama_8b, tmp_path):
    of = _one(config, "t4")
    assert of.plan is None
    assert "a step needs" in of.problem
    assert of.change is not None
    assert of.change.overrides == ("base_dtype=nf4",)
    changed = _one(_config(llama_8b, tmp_path, base_dtype="nf4"), "t4")
    assert changed.plan == of.change.plan
    assert changed.held == "nf4, products in float16"


def test_rows_are_packed_shorter_before_the_base_is_quantised_if_that_cuts_none(
    config, on_h100, llama_8b, tmp_path
):
    fed = read_fed_run(config)
    assert 512 < fed.longest < 1024 < fed.max_tokens(2048)
    # Room for the least that a row of 1,024 tokens needs, and not for that of 2,048.
    need, larger = (on_h100.lengths[tokens]["bfloat16"].least for tokens in (1024, 2048))
    tight = _config(
        llama_8b,
        tmp_path,
        training={"batch_size": 4, "memory_budget_gib": (need + larger) / 2 / GIB},
    )
    of = _one(tight, "80")
    assert of.change is not None
    assert of.change.overrides == ("packing.max_tokens=1024",)
    assert of.change.num_longer == 0


def test_rows_are_cut_only_if_nothing_else_fits_and_they_are_counted(
    config, on_h100, llama_8b, tmp_path
):
    fed = read_fed_run(config)
    less = on_h100.lengths[1024]["nf4"].least - 50 * 2**20
    tight = {"batch_size": 4, "memory_budget_gib": less / GIB}
    of = _one(_config(llama_8b, tmp_path, training=tight), "80")
    assert of.change is not None
    quantised, shorter = of.change.overrides
    assert quantised == "base_dtype=nf4"
    limit = int(shorter.removeprefix("packing.max_tokens="))
    assert limit < fed.longest
    assert of.change.num_longer == sum(length > limit for length in fed.lengths) > 0


def test_where_nothing_fits_no_change_is_told(config):
    result = estimate(config, "4")
    (of,) = result.cards
    assert of.plan is None
    assert of.change is None
    assert result.smallest is not None
    assert _one(config, result.smallest).plan is not None


@pytest.mark.parametrize(
    ("gpu", "kind", "told", "override"),
    [
        ("t4", "bfloat16", "T4 does not multiply bfloat16", "base_dtype=nf4"),
        ("a100-80", "fp8", "A100 80GB has no FP8; Ada and Hopper have", "base_dtype=auto"),
        ("rtx3090", "fp8", "RTX 3090 has no FP8", "base_dtype=auto"),
    ],
)
def test_a_type_that_the_card_has_not_is_said_with_one_it_has(
    llama_8b, tmp_path, gpu, kind, told, override
):
    of = _one(_config(llama_8b, tmp_path, base_dtype=kind), gpu)
    assert told in of.problem
    assert of.change is not None
    assert of.change.overrides == (override,)


def test_without_a_gpu_every_known_card_is_planned_for(config, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    result = estimate(config)
    assert [of.card for of in result.cards] == list(CARDS.values())
    assert result.lengths == {}
    fits = {of.card.title for of in result.cards if of.plan is not None}
    assert "H100" in fits
    assert "T4" not in fits
    seconds = {of.card.title: of.seconds for of in result.cards if of.plan is not None}
    assert seconds["B200"] < seconds["H100"] < seconds["A100 80GB"] < seconds["RTX 3090"]


def test_needs_grow_with_the_row_and_shrink_with_the_bits_of_the_base(config, on_h100):
    lengths = on_h100.lengths
    assert list(lengths) == [1024, 2048, 4096, 8192, 16384, 32768]
    for needs in lengths.values():
        assert list(needs) == ["bfloat16", *Quantize]
        assert needs["nf4"].least < needs["bfloat16"].least < needs["fp8_dgrad"].least
        assert all(need.least < need.most for need in needs.values())
    each = [needs["bfloat16"].most for needs in lengths.values()]
    assert each == sorted(set(each))
    assert list(estimate(config, "t4").lengths[1024]) == ["float16", "nf4"]


def test_lengths_stay_within_the_models_context(tmp_path):
    model = _folder(tmp_path / "small", "tiny")
    assert list(estimate(_config(model, tmp_path), "t4").lengths) == [1024, 2048, 4096]


def test_steps_are_packed_as_the_run_packs_them_and_prompts_are_no_targets(
    config, llama_8b, tmp_path
):
    fed = read_fed_run(config)
    assert len(fed.sampled) == fed.num_steps == 38
    for step in fed.sampled:
        assert sum(len(row) for row in step) == 4
        for row in step:
            assert sum(tokens for tokens, _ in row) <= 2048
            assert all(0 < targets < tokens for tokens, targets in row)
    answers = _config(llama_8b, tmp_path, reasoning={"loss_weight": 0})
    fewer = read_fed_run(answers).sampled
    assert all(
        less < more
        for packed, whole in zip(fewer, fed.sampled, strict=True)
        for few, many in zip(packed, whole, strict=True)
        for (_, less), (_, more) in zip(few, many, strict=True)
    )


def test_twice_the_epochs_take_twice_the_time(llama_8b, tmp_path):
    once, twice = (
        _one(
            _config(llama_8b, tmp_path, training={"batch_size": 5, "num_train_epochs": epochs}),
            "h100",
        ).seconds
        for epochs in (8, 16)
    )
    assert twice == pytest.approx(2 * once, rel=0.05)


def test_a_checkpoint_that_is_quantised_otherwise_is_refused(llama_8b, tmp_path):
    model = _folder(tmp_path / "gptq", "llama-3.1-8b")
    config = SHAPES["llama-3.1-8b"] | {"quantization_config": {"quant_method": "gptq"}}
    (model / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(Exception, match="gptq"):
        estimate(_config(model, tmp_path), "h100")


def test_an_unknown_card_is_refused_before_any_row_is_read(tmp_path):
    config = _config(tmp_path / "no model", tmp_path)
    with pytest.raises(ConfigError, match="did you mean h100"):
        estimate(config, "h1000")
