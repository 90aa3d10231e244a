"""From questions to training rows: ask a teacher, verify, keep the best, say what became of all."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from thinktune import atomic
from thinktune.data.example import Example
from thinktune.data.formats import write_rows
from thinktune.data.sources import write_examples
from thinktune.endpoints import wait_for
from thinktune.errors import ConfigError
from thinktune.paths import user_path
from thinktune.teacher.budget import Budget
from thinktune.teacher.card import Distilled, distilled_card
from thinktune.teacher.client import Client, Request
from thinktune.teacher.config import TeacherConfig, Verify
from thinktune.teacher.journal import Journal
from thinktune.teacher.kinds import Check, plan_check
from thinktune.teacher.questions import Question, distinct_questions
from thinktune.teacher.replies import SampleError, split_reply
from thinktune.teacher.sampling import Asked, ask_all
from thinktune.teacher.verification import Decision, decide, read_verdict
from thinktune.tracking import Silence, Watcher


@dataclass(frozen=True, slots=True)
class Files:
    """What lies beside the rows."""

    out: Path

    @property
    def journal(self) -> Path:
        """Every finished request; what a later start goes on from."""
        return self.out.with_name(f"{self.out.stem}.requests.jsonl")

    @property
    def rejected(self) -> Path:
        """Samples that became no row, each with the reason."""
        return self.out.with_name(f"{self.out.stem}.rejected.jsonl")

    @property
    def card(self) -> Path:
        """The data card."""
        return self.out.with_suffix(".md")


@dataclass(slots=True)
class _Work:
    """Everything a run of ``distill`` holds."""

    config: TeacherConfig
    questions: list[Question]
    check: Check
    journal: Journal
    budget: Budget
    watcher: Watcher
    decisions: dict[str, Decision] = field(default_factory=dict)

    def is_sampled(self, question: Question) -> bool:
        """Whether every sample of a question is there."""
        return all(r.key in self.journal for r in question.samples(self.config))

    def judgements(self, question: Question) -> Iterator[tuple[int, Request]]:
        """The judge's requests for a question whose samples are all there."""
        if self.check.kind is not None or question.example.reference is None:
            return
        for place, request in enumerate(question.samples(self.config)):
            try:
                _, answer = split_reply(self.journal.read(request.key))
            except SampleError:
                continue
            yield place, question.judgement(place, answer, self.config)


def distill(
    questions: Sequence[Example],
    config: TeacherConfig,
    out: str | Path,
    *,
    watcher: Watcher | None = None,
) -> Distilled:
    """Ask a teacher for reasonings, verify them, and write the best as training rows.

    Every reply is on disk before it counts: after any end, the same call goes on and asks only
    for what is missing. ``verify``, ``keep``, ``samples`` and the limits may change in between;
    what a sample depends on may not. Rows of questions that lack a sample are left for later.

    Args:
        questions: as ``read_examples(..., required=("question",))`` gives them.
        config: the teacher and the rules.
        out: JSON Lines to write; ``STEM.requests.jsonl``, ``STEM.rejected.jsonl`` and
            ``STEM.md`` come beside it.
        watcher: is told what is being done.

    Returns:
        Counts and costs; ``is_complete`` says whether nothing is left to ask.

    Raises:
        ConfigError: a file is in the way, no key, other parameters than the journal's, or the
            endpoint refuses.
        DataError: a question is there twice with two references, or a reference is unusable.
    """
    files = Files(user_path(out))
    _refuse_taken(files)
    distinct, num_repeated = distinct_questions(questions, config)
    check = plan_check([question.example for question in distinct], config)
    with Journal(files.journal, config.parameters) as journal:
        prices = None
        if config.price_input is not None and config.price_output is not None:
            prices = (config.price_input, config.price_output)
        budget = Budget(config.max_tokens_total, config.max_cost, prices, list(journal.spent))
        work = _Work(config, distinct, check, journal, budget, watcher or Silence())
        asked = wait_for(_ask(work))
        return _write(work, asked, files, num_repeated)


async def _ask(work: _Work) -> list[Asked]:
    """Ask for the samples, then for the judge's words where there is a judge."""
    config = work.config
    async with Client(config, work.journal, work.budget) as client:

        async def ask(title: str, requests: Iterator[Request], total: int) -> Asked:
            work.watcher.stage(title, total)
            return await ask_all(
                requests,
                client,
                work.journal,
                work.budget,
                concurrency=config.concurrency,
                total=total,
                watcher=work.watcher,
            )

        samples = (request for question in work.questions for request in question.samples(config))
        total = len(work.questions) * config.samples
        rounds = [await ask(f"Asking {config.model}", samples, total)]
        if config.verify is Verify.JUDGE and rounds[0].stopped is None:
            ready = [question for question in work.questions if work.is_sampled(question)]
            total = sum(1 for question in ready for _ in work.judgements(question))
            words = (request for question in ready for _, request in work.judgements(question))
            judge = config.judge_model or config.model
            rounds.append(await ask(f"Asking the judge {judge}", words, total))
    return rounds


def _decide(work: _Work) -> Iterator[tuple[Question, Decision]]:
    """Decide every question that has all its samples, and all of a judge's words."""
    work.watcher.stage("Verifying", len(work.questions))
    for number, question in enumerate(work.questions, start=1):
        if work.is_sampled(question):
            words = dict(work.judgements(question))
            if all(request.key in work.journal for request in words.values()):
                verdicts = {p: read_verdict(work.journal.read(r.key)) for p, r in words.items()}
                replies = [work.journal.read(r.key) for r in question.samples(work.config)]
                decision = decide(question.example, replies, work.check, work.config, verdicts)
                yield question, decision
        work.watcher.advance(number)


def _write(work: _Work, rounds: list[Asked], files: Files, num_repeated: int) -> Distilled:
    """Write rows, rejected samples and the card; texts stay on disk until they are written."""
    work.decisions = {question.name: decision for question, decision in _decide(work)}
    decided = [(q, work.decisions[q.name]) for q in work.questions if q.name in work.decisions]
    num_rows = sum(len(decision.kept) for _, decision in decided)
    if num_rows:
        kept = ((q, d, place) for q, d in decided for place in d.kept)
        write_examples(files.out, (_row(work, *one) for one in kept))
    else:
        files.out.unlink(missing_ok=True)  # rows of an earlier start, under other rules
    reasons = Counter(why for _, decision in decided for why in decision.reasons.values())
    unused = ((q, place, why) for q, d in decided for place, why in sorted(d.reasons.items()))
    if reasons:
        write_rows(files.rejected, (_rejected(work, *one) for one in unused))
    else:
        files.rejected.unlink(missing_ok=True)
    result = Distilled(
        out=files.out,
        rejected_file=files.rejected,
        card=files.card,
        journal=files.journal,
        num_questions=len(work.questions),
        num_repeated=num_repeated,
        num_decided=len(decided),
        num_answered=sum(bool(decision.kept) for _, decision in decided),
        num_rows=num_rows,
        num_samples=len(decided) * work.config.samples,
        rejected=reasons,
        verifications=Counter(decision.verification for _, decision in decided),
        input_tokens=work.budget.spent[0],
        output_tokens=work.budget.spent[1],
        num_estimated=work.journal.num_estimated,
        cost=work.budget.cost,
        stopped=next((asked.stopped for asked in rounds if asked.stopped), None),
        set_aside=tuple(dict(pair for asked in rounds for pair in asked.set_aside).items()),
        num_retries=rounds[-1].num_retries,
        seconds=sum(asked.seconds for asked in rounds),
    )
    atomic.write_text(files.card, distilled_card(result, work.config))
    return result


def _row(work: _Work, question: Question, decision: Decision, place: int) -> Example:
    """The row of one kept sample, with where it comes from."""
    config = work.config
    requests = list(question.samples(config))
    replies = [work.journal.read(request.key) for request in requests]
    reply = replies[place]
    reasoning, answer = split_reply(reply)
    teacher: dict[str, object] = {
        "source": question.example.where,
        "endpoint": reply.endpoint,
        "model": config.model,
        "served_model": reply.model,
        "parameters": {k: v for k, v in config.parameters.items() if v not in (None, "", {})},
        "date": reply.at,
        "sample": place,
        "seed": requests[place].body.get("seed"),
        "samples_asked": config.samples,
        "samples_kept": len(decision.kept),
        "agreement": round(decision.agreement, 4),
        "verification": decision.verification,
        "keep": config.keep.value,
        "input_tokens": sum(one.input_tokens for one in replies),
        "output_tokens": sum(one.output_tokens for one in replies),
    }
    metadata = dict(question.example.metadata)
    if "teacher" in metadata:
        teacher["earlier"] = metadata["teacher"]
    return replace(
        question.example,
        reasoning=reasoning,
        answer=answer,
        metadata=metadata | {"teacher": teacher},
    )


def _rejected(work: _Work, question: Question, place: int, why: str) -> Mapping[str, object]:
    """One rejected sample; no field has a name that training would take for its own."""
    request = list(question.samples(work.config))[place]
    reply = work.journal.read(request.key)
    texts = (text.encode(errors="replace").decode() for text in (reply.reasoning, reply.content))
    return {
        "reason": why,
        "of": question.example.where,
        "asked": question.example.question,
        "expected": question.example.reference,
        "sample": place,
        "finish": reply.finish,
        "written": dict(zip(("reasoning_field", "content"), texts, strict=True)),
    }


def _refuse_taken(files: Files) -> None:
    if files.journal.exists():
        return
    for path in (files.out, files.rejected, files.card):
        if path.exists():
            raise ConfigError(
                f"{path} exists already, and {files.journal.name} is not beside it; name another "
                "--out"
            )
