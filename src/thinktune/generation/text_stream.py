"""Text of a growing list of tokens."""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase


class TextStream:
    """Text of a growing token list, given out as soon as its characters are whole."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Start with nothing given out."""
        self._tokenizer = tokenizer
        self._first = 0  # tokens before this one are settled
        self._shown = ""  # what of the unsettled ones is given out

    def push(self, tokens: Sequence[int], ended: bool) -> str:
        """Text that is new; empty while the last character is incomplete, unless ``ended``."""
        text = self._tokenizer.decode(list(tokens[self._first :]), skip_special_tokens=False)
        assert isinstance(text, str)
        if text.endswith("�") and not ended:
            return ""
        piece = text[len(self._shown) :]
        if "\n" in piece or len(tokens) - self._first > 64:
            # Start afresh from the last token, so that the cost of a token stays the same.
            self._first = max(self._first, len(tokens) - 1)
            last = self._tokenizer.decode(list(tokens[self._first :]), skip_special_tokens=False)
            assert isinstance(last, str)
            self._shown = last
        else:
            self._shown = text
        return piece
