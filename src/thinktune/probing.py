"""A few held-out questions answered along the way, for a curve beside the loss."""

import json
from dataclasses import replace
from pathlib import Path
from statistics import fmean

from thinktune.answering import sample_of
from thinktune.config import RunConfig
from thinktune.evaluation.metrics import metrics_for
from thinktune.evaluation.samples import Answered
from thinktune.evaluation.scores import grade_samples
from thinktune.evaluation.tasks import Task
from thinktune.generation.completion import GenerationConfig
from thinktune.generation.engine import generate
from thinktune.loading import Model, prompt_of
from thinktune.tracking import read_records

SAMPLES_FILE = "samples.jsonl"
"""What the model wrote along the way, in the run folder."""
_CURVES = ("pass_at_1", "lenient_accuracy", "closure_rate", "reasoning_words", "answer_words")


class Probe:
    """The first held-out questions, asked greedily at every look; keeps what was written."""

    def __init__(self, model: Model, task: Task, config: RunConfig, folder: Path) -> None:
        """Choose the questions.

        Args:
            model: the model in training.
            task: the held-out questions.
            config: how many are asked, and the limit of a completion.
            folder: of the run.
        """
        self.path = folder / SAMPLES_FILE
        self._model, self._config = model, config
        self._task = replace(task, problems=task.problems[: config.evaluation.num_probe])
        self._prompts = [prompt_of(model.template, p) for p in self._task.problems]

    def has_looked(self, step: int) -> bool:
        """Whether there was a look at this step already."""
        return any(record["step"] == step for record in read_records(self.path))

    def look(self, step: int) -> dict[str, float | int]:
        """Ask, write down what the model says at this step, and give the numbers to track."""
        limit = self._config.evaluation.max_new_tokens
        completions = generate(
            self._model.decoder,
            self._model.tokenizer,
            self._prompts,
            GenerationConfig(max_new_tokens=limit, temperature=0, top_p=1),
            stop_token_ids=self._model.template.stop_token_ids,
        )
        samples = [
            [sample_of(self._model, problem.id, 0, prompt, completion)]
            for problem, prompt, completion in zip(
                self._task.problems, self._prompts, completions, strict=True
            )
        ]
        answered = grade_samples(self._task, samples)
        with self.path.open("a", encoding="utf-8") as file:
            for each in answered:
                file.write(json.dumps(_record(step, each), ensure_ascii=False) + "\n")
        return {f"probe/{name}": mean for name, mean in _means(answered).items()}


def _record(step: int, answered: Answered) -> dict[str, object]:
    (graded,) = answered.graded
    return {
        "step": step,
        "id": answered.problem.id,
        "question": answered.problem.question,
        "completion": graded.sample.completion,
        "strict": graded.grade.strict,
        "truncated": graded.sample.truncated,
    }


def _means(answered: list[Answered]) -> dict[str, float | int]:
    metrics = metrics_for(1)
    values = {name: [metrics[name].of(each) for each in answered] for name in _CURVES}
    given = {name: [v for v in of if v is not None] for name, of in values.items()}
    return {name: fmean(of) for name, of in given.items() if of} | {"num": len(answered)}
