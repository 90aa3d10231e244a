"""TRL's SFTTrainer, whole: its loop, its collator and its fused head."""

import os
from importlib.metadata import version
from importlib.util import find_spec

import torch
from datasets import Dataset
from transformers import TrainerCallback
from trl import SFTConfig, SFTTrainer

from benchmarks.peers.case import (
    LEARNING_RATE,
    MAX_GRAD_NORM,
    WARMUP_STEPS,
    Case,
    UnavailableError,
    find_device,
    labels_of,
)
from benchmarks.peers.peft_loop import describe
from benchmarks.peers.random_model import (
    choose_attention,
    random_model,
    random_tokenizer,
    with_adapter,
)
from benchmarks.peers.timing import Clock


class _Timer(TrainerCallback):
    """Starts and stops the clock where the trainer says a step begins and ends."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def on_step_begin(self, *_: object, **__: object) -> None:
        self.clock.start()

    def on_step_end(self, *_: object, **__: object) -> None:
        self.clock.stop()


def dataset_of(case: Case) -> Dataset:
    """A row a document where all are equal; else a row a pack, as TRL's own packing makes it."""
    made = []
    for step in range(WARMUP_STEPS + case.steps):
        documents = case.examples(step)
        if case.is_uniform:
            made += [{"input_ids": e.tokens, "labels": labels_of(e)} for e in documents]
        else:
            made.append(
                {
                    "input_ids": [token for e in documents for token in e.tokens],
                    "labels": [label for e in documents for label in labels_of(e)],
                    "seq_lengths": [len(e.tokens) for e in documents],
                }
            )
    return Dataset.from_list(made)


def configure(case: Case, rows_a_step: int, *, liger: bool) -> SFTConfig:
    """TRL's own defaults, but for what a timing needs: no logs, no files, no shuffling."""
    on_gpu = find_device().type == "cuda"
    return SFTConfig(
        output_dir=f"{case.scratch}/trl",
        per_device_train_batch_size=rows_a_step,
        max_steps=WARMUP_STEPS + case.steps,
        packing=not case.is_uniform,
        max_length=case.longest_row,
        dataset_kwargs={"skip_prepare_dataset": True},
        train_sampling_strategy="sequential",
        gradient_checkpointing=case.recompute != "none",
        gradient_checkpointing_kwargs={"use_reentrant": False},
        use_liger_kernel=liger,
        bf16=True,
        use_cpu=not on_gpu,
        optim="adamw_torch_fused",
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant",
        max_grad_norm=MAX_GRAD_NORM,
        logging_strategy="no",
        logging_nan_inf_filter=False,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )


def run(case: Case) -> dict:
    """Time it.

    Raises:
        UnavailableError: there is no GPU for its head's Triton kernels.
    """
    if find_device().type != "cuda" and not os.environ.get("TRITON_INTERPRET"):
        raise UnavailableError("TRL's fused head needs a GPU (or TRITON_INTERPRET=1)")
    attention, clock, grad_norms = choose_attention(case), Clock(), []
    liger = find_spec("liger_kernel") is not None and clock.device.type == "cuda"
    model = with_adapter(random_model(case, attention), in_float32=False)
    trainer = SFTTrainer(
        model=model,
        args=configure(case, len(case.examples(0)) if case.is_uniform else 1, liger=liger),
        train_dataset=dataset_of(case),
        processing_class=random_tokenizer(case),
        callbacks=[_Timer(clock)],
    )
    clip = trainer.accelerator.clip_grad_norm_

    def clip_and_keep(*arguments: object, **options: object) -> torch.Tensor:
        grad_norms.append(clip(*arguments, **options))
        return grad_norms[-1]

    trainer.accelerator.clip_grad_norm_ = clip_and_keep
    trainer.train()
    result = clock.result(case, model, [float(norm) for norm in grad_norms])
    layers = "Liger's layers, " if liger else ""
    settings = f"bf16 adapter, autocast, {layers}{describe(case, attention)}"
    return result | {"version": version("trl"), "settings": settings}
