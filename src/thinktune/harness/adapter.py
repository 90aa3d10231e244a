"""What lm-evaluation-harness calls: its requests in, scores and texts out."""

import logging
from collections.abc import Sequence
from functools import cache
from typing import Any

from tqdm import tqdm

from thinktune.errors import ConfigError
from thinktune.generation.completion import GenerationConfig
from thinktune.harness.answerer import HarnessConfig, open_answerer
from thinktune.harness.likelihoods import log_likelihoods
from thinktune.settings import parse_settings

_USED = ("until", "do_sample", "max_gen_toks", "temperature", "top_p")


class HarnessMethods:
    """The methods of the harness's ``TemplateLM`` that are ours; `harness_class` joins the two."""

    cache_hook: Any  # the harness's, for --use_cache

    def __init__(self, *, device: str | None = None, **arguments: Any) -> None:
        """Load a model onto the first CUDA device, else the CPU.

        Args:
            device: not looked at; the harness sends a default of its own for every model.
            arguments: the fields of `HarnessConfig`.

        Raises:
            ThinktuneError: an argument is wrong, or the model cannot be loaded.
        """
        super().__init__()
        self.answerer = open_answerer(parse_settings(HarnessConfig, arguments))

    @property
    def eot_token_id(self) -> int:
        """The token that ends an answer."""
        return self.answerer.model.template.eos_token_id

    @property
    def prefix_token_id(self) -> int:
        """The token that stands before a text without context."""
        own = self.answerer.model.tokenizer.bos_token_id
        return own if isinstance(own, int) else self.eot_token_id

    @property
    def tokenizer_name(self) -> str:
        """Names the tokenizer in the harness's caches."""
        return self.answerer.model.base.name.replace("/", "__")

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """Say what `apply_chat_template` does, for the record."""
        return self.answerer.model.template.description if chat_template else None

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """Render a conversation; without a generation prompt its last turn begins the answer."""
        return self.answerer.render(chat_history, asks=add_generation_prompt)

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **_: Any
    ) -> list[int]:
        """Token ids of a text."""
        return self.answerer.encode(string, adds_special=add_special_tokens)

    def get_model_info(self) -> dict[str, Any]:
        """What the harness writes into its results beside the settings."""
        base, answerer = self.answerer.model.base, self.answerer
        return {
            "thinktune": answerer.config.model_dump(mode="json"),
            "base_model": base.name,
            "base_fingerprint": base.fingerprint,
            "num_generated": answerer.num_generated,
            "num_unclosed": answerer.num_unclosed,
        }

    def loglikelihood_rolling(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[float]:
        """Log-likelihood of whole texts, in disjoint windows of the model's context."""
        from lm_eval import utils  # noqa: PLC0415 # pyright: ignore - an optional extra

        windows, owners = [], []
        for owner, request in enumerate(requests):
            for window in utils.get_rolling_token_windows(
                self.tok_encode(request.args[0]),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.answerer.model.context,
                context_len=1,
            ):
                windows.append(utils.make_disjoint_window(window))
                owners.append(owner)
        totals = [0.0] * len(requests)
        scores = self._score(windows, disable_tqdm)
        for owner, (log_likelihood, _) in zip(owners, scores, strict=True):
            totals[owner] += log_likelihood
        return totals

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Answers to contexts, sampled as each request says."""
        groups: dict[GenerationConfig, list[int]] = {}
        until = []
        for place, request in enumerate(requests):
            config, stops = _read_sampling(request.args[1])
            groups.setdefault(config, []).append(place)
            until.append(stops)
        texts = [""] * len(requests)
        with tqdm(total=len(requests), disable=disable_tqdm, desc="Answering") as bar:
            for config, places in groups.items():

                def keep(index: int, text: str, places: list[int] = places) -> None:
                    place = places[index]
                    texts[place] = text
                    self.cache_hook.add_partial("generate_until", requests[place].args, text)
                    bar.update()

                contexts = [requests[place].args[0] for place in places]
                self.answerer.answer(contexts, config, [until[place] for place in places], keep)
        if self.answerer.num_unclosed:
            logging.getLogger(__name__).warning(
                "%d of %d completions ended inside their reasoning; raise the limit with "
                "--gen_kwargs max_gen_toks=N",
                self.answerer.num_unclosed,
                self.answerer.num_generated,
            )
        return texts

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        context = self.answerer.close(context)
        return super()._encode_pair(context, continuation)  # pyright: ignore - TemplateLM's

    def _loglikelihood_tokens(
        self, requests: Sequence[Any], disable_tqdm: bool = False, **_: Any
    ) -> list[tuple[float, bool]]:
        return self._score([(before, after) for _, before, after in requests], disable_tqdm)

    def _score(self, pairs: Sequence[Any], disable_tqdm: bool) -> list[tuple[float, bool]]:
        with tqdm(total=len(pairs), disable=disable_tqdm, desc="Scoring") as bar:
            return log_likelihoods(
                self.answerer.model.decoder, pairs, lambda done: bar.update(done - bar.n)
            )


def _read_sampling(asked: dict[str, Any]) -> tuple[GenerationConfig, list[str]]:
    """How a request is sampled, and where its text ends; what cannot be done is named once."""
    from lm_eval.models.utils import normalize_gen_kwargs  # noqa: PLC0415 # pyright: ignore

    given = normalize_gen_kwargs(asked, GenerationConfig().max_new_tokens)
    _tell_unused(tuple(sorted(set(given) - set(_USED))))
    values = {"max_new_tokens": given["max_gen_toks"], "temperature": 0.0}
    if given["do_sample"]:
        values |= {"temperature": given.get("temperature", 1.0), "top_p": given.get("top_p", 1.0)}
    return parse_settings(GenerationConfig, values), list(given["until"])


@cache
def _tell_unused(names: tuple[str, ...]) -> None:
    if names:
        logging.getLogger(__name__).warning("not supported, and ignored: %s", ", ".join(names))


@cache
def harness_class() -> type:
    """The class that the harness runs: its ``TemplateLM`` with our methods.

    Raises:
        ConfigError: lm_eval is not installed.
    """
    try:
        from lm_eval.api.model import TemplateLM  # noqa: PLC0415 # pyright: ignore - optional
    except ImportError as error:
        raise ConfigError("scoring needs lm_eval: pip install thinktune[lm-eval]") from error
    return type("ThinktuneLM", (HarnessMethods, TemplateLM), {})
