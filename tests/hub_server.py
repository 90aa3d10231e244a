"""A small Hugging Face Hub on a loopback port: repositories, commits, large files, and faults."""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import unquote, urlsplit

Files = dict[str, bytes]


@dataclass(frozen=True)
class Commit:
    """What a repository holds after a commit."""

    sha: str
    title: str
    files: Files


@dataclass
class Repo:
    """A repository with its history, the newest last."""

    is_private: bool
    commits: list[Commit] = field(default_factory=list)

    def commit(self, title: str, files: Files) -> Commit:
        """Put a commit on top."""
        sha = hashlib.sha1(f"{len(self.commits)} {title}".encode()).hexdigest()
        self.commits.append(Commit(sha, title, files))
        return self.commits[-1]

    @property
    def files(self) -> Files:
        """By name, as they are now."""
        return self.commits[-1].files


@dataclass
class Fault:
    """What the next requests get whose "METHOD path" matches; ``left`` counts down."""

    pattern: str
    status: int
    headers: Mapping[str, str]
    left: float
    gate: threading.Event | None = None
    """Wait for it before going on as usual."""


class HubServer:
    """Speaks the part of the Hub's API that pushing to and fetching from a model repository needs.

    Files named ``.safetensors`` are large: they go by Git LFS, as on the Hub.
    """

    def __init__(self, tokens: Mapping[str, str]) -> None:
        """``tokens`` to what they may do: "write" or "read"."""
        self.repos: dict[str, Repo] = {}
        self.large: dict[str, bytes] = {}
        self.requests: list[str] = []
        """METHOD path, in order."""
        self.created: list[dict[str, Any]] = []
        """Bodies that asked for a new repository."""
        self._tokens, self._faults = tokens, list[Fault]()
        self._gates: list[threading.Event] = []
        serve = self._serve

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_GET(self) -> None:
                serve(self)

            do_HEAD = do_POST = do_PUT = do_GET

            def log_message(self, format: str, *args: object) -> None:
                pass

        class Quiet(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: object, client_address: object) -> None:
                pass  # a client that went away

        self._http = Quiet(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        for gate in self._gates:
            gate.set()
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    def put(self, repo_id: str, files: Files, *, is_private: bool = True) -> Repo:
        """A repository that is there already."""
        repo = self.repos[repo_id] = Repo(is_private)
        repo.commit("initial commit", {".gitattributes": b"*.safetensors filter=lfs\n"} | files)
        for content in files.values():
            self.large[hashlib.sha256(content).hexdigest()] = content
        return repo

    def fail(self, pattern: str, status: int, times: float = 1, **headers: str) -> None:
        """Answer the next ``times`` requests that match with an error."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self._faults.append(Fault(pattern, status, named, times))

    def hold(self, pattern: str) -> threading.Event:
        """Keep requests that match waiting until the event is set."""
        gate = threading.Event()
        self._gates.append(gate)
        self._faults.append(Fault(pattern, 0, {}, float("inf"), gate))
        return gate

    def count(self, pattern: str) -> int:
        """How many requests matched."""
        return sum(re.search(pattern, request) is not None for request in self.requests)

    def _serve(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        if handler.headers.get("Transfer-Encoding") == "chunked":
            body = _chunks(handler)
        path = unquote(urlsplit(handler.path).path)
        request = f"{handler.command} {path}"
        self.requests.append(request)
        fault = next(
            (f for f in self._faults if f.left > 0 and re.search(f.pattern, request)), None
        )
        if fault is not None:
            fault.left -= 1
            if fault.gate is None:
                _send(handler, fault.status, {"error": "as the test wants"}, fault.headers)
                return
            fault.gate.wait()
        token = (handler.headers.get("Authorization") or "").removeprefix("Bearer ")
        may = self._tokens.get(token)
        is_signed = path.startswith("/large/")  # as a storage URL, which carries its own right
        if may is None and not is_signed:
            _refuse(handler, 401, "Invalid credentials in Authorization header")
        elif may == "read" and handler.command == "POST":
            _refuse(handler, 403, "you need the write permission")
        else:
            self._route(handler, path, body)

    def _route(self, handler: BaseHTTPRequestHandler, path: str, body: bytes) -> None:
        if path == "/api/repos/create":
            self._create(handler, json.loads(body))
        elif match := re.fullmatch(r"/large/(\w+)", path):
            assert hashlib.sha256(body).hexdigest() == match[1]
            self.large[match[1]] = body
            _send(handler, 200, {})
        elif match := re.fullmatch(r"/([\w-]+/[\w-]+)\.git/info/lfs/objects/batch", path):
            _send(handler, 200, {"objects": [self._wanted(o) for o in json.loads(body)["objects"]]})
        elif match := re.fullmatch(r"/(?:api/models/)?([\w-]+/[\w-]+)(?:/(\w+)/(.+))?", path):
            repo = self.repos.get(match[1])
            if repo is None:
                _refuse(handler, 404, "Repository not found", X_Error_Code="RepoNotFound")
            elif match[2] == "preupload":
                _send(handler, 200, {"files": [_mode(repo, f) for f in json.loads(body)["files"]]})
            elif match[2] == "commit":
                self._commit(handler, match[1], [json.loads(line) for line in body.splitlines()])
            elif match[2] == "resolve":
                _resolve(handler, repo, *match[3].split("/", 1))
            else:
                _send(handler, 200, _info(match[1], repo))
        else:
            _refuse(handler, 404, f"no such route: {path}")

    def _create(self, handler: BaseHTTPRequestHandler, asked: dict[str, Any]) -> None:
        self.created.append(asked)
        repo_id = f"{asked['organization']}/{asked['name']}"
        url = {"url": f"{self.url}/{repo_id}"}
        if repo_id in self.repos:
            _send(handler, 409, url | {"error": "You already created this model repo"})
            return
        is_private = asked.get("visibility") == "private" or asked.get("private") is True
        self.put(repo_id, {}, is_private=is_private)
        _send(handler, 200, url)

    def _wanted(self, item: dict[str, Any]) -> dict[str, Any]:
        known = {"oid": item["oid"], "size": item["size"]}
        if item["oid"] in self.large:
            return known
        return known | {"actions": {"upload": {"href": f"{self.url}/large/{item['oid']}"}}}

    def _commit(
        self, handler: BaseHTTPRequestHandler, repo_id: str, lines: list[dict[str, Any]]
    ) -> None:
        repo, (header, *operations) = self.repos[repo_id], lines
        if header["value"].get("parentCommit", repo.commits[-1].sha) != repo.commits[-1].sha:
            _refuse(handler, 412, "A commit has happened since. Please refresh and try again.")
            return
        files = dict(repo.files)
        for operation in operations:
            value = operation["value"]
            match operation["key"]:
                case "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                case "lfsFile":
                    files[value["path"]] = self.large[value["oid"]]
                case "deletedFile":
                    del files[value["path"]]
        sha = repo.commit(header["value"]["summary"], files).sha
        url = f"{self.url}/{repo_id}/commit/{sha}"
        _send(handler, 200, {"commitUrl": url, "commitOid": sha})


def _is_large(name: str) -> bool:
    return name.endswith(".safetensors")


def _oid(name: str, content: bytes) -> str:
    if _is_large(name):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0%b" % (len(content), content)).hexdigest()


def _mode(repo: Repo, item: dict[str, Any]) -> dict[str, Any]:
    name = item["path"]
    old = {"oid": _oid(name, repo.files[name])} if name in repo.files else {}
    mode = "lfs" if _is_large(name) else "regular"
    return {"path": name, "uploadMode": mode, "shouldIgnore": False} | old


def _info(repo_id: str, repo: Repo) -> dict[str, Any]:
    siblings = []
    for name, content in repo.files.items():
        sibling: dict[str, Any] = {"rfilename": name, "size": len(content)}
        if _is_large(name):
            sibling |= {"blobId": "0" * 40}
            large = {"sha256": _oid(name, content), "size": len(content), "pointerSize": 130}
            sibling |= {"lfs": large}
        else:
            sibling |= {"blobId": _oid(name, content)}
        siblings.append(sibling)
    sha = repo.commits[-1].sha
    return {"id": repo_id, "sha": sha, "private": repo.is_private, "siblings": siblings}


def _resolve(handler: BaseHTTPRequestHandler, repo: Repo, revision: str, name: str) -> None:
    commit = next((c for c in repo.commits if c.sha == revision), repo.commits[-1])
    content = commit.files.get(name)
    if content is None:
        _refuse(handler, 404, "Entry not found", X_Error_Code="EntryNotFound")
        return
    headers = {"ETag": f'"{_oid(name, content)}"', "X-Repo-Commit": commit.sha}
    _send(handler, 200, content, headers)


def _refuse(handler: BaseHTTPRequestHandler, status: int, why: str, **headers: str) -> None:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    _send(handler, status, {"error": why}, {"X-Error-Message": why} | named)


def _send(
    handler: BaseHTTPRequestHandler,
    status: int,
    content: bytes | Mapping[str, Any],
    headers: Mapping[str, str] | None = None,
) -> None:
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    handler.send_response(status)
    for name, value in (headers or {}).items():
        handler.send_header(name, value)
    handler.send_header("Content-Length", str(len(data)))
    handler.end_headers()
    if handler.command != "HEAD":
        handler.wfile.write(data)


def _chunks(handler: BaseHTTPRequestHandler) -> bytes:
    body = b""
    while size := int(handler.rfile.readline(), 16):
        body += handler.rfile.read(size)
        handler.rfile.readline()
    handler.rfile.readline()
    return body
