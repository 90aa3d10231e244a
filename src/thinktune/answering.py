"""Ask a model every question of a task, as it stands, and grade what it writes."""

import time
from collections.abc import Sequence

from thinktune.evaluation.samples import Graded, Sample
from thinktune.evaluation.scores import grade_samples
from thinktune.evaluation.tasks import EvaluationConfig, Task
from thinktune.generation.completion import Completion, GenerationConfig, Stop
from thinktune.generation.engine import generate
from thinktune.loading import Model, prompt_of
from thinktune.tracking import Watcher


def answer(
    model: Model,
    task: Task,
    config: EvaluationConfig,
    *,
    seed: int,
    watcher: Watcher,
    title: str,
) -> list[Graded]:
    """Ask the model every question of a task, as it stands, and grade what it writes."""
    prompts = [prompt_of(model.template, problem) for problem in task.problems]
    watcher.stage(title, len(prompts))
    started = time.perf_counter()
    num_done = num_tokens = num_closed = 0

    def on_done(index: int, completion: Completion) -> None:
        nonlocal num_done, num_tokens, num_closed
        num_done, num_tokens = num_done + 1, num_tokens + len(completion.tokens)
        num_closed += model.template.parse(completion.text).closed
        watcher.advance(
            num_done,
            {
                "closed": num_closed,
                "tokens_per_second": num_tokens / (time.perf_counter() - started),
            },
        )

    completions = generate(
        model.decoder,
        model.tokenizer,
        prompts,
        GenerationConfig(
            max_new_tokens=config.max_new_tokens,
            temperature=config.temperature,
            top_p=config.top_p,
        ),
        stop_token_ids=model.template.stop_token_ids,
        seed=seed,
        batch_size=config.batch_size,
        on_done=on_done,
    )
    samples = [
        _sample(model, problem.id, prompt, completion)
        for problem, prompt, completion in zip(task.problems, prompts, completions, strict=True)
    ]
    return grade_samples(task, samples)


def _sample(model: Model, problem_id: str, prompt: Sequence[int], completion: Completion) -> Sample:
    parsed = model.template.parse(completion.text)
    return Sample(
        problem_id=problem_id,
        prompt=str(model.tokenizer.decode(list(prompt), skip_special_tokens=False)),
        completion=completion.text,
        reasoning=parsed.reasoning,
        answer=parsed.answer,
        closed=parsed.closed,
        truncated=completion.stop is Stop.TOKEN_LIMIT,
        num_tokens=len(completion.tokens),
    )
