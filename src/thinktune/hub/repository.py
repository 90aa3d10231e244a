"""The repository of a mirror: what it holds, whether it may be used, what went wrong, fetching."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any

from huggingface_hub import (
    HfApi,
    constants,
    get_session,
    get_token,
    hf_hub_url,
    hf_raise_for_status,
)
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RepositoryNotFoundError
from huggingface_hub.hf_api import RepoSibling
from huggingface_hub.utils import build_hf_headers, parse_ratelimit_headers, validate_repo_id

from thinktune.atomic import folder_aside
from thinktune.errors import ConfigError, RunError, ThinktuneError
from thinktune.hub.snapshot import is_mirrored
from thinktune.run_folder import RunFolder, read_record
from thinktune.run_table import LOCK_FILE, RECORD_FILE

SILENT_SECONDS = 60.0
"""A server that says nothing for so long is given up; by itself the library waits for ever."""


@dataclass(frozen=True, slots=True)
class Repository:
    """What a repository on the Hub holds."""

    name: str
    sha: str
    is_private: bool
    files: dict[str, RepoSibling]


def look(api: HfApi, repo_id: str) -> Repository | None:
    """The repository as it is now; None if there is none that the token may see."""
    try:
        info = api.model_info(repo_id, files_metadata=True, timeout=SILENT_SECONDS)
    except RepositoryNotFoundError as error:
        if error.response.status_code != 404:
            raise
        return None
    files = {sibling.rfilename: sibling for sibling in info.siblings or []}
    return Repository(repo_id, str(info.sha), bool(info.private), files)


def require_ours(api: HfApi, repository: Repository, created: object) -> None:
    """Refuse a repository that is another run's, or public without having been a run's before.

    Args:
        api: the Hub.
        repository: what is there.
        created: when the run was, by its run.json; None if it was not yet.

    Raises:
        ConfigError: says which, and the way out.
    """
    name = repository.name
    if RECORD_FILE not in repository.files:
        if repository.is_private:
            return
        raise ConfigError(
            f"push_to_hub: {name} is public, and a run's samples may show training data and "
            "reasoning; make it private, or name another (one that is made here is private)"
        )
    url = hf_hub_url(name, RECORD_FILE, revision=repository.sha, endpoint=api.endpoint)
    answer = get_session().get(url, headers=build_hf_headers(), timeout=SILENT_SECONDS)
    hf_raise_for_status(answer)
    record = _json_object(answer.text)
    if "settings" not in record:
        raise ConfigError(f"push_to_hub: {name} holds a run.json of something else; name another")
    if created is None or record.get("created") != created:
        raise ConfigError(
            f"push_to_hub: {name} holds another run, of {record.get('created')}; --resume auto in "
            "an empty folder goes on with that one, or name another repository"
        )


def require_hub(repo_id: str, run: RunFolder | None) -> None:
    """Refuse, before a run begins, a mirror it could not have.

    A Hub that cannot be reached just now is no reason: pushes are tried again.

    Args:
        repo_id: ``user/name``.
        run: the run that goes on; None for a new one.

    Raises:
        ConfigError: no token or not a good one, no repository's name, or a repository that is
            public or another run's.
    """
    _require_usable(repo_id)
    created = None if run is None else read_record(run).get("created")
    api = HfApi()
    try:
        repository = look(api, repo_id)
        if repository is not None:
            require_ours(api, repository, created)
    except ConfigError:
        raise
    except Exception as error:
        refusal = _refusal(error)
        if refusal is not None and refusal.response.status_code in (401, 403):
            raise ConfigError(f"push_to_hub: {reason(error)}") from None


def fetch(repo_id: str, folder: Path) -> bool:
    """Bring a mirrored run to a machine that has nothing of it, to be resumed there.

    The files are downloaded beside ``folder``, which takes their place when all are there. What is
    in a checkpoint is checked by its manifest when it is read.

    Returns:
        False if ``folder`` holds something, or the Hub has no such run.

    Raises:
        ConfigError: no token, or no repository's name.
        RunError: the mirror cannot be had, or names files outside a run folder.
    """
    _require_usable(repo_id)
    if folder.exists() and any(p.name != LOCK_FILE and p.name[0] != "." for p in folder.iterdir()):
        return False
    api = HfApi()
    try:
        repository = look(api, repo_id)
        if repository is None or RECORD_FILE not in repository.files:
            return False
        for name in repository.files:
            _require_inside(repo_id, name)
        names = [name for name in repository.files if is_mirrored(name)]
        folder.parent.mkdir(parents=True, exist_ok=True)
        _require_room(repo_id, folder, sum(repository.files[name].size or 0 for name in names))
        with folder_aside(folder) as aside:
            for name in names:
                api.hf_hub_download(repo_id, name, revision=repository.sha, local_dir=aside)
            shutil.rmtree(aside / ".cache")
            read_record(RunFolder(aside))
    except RunError:
        raise
    except Exception as error:
        raise RunError(
            f"push_to_hub: {repo_id} could not be fetched: {reason(error)}; try again, or leave "
            "push_to_hub out to begin anew"
        ) from None
    return True


def reason(error: BaseException) -> str:
    """Why something did not work, in one line without secrets."""
    if isinstance(error, ThinktuneError):
        return str(error).removeprefix("push_to_hub: ")
    refusal = _refusal(error)
    if refusal is None:
        while error.__cause__ is not None:
            error = error.__cause__
        return _scrubbed(f"{type(error).__name__}: {error}".rstrip("."))
    status = refusal.response.status_code
    if status == 401:
        return "the Hub does not accept the token (401); `hf auth login`, or set HF_TOKEN"
    if status == 403:
        return "the token may not write there (403); it needs the write permission"
    if status == 429:
        return "the Hub asks for fewer requests (429)"
    return _scrubbed(f"the Hub answers {status} {refusal.server_message or ''}")


def asked_wait(error: BaseException) -> float | None:
    """How many seconds the Hub asks to wait, if it does."""
    refusal = _refusal(error)
    if refusal is None:
        return None
    headers = refusal.response.headers
    if (asked := headers.get("Retry-After", "")).isdigit():
        return float(asked)
    limit = parse_ratelimit_headers(headers)
    return float(limit.reset_in_seconds) if limit is not None and limit.remaining == 0 else None


def _refusal(error: BaseException | None) -> HfHubHTTPError | None:
    """The Hub's answer behind an error."""
    while error is not None and not isinstance(error, HfHubHTTPError):
        error = error.__cause__
    return error


def _scrubbed(text: str) -> str:
    token = get_token()
    text = " ".join(text.split())
    return (text.replace(token, "(token)") if token else text)[:200]


def _json_object(text: str) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def _require_usable(repo_id: str) -> None:
    try:
        validate_repo_id(repo_id)
        is_name = repo_id.count("/") == 1
    except HFValidationError:
        is_name = False
    if not is_name:
        raise ConfigError(f"push_to_hub={repo_id:.100}: no repository's name; write user/name")
    if constants.is_offline_mode():
        raise ConfigError("push_to_hub: HF_HUB_OFFLINE is set; unset it, or leave push_to_hub out")
    if get_token() is None:
        raise ConfigError(
            "push_to_hub needs a Hugging Face token that may write: `hf auth login`, or HF_TOKEN"
        )


def _require_inside(repo_id: str, name: str) -> None:
    is_plain = name.isprintable() and "\\" not in name and not PureWindowsPath(name).drive
    if not is_plain or any(part in ("", ".", "..") for part in name.split("/")):
        raise RunError(
            f"push_to_hub: {repo_id} names a file {name!r:.100}, outside a run folder; not fetched"
        )


def _require_room(repo_id: str, folder: Path, num_bytes: int) -> None:
    free = shutil.disk_usage(folder.parent).free
    if free < num_bytes:
        raise RunError(
            f"{folder}: the mirror {repo_id} needs {num_bytes / 1e9:.2f} GB, and "
            f"{free / 1e9:.2f} GB are free; free some, or name another output_dir"
        )
