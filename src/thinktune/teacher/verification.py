"""Which samples of a question are right, by its reference or by majority, and which are kept."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

from thinktune.answers.boxes import find_boxed
from thinktune.answers.choices import find_choice
from thinktune.answers.grading import AnswerKind, grade
from thinktune.answers.labels import Labels, find_labels
from thinktune.answers.maths import same_maths
from thinktune.answers.numbers import find_number
from thinktune.answers.wording import normalise
from thinktune.data.conversations import THINK_TAG
from thinktune.data.example import Example
from thinktune.errors import ConfigError
from thinktune.teacher.config import Keep, TeacherConfig, Verify
from thinktune.teacher.kinds import Check, kind_of_answers, require_maths
from thinktune.teacher.replies import Reply, SampleError, split_reply
from thinktune.words import count_words

JUDGE_PROMPT = """You check an answer against the known right one. Judge only the final result: \
wording, length and explanations do not matter.

<question>
{question}
</question>

<right_answer>
{reference}
</right_answer>

<given_answer>
{answer}
</given_answer>

Does the given answer come to the same result as the right answer? Reply with one word: yes or \
no."""
"""What a judge is asked; the reply must be that one word."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What became of a question's samples."""

    kept: tuple[int, ...]
    """Samples that become rows, in order."""
    reasons: Mapping[int, str]
    """Why each other sample does not."""
    agreement: float
    """Share of the samples that give the answer kept, or the most frequent one."""
    verification: str
    """``number against the reference``, ``majority of numbers``, ..."""


def judge_prompt(example: Example, answer: str) -> str:
    """The question to a judge about one answer."""
    return JUDGE_PROMPT.format(
        question=example.question, reference=example.reference, answer=answer
    )


def read_verdict(reply: Reply) -> bool | None:
    """Read a judge's yes or no, after its reasoning if it reasons; None for anything else."""
    words = normalise(THINK_TAG.split(reply.content)[-1])
    return {"yes": True, "no": False}.get(words) if reply.finish != "length" else None


def decide(
    example: Example,
    replies: Sequence[Reply],
    check: Check,
    config: TeacherConfig,
    verdicts: Mapping[int, bool | None] | None = None,
) -> Decision:
    """Verify all samples of a question and keep the best.

    Where there is a reference, a sample is right if its answer gives it. Where there is none, the
    answer that most samples give is taken for right (self-consistency, arXiv:2203.11171) if at
    least ``config.min_agreement`` of all samples give it and no other is as frequent; unreadable
    samples count as disagreeing. A single sample without a reference is kept unverified.

    Args:
        example: the question.
        replies: its samples, in order.
        check: how answers are compared.
        config: the rules.
        verdicts: a judge's, by sample, where there is a judge.
    """
    reasons: dict[int, str] = {}
    texts: dict[int, tuple[str, str]] = {}
    for place, reply in enumerate(replies):
        try:
            texts[place] = split_reply(reply)
        except SampleError as error:
            reasons[place] = str(error)
    answers = {place: answer for place, (_, answer) in texts.items()}
    if example.reference is None:
        right, wrong, agreement, told = _vote(answers, len(replies), check, config)
    else:
        right, wrong = _against(example.reference, answers, check, config, verdicts or {})
        agreement = len(right) / len(replies)
        told = "a judge" if check.kind is None else f"{check.kind} against the reference"
    kept = _best(right, {place: texts[place][0] for place in right}, config.keep)
    unused = {place: f"right, but not the {config.keep}" for place in right if place not in kept}
    return Decision(tuple(kept), reasons | wrong | unused, agreement, told)


def _against(
    reference: str,
    answers: Mapping[int, str],
    check: Check,
    config: TeacherConfig,
    verdicts: Mapping[int, bool | None],
) -> tuple[list[int], dict[int, str]]:
    right: list[int] = []
    wrong: dict[int, str] = {}
    for place, answer in answers.items():
        if check.kind is None:
            verdict = verdicts.get(place)
            wrong[place] = (
                "the judge says no" if verdict is False else "the judge's word is unclear"
            )
        else:
            match = grade(answer, reference, check.labels, check.kind)
            verdict = match.lenient if config.lenient else match.strict
            wrong[place] = "wrong answer"
        if verdict:
            right.append(place)
            del wrong[place]
    return right, wrong


def _vote(
    answers: Mapping[int, str], num_asked: int, check: Check, config: TeacherConfig
) -> tuple[list[int], dict[int, str], float, str]:
    kind = check.kind
    if kind is None or (
        config.verify is Verify.AUTO and not config.labels and not check.has_references
    ):
        kind = kind_of_answers(list(answers.values()))
    groups = _group(answers, kind, check.labels)
    wrong = dict.fromkeys(answers, "no final answer to compare")
    if num_asked == 1:
        return list(answers), {}, float(bool(answers)), "none (one sample, no reference)"
    if not groups:
        return [], wrong, 0.0, f"majority by {kind}"
    ranked = sorted(groups, key=len, reverse=True)
    agreement = len(ranked[0]) / num_asked
    is_tied = len(ranked) > 1 and len(ranked[1]) == len(ranked[0])
    alone = len(ranked[0]) == 1
    right = [] if is_tied or alone or agreement < config.min_agreement else ranked[0]
    told = "not the majority's answer" if right else "no majority"
    wrong |= {place: told for group in groups for place in group}
    return (
        right,
        {p: why for p, why in wrong.items() if p not in right},
        agreement,
        f"majority by {kind}",
    )


def _group(answers: Mapping[int, str], kind: AnswerKind, labels: Labels) -> list[list[int]]:
    """Samples with the same final answer, together; those without one are in no group."""
    if kind is AnswerKind.MATHS:
        return _group_maths(answers)
    groups: dict[Hashable, list[int]] = {}
    for place, answer in answers.items():
        final = _final(answer, kind, labels)
        if final is not None:
            groups.setdefault(final, []).append(place)
    return list(groups.values())


def _group_maths(answers: Mapping[int, str]) -> list[list[int]]:
    require_maths()
    groups: list[list[int]] = []
    for place, answer in answers.items():
        final = find_boxed(answer)
        for group in groups:
            first = find_boxed(answers[group[0]])
            if final is not None and first is not None and _equal(first, final):
                group.append(place)
                break
        else:
            if final is not None:
                groups.append([place])
    return groups


def _equal(first: str, second: str) -> bool:
    try:
        return normalise(first) == normalise(second) or same_maths(first, f"\\boxed{{{second}}}")
    except ConfigError:  # no maths that can be read
        return False


def _final(answer: str, kind: AnswerKind, labels: Labels) -> Hashable | None:
    match kind:
        case AnswerKind.LABEL:
            found = find_labels(answer, labels)
            return found[0] if len(found) == 1 else None
        case AnswerKind.NUMBER:
            return find_number(answer)
        case AnswerKind.CHOICE:
            return find_choice(answer)
        case _:
            boxed = find_boxed(answer)
            return normalise(answer if boxed is None else boxed) or None


def _best(right: Sequence[int], reasonings: Mapping[int, str], keep: Keep) -> list[int]:
    """The samples to keep; of equals the earlier."""
    match keep:
        case Keep.ALL:
            return list(right)
        case Keep.FIRST:
            return list(right[:1])
        case _:
            sign = 1 if keep is Keep.SHORTEST else -1
            return sorted(right, key=lambda place: sign * count_words(reasonings[place]))[:1]
