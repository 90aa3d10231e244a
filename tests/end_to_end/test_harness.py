"""lm-evaluation-harness over our models: what it sees, and that its scores are the right ones."""

import importlib
import importlib.util
import json
import os
import subprocess
import sys
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests.small_runs import hide_package, small_config, write_rows
from tests.tiny_models import (
    FAMILIES,
    attach_trained,
    make_model,
    random_documents,
    save_model,
    tiny_checkpoint,
    tiny_decoder,
    tiny_model,
)
from tests.tokenizers import chatml
from thinktune.data.example import Role, Turn
from thinktune.errors import ConfigError, DataError
from thinktune.generation.completion import GenerationConfig
from thinktune.harness.__main__ import main
from thinktune.harness.adapter import harness_class
from thinktune.harness.answerer import Answerer, HarnessConfig, Side, Think, open_answerer
from thinktune.harness.likelihoods import log_likelihoods
from thinktune.loading import load_model
from thinktune.model.adapter_io import write_adapter
from thinktune.run_folder import new_run_folder, write_record

NEEDS_HARNESS = pytest.mark.skipif(
    importlib.util.find_spec("lm_eval") is None, reason="lm_eval is not installed"
)
OTHERS_WARN = pytest.mark.filterwarnings("ignore")
ANSWER = "Wait,病人</think> cough;an"
GREEDY = GenerationConfig(max_new_tokens=40, temperature=0)
QUESTION = [{"role": "user", "content": "Which is it?"}]


@cache
def rehearsed(folder: Path) -> Path:
    """A checkpoint that says ``ANSWER`` after a prompt that opens the reasoning, and then ends.

    Its layers add nothing, so the next token follows from the last one alone.
    """
    model, tokenizer = make_model("llama"), chatml()
    written = tokenizer.encode(ANSWER, add_special_tokens=False)
    opening = tokenizer.encode("<think>\n", add_special_tokens=False)[-1]
    chain = [opening, *written, tokenizer.convert_tokens_to_ids("<|im_end|>")]
    assert len(set(chain)) == len(chain), "a token would have two successors"
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        model.model.norm.weight.fill_(1)
        embedding = model.model.embed_tokens.weight
        embedding.div_(embedding.norm(dim=1, keepdim=True))
        model.lm_head.weight.zero_()
        for token, following in pairwise(chain):
            model.lm_head.weight[following] = embedding[token]
    return save_model(model, folder)


@pytest.fixture(scope="module")
def speaker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return rehearsed(tmp_path_factory.mktemp("rehearsed"))


def answerer(folder: Path, **settings: Any) -> Answerer:
    return Answerer(load_model(str(folder)), HarnessConfig(model=str(folder), **settings))


def ask(
    of: Answerer, contexts: list[str], until: list[str] | None = None, **changes: int
) -> list[str]:
    texts = [""] * len(contexts)
    config = GREEDY.model_copy(update=changes)
    of.answer(contexts, config, [until or []] * len(contexts), texts.__setitem__)
    return texts


def theirs(name: str, context: list[int], continuation: list[int]) -> tuple[float, bool]:
    """By transformers, with the logits of the whole sequence."""
    logits = tiny_model(name)(torch.tensor([[*context, *continuation]])).logits[0]
    targets = torch.tensor(continuation)
    predicting = logits[len(context) - 1 : -1].detach()
    chosen = predicting.log_softmax(-1).gather(1, targets[:, None])
    return float(chosen.sum()), bool((predicting.argmax(-1) == targets).all())


@pytest.mark.parametrize("name", FAMILIES)
def test_likelihoods_equal_those_of_transformers_whatever_shares_a_row(name: str) -> None:
    a, b, c, d = (document.tolist() for document in random_documents((31, 7, 1, 300)))
    likeliest = int(tiny_model(name)(torch.tensor([a])).logits[0, -1].argmax())
    pairs = [(a, b), (a, [5]), (a, [6]), (c, d), (b, c), (a[:20], a[20:]), (a, [likeliest])]
    for ours, (context, continuation) in zip(
        log_likelihoods(tiny_decoder(name), pairs), pairs, strict=True
    ):
        likelihood, is_greedy = theirs(name, context, continuation)
        assert ours[0] == pytest.approx(likelihood, abs=1e-4, rel=1e-6)
        assert ours[1] is is_greedy
    assert log_likelihoods(tiny_decoder(name), [(a, [likeliest])])[0][1] is True


def test_a_context_that_does_not_fit_is_cut_from_the_left() -> None:
    long, end = (document.tolist() for document in random_documents((700, 9)))
    decoder = tiny_decoder("llama")
    cut, whole = log_likelihoods(decoder, [(long, end), (long[-(513 - 9) :], end)])
    assert cut == whole


@pytest.mark.parametrize(("context", "end"), [([], [1]), ([1], []), ([1], [1] * 513)])
def test_a_pair_that_cannot_be_scored_is_refused(context: list[int], end: list[int]) -> None:
    with pytest.raises(DataError, match="request 1"):
        log_likelihoods(tiny_decoder("llama"), [([1], [1]), (context, end)])


def test_progress_counts_every_pair_once() -> None:
    told: list[int] = []
    pairs = [(document.tolist(), [3]) for document in random_documents((400,) * 23)]
    log_likelihoods(tiny_decoder("llama"), pairs, told.append)
    assert told == sorted(told)
    assert len(told) > 1
    assert told[-1] == 23


def test_a_rendered_conversation_is_read_back_as_the_prompt_the_run_was_trained_on() -> None:
    of = answerer(tiny_checkpoint("llama"))
    said = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Fever?"},
        {"role": "assistant", "content": "Flu."},
        *QUESTION,
    ]
    text = of.render(said, asks=True)
    history = (Turn(Role.USER, "Fever?"), Turn(Role.ASSISTANT, "Flu."))
    template = of.model.template
    ours = template.render_prompt("Which is it?", system="Be brief.", history=history)
    assert of.encode(text) == ours
    assert text.endswith("<think>\n")


def test_an_answer_that_is_begun_or_scored_comes_after_an_empty_reasoning() -> None:
    of = answerer(tiny_checkpoint("llama"))
    context = of.render(QUESTION, asks=True)
    assert of.close(context) == f"{context}\n</think>\n\n"
    assert of.close("The capital of France is") == "The capital of France is"
    begun = of.render([*QUESTION, {"role": "assistant", "content": "It is"}], asks=False)
    assert begun == f"{context}\n</think>\n\nIt is"
    keeps = answerer(tiny_checkpoint("llama"), think=Think.KEEP)
    assert keeps.close(context) == context


def test_the_answer_alone_is_scored_and_stop_strings_do_not_reach_into_the_reasoning(
    speaker: Path,
) -> None:
    of = answerer(speaker)
    context = of.render(QUESTION, asks=True)
    assert ask(of, [context] * 2) == ["cough;an"] * 2
    assert ask(of, [context], [",", ""]) == ["cough;an"]
    assert ask(of, [context], [";", "g"]) == ["cou"]
    keeps = answerer(speaker, think=Think.KEEP)
    assert ask(keeps, [context]) == [ANSWER]
    assert ask(keeps, [context], [","]) == ["Wait"]
    assert (of.num_generated, of.num_unclosed) == (4, 0)


def test_reasoning_that_never_closes_is_an_empty_answer_and_is_counted(speaker: Path) -> None:
    of = answerer(speaker)
    assert ask(of, [of.render(QUESTION, asks=True)], max_new_tokens=3) == [""]
    assert (of.num_generated, of.num_unclosed) == (1, 1)


def test_a_text_in_which_no_reasoning_was_opened_is_an_answer_as_it_stands(speaker: Path) -> None:
    of = answerer(speaker)
    assert ask(of, ["Question: which? Answer: cough"]) == [";an"]
    assert of.num_unclosed == 0


def test_an_option_without_effect_is_refused(tmp_path: Path) -> None:
    folder = str(tiny_checkpoint("llama"))
    with pytest.raises(ConfigError, match="side=before goes with a run folder"):
        open_answerer(HarnessConfig(model=folder, side=Side.BEFORE))
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(ConfigError, match="a run has its own adapter"):
        open_answerer(HarnessConfig(model=str(tmp_path), adapter=folder))


def test_a_run_is_scored_with_its_adapter_and_its_base_model_without(tmp_path: Path) -> None:
    config = small_config(tmp_path)
    run = new_run_folder(config, "small")
    write_record(run, config, "small", {})
    model = load_model(config.base_model)
    pairs = [([1, 2, 3], [4, 5])]
    before = log_likelihoods(model.decoder, pairs)
    attach_trained(model.decoder, config.lora)
    after = log_likelihoods(model.decoder, pairs)
    assert before != after
    run.adapter.mkdir()
    write_adapter(model.decoder, run.adapter, config.lora, model.base)
    for side, expected in ((Side.BEFORE, before), (Side.AFTER, after)):
        of = open_answerer(HarnessConfig(model=str(run.path), side=side))
        assert log_likelihoods(of.model.decoder, pairs) == expected
    other = HarnessConfig(model=config.base_model, adapter=str(run.adapter))
    assert log_likelihoods(open_answerer(other).model.decoder, pairs) == after


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    hide_package(monkeypatch, "lm_eval")
    for name in [name for name in sys.modules if name.startswith("lm_eval.")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ConfigError, match=r"pip install thinktune\[lm-eval\]"):
        harness_class.__wrapped__()


# What follows runs the harness itself.


def instances(kind: str, arguments: list[tuple[Any, ...]]) -> list[Any]:
    instance = importlib.import_module("lm_eval.api.instance").Instance
    return [
        instance(request_type=kind, doc={}, arguments=given, idx=index)
        for index, given in enumerate(arguments)
    ]


@NEEDS_HARNESS
@OTHERS_WARN
@pytest.mark.parametrize("name", FAMILIES)
def test_likelihoods_equal_those_of_the_harness_own_model(name: str) -> None:
    theirs = importlib.import_module("lm_eval.models.huggingface").HFLM
    folder = str(tiny_checkpoint(name))
    own = theirs(pretrained=folder, dtype="float32", device="cpu", batch_size=2)
    ours = harness_class()(model=folder)
    pairs = [
        ("The patient has", " a fever"),
        ("The patient has", " a cough and a fever"),
        ("The patient has ", "a"),
        ("", "Therefore the answer is 42."),
        ("體溫 38.5 度。", "可能是流感。"),
        ("First we look. " * 90, " Wait"),
    ]
    asked = instances("loglikelihood", pairs)
    for mine, other in zip(
        ours.loglikelihood(asked, disable_tqdm=True),
        own.loglikelihood(asked, disable_tqdm=True),
        strict=True,
    ):
        assert mine[0] == pytest.approx(other[0], abs=1e-4)
        assert mine[1] is other[1]
    texts = instances("loglikelihood_rolling", [("The sum is 42. ",), ("Wait, no. " * 300,)])
    assert ours.loglikelihood_rolling(texts, disable_tqdm=True) == pytest.approx(
        own.loglikelihood_rolling(texts, disable_tqdm=True), abs=1e-4, rel=1e-6
    )


@NEEDS_HARNESS
@OTHERS_WARN
def test_requests_are_grouped_by_their_sampling_and_answered_in_order(speaker: Path) -> None:
    ours = harness_class()(model=str(speaker), batch_size=1)
    context = ours.apply_chat_template(QUESTION)
    short = {"until": ["x"], "max_gen_toks": 3}
    long = {"until": [";"], "max_new_tokens": 40, "do_sample": False, "num_beams": 1}
    asked = instances("generate_until", [(context, short), (context, long), (context, short)])
    assert ours.generate_until(asked, disable_tqdm=True) == ["", "cough", ""]
    assert ours.get_model_info()["num_unclosed"] == 2


def _tasks(folder: Path) -> Path:
    rows = [
        {"q": f"Fever for {days} days?", "a": "cough" if days % 4 else "cold"} for days in range(8)
    ]
    data = write_rows(folder / "rows.jsonl", rows)
    both = {
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}, "cache_dir": str(folder)},
        "test_split": "test",
        "doc_to_text": "{{q}}",
        "num_fewshot": 0,
    }
    written = {
        "task": "tiny_written",
        "output_type": "generate_until",
        "doc_to_target": "{{a}}",
        "generation_kwargs": {"until": [";", ","], "do_sample": False, "max_gen_toks": 60},
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    }
    chosen = {
        "task": "tiny_chosen",
        "output_type": "multiple_choice",
        "doc_to_choice": ["cough", "cold"],
        "doc_to_target": "{{['cough', 'cold'].index(a)}}",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }
    for task in (written, chosen):
        (folder / f"{task['task']}.yaml").write_text(yaml.safe_dump(both | task))
    return folder


def words_for(folder: Path, model: str, arguments: str, task: str, *more: str) -> list[str]:
    """The documented command, after ``python -m thinktune.harness``."""
    words = ["run", "--model", model, "--model_args", arguments, "--tasks", task]
    return [*words, "--include_path", str(folder), "--output_path", str(folder / "out.json"), *more]


def results(folder: Path) -> dict[str, Any]:
    """What the newest evaluation wrote."""
    newest = max(folder.rglob("out_*.json"), key=lambda path: path.stat().st_mtime)
    return json.loads(newest.read_text())


def run_here(*words: str) -> None:
    """The same command, in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["harness", *words])
        main()


CHAT = ("--apply_chat_template", "--batch_size", "auto")


@NEEDS_HARNESS
def test_the_documented_command_scores_answers_without_their_reasoning(
    speaker: Path, tmp_path: Path
) -> None:
    folder = _tasks(tmp_path)
    words = words_for(folder, "thinktune", f"model={speaker}", "tiny_written", *CHAT)
    command = [sys.executable, "-m", "thinktune.harness", *words]
    offline = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, check=False, env=offline
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "|exact_match|" in done.stdout.replace(" ", "")
    found = results(folder)
    assert found["results"]["tiny_written"]["exact_match,none"] == 0.75
    assert found["config"]["num_generated"] == 8
    assert found["config"]["num_unclosed"] == 0


@NEEDS_HARNESS
@OTHERS_WARN
@pytest.mark.parametrize(
    ("arguments", "gen_kwargs", "num_unclosed"),
    [("think=strip", "max_gen_toks=3", 8), ("think=keep", "max_gen_toks=60", 0)],
    ids=["too few tokens", "reasoning scored as answer"],
)
def test_the_two_traps_score_nothing_and_the_first_is_told(
    speaker: Path, tmp_path: Path, arguments: str, gen_kwargs: str, num_unclosed: int
) -> None:
    folder = _tasks(tmp_path)
    model = f"model={speaker},{arguments}"
    more = (*CHAT, "--gen_kwargs", gen_kwargs)
    run_here(*words_for(folder, "thinktune", model, "tiny_written", *more))
    found = results(folder)
    assert found["results"]["tiny_written"]["exact_match,none"] == 0
    assert found["config"]["num_unclosed"] == num_unclosed


@NEEDS_HARNESS
@OTHERS_WARN
def test_multiple_choice_is_scored_as_by_the_harness_own_model(tmp_path: Path) -> None:
    folder = _tasks(tmp_path)
    model = tiny_checkpoint("qwen2")
    run_here(*words_for(folder, "thinktune", f"model={model}", "tiny_chosen"))
    ours = results(folder)
    arguments = f"pretrained={model},dtype=float32"
    run_here(*words_for(folder, "hf", arguments, "tiny_chosen", "--device", "cpu"))
    own = results(folder)
    assert own["config"]["model"] == "hf"
    assert ours["results"]["tiny_chosen"]["acc,none"] == own["results"]["tiny_chosen"]["acc,none"]


@NEEDS_HARNESS
@OTHERS_WARN
def test_a_wrong_argument_ends_with_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = words_for(_tasks(tmp_path), "thinktune", "model=nowhere,think=off", "tiny_written")
    with pytest.raises(SystemExit, match="2"):
        run_here(*words)
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: think='off'")
