"""Who writes turns how: template families, their markup, and how to tell them apart."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from transformers import PreTrainedTokenizerBase

from thinktune.errors import TemplateError


class TemplateFamily(StrEnum):
    """A way to write turns."""

    R1_LLAMA = "r1-distill-llama"
    R1_QWEN = "r1-distill-qwen"
    R1_0528 = "r1-0528-qwen3"
    R1 = "r1"
    """R1's turns on another vocabulary (DeepSeek-V3's, say)."""
    CHATML = "chatml"
    """SmolLM2, the Qwen instruct models and many others."""


@dataclass(frozen=True, slots=True)
class Markup:
    """What stands before and after a text, by who speaks."""

    bos: str
    """First token of a row; empty where the checkpoint's own prompt decides."""
    system: tuple[str, str]
    user: tuple[str, str]
    assistant: tuple[str, str]
    end: str
    """The token that ends an answer."""

    @property
    def tokens(self) -> tuple[str, ...]:
        """Control tokens a vocabulary must have."""
        marks = (self.bos, self.user[0], self.assistant[0], self.end)
        return tuple(dict.fromkeys(mark[: mark.index(">") + 1] for mark in marks if mark))


R1_MARKUP = Markup(
    bos="<｜begin▁of▁sentence｜>",
    system=("", ""),
    user=("<｜User｜>", ""),
    assistant=("<｜Assistant｜>", "<｜end▁of▁sentence｜>"),
    end="<｜end▁of▁sentence｜>",
)
MARKUP = dict.fromkeys(TemplateFamily, R1_MARKUP) | {
    TemplateFamily.CHATML: Markup(
        bos="",
        system=("<|im_start|>system\n", "<|im_end|>\n"),
        user=("<|im_start|>user\n", "<|im_end|>\n"),
        assistant=("<|im_start|>assistant\n", "<|im_end|>\n"),
        end="<|im_end|>",
    )
}
# Tokens only one vocabulary has: Llama 3's, Qwen3's, Qwen2.5's (Qwen3 has the last one too).
R1_VOCABULARIES = {
    "<|start_header_id|>": TemplateFamily.R1_LLAMA,
    "<tool_response>": TemplateFamily.R1_0528,
    "<|vision_start|>": TemplateFamily.R1_QWEN,
}
PROBE = "question"
# Whatever of these a vocabulary holds ends a generation, beside the family's own end.
END_TOKENS = (
    *("<｜end▁of▁sentence｜>", "<|im_end|>", "<|endoftext|>"),
    *("<|eot_id|>", "<|end_of_text|>", "<|EOT|>"),
)


def detect_family(controls: Mapping[str, int], chat_template: str) -> TemplateFamily:
    """Name the family by a vocabulary's control tokens and the source of its chat template.

    Raises:
        TemplateError: no known family.
    """
    r1, chatml = MARKUP[TemplateFamily.R1], MARKUP[TemplateFamily.CHATML]
    is_r1, is_chatml = (all(token in controls for token in m.tokens) for m in (r1, chatml))
    if is_r1 and not (is_chatml and chatml.tokens[0] in chat_template):
        families = (family for token, family in R1_VOCABULARIES.items() if token in controls)
        return next(families, TemplateFamily.R1)
    if is_chatml:
        return TemplateFamily.CHATML
    raise TemplateError(
        f"unknown tokenizer: it has neither {' '.join(r1.tokens)} nor {' '.join(chatml.tokens)}; "
        f"choose a checkpoint of one of the families {', '.join(TemplateFamily)}"
    )


@dataclass(frozen=True, slots=True)
class OwnPrompt:
    """What a checkpoint's own chat template puts around a question."""

    bos: str
    """BOS it begins with; empty for none."""
    system: str
    """System text it writes unasked; empty for none."""
    after: str
    """All that follows the question: what opens the answer."""


def read_own_prompt(tokenizer: PreTrainedTokenizerBase, markup: Markup) -> OwnPrompt | None:
    """Render a question with the checkpoint's own chat template; None if it ships none.

    Raises:
        TemplateError: the chat template fails.
    """
    if not tokenizer.chat_template:
        return None
    turns = [{"role": "user", "content": PROBE}]
    try:
        own = str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))
    except Exception as error:  # a chat template is somebody's program: anything can come
        raise TemplateError(f"the checkpoint's own chat template fails: {error}") from error
    before, _, after = own.partition(f"{markup.user[0]}{PROBE}")
    # SmolLM2 names its turn marker as BOS; a BOS of its own stands before the marker.
    bos = markup.bos or str(tokenizer.bos_token or "")
    bos = "" if bos == markup.user[0][: len(bos)] or not before.startswith(bos) else bos
    before = before.removeprefix(bos)
    opens, closes = markup.system
    has_system = before.startswith(opens) and before.endswith(closes)
    system = before.removeprefix(opens).removesuffix(closes) if has_system else ""
    return OwnPrompt(bos=bos, system=system, after=after)
