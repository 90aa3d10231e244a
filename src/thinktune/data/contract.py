"""Prove for one tokenizer that a row trains what a prompt later asks for, and nothing is lost."""

from collections.abc import Sequence
from dataclasses import dataclass
from tempfile import TemporaryDirectory
from unicodedata import normalize

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from thinktune.data.example import Example, Role, Turn
from thinktune.data.family import MARKUP
from thinktune.data.template import HistoryReasoning, Rendered, Segment, Template, TemplateConfig
from thinktune.errors import TemplateError

MARKS_IN_TEXT = "<｜User｜> <｜Assistant｜> <｜end▁of▁sentence｜> <|im_start|> <|im_end|>"
PROBES = (
    Example("What is 17 + 25?", "Add the tens, then the ones. 42.", "42", where="a short row"),
    Example(
        "病人發燒 38.5 度、咳嗽三天，可能是什麼？",
        "發燒和咳嗽同時出現。\n先考慮流感，也要排除肺炎。",
        "可能是流感，建議就醫。",
        where="a Chinese row",
    ),
    Example(
        "And twice that?",
        "Twice 42 is 84.",
        "84",
        history=(
            Turn(Role.USER, "What is 17 + 25?"),
            Turn(Role.ASSISTANT, "42", reasoning="Add the tens, then the ones."),
        ),
        where="a row with earlier turns",
    ),
    Example("Is it flu?", "Fever.", "Yes.", system="Answer as a nurse.", where="a row with system"),
    Example(
        f"What do </think> and {MARKS_IN_TEXT} mean?",
        f"They are marks: {MARKS_IN_TEXT}.",
        f"Marks, such as {MARKS_IN_TEXT}",
        where="a row that quotes marks",
    ),
    Example(
        "\n\n  Sum these:\n\t1\n 2  \n\n",
        "\n  a = 1\n\n    b = 2\n",
        "\n\n3  \n",
        where="a row with white space around its texts",
    ),
)
Rows = Sequence[tuple[Example, Rendered]]


@dataclass(frozen=True, slots=True)
class Finding:
    """One point of the contract, checked."""

    point: str
    """``i`` to ``v``."""
    claim: str
    """What the point promises."""
    failures: tuple[str, ...]
    """What breaks the promise, row by row; empty where it holds."""
    evidence: str
    """What was looked at, with numbers."""

    @property
    def ok(self) -> bool:
        """Whether the promise holds."""
        return not self.failures


@dataclass(frozen=True, slots=True)
class ContractReport:
    """The five points for one tokenizer, and what else a user should know of it."""

    template: str
    """The template in one line."""
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether all five points hold."""
        return all(finding.ok for finding in self.findings)


def check_contract(tokenizer: PreTrainedTokenizerBase, config: TemplateConfig) -> ContractReport:
    """Check the five points on rows that have broken trainers before.

    Raises:
        TemplateError: the tokenizer has no template at all.
    """
    template = Template.from_tokenizer(tokenizer, config)
    rows = [(example, template.render(example)) for example in PROBES]
    findings = tuple(check(template, rows) for check in POINTS)
    return ContractReport(template.description, findings, tuple(_notes(template, rows)))


def require_contract(tokenizer: PreTrainedTokenizerBase, config: TemplateConfig) -> ContractReport:
    """Check the contract and refuse a tokenizer that breaks it.

    Raises:
        TemplateError: names every point that does not hold, and why.
    """
    report = check_contract(tokenizer, config)
    broken = [f"({f.point}) {f.claim}: {f.failures[0]}" for f in report.findings if not f.ok]
    if not broken:
        return report
    raise TemplateError(
        f"the tokenizer breaks the template contract: {'; '.join(broken)}; train on another "
        "checkpoint, or set template.family and template.think_open to what this one expects"
    )


def reasoning_is_labelled(template: Template, rows: Rows) -> Finding:
    """(i): the labels give back reasoning and answer, character by character."""
    failures: list[str] = []
    num_tokens = num_labels = 0
    for example, row in rows:
        places = [place for place, s in enumerate(row.segments) if s is Segment.REASONING]
        num_tokens += len(places)
        num_labels += sum(place >= row.prompt_length for place in places)
        wanted, answer = _composed(example.reasoning), _composed(example.answer)
        labels = [row.tokens[place] for place in places if place >= row.prompt_length]
        text = template.tokenizer.decode(labels, clean_up_tokenization_spaces=False)
        parsed = template.parse_ids(row.tokens[row.prompt_length :])
        if _composed(str(text)) != wanted:
            failures.append(f"{example.where} reads {text!r} where the reasoning is {wanted!r}")
        elif (_composed(parsed.reasoning), _composed(parsed.answer)) != (wanted, answer):
            failures.append(f"{example.where} is parsed back as {parsed}")
    evidence = f"{num_labels} of {num_tokens} reasoning tokens of {len(rows)} rows are labels"
    return Finding("i", "every reasoning token is a label", tuple(failures), evidence)


def _composed(text: str) -> str:
    # Qwen's vocabulary composes characters (NFC), which nobody sees; more would be a loss.
    return normalize("NFC", text).strip()


def prompts_agree(template: Template, rows: Rows) -> Finding:
    """(ii): a row begins with the prompt of inference, which is the checkpoint's own."""
    failures: list[str] = []
    num_prefix = num_equal = num_up_to_tag = num_other = 0
    for example, row in rows:
        prompt = template.render_prompt(
            example.question, system=example.system, history=example.history
        )
        if list(row.tokens[: row.prompt_length]) == prompt:
            num_prefix += 1
        else:
            failures.append(f"{example.where} does not begin with its inference prompt")
        try:
            own = _own_prompt(template, example)
        except TemplateError as error:
            failures.append(f"{example.where}: {error}")
            continue
        if own is None:
            num_other += 1
            continue
        pairs = zip(row.tokens, row.segments, strict=True)
        opening = [token for token, segment in pairs if segment is Segment.THINK_OPEN]
        up_to_tag = prompt in (own + opening, own[: -len(opening)])
        num_equal += prompt == own
        num_up_to_tag += up_to_tag
        if prompt != own and not up_to_tag:
            failures.append(f"{example.where} is asked otherwise by the checkpoint's chat template")
    evidence = (
        f"{num_prefix} of {len(rows)} rows begin with the prompt of inference; {num_equal} of the "
        f"prompts equal the checkpoint's own, {num_up_to_tag} equal it up to the opening think "
        f"tag, {num_other} have none to compare with"
    )
    return Finding("ii", "prompts in training and at inference agree", tuple(failures), evidence)


def _own_prompt(template: Template, example: Example) -> list[int] | None:
    """Prompt of ``example`` by the checkpoint's own chat template.

    None where the two are not meant to agree: it ships no chat template, the text quotes control
    tokens (its own template would obey them), or earlier reasoning is kept.
    """
    keeps = template.config.history_reasoning is HistoryReasoning.KEEP
    differs = (keeps and example.history) or MARKS_IN_TEXT in example.question
    if differs or not template.tokenizer.chat_template:
        return None
    system = example.system or template.config.system_prompt
    turns = [("system", system)] if system else []
    turns += [(str(turn.role), turn.content) for turn in example.history]
    return _ids(template, _own_text(template, [*turns, ("user", example.question)]))


def _own_text(template: Template, turns: Sequence[tuple[str, str]]) -> str:
    """What the checkpoint's own chat template makes of ``turns``, a prompt if a user is last."""
    messages = [{"role": role, "content": content} for role, content in turns]
    asks = turns[-1][0] == "user"
    try:
        text = template.tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=asks
        )
    except Exception as error:  # a chat template is somebody's program: anything can come
        raise TemplateError(f"the checkpoint's own chat template fails: {error}") from error
    return str(text)


def _ids(template: Template, text: str) -> list[int]:
    return list(template.tokenizer(text, add_special_tokens=False)["input_ids"])


def one_bos(template: Template, rows: Rows) -> Finding:
    """(iii): one BOS, at the front; none where the checkpoint's own prompt has none."""
    named = template.tokenizer.bos_token
    if not template.bos:
        is_mark = named in MARKUP[template.family].tokens
        bos = None if is_mark else template.tokenizer.bos_token_id
        wrong = [e.where for e, row in rows if bos is not None and bos in row.tokens]
        claim = "no BOS, as in the checkpoint's own prompt"
        evidence = f"{len(rows) - len(wrong)} of {len(rows)} rows have none"
        evidence += f"; {named} is the turn mark here" if is_mark else ""
    else:
        bos = template.controls[template.bos]
        wrong = [e.where for e, r in rows if r.tokens.count(bos) != 1 or r.tokens[0] != bos]
        claim = "exactly one BOS, at the front"
        evidence = f"{len(rows) - len(wrong)} of {len(rows)} rows have one {template.bos}, in front"
        if bos in list(template.tokenizer("text")["input_ids"]):
            evidence += "; the tokenizer adds one by itself, and Thinktune never lets it"
    failures = tuple(f"{where} has a BOS too many, or none" for where in wrong)
    return Finding("iii", claim, failures, evidence)


def eos_is_labelled(template: Template, rows: Rows) -> Finding:
    """(iv): the last label is the token that ends an answer, and padding cannot hide it."""
    eos = template.eos_token_id
    failures: list[str] = []
    for example, row in rows:
        labels = row.tokens[row.prompt_length :]
        if labels[-1] != eos or row.segments[-1] is not Segment.EOS:
            failures.append(f"{example.where} does not end with a labelled EOS")
        if labels.count(eos) != 1:
            failures.append(f"{example.where} has {labels.count(eos)} EOS tokens in its labels")
    if eos not in template.stop_token_ids:
        failures.append("generation does not stop at the EOS of training")
    name = template.tokenizer.convert_ids_to_tokens(eos)
    pad = template.tokenizer.pad_token_id
    relation = "equal to" if pad == eos else "not"
    evidence = (
        f"the last label is {name} ({eos}); the pad token is {pad}, {relation} EOS; labels are "
        "chosen by segment, never by comparing with the pad token"
    )
    return Finding("iv", "the last label is EOS", tuple(failures), evidence)


def survives_saving(template: Template, rows: Rows) -> Finding:
    """(v): a saved and reloaded tokenizer renders the same ids."""
    claim = "a saved and reloaded tokenizer renders the same"
    with TemporaryDirectory() as folder:
        try:
            template.tokenizer.save_pretrained(folder)
            reloaded = AutoTokenizer.from_pretrained(folder)
            again = Template.from_tokenizer(reloaded, template.config)
        except Exception as error:  # whatever keeps it from loading is the finding
            why = f"it does not load again: {str(error).partition(chr(10))[0]}"
            return Finding("v", claim, (why,), "saved to a folder")
    wrong = [example.where for example, row in rows if again.render(example) != row]
    failures = [f"{where} has other tokens after reloading" for where in wrong]
    if reloaded.chat_template != template.tokenizer.chat_template:
        failures.append("the chat template is another after reloading")
    evidence = f"{len(rows) - len(wrong)} of {len(rows)} rows are the same after reloading"
    return Finding("v", claim, tuple(failures), evidence)


POINTS = (reasoning_is_labelled, prompts_agree, one_bos, eos_is_labelled, survives_saving)


def _notes(template: Template, rows: Rows) -> list[str]:
    """What a user should know of the checkpoint's own chat template."""
    if not template.tokenizer.chat_template:
        return ["the checkpoint ships no chat template; other programs will not know how to ask it"]
    notes: list[str] = []
    num_tokens = num_deleted = 0
    for example, row in rows:
        spoken = [t for t, s in zip(row.tokens, row.segments, strict=True) if Segment.EOS > s > 0]
        turns = (("user", example.question), ("assistant", str(template.tokenizer.decode(spoken))))
        text = _own_text(template, turns)
        count = row.segments.count(Segment.REASONING)
        num_tokens += count
        num_deleted += 0 if example.reasoning.strip() in text else count
    if num_deleted:
        notes.append(
            f"the checkpoint's own chat template deletes {num_deleted} of {num_tokens} reasoning "
            "tokens; Thinktune does not use it for training"
        )
    quoted = next(example.question for example, _ in rows if MARKS_IN_TEXT in example.question)
    marks = set(template.controls.values())
    own = sum(token in marks for token in _ids(template, _own_text(template, [("user", quoted)])))
    obeyed = own - sum(token in marks for token in template.render_prompt(quoted))
    if obeyed > 0:
        notes.append(
            f"the checkpoint's own chat template obeys {obeyed} control tokens quoted in a "
            "question; Thinktune reads them as text"
        )
    return notes
