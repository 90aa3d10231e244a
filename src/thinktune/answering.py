"""Ask a model every question of a task, as it stands, and grade what it writes."""

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from thinktune import atomic
from thinktune.evaluation.samples import Answered, Sample, from_record, to_record
from thinktune.evaluation.scores import grade_samples
from thinktune.evaluation.tasks import EvaluationConfig, Task
from thinktune.generation.completion import Completion, GenerationConfig, Stop
from thinktune.generation.engine import generate
from thinktune.generation.remote import ServerConfig, complete_remotely
from thinktune.loading import Model, prompt_of
from thinktune.reference_losses import reference_losses
from thinktune.tracking import Watcher, read_records


def answer(
    model: Model,
    task: Task,
    config: EvaluationConfig,
    *,
    seed: int,
    watcher: Watcher,
    title: str,
    journal: Path | None = None,
    identity: Mapping[str, object] | None = None,
    server: ServerConfig | None = None,
) -> list[Answered]:
    """Ask the model every question of a task, as it stands, and grade what it writes.

    Args:
        model: with or without an adapter.
        task: its questions.
        config: how many samples, and how they are drawn.
        seed: of the draws; the same questions and seed draw by the same numbers.
        watcher: who watches.
        title: what the watcher is told is going on.
        journal: where every sample is kept as it ends; what an interrupted call left there for the
            same questions, model and decoding is not asked again.
        identity: what else must be the same for that, such as the adapter's weights.
        server: what answers in place of this process; its model must be the same.
    """
    prompts = [prompt_of(model.template, problem) for problem in task.problems]
    wanted = [(p, n) for p in range(len(prompts)) for n in range(config.num_samples)]
    done = _Journal(journal, _head(model, prompts, config, seed, identity, server), watcher)
    missing = [(p, n) for p, n in wanted if (task.problems[p].id, n) not in done.samples]
    watcher.stage(title, len(wanted))
    watcher.advance(len(done.samples))
    started = time.perf_counter()
    num_tokens = 0

    def on_done(index: int, completion: Completion) -> None:
        nonlocal num_tokens
        num_tokens += len(completion.tokens)
        place, number = missing[index]
        problem = task.problems[place]
        done.add(sample_of(model, problem.id, number, prompts[place], completion))
        rate = num_tokens / (time.perf_counter() - started)
        numbers = {"closed": done.num_closed, "tokens_per_second": rate}
        watcher.advance(len(done.samples), numbers)

    asked = [(prompts[p], p * config.num_samples + n) for p, n in missing]
    try:
        _draw(model, asked, config, seed, server, on_done, watcher)
    finally:
        done.close()
    samples = [
        [done.samples[problem.id, number] for number in range(config.num_samples)]
        for problem in task.problems
    ]
    losses = reference_losses(model, task.problems, watcher) if server is None else None
    return grade_samples(task, samples, losses)


def _draw(
    model: Model,
    asked: Sequence[tuple[Sequence[int], int]],
    config: EvaluationConfig,
    seed: int,
    server: ServerConfig | None,
    on_done: Callable[[int, Completion], None],
    watcher: Watcher,
) -> None:
    """Complete prompts, each with the number that decides its draws, here or on a server."""
    drawn = GenerationConfig(
        max_new_tokens=config.max_new_tokens, temperature=config.temperature, top_p=config.top_p
    )
    prompts, numbers = [prompt for prompt, _ in asked], [number for _, number in asked]
    stops = model.template.stop_token_ids
    if server is None:
        generate(
            model.decoder, model.tokenizer, prompts, drawn, stop_token_ids=stops, seed=seed,
            numbers=numbers, batch_size=config.batch_size, on_done=on_done,
        )  # fmt: skip
    else:
        complete_remotely(
            server, model.tokenizer, prompts, drawn, stop_token_ids=stops, seed=seed,
            numbers=numbers, on_done=on_done, on_warning=watcher.say,
        )  # fmt: skip


class _Journal:
    """Samples as they end, on disk if there is a path; owns the file."""

    def __init__(self, path: Path | None, head: Mapping[str, object], watcher: Watcher) -> None:
        """Take over what an interrupted call has left, if it was asked the same."""
        self.samples: dict[tuple[str, int], Sample] = {}
        self.num_closed = 0
        self._file = None
        if path is None:
            return
        for sample in _left(path, head, watcher):
            self._count(sample)
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = [head, *map(to_record, self.samples.values())]
        atomic.write_text(path, "".join(f"{json.dumps(x, ensure_ascii=False)}\n" for x in lines))
        self._file = path.open("a", encoding="utf-8", buffering=1)

    def add(self, sample: Sample) -> None:
        """Keep a sample."""
        self._count(sample)
        if self._file is not None:
            self._file.write(json.dumps(to_record(sample), ensure_ascii=False) + "\n")

    def _count(self, sample: Sample) -> None:
        self.samples[sample.problem_id, sample.index] = sample
        self.num_closed += sample.closed

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()


def _left(path: Path, head: Mapping[str, object], watcher: Watcher) -> Iterator[Sample]:
    """Samples in a journal with the same head."""
    records: list[dict[str, Any]] = read_records(path)
    if not records:
        return
    if records[0] != json.loads(json.dumps(head)):
        watcher.say(f"{path}: answers to other questions or settings are not used again.")
        return
    if len(records) > 1:
        watcher.say(f"{len(records) - 1} answers are there from an interrupted evaluation.")
    yield from map(from_record, records[1:])


def _head(
    model: Model,
    prompts: Sequence[Sequence[int]],
    config: EvaluationConfig,
    seed: int,
    identity: Mapping[str, object] | None,
    server: ServerConfig | None,
) -> dict[str, object]:
    return {
        "prompts": hashlib.sha256(json.dumps(prompts).encode()).hexdigest()[:16],
        "base": model.base.fingerprint,
        "dtype": str(model.decoder.dtype),
        "num_samples": config.num_samples,
        "max_new_tokens": config.max_new_tokens,
        "temperature": config.temperature,
        "top_p": config.top_p,
        "seed": seed,
        "server": None if server is None else f"{server.url} {server.model}",
        **(identity or {}),
    }


def sample_of(
    model: Model, problem_id: str, index: int, prompt: Sequence[int], completion: Completion
) -> Sample:
    """What was written after a prompt, taken apart."""
    parsed = model.template.parse(completion.text)
    return Sample(
        problem_id=problem_id,
        index=index,
        prompt=str(model.tokenizer.decode(list(prompt), skip_special_tokens=False)),
        completion=completion.text,
        reasoning=parsed.reasoning,
        answer=parsed.answer,
        closed=parsed.closed,
        truncated=completion.stop is Stop.TOKEN_LIMIT,
        num_tokens=len(completion.tokens),
    )
