"""Which samples are right, which is kept, and why the others are not."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.small_runs import hide_package
from tests.unit.teacher.scripted_server import ScriptedServer, completion, thought
from thinktune.answers.grading import AnswerKind
from thinktune.data.example import Example
from thinktune.errors import ConfigError, DataError
from thinktune.settings import parse_settings
from thinktune.teacher.config import TeacherConfig
from thinktune.teacher.distilling import distill
from thinktune.teacher.kinds import plan_check
from thinktune.teacher.replies import Reply, SampleError, split_reply
from thinktune.teacher.verification import Decision, decide, read_verdict

URL = {"url": "http://127.0.0.1:9/v1", "model": "m"}


def settings(**more: Any) -> TeacherConfig:
    return parse_settings(TeacherConfig, URL | more)


def reply(content: str, reasoning: str = "", finish: str | None = "stop") -> Reply:
    return Reply(content, reasoning, finish, "m", "h", "2026-01-01", 1, 1)


def judged(reference: str | None, *answers: str, **more: Any) -> Decision:
    """The decision about a question whose nth sample reasons in n words more than the last."""
    example = Example("Q?", "", "", reference, where="q.jsonl row 1")
    config = settings(**more)
    replies = [reply(answer, "word " * (n + 1)) for n, answer in enumerate(answers)]
    return decide(example, replies, plan_check([example], config), config)


@pytest.mark.parametrize(
    ("content", "reasoning"),
    [
        ("<think>\nbecause\n</think>\n\nso", ""),
        ("because\n</think>\n\nso", ""),
        (" \n<think>because</think>so", ""),
        ("so", "because"),
        ("\n\nso\n", "\nbecause\n"),
    ],
)
def test_reasoning_is_found_in_its_field_or_between_tags(content: str, reasoning: str) -> None:
    assert split_reply(reply(content, reasoning)) == ("because", "so")


@pytest.mark.parametrize(
    ("sample", "why"),
    [
        (reply("<think>because</think>so", finish="length"), "truncated"),
        (reply("so", "because", finish="length"), "truncated"),
        (reply("<think>because", finish="stop"), "never closed"),
        (reply("<think>a<think>b</think></think>so"), "wrong or nested"),
        (reply("<think>a</think>b<think>c</think>so"), "wrong or nested"),
        (reply("a</think>b</think>so"), "wrong or nested"),
        (reply("</think>a<think>so"), "wrong or nested"),
        (reply("well <think>a</think>so"), "text before"),
        (reply("<think>a</think>so", "because"), "beside a reasoning field"),
        (reply("so"), "no reasoning"),
        (reply("<think> </think>so"), "no reasoning"),
        (reply("<think>a</think> \n"), "no answer"),
        (reply("", "because"), "no answer"),
        (reply("so", "because", finish="content_filter"), "withheld"),
        (reply("so", "because", finish="tool_calls"), "ended by tool_calls"),
        (reply("\ud83d so", "because"), "half a character"),
    ],
)
def test_what_cannot_be_a_row_is_rejected_with_the_reason(sample: Reply, why: str) -> None:
    with pytest.raises(SampleError, match=why):
        split_reply(sample)


def test_both_names_of_the_reasoning_field_are_read(tmp_path: Path) -> None:
    for name in ("reasoning_content", "reasoning"):
        body = completion("4", **{name: "Two and two."})
        with ScriptedServer(lambda _, before, body=body: body) as server:
            config = settings(url=server.url, samples=1)
            done = distill([Example("2+2?", "", "", "4")], config, tmp_path / f"{name}.jsonl")
        assert done.num_rows == 1


@pytest.mark.parametrize(
    ("reference", "right", "wrong", "how"),
    [
        ("1,000", "It is 1000.0 in all", "It is 1001", "number"),
        ("C", r"So \boxed{\text{C}}", "Answer: B", "choice"),
        (r"\frac{1}{2}", r"Hence \boxed{0.5}", r"Hence \boxed{\frac{1}{3}}", "maths"),
        ("Ada Lovelace", r"\boxed{ada lovelace}", "Grace Hopper", "text"),
    ],
)
def test_the_kind_is_found_from_the_reference(
    reference: str, right: str, wrong: str, how: str
) -> None:
    decision = judged(reference, wrong, right)
    assert decision.kept == (1,)
    assert decision.reasons == {0: "wrong answer"}
    assert decision.agreement == 0.5
    assert decision.verification == f"{how} against the reference"


def test_labels_come_from_the_references_that_come_back_or_from_the_settings() -> None:
    diagnoses = ["influenza", "common cold"] * 3
    examples = [Example(f"Q{n}?", "", "", label) for n, label in enumerate(diagnoses)]
    assert plan_check(examples, settings()).kind is AnswerKind.LABEL
    labels = {"influenza": ["flu"], "cold": []}
    decision = judged("influenza", "the flu", "flu, not a cold", "a cold", labels=labels)
    assert decision.kept == (0,)
    lenient = judged("influenza", "flu, not a cold", "a cold", labels=labels, lenient=True)
    assert lenient.kept == (0,)


def test_a_reference_that_cannot_be_compared_is_refused_before_asking() -> None:
    with pytest.raises(DataError, match=r"q.jsonl row 1: reference 'four' holds no number"):
        judged("four", "4", verify="number")
    with pytest.raises(DataError, match="is no choice"):
        judged("perhaps", "C", verify="choice")


@pytest.mark.parametrize(
    ("keep", "kept"),
    [("shortest", (1,)), ("longest", (3,)), ("first", (1,)), ("all", (1, 2, 3))],
)
def test_the_rule_says_which_right_sample_is_kept(keep: str, kept: tuple[int, ...]) -> None:
    decision = judged("7", "8", "7", "7", "7", keep=keep)
    assert decision.kept == kept
    unused = {place: f"right, but not the {keep}" for place in (1, 2, 3) if place not in kept}
    assert decision.reasons == {0: "wrong answer"} | unused


def test_shortest_counts_reasoning_and_not_the_place() -> None:
    example = Example("Q?", "", "", "7")
    replies = [reply("7", "a b c"), reply("7", "a b"), reply("7", "a b c d")]
    config = settings()
    assert decide(example, replies, plan_check([example], config), config).kept == (1,)


@pytest.mark.parametrize(
    ("answers", "how"),
    [
        (("12", "12.0", "13"), "number"),
        (("So 12 eggs", r"\boxed{12}", "I say 9"), None),
        ((r"\boxed{12}", r"thus \boxed{12.0}", r"\boxed{9}"), "number"),
        (("Answer: B", "(B)", "The answer is C"), "choice"),
        ((r"\boxed{\frac{1}{2}}", r"\boxed{0.5}", r"\boxed{\sqrt{2}}"), "maths"),
        (("Paris.", "**paris**", "Lyon"), "text"),
        (("Paris", "Lyon", "Nice"), None),
    ],
)
def test_without_a_reference_the_majority_decides(answers: tuple[str, ...], how: str) -> None:
    decision = judged(None, *answers)
    if how is None:
        assert decision.kept == ()
        assert set(decision.reasons.values()) == {"no majority"}
    else:
        assert decision.kept == (0,)
        assert decision.agreement == pytest.approx(2 / 3)
        assert decision.verification == f"majority by {how}"
        assert decision.reasons[2] == "not the majority's answer"


def test_a_tie_and_too_little_agreement_are_no_majority() -> None:
    assert judged(None, "1", "1", "2", "2").kept == ()
    assert judged(None, "1", "1", "2", "3", "4", min_agreement=0.5).kept == ()
    assert judged(None, "1", "1", "2", "3", "4", min_agreement=0.4).kept == (0,)


def test_samples_that_cannot_be_read_agree_with_nobody() -> None:
    example = Example("Q?", "", "")
    config = settings(min_agreement=0.6)
    replies = [reply("7", "a"), reply("7", "a"), reply("7", "a", finish="length"), reply("7")]
    decision = decide(example, replies, plan_check([example], config), config)
    assert (decision.kept, decision.agreement) == ((), 0.5)


def test_a_single_sample_without_reference_says_that_nothing_verified_it() -> None:
    decision = judged(None, "anything", samples=1)
    assert decision.kept == (0,)
    assert decision.verification.startswith("none")


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("yes", True),
        ("**No.**", False),
        ("<think>yes or no</think>\nYes", True),
        ("yes, but no", None),
        ("I would say yes", None),
        ("", None),
    ],
)
def test_a_judge_is_understood_only_in_one_word(text: str, verdict: bool | None) -> None:
    assert read_verdict(reply(text)) is verdict
    assert read_verdict(replace(reply(text), finish="length")) is None


def test_a_judge_is_asked_once_about_each_readable_sample(tmp_path: Path) -> None:
    def script(body: dict, before: int) -> dict:
        asked = body["messages"][-1]["content"]
        if body["model"] == "judge-1":
            given = asked.partition("<given_answer>")[2].partition("</given_answer>")[0].strip()
            return completion(
                {"It was Ada.": "Yes", "Perhaps her.": "Hard to say"}.get(given, "no")
            )
        answers = ["It was Grace.", "It was Ada.", "Perhaps her.", ""]
        return thought("I recall it well.", answers[body["seed"]])

    config = {"verify": "judge", "judge_model": "judge-1"}
    example = Example("Who?", "", "", "Ada Lovelace", where="q row 1")
    with ScriptedServer(script) as server:
        done = distill([example], settings(url=server.url, **config), tmp_path / "o.jsonl")
        assert done.is_complete
        assert len(server.bodies) == 4 + 3
        assert all(b["temperature"] == 0 for b in server.bodies if b["model"] == "judge-1")
        distill([example], settings(url=server.url, **config), tmp_path / "o.jsonl")
        assert len(server.bodies) == 4 + 3
        other = replace(example, reference="Grace Hopper")
        distill([other], settings(url=server.url, **config), tmp_path / "o.jsonl")
        assert len(server.bodies) == 4 + 3 + 3  # another reference is another question to a judge
    assert done.num_rows == 1
    assert dict(done.rejected) == {
        "the judge says no": 1,
        "the judge's word is unclear": 1,
        "no answer after the reasoning": 1,
    }
    assert dict(done.verifications) == {"a judge": 1}


def test_the_same_question_is_asked_once_and_with_two_references_refused(tmp_path: Path) -> None:
    twice = [Example("2+2?", "", "", "4", where=f"row {n}") for n in (1, 2)]
    with ScriptedServer(lambda *_: thought("Two and two.", "4")) as server:
        done = distill(twice, settings(url=server.url, samples=1), tmp_path / "o.jsonl")
        assert server.asked.total() == 1
    assert (done.num_rows, done.num_repeated) == (1, 1)
    with pytest.raises(DataError, match="row 1 and row 2: the same question with two references"):
        distill([twice[0], replace(twice[1], reference="5")], settings(), tmp_path / "p.jsonl")


def test_missing_packages_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hide_package(monkeypatch, "math_verify")
    with pytest.raises(ConfigError, match=r"thinktune\[teacher\]"):
        judged("x^2", "x^2")
    hide_package(monkeypatch, "openai")
    with pytest.raises(ConfigError, match=r"thinktune\[teacher\]"):
        distill([Example("Q?", "", "")], settings(), tmp_path / "o.jsonl")


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"url": "localhost:8000"}, "http://HOST:PORT/v1"),
        ({"temperature": 0.0}, "all samples are the same"),
        ({"judge_model": "x"}, "no effect"),
        ({"labels": {"a": []}, "verify": "number"}, "no effect"),
        ({"max_cost": 1.0}, "price_input"),
        ({"price_input": 1.0}, "together"),
        ({"extra_body": {"stream": True}}, "stream"),
        ({"samples": 0}, "samples"),
    ],
)
def test_settings_that_cannot_work_are_refused(wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        settings(**wrong)


@pytest.mark.parametrize("url", ["http://me:secret@h/v1", "http://h/v1?key=secret"])
def test_a_key_in_the_url_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        settings(url=url)
    assert "secret" not in str(caught.value)
