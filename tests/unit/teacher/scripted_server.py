"""A real HTTP server that answers chat completions as a script says, faults included."""

import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

Body = dict[str, Any]


@dataclass
class Say:
    """One response."""

    body: object = None
    """Written as JSON; bytes as they are."""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    """Wait before it."""
    cut: bool = False
    """Close the connection in the middle of the body."""
    hang_up: bool = False
    """Close it without a word."""


def completion(content: str | None, **more: Any) -> Body:
    """A chat completion; ``more`` are finish, model, usage and further fields of the message."""
    body: Body = {
        "object": "chat.completion",
        "model": more.pop("model", "served-1"),
        "choices": [{"index": 0, "finish_reason": more.pop("finish", "stop")}],
    }
    usage = more.pop("usage", (10, 20))
    if usage is not None:
        body["usage"] = {"prompt_tokens": usage[0], "completion_tokens": usage[1]}
    body["choices"][0]["message"] = {"role": "assistant", "content": content} | more
    return body


def thought(reasoning: str, answer: str, **more: Any) -> Body:
    """A completion with inline think tags."""
    return completion(f"<think>\n{reasoning}\n</think>\n\n{answer}", **more)


class Loopback:
    """A quiet HTTP server on a loopback port that hands every POST to ``serve``."""

    def __init__(self, serve: Callable[[BaseHTTPRequestHandler], None]) -> None:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                serve(self)

            def log_message(self, format: str, *args: object) -> None:
                pass

        class Quiet(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, request: object, client_address: object) -> None:
                pass  # a client that went away

        self._http = Quiet(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}/v1"

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()


Script = Callable[[Body, int], Say | Body]
"""Of a request's body and how often the same question and seed came before."""


class ScriptedServer(Loopback):
    """Serves a script on a loopback port, and remembers what it was asked."""

    def __init__(self, script: Script) -> None:
        self.asked: Counter[tuple[str, int | None]] = Counter()
        """(Last message, seed) to how often."""
        self.answered: Counter[tuple[str, int | None]] = Counter()
        """The same, where the response was written whole."""
        self.bodies: list[Body] = []
        self.headers: list[dict[str, str]] = []
        self.times: list[float] = []
        self.most_at_once = self._at_once = 0
        self._script, self._lock = script, threading.Lock()
        super().__init__(self._serve)

    def _serve(self, handler: BaseHTTPRequestHandler) -> None:
        body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        name = (body["messages"][-1]["content"], body.get("seed"))
        with self._lock:
            before = self.asked[name]
            self.asked[name] += 1
            self.bodies.append(body | {"path": handler.path})
            self.headers.append({k.lower(): v for k, v in handler.headers.items()})
            self.times.append(time.monotonic())
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            say = self._script(body, before)
            say = say if isinstance(say, Say) else Say(say)
            time.sleep(say.seconds)
        finally:
            with self._lock:
                self._at_once -= 1
        if say.hang_up:
            handler.close_connection = True
            return
        raw = say.body if isinstance(say.body, bytes) else json.dumps(say.body).encode()
        handler.send_response(say.status)
        headers = {"Content-Type": "application/json"} | say.headers
        for header, value in (headers | {"Content-Length": str(len(raw))}).items():
            handler.send_header(header, value)
        handler.end_headers()
        if say.cut:
            handler.wfile.write(raw[: len(raw) // 2])
            handler.close_connection = True
            return
        handler.wfile.write(raw)
        with self._lock:
            self.answered[name] += 1
