"""The loop refuses what would spoil an adapter, and its numbers follow from the seed."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.tiny_models import tiny_decoder
from thinktune.data.packing import PackingConfig
from thinktune.data.segments import Rendered, Segment
from thinktune.errors import DataError, TrainingError
from thinktune.model.adapter_io import BaseIdentity
from thinktune.model.decoder import Decoder
from thinktune.model.lora import LoRAConfig, adapter_parameters, attach
from thinktune.tracking import Silence, Tracker, read_metrics
from thinktune.training.checkpoints import CheckpointFolder
from thinktune.training.loop import train
from thinktune.training.optimizer import OptimizerConfig
from thinktune.training.progress import Progress, TrainingData
from thinktune.training.schedule import TrainingConfig, plan_steps

LORA = LoRAConfig(rank=2, alpha=4.0)
EVERYTHING = dict.fromkeys(Segment, 1.0)


def row(number: int, *, length: int = 9, first: int = 5) -> Rendered:
    """Prompt, reasoning and answer of random-looking tokens; ``first`` begins the reasoning."""
    tokens = [(number * 37 + place * 11) % 300 for place in range(length)]
    tokens[3] = first
    segments = [Segment.PROMPT] * 3 + [Segment.REASONING] * (length - 5) + [Segment.ANSWER] * 2
    return Rendered(tuple(tokens), tuple(segments), prompt_length=3, where=f"row {number}")


def run(
    folder: Path,
    rows: Sequence[Rendered],
    *,
    decoder: Decoder | None = None,
    seed: int = 0,
    heldout: Sequence[Rendered] = (),
    weights: dict[Segment, float] | None = None,
    rate: float = 0.01,
    max_tokens: int = 64,
    sample: Callable[[int], None] | None = None,
    **training: Any,
) -> tuple[Decoder, list[dict[str, Any]]]:
    """Train a tiny decoder on rows; its adapter and the records."""
    if decoder is None:
        decoder = tiny_decoder("llama")
        attach(decoder, LORA, seed=seed)
    tracker = Tracker(folder)
    try:
        train(
            decoder,
            TrainingData(
                rows, heldout, weights or EVERYTHING, PackingConfig(max_tokens=max_tokens)
            ),
            TrainingConfig.model_validate({"batch_size": 2, "max_steps": 3} | training),
            OptimizerConfig(learning_rate=rate, warmup_steps=0),
            seed=seed,
            checkpoints=CheckpointFolder(folder / "checkpoints", LORA, BaseIdentity("tiny")),
            tracker=tracker,
            watcher=Silence(),
            sample=sample,
        )
    finally:
        tracker.close()
    return decoder, read_metrics(folder)


ROWS = [row(number) for number in range(5)]


def losses(records: Sequence[dict[str, Any]]) -> list[float]:
    return [record["train/loss"] for record in records]


def test_the_same_seed_gives_the_same_curve_and_another_seed_another(tmp_path: Path) -> None:
    curves = [losses(run(tmp_path, ROWS, seed=seed)[1]) for seed in (0, 0, 1)]
    assert curves[0] == curves[1]
    assert curves[0] != curves[2]


def test_the_curve_does_not_depend_on_how_rows_are_packed(tmp_path: Path) -> None:
    together = losses(run(tmp_path, ROWS, max_tokens=64)[1])
    alone = losses(run(tmp_path, ROWS, max_tokens=9)[1])
    assert together == pytest.approx(alone, rel=1e-5)


def test_training_lowers_the_loss_on_what_it_sees_again_and_again(tmp_path: Path) -> None:
    _, records = run(tmp_path, ROWS[:2], max_steps=8, rate=0.05)
    assert losses(records)[-1] < losses(records)[0] - 0.5


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_is_refused_with_its_row_and_changes_nothing(
    tmp_path: Path, poison: float
) -> None:
    decoder, _ = run(tmp_path, ROWS, max_steps=1)
    before = {name: p.detach().clone() for name, p in adapter_parameters(decoder).items()}
    sound = decoder.model.embed_tokens.weight[399].clone()
    with torch.no_grad():
        decoder.model.embed_tokens.weight[399] = poison  # only one row holds this token
    rows = [row(0), row(1, first=399), row(2), row(3)]
    with pytest.raises(TrainingError) as caught:
        run(tmp_path / "again", rows, decoder=decoder, batch_size=4, max_steps=1)
    assert "the loss is not finite on row 1: nothing was updated" in str(caught.value)
    for name, parameter in adapter_parameters(decoder).items():
        assert torch.equal(parameter, before[name]), name
    assert read_metrics(tmp_path / "again") == []
    assert not (tmp_path / "again" / "checkpoints").exists()
    # Nothing of the bad gradient stays: the same adapter can be trained on.
    with torch.no_grad():
        decoder.model.embed_tokens.weight[399] = sound
    _, records = run(tmp_path / "after", rows, decoder=decoder, batch_size=4, max_steps=2)
    assert losses(records)[1] < losses(records)[0]
    assert all(p.isfinite().all() for p in adapter_parameters(decoder).values())


def test_an_adapter_that_overflows_is_refused(tmp_path: Path) -> None:
    decoder = tiny_decoder("llama")
    attach(decoder, LORA, seed=0)
    for parameter in adapter_parameters(decoder).values():
        torch.nn.init.constant_(parameter, 1e30)
    with pytest.raises(TrainingError, match=r"not finite on row \d"):
        run(tmp_path, ROWS, decoder=decoder)


def test_a_gradient_of_exactly_zero_is_refused_in_the_first_step(tmp_path: Path) -> None:
    decoder = tiny_decoder("llama")
    attach(decoder, LORA, seed=0)
    for parameter in adapter_parameters(decoder).values():
        torch.nn.init.zeros_(parameter)
    with pytest.raises(TrainingError, match=r"step 1: the gradient is exactly zero on row \d, row"):
        run(tmp_path, ROWS, decoder=decoder)
    assert read_metrics(tmp_path) == []


def test_rows_that_carry_no_loss_are_refused_by_name(tmp_path: Path) -> None:
    only_prompt = [
        Rendered((1, 2, 3), (Segment.PROMPT,) * 3, prompt_length=3, where=f"row {n}")
        for n in (0, 1)
    ]
    with pytest.raises(TrainingError, match=r"no token carries loss in row \d, row \d"):
        run(tmp_path, only_prompt)


def test_a_row_without_targets_is_left_out_of_every_step(tmp_path: Path) -> None:
    silent = Rendered((7,) * 9, (Segment.PROMPT,) * 9, prompt_length=9, where="silent")
    without = losses(run(tmp_path, ROWS)[1])
    beside = run(tmp_path, [silent, *ROWS[:2], silent, *ROWS[2:]])[1]
    assert losses(beside) == without


def test_no_rows_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no training rows are left"):
        run(tmp_path, [])


def test_a_rate_too_small_to_change_anything_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="every B is still zero; raise optimizer"):
        run(tmp_path, ROWS, rate=1e-300)
    assert read_metrics(tmp_path) == [], "it was known after the first update"


def test_each_part_of_the_loss_is_measured_with_its_own_weight(tmp_path: Path) -> None:
    weights = EVERYTHING | {Segment.ANSWER: 0.0}
    record = run(tmp_path, ROWS, weights=weights, max_steps=1)[1][0]
    assert "train/loss_answer" not in record
    assert record["train/loss"] == record["train/loss_reasoning"]
    assert record["train/num_targets"] == 8


def test_the_held_out_loss_is_measured_when_due_and_at_the_end(tmp_path: Path) -> None:
    records = run(tmp_path, ROWS, heldout=[row(8)], eval_steps=2, max_steps=5)[1]
    assert [r["step"] for r in records if "heldout/loss" in r] == [2, 4, 5]
    records = run(tmp_path, ROWS, heldout=[row(8)], eval_steps=None, max_steps=3)[1]
    assert [r["step"] for r in records if "heldout/loss" in r] == [3]


def test_measuring_the_held_out_loss_does_not_change_the_training(tmp_path: Path) -> None:
    without = losses(run(tmp_path, ROWS)[1])
    measured = losses(run(tmp_path, ROWS, heldout=[row(8)], eval_steps=1)[1])
    assert without == measured


@pytest.mark.parametrize(
    ("settings", "num_examples", "steps"),
    [
        ({"num_train_epochs": 3.0, "batch_size": 8}, 8, 3),
        ({"num_train_epochs": 3.0, "batch_size": 8}, 9, 4),
        ({"num_train_epochs": 0.01, "batch_size": 8}, 9, 1),
        ({"max_steps": 7, "num_train_epochs": 100.0}, 9, 7),
    ],
)
def test_the_number_of_steps_follows_from_epochs_unless_it_is_given(
    settings: dict[str, Any], num_examples: int, steps: int
) -> None:
    assert plan_steps(TrainingConfig.model_validate(settings), num_examples) == steps


@pytest.mark.parametrize("ahead", [0, 1, 3])
def test_steps_under_way_change_no_record_and_no_look_comes_twice(
    ahead: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"heldout": ROWS[:2], "max_steps": 7, "eval_steps": 4, "sample_steps": 3}
    _, at_once = run(tmp_path / "at once", ROWS, **options)
    monkeypatch.setattr(Progress, "ahead", ahead)  # as on a GPU
    looks: list[int] = []
    _, late = run(tmp_path / "late", ROWS, sample=looks.append, **options)
    assert losses(late) == losses(at_once)
    assert [r.get("heldout/loss") for r in late] == [r.get("heldout/loss") for r in at_once]
    assert looks == [3, 6]
