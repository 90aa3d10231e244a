"""What the main number hides: collapsed or rambling reasoning, loops, answers without reasoning."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from thinktune.data.scripts import Script, simplified_only, traditional_only
from thinktune.evaluation.differences import Difference
from thinktune.evaluation.metrics import has_reasoning, script_wanted
from thinktune.evaluation.samples import Answered, Graded
from thinktune.evaluation.scores import Scores
from thinktune.evaluation.signals import repetition, script_consistency
from thinktune.words import count_words

COLLAPSE_RATIO = 0.4
"""Reasoning shorter than this share of what it was is reported as collapsed."""
RAMBLING_RATIO = 2.5
"""Reasoning longer than so many times what it was is reported as rambling."""
LOOP_SHARE = 0.5
"""A completion of which more than this repeats itself is reported as a loop."""
SCRIPT_SHARE = 0.98
"""A text with less of its letters in the question's script is reported as strange."""
LEARNT_RATE = 0.5
"""Answers are called learnt, and their reasoning looked at, from this share of right ones on."""


@dataclass(frozen=True, slots=True)
class Pairing:
    """The same questions answered by two models, and what was measured of them."""

    before: Sequence[Answered]
    after: Sequence[Answered]
    old: Scores
    new: Scores
    differences: Mapping[str, Difference]
    sides: tuple[str, str]
    """What the two are called."""


def find_alarms(pairing: Pairing) -> list[str]:
    """Give one sentence for each thing that the numbers alone would hide."""
    return [sentence for alarm in _ALARMS for sentence in alarm(pairing)]


def reasoning_ratio(before: Sequence[Answered], after: Sequence[Answered]) -> float | None:
    """Give the mean length of reasoning after over before, over questions closed both times."""
    lengths = [
        (_mean_words(b), _mean_words(a))
        for b, a in zip(before, after, strict=True)
        if any(g.sample.closed for g in b.graded) and any(g.sample.closed for g in a.graded)
    ]
    total_before = sum(b for b, _ in lengths)
    return sum(a for _, a in lengths) / total_before if total_before else None


def _mean_words(answered: Answered) -> float:
    lengths = [count_words(g.sample.reasoning) for g in answered.graded if g.sample.closed]
    return sum(lengths) / len(lengths)


def _different_prompts(of: Pairing) -> Iterator[str]:
    pairs = zip(of.before, of.after, strict=True)
    num = sum(b.graded[0].sample.prompt != a.graded[0].sample.prompt for b, a in pairs)
    if num:
        yield (
            f"{num} of {len(of.after)} questions had one prompt on each side, so not all of a "
            "difference is due to training."
        )


def _format_alone(of: Pairing) -> Iterator[str]:
    strict, lenient = of.differences.get("pass_at_1"), of.differences.get("lenient_accuracy")
    if strict is None or lenient is None or not strict.changed:
        return
    if strict.mean > 0 and lenient.interval.low <= 0:
        yield (
            "Lenient accuracy did not clearly rise: the gain is in finishing and in naming one "
            "answer, not shown to be in knowing more answers."
        )


def _reasoning_length(of: Pairing) -> Iterator[str]:
    before, after = of.sides
    if not any(g.sample.closed for each in of.before for g in each.graded):
        words = of.new.metrics.get("reasoning_words")
        length = f"{words.mean:.0f} words on average" if words else "none closed either"
        yield (
            f"No reasoning was closed on {of.old.num_questions} questions ({before}), so there is "
            f"no length to compare with ({after}: {length})."
        )
    ratio = reasoning_ratio(of.before, of.after)
    if ratio is None or COLLAPSE_RATIO <= ratio <= RAMBLING_RATIO:
        return
    where = f"on the {of.differences['reasoning_words'].num} questions where it was closed twice"
    if ratio < COLLAPSE_RATIO:
        yield (
            f"Reasoning collapsed to {ratio:.0%} of its length, {where}. Training on short "
            "reasoning teaches short reasoning; check that this is wanted."
        )
    else:
        yield f"Reasoning rambles: it is {ratio:.1f} times as long, {where}."


def _empty_reasoning(of: Pairing) -> Iterator[str]:
    yield from _told(of, "have empty reasoning", lambda g: g.sample.closed and not has_reasoning(g))


def _token_limit(of: Pairing) -> Iterator[str]:
    truncated = of.differences["truncated_rate"]
    more = ", and that rose" if truncated.changed and truncated.mean > 0 else ""
    yield from _told(
        of,
        "met the token limit",
        lambda g: g.sample.truncated,
        f"{more}; raise evaluation.max_new_tokens to see whether they end",
    )


def _loops(of: Pairing) -> Iterator[str]:
    yield from _told(
        of,
        "repeat themselves over more than half of their length",
        lambda g: (repetition(g.sample.completion) or 0) > LOOP_SHARE,
    )


def _told(of: Pairing, what: str, holds: Callable[[Graded], bool], rest: str = "") -> Iterator[str]:
    """Say of how many completions after training something holds, unless of none."""
    before, after = (
        [holds(g) for each in side for g in each.graded] for side in (of.before, of.after)
    )
    if any(after):
        counts = f"{of.sides[1]}; {of.sides[0]}: {sum(before)}"
        yield f"{sum(after)} of {len(after)} completions {what} ({counts}){rest}."


def _strange_script(of: Pairing) -> Iterator[str]:
    for part in ("reasoning", "answer"):
        before, after = (_strange_texts(side, part) for side in (of.before, of.after))
        if after:
            counts = f"{of.sides[1]}; {of.sides[0]}: {len(before)}"
            yield (
                f"In {len(after)} completions the {part} is not all in the question's script"
                f"{_examples(after)} ({counts})."
            )


def _strange_texts(answered: Sequence[Answered], part: str) -> list[tuple[str, Script]]:
    """Find the texts, where closed, that are not in the script they should be in, and that one."""
    texts = (
        (getattr(g.sample, part), script_wanted(each.problem))
        for each in answered
        for g in each.graded
        if g.sample.closed
    )
    return [
        (text, wanted)
        for text, wanted in texts
        if (share := script_consistency(text, wanted)) is not None and share < SCRIPT_SHARE
    ]


def _examples(strange: Sequence[tuple[str, Script]]) -> str:
    """Characters of the other variety where Chinese of one is wanted."""
    wanted = Counter(script for _, script in strange).most_common(1)[0][0]
    find = {Script.TRADITIONAL: simplified_only, Script.SIMPLIFIED: traditional_only}.get(wanted)
    found = find("".join(text for text, script in strange if script is wanted)) if find else []
    other = "Simplified" if wanted is Script.TRADITIONAL else "Traditional"
    return f": {other} characters such as {'、'.join(found[:5])}" if found else ""


def _idle_reasoning(of: Pairing) -> Iterator[str]:
    """Say where answers are right without regard to what the reasoning says."""
    accuracy = of.new.metrics.get("pass_at_1")
    if accuracy is None or accuracy.mean < LEARNT_RATE:
        return
    concluded = of.new.metrics.get("conclusion_rate")
    if concluded is not None and concluded.mean < LEARNT_RATE:
        yield (
            "The reasoning does not carry the answer: what it concludes is the answer in only "
            f"{concluded.mean:.0%} of the closed completions ({of.sides[1]})."
        )
    gain = of.new.metrics.get("reasoning_gain")
    if gain is not None and gain.interval.low <= 0:
        yield (
            "The reasoning does not carry the answer: after another question's reasoning the "
            f"reference answer is as likely as after its own ({of.sides[1]}, {gain.mean:+.3f} nats "
            "a token)."
        )


def _ungraded(of: Pairing) -> Iterator[str]:
    num, num_graded = of.new.num_questions, of.new.num_graded
    if 0 < num_graded < num:
        yield f"{num - num_graded} of {num} questions are not graded."


_ALARMS: tuple[Callable[[Pairing], Iterator[str]], ...] = (
    _different_prompts,
    _format_alone,
    _reasoning_length,
    _empty_reasoning,
    _token_limit,
    _loops,
    _strange_script,
    _idle_reasoning,
    _ungraded,
)
