"""Completions from a server: what is sent, what comes back, and what a server can do wrong.

The server is scripted and real: sockets, HTTP, and the routes and fields of vLLM's API.
"""

import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest

from tests.small_runs import hide_package
from tests.tokenizers import chatml, r1_qwen
from tests.unit.teacher.scripted_server import Loopback, Say
from thinktune.errors import ConfigError, DataError
from thinktune.generation.completion import Completion, GenerationConfig, Stop
from thinktune.generation.remote import ServerConfig, complete_remotely
from thinktune.settings import parse_settings

Body = dict[str, Any]
TOKENIZER = chatml()
END = TOKENIZER.convert_tokens_to_ids("<|im_end|>")
GREEDY = GenerationConfig(max_new_tokens=32, temperature=0)
AT_ONCE = {"retry-after-ms": "5"}


def ids(text: str) -> list[int]:
    return TOKENIZER.encode(text, add_special_tokens=False)


def reply(body: Body, tokens: list[int], finish: str = "stop", **more: Any) -> Body:
    """vLLM's answer to a request with ``return_token_ids``; ``tokens`` hold the one that ended."""
    choice = {
        "index": 0,
        "text": "not looked at",
        "finish_reason": finish,
        "stop_reason": None,
        "token_ids": tokens,
        "prompt_token_ids": body["prompt"],
    }
    return {"object": "text_completion", "model": body["model"], "choices": [choice | more]}


def echo(body: Body, before: int) -> Body:
    """The prompt written once more, then the end of the turn."""
    return reply(body, [*body["prompt"], END])


Script = Callable[[Body, int], Say | Body]
"""Of a request's body and how often the same prompt came before."""


class Server(Loopback):
    """A scripted /v1/completions, with vLLM's /tokenize beside it."""

    def __init__(self, script: Script, tokenize: Callable[[Body], Say | Body] | None) -> None:
        self.bodies: list[Body] = []
        self.headers: list[dict[str, str]] = []
        self.most_at_once = self._at_once = 0
        self._asked: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._script, self._tokenize = script, tokenize
        super().__init__(self._serve)

    def _serve(self, handler: BaseHTTPRequestHandler) -> None:
        body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        if handler.path == "/tokenize" and self._tokenize is not None:
            self._write(handler, self._tokenize(body))
        elif handler.path == "/v1/completions":
            self._complete(handler, self._script, body)
        else:
            self._write(handler, Say({"detail": "Not Found"}, status=404))

    def _complete(self, handler: BaseHTTPRequestHandler, script: Script, body: Body) -> None:
        name = str(body["prompt"])
        with self._lock:
            before = self._asked[name]
            self._asked[name] += 1
            self.bodies.append(body)
            self.headers.append({k.lower(): v for k, v in handler.headers.items()})
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        say = script(body, before)
        time.sleep(say.seconds if isinstance(say, Say) else 0)
        with self._lock:
            self._at_once -= 1
        self._write(handler, say)

    def _write(self, handler: BaseHTTPRequestHandler, say: Say | Body) -> None:
        say = say if isinstance(say, Say) else Say(say)
        if say.hang_up:
            handler.close_connection = True
            return
        raw = say.body if isinstance(say.body, bytes) else json.dumps(say.body).encode()
        handler.send_response(say.status)
        headers = {"Content-Type": "application/json"} | say.headers
        for header, value in (headers | {"Content-Length": str(len(raw))}).items():
            handler.send_header(header, value)
        handler.end_headers()
        handler.wfile.write(raw[: len(raw) // 2] if say.cut else raw)
        handler.close_connection = say.cut


def same_tokens(body: Body) -> Body:
    tokens = ids(body["prompt"])
    return {"count": len(tokens), "max_model_len": 512, "tokens": tokens}


def complete(
    script: Script,
    prompts: list[list[int]],
    config: GenerationConfig = GREEDY,
    *,
    tokenize: Callable[[Body], Say | Body] | None = same_tokens,
    settings: dict[str, object] | None = None,
    **options: Any,
) -> tuple[list[Completion], Server]:
    """Complete the prompts on a server that follows the script."""
    with Server(script, tokenize) as server:
        named = {"url": server.url, "model": "clinic", "timeout_seconds": 5}
        where = parse_settings(ServerConfig, named | (settings or {}))
        options = {"stop_token_ids": (END,)} | options
        return complete_remotely(where, TOKENIZER, prompts, config, **options), server


PROMPTS = [ids(text) for text in ("The patient", "A cough", "病人發燒")]


def test_a_request_holds_token_ids_and_every_setting_so_that_no_default_of_the_server_counts():
    config = GenerationConfig(max_new_tokens=5, temperature=0.6, top_p=0.9)
    _, server = complete(echo, PROMPTS[:1], config, seed=3, stop_token_ids=(END, 7))
    assert server.bodies == [
        {
            "model": "clinic",
            "prompt": PROMPTS[0],
            "max_tokens": 5,
            "seed": 3 * 1_000_003,
            "temperature": 0.6,
            "top_p": 0.9,
            "top_k": -1,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "stop_token_ids": [END, 7],
            "skip_special_tokens": False,
            "add_special_tokens": False,
            "return_token_ids": True,
        }
    ]
    assert server.headers[0]["authorization"] == "Bearer none"


def test_a_completion_loses_the_token_that_ended_it_and_keeps_its_think_tag_as_text():
    written = ids("\n</think>\n\n42")
    done, _ = complete(lambda body, _: reply(body, [*written, END]), PROMPTS[:1])
    assert done == [Completion(tuple(written), "\n</think>\n\n42", Stop.END_OF_TURN)]


def test_finish_reason_length_is_the_token_limit_and_drops_nothing():
    written = ids("First we look")
    config = GenerationConfig(max_new_tokens=len(written), temperature=0)
    done, _ = complete(lambda body, _: reply(body, written, "length"), PROMPTS[:1], config)
    assert (done[0].tokens, done[0].stop) == (tuple(written), Stop.TOKEN_LIMIT)


def test_results_stand_in_the_order_of_the_prompts_whatever_the_order_they_end_in():
    ended: list[int] = []
    delays = dict(zip(map(str, PROMPTS), (0.3, 0.15, 0.0), strict=True))

    def script(body: Body, before: int) -> Say:
        return Say(echo(body, before), seconds=delays[str(body["prompt"])])

    done, _ = complete(script, PROMPTS, on_done=lambda index, _: ended.append(index))
    assert ended == [2, 1, 0]
    assert [list(completion.tokens) for completion in done] == PROMPTS


def test_the_same_prompt_asked_again_has_another_seed_and_is_another_request():
    done, server = complete(echo, [PROMPTS[0]] * 3, seed=2)
    assert len(done) == 3
    assert sorted(body["seed"] for body in server.bodies) == [2 * 1_000_003 + n for n in range(3)]


def test_a_prompt_that_is_asked_alone_later_has_the_seed_it_had_among_all():
    _, server = complete(echo, PROMPTS[:2], seed=2, numbers=(7, 4))
    seeds = {str(body["prompt"]): body["seed"] for body in server.bodies}
    assert seeds == {str(PROMPTS[0]): 2 * 1_000_003 + 7, str(PROMPTS[1]): 2 * 1_000_003 + 4}


def test_no_more_requests_are_under_way_than_allowed():
    script = lambda body, before: Say(echo(body, before), seconds=0.05)  # noqa: E731
    _, server = complete(script, [[n] for n in range(9)], settings={"num_parallel": 3})
    assert server.most_at_once == 3


FAULTS = {
    "429": Say({"error": {"message": "busy"}}, status=429, headers={"Retry-After": "0.02"}),
    "500": Say({"error": {"message": "oops"}}, status=500, headers=AT_ONCE),
    "503 of a proxy": Say(b"<html>bad gateway</html>", status=503, headers=AT_ONCE),
    "cut body": Say({"choices": []}, cut=True),
    "no response": Say(hang_up=True),
    "slow": Say({"choices": []}, seconds=0.5),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_passing_fault_is_survived_and_each_completion_is_told_once(fault: Say):
    ended: list[int] = []

    def script(body: Body, before: int) -> Say | Body:
        return fault if body["prompt"] == PROMPTS[1] and not before else echo(body, before)

    done, server = complete(
        script,
        PROMPTS,
        settings={"timeout_seconds": 0.3},
        on_done=lambda index, _: ended.append(index),
    )
    assert [list(completion.tokens) for completion in done] == PROMPTS
    assert sorted(ended) == [0, 1, 2]
    assert len(server.bodies) == 4


def test_retry_after_is_waited_for():
    rest = Say({"error": {"message": "busy"}}, status=429, headers={"Retry-After": "0.4"})
    begun = time.monotonic()
    complete(lambda body, before: echo(body, before) if before else rest, PROMPTS[:1])
    assert time.monotonic() - begun >= 0.4


def test_a_lasting_fault_ends_in_one_line_and_what_was_done_had_been_told():
    ended: list[int] = []
    fault = Say({"error": {"message": "out\nof memory"}}, status=500, headers=AT_ONCE)

    def script(body: Body, before: int) -> Say | Body:
        return fault if body["prompt"] == PROMPTS[2] else echo(body, before)

    with pytest.raises(ConfigError, match=r"500.*memory") as caught:
        complete(
            script,
            PROMPTS,
            settings={"max_retries": 2, "num_parallel": 1},
            on_done=lambda index, _: ended.append(index),
        )
    assert "\n" not in str(caught.value)
    assert ended == [0, 1]


def test_nobody_at_the_address_is_told_with_the_number_of_attempts():
    with Server(echo, same_tokens) as server:
        url = server.url
    where = ServerConfig(url=url, model="m", max_retries=1)
    with pytest.raises(ConfigError, match=r"no reply in 2 attempts.*is the server running"):
        complete_remotely(where, TOKENIZER, PROMPTS, GREEDY, stop_token_ids=(END,))


def test_an_interruption_keeps_what_was_done_and_ends_at_once():
    ended: list[int] = []

    def on_done(index: int, _: Completion) -> None:
        ended.append(index)
        if len(ended) == 2:
            raise KeyboardInterrupt

    def script(body: Body, before: int) -> Say:
        return Say(echo(body, before), seconds=3.0 if body["prompt"] == PROMPTS[0] else 0.0)

    with Server(script, same_tokens) as server:
        where = ServerConfig(url=server.url, model="m")
        begun = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            complete_remotely(
                where, TOKENIZER, PROMPTS, GREEDY, stop_token_ids=(END,), on_done=on_done
            )
        assert time.monotonic() - begun < 2
    assert sorted(ended) == [1, 2]


WRONG = {
    "no completion": ({"choices": []}, "no completion"),
    "an error with status 200": ({"error": {"message": "upstream"}}, "no completion"),
    "aborted": (lambda body: reply(body, [5], "abort"), "ended by 'abort'"),
    "no finish": (lambda body: reply(body, [5], finish=None), "ended by None"),  # pyright: ignore
    "no token ids": (lambda body: reply(body, [], token_ids=None), "no token ids"),
    "another prompt": (lambda body: reply(body, [5], prompt_token_ids=[1]), "changed a prompt"),
    "unknown ids": (lambda body: reply(body, [10**6]), "ids in the reply"),
    "text for ids": (lambda body: reply(body, ["token_id:5"]), "ids in the reply"),  # pyright: ignore
    "too many": (lambda body: reply(body, [5] * 33, "length"), "33 tokens, of 32 asked"),
}


@pytest.mark.parametrize(("wrong", "told"), WRONG.values(), ids=WRONG)
def test_a_reply_that_contradicts_the_request_is_refused(wrong: Any, told: str):
    with pytest.raises(ConfigError, match=told):
        complete(lambda body, _: wrong(body) if callable(wrong) else wrong, PROMPTS[:1])


@pytest.mark.parametrize("raw", [b"<html>hello</html>", b'{"choices": [{"te'])
@pytest.mark.parametrize("kind", ["text/html", "application/json"])
def test_a_page_where_json_should_be_is_refused(raw: bytes, kind: str):
    page = Say(raw, headers={"Content-Type": kind})
    with pytest.raises(ConfigError, match="no JSON"):
        complete(lambda *_: page, PROMPTS[:1])


def test_a_server_with_another_tokenizer_is_refused_before_anything_is_asked():
    def theirs(body: Body) -> Body:
        tokens = r1_qwen().encode(body["prompt"], add_special_tokens=body["add_special_tokens"])
        return {"count": len(tokens), "max_model_len": 512, "tokens": tokens}

    asked: list[Body] = []
    with pytest.raises(ConfigError, match="tokenizer of clinic"):
        complete(lambda body, _: asked.append(body) or echo(body, 0), PROMPTS, tokenize=theirs)
    assert asked == []


def test_a_server_without_tokenize_is_asked_with_a_warning():
    warned: list[str] = []
    done, _ = complete(echo, PROMPTS, tokenize=None, on_warning=warned.append)
    assert len(done) == 3
    assert [warning for warning in warned if "unchecked" in warning] == warned != []


def test_the_servers_context_limits_a_completion_and_refuses_a_prompt_that_fills_it():
    def small(body: Body) -> Body:
        return same_tokens(body) | {"max_model_len": 10}

    _, server = complete(lambda body, _: reply(body, [END]), [[1] * 7, [1] * 2], tokenize=small)
    assert sorted(body["max_tokens"] for body in server.bodies) == [3, 8]
    with pytest.raises(DataError, match=r"prompt 1 has 10 tokens.*--max-model-len"):
        complete(echo, [[1], [1] * 10], tokenize=small)
    with pytest.raises(DataError, match="prompt 0 has 0 tokens"):
        complete(echo, [[]], tokenize=None)


@pytest.mark.parametrize(
    ("status", "told"), [(400, "too long"), (401, "api_key_env"), (404, "model's name right")]
)
def test_a_refusal_is_told_at_once(status: int, told: str):
    refusal = Say({"error": {"message": "the prompt is too long"}}, status=status)
    asked: list[Body] = []
    with pytest.raises(ConfigError, match=told):
        complete(lambda body, _: asked.append(body) or refusal, PROMPTS[:1])
    assert len(asked) == 1


def test_a_key_comes_from_the_variable_that_is_named_and_is_never_shown(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setenv("MY_KEY", "sk-very-secret")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-not-for-this")
    _, server = complete(echo, PROMPTS[:1], settings={"api_key_env": "MY_KEY"})
    assert server.headers[0]["authorization"] == "Bearer sk-very-secret"
    refusal = Say({"error": {"message": "wrong key sk-very-secret"}}, status=401)
    with pytest.raises(ConfigError, match=r"wrong key \[key\]"):
        complete(lambda *_: refusal, PROMPTS[:1], settings={"api_key_env": "MY_KEY"})
    _, server = complete(echo, PROMPTS[:1])
    assert server.headers[0]["authorization"] == "Bearer none"


def test_a_key_is_not_sent_in_the_clear_to_another_machine(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MY_KEY", "sk-very-secret")
    where = ServerConfig(url="http://gpu.example:8000/v1", model="m", api_key_env="MY_KEY")
    with pytest.raises(ConfigError, match="unencrypted") as caught:
        complete_remotely(where, TOKENIZER, PROMPTS, GREEDY, stop_token_ids=())
    assert "secret" not in str(caught.value)
    monkeypatch.delenv("MY_KEY")
    with pytest.raises(ConfigError, match="MY_KEY: that variable is not set"):
        complete_remotely(where, TOKENIZER, PROMPTS, GREEDY, stop_token_ids=())


@pytest.mark.parametrize("url", ["ftp://host/v1", "localhost:8000", "http://"])
def test_an_address_that_is_none_is_refused(url: str):
    with pytest.raises(ConfigError, match="http://HOST:PORT/v1"):
        parse_settings(ServerConfig, {"url": url, "model": "m"})


def test_an_address_with_a_key_in_it_is_refused_without_showing_it():
    with pytest.raises(ConfigError) as caught:
        parse_settings(ServerConfig, {"url": "https://me:sk-secret@host/v1", "model": "m"})
    assert "secret" not in str(caught.value)


def test_without_openai_the_extra_is_named(monkeypatch: pytest.MonkeyPatch):
    hide_package(monkeypatch, "openai")
    where = ServerConfig(url="http://127.0.0.1:9/v1", model="m")
    with pytest.raises(ConfigError, match=r"pip install thinktune\[teacher\]"):
        complete_remotely(where, TOKENIZER, PROMPTS, GREEDY, stop_token_ids=())
