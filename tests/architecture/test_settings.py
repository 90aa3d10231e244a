"""No setting lies: each, changed alone, changes what is done, and is on the page of settings.

A case says what a setting is changed to and where the change must show: in tokens, curves,
weights, files or requests of tiny real runs, never in the setting's own field.
"""

import io
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import close_session, constants
from rich.console import Console
from safetensors.torch import load_file

from tests.hub_server import HubServer
from tests.small_runs import small_settings, without_timing, write_rows
from tests.tiny_models import tiny_checkpoint
from tests.tokenizers import BOS, EOS, R1_MARKS, chatml
from tests.unit.hub.mirrored_runs import TOKEN, point_to
from tests.unit.teacher.scripted_server import ScriptedServer, completion
from thinktune.answering import answer
from thinktune.chat import open_chat, reply
from thinktune.config import RunConfig, check, json_schema, setting_names
from thinktune.errors import DataError, TrainingError
from thinktune.estimating import estimate
from thinktune.evaluating import further_tasks, judge_of, make_task
from thinktune.evaluation.tasks import Task, grade_answer
from thinktune.fed_run import read_fed_run
from thinktune.judging import Judgeable, judge_answers
from thinktune.loading import load_config_model, load_data
from thinktune.model.decoder import Decoder
from thinktune.pipeline import run_recipe
from thinktune.settings_page import settings_page
from thinktune.tracking import Silence, read_metrics

DOCS = Path(__file__).parents[2] / "docs"
ROWS = [
    {
        "question": f"Fever for {days} days?",
        "shorter": f"{days} days?",
        "reasoning": f"It is {days} days. First we look at it. It is what it is. Wait, we do.",
        "answer": "flu" if days % 2 else "cold",
        "reference": "flu" if days % 2 else "cold",
        "split": "train" if days < 6 else "extra" if days < 8 else "test",
    }
    for days in range(11)
]
OTHER_ROWS = [row | {"question": f"Cough, {row['question']}"} for row in ROWS]
JOINED_ROWS = [
    {"question": row["question"], "both": f"{row['reasoning']}####{row['answer']}"}
    | {"split": row["split"]}
    for row in ROWS
]
THOUGHT = "<think>\nFirst we look.\n</think>\n\nflu"
TALKS = [
    {
        "messages": [
            {"role": "user", "content": "Fever?"},
            {"role": "assistant", "content": THOUGHT},
            {"role": "user", "content": row["question"]},
            {"role": "assistant", "content": f"<think>\nIt is so.\n</think>\n\n{row['answer']}"},
        ],
        "split": row["split"],
    }
    for row in ROWS
]
SPIKY_ROWS = [ROWS[0] | {"split": "train"} for _ in range(24)] + [
    ROWS[1] | {"reasoning": "42 17 25 " * 9, "split": "train"},
    ROWS[8],
]
BASE: dict[str, Any] = {
    "evaluation.tasks": [],
    "training.max_steps": 4,
    "training.eval_steps": None,
    "training.save_steps": None,
}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """What is this small is slower on several, much slower where others use them too."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@dataclass(frozen=True)
class Desk:
    """Where a case works."""

    folder: Path
    patch: pytest.MonkeyPatch

    def config(self, changes: Mapping[str, object]) -> RunConfig:
        """The base settings, changed; each call has a run folder of its own."""
        settings = small_settings(self.folder, data={"train": str(self.folder / "own.jsonl")})
        number = sum(1 for _ in self.folder.glob("run*"))
        settings["output_dir"] = str(self.folder / f"run{number}")
        for name, value in {**BASE, **changes}.items():
            *groups, own = name.split(".")
            place = settings
            for group in groups:
                place = place.setdefault(group, {})
            place[own] = value
        return check(settings, where="test")


Look = Callable[[RunConfig, Desk], object]


def nothing(desk: Desk) -> None:
    """There is nothing to prepare."""


@dataclass(frozen=True)
class Case:
    """A setting's other value, and where it must show."""

    to: object
    look: Look
    beside: Mapping[str, object] = field(default_factory=dict)
    """Settings that must stand beside both values."""
    prepare: Callable[[Desk], object] = nothing


def rows(config: RunConfig, desk: Desk) -> object:
    """The tokens that are trained on and measured, or why there are none."""
    try:
        fed = read_fed_run(config)
    except DataError as error:
        return str(error)
    return [[(row.tokens, row.prompt_length) for row in some] for some in (fed.train, fed.heldout)]


def curve(config: RunConfig, desk: Desk) -> object:
    """What a training records."""
    outcome = run_recipe(config, "small", compare_after=False)
    return without_timing(read_metrics(outcome.folder))


def adapter(config: RunConfig, desk: Desk) -> object:
    """The trained weights."""
    outcome = run_recipe(config, "small", compare_after=False)
    tensors = load_file(outcome.folder / "adapter" / "adapter_model.safetensors")
    return {name: tensor.tolist() for name, tensor in tensors.items()}


def files(config: RunConfig, desk: Desk) -> object:
    """Every file a training leaves, by its place below the folder where all are."""
    desk.patch.chdir(desk.folder)
    shutil.rmtree(desk.folder / "elsewhere", ignore_errors=True)
    outcome = run_recipe(config, "small", compare_after=False)
    kept = {path.parent.name for path in outcome.folder.rglob("*") if path.is_file()}
    where = outcome.folder.resolve().relative_to(desk.folder)
    return ["run" if where.name.startswith("run") else str(where), sorted(kept - {where.name})]


def probe(config: RunConfig, desk: Desk) -> object:
    """What the model says along the way."""
    path = run_recipe(config, "small", compare_after=False).folder / "samples.jsonl"
    return path.read_text().splitlines() if path.exists() else None


def passes(config: RunConfig, desk: Desk) -> object:
    """How many tokens the decoder takes at a time."""
    return _passes(desk, lambda: curve(config, desk))


def settled(config: RunConfig, desk: Desk) -> object:
    """Whether PyTorch may use nothing but kernels that give the same bits again."""
    return _each_pass(
        desk, lambda: curve(config, desk), lambda _: torch.are_deterministic_algorithms_enabled()
    )


def decoding(config: RunConfig, desk: Desk) -> object:
    """The same while it answers."""
    return _passes(desk, lambda: answered(config, desk))


def _passes(desk: Desk, work: Callable[[], object]) -> list[object]:
    return _each_pass(desk, work, len)


def _each_pass(
    desk: Desk, work: Callable[[], object], see: Callable[[torch.Tensor], object]
) -> list[object]:
    seen: list[object] = []
    forward = Decoder.forward

    def watched(self: Decoder, tokens_T: torch.Tensor, *rest: Any) -> torch.Tensor:
        seen.append(see(tokens_T))
        return forward(self, tokens_T, *rest)

    with desk.patch.context() as patch:
        patch.setattr(Decoder, "forward", watched)
        work()
    return seen


def _task(config: RunConfig) -> Task:
    model = load_config_model(config)
    return make_task(config, load_data(config, model.template, model.context, Silence()), "small")


def answered(config: RunConfig, desk: Desk) -> object:
    """What is written to the held-out questions."""
    model = load_config_model(config)
    task = _task(config)
    done = answer(
        model, task, config.evaluation, seed=config.seed, watcher=Silence(), title="Answers"
    )
    return [[graded.sample.completion for graded in each.graded] for each in done]


def grades(config: RunConfig, desk: Desk) -> object:
    """How fixed answers to the held-out questions are graded."""
    task = _task(config)
    said = ("It is a flu, not a cold.", "grippe", "cold")
    return [str(grade_answer(task, problem, text)) for problem in task.problems for text in said]


def asked(config: RunConfig, desk: Desk) -> object:
    """The questions of further tasks."""
    tasks = further_tasks(config.evaluation, seed=config.seed)
    return [(task.name, len(task.problems)) for task in tasks]


def judged(config: RunConfig, desk: Desk) -> object:
    """What a judge is sent."""
    right = completion('{"why": "so", "right": true}')
    with ScriptedServer(lambda body, before: right) as server:
        known = {**config.evaluation.judge, "url": server.url}
        evaluation = config.evaluation.model_copy(update={"judge": known})
        items = [Judgeable("a", "Which?", "flu", "flu")]
        journal = Path(str(config.output_dir)) / "judge.jsonl"
        journal.parent.mkdir()
        judge_answers(items, judge_of(evaluation), journal, Silence())
        return server.bodies


def said(config: RunConfig, desk: Desk) -> object:
    """What a trained run answers in a chat."""
    run = run_recipe(config, "small", compare_after=False).folder
    chat = open_chat(str(run), adapter=None, temperature=None, max_new_tokens=None, seed=5)
    return reply(chat, Console(file=io.StringIO()), "Fever?").tokens


def planned(config: RunConfig, desk: Desk) -> object:
    """The memory plan of a step on a GPU."""
    return [card.plan or card.problem for card in estimate(config, "t4").cards]


def mirrored_files(config: RunConfig, desk: Desk) -> object:
    """What a Hub holds after a run."""
    desk.patch.setattr(constants, "HF_TOKEN_PATH", str(desk.folder / "no-token"))
    desk.patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    desk.patch.setenv("HF_TOKEN", TOKEN)
    with HubServer({TOKEN: "write"}) as hub:
        point_to(hub, desk.patch)
        run_recipe(config, "small", compare_after=False)
        close_session()
        return {name: sorted(repo.files) for name, repo in hub.repos.items()}


def spiked(config: RunConfig, desk: Desk) -> object:
    """The weights after a run with a step that stands out, or how it ended."""
    try:
        return adapter(config, desk)
    except TrainingError as error:
        return str(error)


def two_models_on_the_hub(desk: Desk) -> None:
    """A cache of the Hub with two revisions of a model, and no Hub."""
    home = desk.folder / "cache" / "models--owner--tiny"
    for revision, model in (("main", "llama"), ("v2", "qwen2")):
        commit = revision.ljust(40, "0").replace("m", "a").replace("i", "b").replace("n", "c")
        commit = commit.replace("v", "d")
        shutil.copytree(tiny_checkpoint(model), home / "snapshots" / commit)
        (home / "refs").mkdir(exist_ok=True)
        (home / "refs" / revision).write_text(commit)
    desk.patch.setattr(constants, "HF_HUB_CACHE", str(desk.folder / "cache"))
    desk.patch.setattr(constants, "HF_HUB_OFFLINE", True)


def two_data_sets_on_the_hub(desk: Desk) -> None:
    """A Hub whose data set has other rows at another revision."""
    datasets = pytest.importorskip("datasets", reason="the extra datasets is not installed")

    def load(name: str, subset: object, *, split: str, revision: str | None) -> object:
        some = [row for row in (OTHER_ROWS if revision else ROWS) if row["split"] == split]
        return datasets.Dataset.from_list(some)

    desk.patch.setattr(datasets, "load_dataset", load)


def a_model_of_two_families(desk: Desk) -> None:
    """One whose tokenizer has the marks of both."""
    folder = shutil.copytree(tiny_checkpoint("llama"), desk.folder / "both")
    tokenizer = deepcopy(chatml())
    tokenizer.add_tokens([BOS, EOS, *R1_MARKS], special_tokens=True)
    tokenizer.save_pretrained(folder)


def data(name: str, content: object) -> Callable[[Desk], object]:
    return lambda desk: write_rows(desk.folder / name, content)  # pyright: ignore


HERE = "HERE/"
"""Stands for the desk's folder."""
SAMPLED = {"evaluation.temperature": 1.5}
LONG_CHAT = {"generation.max_new_tokens": 24, "generation.temperature": 2.0}
JUDGE = {"url": "http://127.0.0.1:9", "model": "judge-1"}
CASES: dict[str, Case] = {
    "base_model": Case(str(tiny_checkpoint("qwen2")), curve),
    "revision": Case("v2", lambda config, _: str(read_fed_run(config).shape),
                     {"base_model": "owner/tiny"}, two_models_on_the_hub),
    "base_dtype": Case("bfloat16", curve),
    "seed": Case(4, adapter),
    "deterministic": Case(True, settled),
    "data.train": Case(HERE + "other.jsonl", rows, {}, data("other.jsonl", OTHER_ROWS)),
    "data.train_split": Case("extra", rows),
    "data.heldout": Case(HERE + "other.jsonl", rows, {}, data("other.jsonl", OTHER_ROWS)),
    "data.heldout_split": Case("extra", rows),
    "data.revision": Case("v2", rows, {"data.train": "owner/rows"}, two_data_sets_on_the_hub),
    "data.columns": Case({"question": "shorter"}, rows),
    "data.patterns": Case({"both": "{answer}####{reasoning}"}, rows,
                          {"data.train": HERE + "joined.jsonl"},
                          data("joined.jsonl", JOINED_ROWS)),
    "data.limit": Case(2, rows),
    "template.family": Case("r1", rows, {"base_model": HERE + "both"},
                            a_model_of_two_families),
    "template.system_prompt": Case("Be brief.", rows),
    "template.history_reasoning": Case("keep", rows, {"data.train": HERE + "talks.jsonl"},
                                       data("talks.jsonl", TALKS)),
    "template.think_open": Case("completion", rows),
    "template.max_length": Case(60, rows),
    "template.overlong": Case("fail", rows, {"template.max_length": 60}),
    "reasoning.loss_weight": Case(0.5, curve),
    "answer.loss_weight": Case(0.5, curve),
    "lora.rank": Case(2, adapter),
    "lora.alpha": Case(2.0, adapter),
    "lora.dropout": Case(0.5, adapter),
    "lora.target_modules": Case(["q_proj"], adapter),
    "lora.use_rslora": Case(True, adapter),
    "packing.max_tokens": Case(100, passes),
    "optimizer.learning_rate": Case(0.02, adapter),
    "optimizer.lr_scheduler_type": Case("constant", adapter),
    "optimizer.warmup_steps": Case(3, adapter),
    "optimizer.weight_decay": Case(0.9, adapter),
    "optimizer.adam_betas": Case([0.5, 0.9], adapter),
    "optimizer.max_grad_norm": Case(0.01, adapter),
    "training.batch_size": Case(2, passes),
    "training.num_train_epochs": Case(1.0, curve, {"training.max_steps": None}),
    "training.max_steps": Case(3, curve),
    "training.eval_steps": Case(1, curve),
    "training.save_steps": Case(2, files),
    "training.save_total_limit": Case(1, files, {"training.save_steps": 1}),
    "training.memory_budget_gib": Case(0.01, planned),
    "training.sample_steps": Case(2, probe),
    "training.on_spike": Case("skip", spiked, {
        "data.train": HERE + "spiky.jsonl", "training.batch_size": 1, "training.max_steps": 25,
        "seed": 3, "optimizer.learning_rate": 0.02,
    }, data("spiky.jsonl", SPIKY_ROWS)),
    "generation.max_new_tokens": Case(2, said),
    "generation.temperature": Case(0.0, said, {"generation.max_new_tokens": 24}),
    "generation.top_p": Case(0.01, said, LONG_CHAT),
    "evaluation.grader": Case("text", grades),
    "evaluation.labels": Case({"flu": ["grippe"], "cold": []}, grades),
    "evaluation.tasks": Case(["retention"], asked),
    "evaluation.num_questions": Case(2, answered),
    "evaluation.num_samples": Case(2, answered, SAMPLED),
    "evaluation.max_new_tokens": Case(3, answered),
    "evaluation.batch_size": Case(1, decoding),
    "evaluation.temperature": Case(2.0, answered),
    "evaluation.top_p": Case(0.01, answered, {"evaluation.temperature": 2.0}),
    "evaluation.judge": Case(JUDGE | {"model": "judge-2"}, judged, {"evaluation.grader": "judge"}),
    "evaluation.num_probe": Case(1, probe, {"training.sample_steps": 2}),
    "report_to": Case(["tensorboard"], files),
    "push_to_hub": Case("me/run", mirrored_files),
    "output_dir": Case(HERE + "elsewhere", files),
}  # fmt: skip
FIRST = {
    "data.patterns": {"both": "{reasoning}####{answer}"},
    "evaluation.judge": JUDGE,
}
"""The first value of a setting whose default cannot stand where its case needs it."""


SEEN: dict[Look, object] = {}
"""What the base settings show; that it is the same each time has a test of its own, below."""


def test_every_setting_has_a_case_and_every_case_a_setting() -> None:
    assert set(CASES) == set(setting_names())


# huggingface_hub's own, on the way that large files take without xet.
@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
@pytest.mark.parametrize("name", CASES)
def test_a_setting_that_is_changed_alone_changes_what_is_done(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case, desk = CASES[name], Desk(tmp_path, monkeypatch)
    write_rows(tmp_path / "own.jsonl", ROWS)
    case.prepare(desk)
    beside = {key: _there(value, tmp_path) for key, value in case.beside.items()}
    first = beside | ({name: FIRST[name]} if name in FIRST else {})
    if first or case.prepare is not nothing:
        seen = case.look(desk.config(first), desk)
    elif case.look not in SEEN:
        seen = SEEN[case.look] = case.look(desk.config(first), desk)
    else:
        seen = SEEN[case.look]
    changed = case.look(desk.config(beside | {name: _there(case.to, tmp_path)}), desk)
    assert seen != changed


def _there(value: object, folder: Path) -> object:
    is_place = isinstance(value, str) and value.startswith(HERE)
    return str(folder / value.removeprefix(HERE)) if is_place else value


LOOKS = (
    rows,
    curve,
    adapter,
    files,
    probe,
    passes,
    decoding,
    answered,
    grades,
    asked,
    said,
    planned,
)


@pytest.mark.parametrize("look", LOOKS, ids=lambda look: look.__name__)
def test_what_a_case_looks_at_is_the_same_twice_if_no_setting_is_changed(
    look: Look, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = Desk(tmp_path, monkeypatch)
    write_rows(tmp_path / "own.jsonl", ROWS)
    beside = {"training.sample_steps": 2}
    assert look(desk.config(beside), desk) == look(desk.config(beside), desk)


@pytest.mark.parametrize(
    ("file", "made"), [("settings.md", settings_page), ("recipe.schema.json", json_schema)]
)
def test_the_documents_are_those_that_make_docs_writes(file: str, made: Callable[[], str]) -> None:
    assert (DOCS / file).read_text(encoding="utf-8") == made(), "stale: run `make docs`"


def test_the_page_has_a_row_for_every_setting_that_says_what_it_does() -> None:
    lines = [line.split(" | ") for line in settings_page().splitlines() if line.startswith("| `")]
    assert sorted(line[0].strip("| `") for line in lines) == sorted(setting_names())
    assert all(len(line) == 5 and len(line[3].split()) > 2 for line in lines)
    assert "`lora.rank` | whole number, above 0 | `16` | " in settings_page()
    assert "| `lora_r`, `r` |" in settings_page()


def test_the_schema_refuses_what_a_recipe_must_not_hold() -> None:
    schema = json.loads(json_schema())
    assert schema["additionalProperties"] is False
    assert set(schema["required"]) == {"base_model", "data"}
