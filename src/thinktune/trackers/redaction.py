"""Taking secrets out of what leaves the run: settings, samples, messages of errors."""

import os
import re
from collections.abc import Mapping

HIDDEN = "***"
_SECRET_NAME = re.compile(r"(?:^|[_.-])(?:api_?key|key|token|secret|password|passwd)$", re.I)
_USER_INFO = re.compile(r"(?<=://)[^/\s@]+@")
_QUERY = re.compile(
    r"(?<=[?&;])([\w-]*(?:key|token|secret|password|signature|sig)[\w-]*)=[^&\s]+", re.I
)
_BEARER = re.compile(r"\b(Bearer|Basic)\s+[\w.~+/=-]{8,}", re.I)
# Keys one knows by their first letters: the Hub's, OpenAI's and its like, W&B's, GitHub's.
_KNOWN = re.compile(r"\b(?:hf_|sk-|wandb_v1_|ghp_|github_pat_)[\w-]{16,}")
_SHORTEST = 6
"""A secret of fewer letters would be taken out of ordinary words."""


def without_secrets(value: object) -> object:
    """The same value with ``***`` for each secret; groups and lists are gone through.

    Secrets are: values of environment variables named like ``..._KEY``, ``..._TOKEN`` or
    ``..._PASSWORD`` wherever they stand, names and passwords and keys in URLs, bearer tokens,
    known forms of keys, and text under a name such as ``api_key``.

    >>> without_secrets({"url": "https://me:pw@host/v1?api_key=abc", "api_key": "x", "rank": 4})
    {'url': 'https://***@host/v1?api_key=***', 'api_key': '***', 'rank': 4}
    """
    return _cleaned(value, _secrets_of_environment())


def _secrets_of_environment() -> list[str]:
    found = {
        value
        for name, value in os.environ.items()
        if _SECRET_NAME.search(name) and len(value) >= _SHORTEST
    }
    return sorted(found, key=len, reverse=True)  # one may be a part of another


def _cleaned(value: object, secrets: list[str]) -> object:
    if isinstance(value, str):
        return _cleaned_text(value, secrets)
    if isinstance(value, Mapping):
        return {
            name: HIDDEN
            if isinstance(inner, str) and inner and _SECRET_NAME.search(str(name))
            else _cleaned(inner, secrets)
            for name, inner in value.items()
        }
    if isinstance(value, list | tuple):
        return [_cleaned(inner, secrets) for inner in value]
    return value


def _cleaned_text(text: str, secrets: list[str]) -> str:
    for secret in secrets:
        text = text.replace(secret, HIDDEN)
    text = _USER_INFO.sub(f"{HIDDEN}@", text)
    text = _QUERY.sub(rf"\1={HIDDEN}", text)
    text = _BEARER.sub(rf"\1 {HIDDEN}", text)
    return _KNOWN.sub(HIDDEN, text)
