"""Every prompt completed, many at a time."""

from collections.abc import Callable, Sequence

import torch
from transformers import PreTrainedTokenizerBase

from thinktune.errors import DataError
from thinktune.generation.completion import Completion, GenerationConfig
from thinktune.generation.row_batch import RowBatch
from thinktune.generation.rows import Row, Rules
from thinktune.generation.slot_batch import SlotBatch
from thinktune.generation.text_stream import TextStream
from thinktune.kernels.language import runs_fused
from thinktune.model.decoder import Decoder
from thinktune.model.kv_arena import bytes_per_token

_CPU_ROWS = 32
_GPU_ROWS = 128
_FREE_SHARE = 0.85
"""Of the GPU memory that is free, so much at most is taken for keys and values."""


@torch.inference_mode()
def generate(
    decoder: Decoder,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    config: GenerationConfig,
    *,
    stop_token_ids: Sequence[int],
    seed: int = 0,
    batch_size: int | None = None,
    limits: Sequence[int] | None = None,
    numbers: Sequence[int] | None = None,
    on_text: Callable[[int, str], None] | None = None,
    on_done: Callable[[int, Completion], None] | None = None,
) -> list[Completion]:
    """Complete every prompt.

    Prompts are packed, so none is padded; a prompt that stands several times is read once; a row
    that ends makes place for one that waits. A completion depends on its prompt, its place in
    the list and the seed, not on the batch it was in (up to rounding, which differs between batch
    sizes).

    Args:
        decoder: the model, with or without an adapter.
        tokenizer: turns tokens into text.
        prompts: token ids of each prompt.
        config: limits and sampling.
        stop_token_ids: tokens that end a completion.
        seed: of the draws.
        batch_size: rows decoded together; None for as many as the device has room for.
        limits: most tokens of each completion, where they are fewer.
        numbers: decide each prompt's draws; None for its place.
        on_text: called with (index, new text) as text appears.
        on_done: called with (index, completion) as each ends.

    Returns:
        Completions in the order of the prompts.

    Raises:
        DataError: a prompt is empty, or fills the model's context or the memory.
    """
    rows = _rows(decoder, prompts, config, limits, numbers)
    done: dict[int, Completion] = {}
    streams = {row.index: TextStream(tokenizer) for row in rows} if on_text else {}

    def report(row: Row) -> None:
        if on_text and (piece := streams[row.index].push(row.tokens, row.stop is not None)):
            on_text(row.index, piece)
        if row.stop is not None:
            text = str(tokenizer.decode(row.tokens, skip_special_tokens=False))
            done[row.index] = Completion(tuple(row.tokens), text, row.stop)
            if on_done:
                on_done(row.index, done[row.index])

    rules, was_training = Rules(config, frozenset(stop_token_ids), seed), decoder.training
    decoder.eval()
    try:
        _decode(decoder, rows, rules, batch_size, report)
    finally:
        decoder.train(was_training)
    return [done[index] for index in range(len(rows))]


def _rows(
    decoder: Decoder,
    prompts: Sequence[Sequence[int]],
    config: GenerationConfig,
    limits: Sequence[int] | None,
    numbers: Sequence[int] | None,
) -> list[Row]:
    limits = [config.max_new_tokens] * len(prompts) if limits is None else limits
    limits = [min(limit, config.max_new_tokens) for limit in limits]
    numbers = range(len(prompts)) if numbers is None else numbers
    return [
        Row(index, tuple(prompt), min(limit, _room(decoder, prompt, index)), number)
        for index, (prompt, limit, number) in enumerate(zip(prompts, limits, numbers, strict=True))
    ]


def _room(decoder: Decoder, prompt: Sequence[int], index: int) -> int:
    room = decoder.shape.max_position_embeddings - len(prompt)
    if not prompt or room <= 0:
        raise DataError(
            f"prompt {index} has {len(prompt)} tokens; this model reads 1 to "
            f"{decoder.shape.max_position_embeddings - 1}"
        )
    return room


def _decode(
    decoder: Decoder,
    rows: Sequence[Row],
    rules: Rules,
    batch_size: int | None,
    report: Callable[[Row], None],
) -> None:
    # Equal prompts together, to be read once; similar lengths together, for a CPU's batch is as
    # wide as its longest row.
    waiting = sorted(rows, key=lambda row: (len(row.prompt), row.prompt, row.index))
    if not waiting:
        return
    batch = _open(decoder, waiting, rules, batch_size)
    while waiting or batch.rows:
        room = batch.room(waiting)
        # Reading prompts stops the others: not for every single row.
        if room and (4 * room >= len(batch.rows) or room == len(waiting)):
            new, waiting = waiting[:room], waiting[room:]
            batch.start(new)
            for row in new:
                report(row)
        elif batch.rows:
            for row in batch.step():
                report(row)
        else:
            raise DataError(
                f"prompt {waiting[0].index} and its {waiting[0].limit} new tokens do not fit in "
                "the memory that is free; lower max_new_tokens"
            )


def _open(
    decoder: Decoder, rows: Sequence[Row], rules: Rules, batch_size: int | None
) -> RowBatch | SlotBatch:
    weight = decoder.lm_head.weight
    if not runs_fused(weight):
        return RowBatch(decoder, rules, batch_size or _CPU_ROWS)
    num_slots = min(len(rows), batch_size or _GPU_ROWS)
    sizes = sorted((len(row.prompt) + row.limit for row in rows), reverse=True)
    num_tokens = sum(sizes[:num_slots])
    if weight.is_cuda:
        free, _ = torch.cuda.mem_get_info(weight.device)
        free += torch.cuda.memory_reserved(weight.device)
        free -= torch.cuda.memory_allocated(weight.device)
        most = int(_FREE_SHARE * free) // bytes_per_token(decoder.shape, decoder.dtype)
        num_tokens = min(num_tokens, most)
    return SlotBatch(decoder, rules, num_slots, num_tokens, sizes[0])
