"""Every prompt completed, many at a time."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from thinktune.data.packing import shared_prefix
from thinktune.errors import DataError
from thinktune.generation.completion import Completion, GenerationConfig, Stop
from thinktune.generation.drawing import next_tokens
from thinktune.generation.text_stream import TextStream
from thinktune.model.decoder import Decoder
from thinktune.model.kv_cache import KeyValueCache


@dataclass(slots=True)
class _Row:
    """A completion in the making."""

    index: int
    prompt: Sequence[int]
    limit: int
    draws: Tensor
    """One uniform number for each token it may draw, so that no row depends on another."""
    tokens: list[int] = field(default_factory=list)
    stop: Stop | None = None


@torch.inference_mode()
def generate(
    decoder: Decoder,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    config: GenerationConfig,
    *,
    stop_token_ids: Sequence[int],
    seed: int = 0,
    batch_size: int = 32,
    on_text: Callable[[int, str], None] | None = None,
    on_done: Callable[[int, Completion], None] | None = None,
) -> list[Completion]:
    """Complete every prompt.

    Prompts are packed, so none is padded; rows that end leave the batch. A completion depends
    on its prompt, its place in the list and the seed, not on the batch it was in (up to
    rounding, which differs between batch sizes).

    Args:
        decoder: the model, with or without an adapter.
        tokenizer: turns tokens into text.
        prompts: token ids of each prompt.
        config: limits and sampling.
        stop_token_ids: tokens that end a completion.
        seed: of the draws.
        batch_size: rows decoded together.
        on_text: called with (index, new text) as text appears.
        on_done: called with (index, completion) as each ends.

    Returns:
        Completions in the order of the prompts.

    Raises:
        DataError: a prompt is empty or fills the model's context.
    """
    rows = [
        _Row(index, prompt, _limit(decoder, prompt, index, config), _draws(seed, index, config))
        for index, prompt in enumerate(prompts)
    ]
    done: dict[int, Completion] = {}
    was_training = decoder.training
    decoder.eval()
    try:
        # Similar lengths together: a batch is as wide as its longest row.
        waiting = sorted(rows, key=lambda row: len(row.prompt))
        for start in range(0, len(waiting), batch_size):
            batch = waiting[start : start + batch_size]
            streams = {row.index: TextStream(tokenizer) for row in batch} if on_text else {}
            for row in _decode(decoder, batch, config, frozenset(stop_token_ids)):
                if on_text and (piece := streams[row.index].push(row.tokens, row.stop is not None)):
                    on_text(row.index, piece)
                if row.stop is not None:
                    text = tokenizer.decode(row.tokens, skip_special_tokens=False)
                    assert isinstance(text, str)
                    done[row.index] = Completion(tuple(row.tokens), text, row.stop)
                    if on_done:
                        on_done(row.index, done[row.index])
    finally:
        decoder.train(was_training)
    return [done[index] for index in range(len(rows))]


def _limit(decoder: Decoder, prompt: Sequence[int], index: int, config: GenerationConfig) -> int:
    room = decoder.shape.max_position_embeddings - len(prompt)
    if not prompt or room <= 0:
        raise DataError(
            f"prompt {index} has {len(prompt)} tokens; this model reads 1 to "
            f"{decoder.shape.max_position_embeddings - 1}"
        )
    return min(room, config.max_new_tokens)


def _draws(seed: int, index: int, config: GenerationConfig) -> Tensor:
    if config.temperature == 0:
        return torch.zeros(0)
    generator = torch.Generator().manual_seed(seed * 1_000_003 + index)
    return torch.rand(config.max_new_tokens, generator=generator)


def _decode(
    decoder: Decoder, rows: list[_Row], config: GenerationConfig, stops: frozenset[int]
) -> Iterator[_Row]:
    """Yield each row after each of its new tokens."""
    cache = KeyValueCache(decoder.shape, decoder.dtype, decoder.device)
    prompts = [row.prompt for row in rows]
    on_cpu = decoder.device.type == "cpu"
    prefix = shared_prefix(prompts, min(map(len, prompts)) - 1) if on_cpu else 0
    lengths = [len(prompt) - prefix for prompt in prompts]
    ids = [*prompts[0][:prefix], *(token for prompt in prompts for token in prompt[prefix:])]
    places = [torch.arange(prefix), *(torch.arange(prefix, prefix + n) for n in lengths)]
    hidden = decoder(
        torch.tensor(ids, device=decoder.device),
        torch.cat(places).to(decoder.device),
        cache.prefill(lengths, prefix),
    )
    hidden = hidden[torch.tensor(lengths, device=decoder.device).cumsum(0) + prefix - 1]
    while True:
        draws = torch.tensor(
            [float(row.draws[len(row.tokens)]) if len(row.draws) else 0.0 for row in rows],
            device=decoder.device,
        )
        chosen = next_tokens(
            decoder.logits(hidden), draws, temperature=config.temperature, top_p=config.top_p
        )
        for row, token in zip(rows, chosen.tolist(), strict=True):
            if token in stops:
                row.stop = Stop.END_OF_TURN
            else:
                row.tokens.append(token)
                if len(row.tokens) == row.limit:
                    row.stop = Stop.TOKEN_LIMIT
            yield row
        going = [place for place, row in enumerate(rows) if row.stop is None]
        if not going:
            return
        if len(going) < len(rows):
            cache.keep(going)
            rows = [rows[place] for place in going]
            chosen = chosen[torch.tensor(going, device=decoder.device)]
        positions, attend = cache.advance()
        hidden = decoder(chosen, positions, attend)
