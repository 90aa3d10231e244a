"""What clients of OpenAI-compatible endpoints share: a plain address, and a loop to run in."""

import asyncio
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar
from urllib.parse import urlsplit

from thinktune.errors import ConfigError

LOOPBACK = ("localhost", "127.0.0.1", "::1")

T = TypeVar("T")


def base_url(url: str, route: str) -> str:
    """Give a base URL without the route that a user may have copied with it.

    Raises:
        ConfigError: it holds a name, key or query.
        ValueError: it is no http or https URL.
    """
    parts = urlsplit(url)
    if parts.username or parts.password or parts.query or parts.fragment:
        # Not a ValueError: that would be told with the URL, and so with the key in it.
        raise ConfigError("url: no name, key or query in it; a key comes from the environment")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("write it as http://HOST:PORT/v1 or https://HOST/v1")
    return url.rstrip("/").removesuffix(route)


def is_loopback(url: str) -> bool:
    """Say whether an endpoint is on this machine."""
    return urlsplit(url).hostname in LOOPBACK


def wait_for(asking: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end, in a notebook too, which has a loop of its own."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(asking)
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, asking).result()
