"""Tokenise what people wrote so that nothing in it can become a control token."""

import re
from dataclasses import dataclass

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from thinktune.errors import TemplateError

WRITTEN_AS_TAG = re.compile(r"<\S+>")


def control_tokens(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """Added tokens that steer a model, by content: the special ones and those written as a tag.

    DeepSeek-R1 tokenizers hold ``<think>`` and ``<｜User｜>`` as added tokens that are *not*
    special, so the flag alone does not find them.
    """
    return {
        token.content: number
        for number, token in backend_of(tokenizer).get_added_tokens_decoder().items()
        if token.special or WRITTEN_AS_TAG.fullmatch(token.content)
    }


def backend_of(tokenizer: PreTrainedTokenizerBase) -> Tokenizer:
    """The Rust tokenizer behind a transformers tokenizer."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if not isinstance(backend, Tokenizer):
        raise TemplateError(
            f"{type(tokenizer).__name__} has no fast tokenizer behind it; use a checkpoint with a "
            "tokenizer.json, or save one with AutoTokenizer.from_pretrained(...).save_pretrained"
        )
    return backend


@dataclass(frozen=True, slots=True, eq=False)
class PlainTokenizer:
    """The same vocabulary and merges, without the control tokens.

    ``split_special_tokens=True`` of transformers does not do: it leaves out added tokens that
    are not special. Here ``</think>`` in a question is the characters ``<``, ``/``, ``think`` ...
    """

    backend: Tokenizer
    numbers: dict[int, int]
    """Added tokens that are plain text (runs of spaces): id here to id in the checkpoint."""

    @classmethod
    def from_tokenizer(cls, tokenizer: PreTrainedTokenizerBase) -> "PlainTokenizer":
        """Share the model of ``tokenizer``; the tokenizer itself is not changed.

        Raises:
            TemplateError: a control token can be written as text, by a word of the vocabulary.
        """
        original = backend_of(tokenizer)
        controls = control_tokens(tokenizer)
        plain = Tokenizer(original.model)
        plain.normalizer = original.normalizer
        plain.pre_tokenizer = original.pre_tokenizer
        added = {
            number: token
            for number, token in original.get_added_tokens_decoder().items()
            if token.content not in controls
        }
        plain.add_tokens(list(added.values()))
        here = plain.get_vocab(with_added_tokens=True)
        made = cls(plain, {here[token.content]: number for number, token in added.items()})
        steering = set(controls.values())
        obeyed = [name for name in controls if steering & set(made.encode(name))]
        if obeyed:
            raise TemplateError(
                f"this tokenizer writes the text {obeyed[0]!r} as the control token: whoever "
                "writes it into a row could end or begin a turn; use another checkpoint"
            )
        return made

    def encode(self, text: str) -> list[int]:
        """Token ids of ``text`` in the checkpoint's numbering, with nothing added around it.

        Raises:
            TemplateError: the text holds half a character (a lone surrogate).
        """
        try:
            ids = self.backend.encode(text, add_special_tokens=False).ids
        except (TypeError, UnicodeEncodeError):
            raise TemplateError("half a character (a lone surrogate) in a text") from None
        return [self.numbers.get(number, number) for number in ids]
