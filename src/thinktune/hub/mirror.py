"""Pushing a run's newest state to the Hub while it trains."""

import threading
import time

from huggingface_hub import HfApi, constants, get_session
from huggingface_hub.utils import disable_progress_bars

from thinktune.errors import ConfigError, RunError
from thinktune.hub.repository import SILENT_SECONDS, asked_wait, look, reason, require_ours
from thinktune.hub.snapshot import difference, snapshot_of
from thinktune.run_folder import RunFolder, read_record
from thinktune.tracking import Watcher

_LONGEST_WAIT = 300.0


class HubMirror:
    """Keeps a run's newest state in a repository on the Hub, in the background.

    A push is one commit: a mirror is always whole. While one is under way at most one more waits,
    and it takes what is newest when its turn comes. A failure never reaches the run: it is said,
    counted and tried again.
    """

    def __init__(
        self, repo_id: str, run: RunFolder, watcher: Watcher, *, first_wait: float = 2.0
    ) -> None:
        """Mirror ``run``; after a failure wait ``first_wait`` seconds, then twice that, and so on.

        Nothing is sent before `push`.
        """
        disable_progress_bars()  # from another thread they would tear up the live view
        self.num_pushed = self.num_failed = 0
        self._repo_id, self._run, self._watcher = repo_id, run, watcher
        self._first_wait = first_wait
        self._changed = threading.Condition()
        self._is_wanted = False
        self._not_before = 0.0
        self._deadline: float | None = None
        self._on_hub, self._reason, self._told = "", "", set[str]()
        self._is_known_ours = False
        # A daemon: a server that hangs must not keep the process from ending.
        self._thread = threading.Thread(target=self._work, name="hub", daemon=True)
        self._thread.start()

    def push(self) -> None:
        """Have the run's state pushed; returns at once."""
        with self._changed:
            self._is_wanted = True
            self._changed.notify()

    def close(self, timeout: float = 120.0) -> None:
        """Wait up to ``timeout`` seconds for the last push; say what is on the Hub, what is not."""
        with self._changed:
            self._deadline = time.monotonic() + timeout
            self._not_before = 0.0
            self._changed.notify()
        self._thread.join(timeout)
        is_missing = self._is_wanted or self._thread.is_alive()
        place = f"{constants.ENDPOINT}/{self._repo_id}"
        if is_missing and self._on_hub:
            self._watcher.say(
                f"On the Hub at {place} is this run up to {self._on_hub}. What came after is only "
                f"in {self._run.path} ({self._reason or 'the last push is not finished'}); the "
                "same command with --resume auto pushes it."
            )
        elif is_missing:
            self._watcher.say(
                f"Nothing new of this run is on the Hub ({self._reason or 'no answer'}): it is only"
                f" in {self._run.path}; the same command with --resume auto pushes it."
            )
        elif self._on_hub:
            failed = f" {self.num_failed} pushes failed on the way." if self.num_failed else ""
            self._watcher.say(f"On the Hub at {place}: this run, {self._on_hub}.{failed}")

    def _work(self) -> None:
        wait = self._first_wait
        while self._next():
            try:
                self._push_newest()
            except Exception as error:  # whatever it is, it is no reason to lose a training run
                self._put_off(error, asked_wait(error) or wait)
                wait = min(_LONGEST_WAIT, 2 * wait)
                if isinstance(error, ConfigError):
                    return
            else:
                self._reason, wait = "", self._first_wait
                self.num_pushed += 1

    def _put_off(self, error: Exception, wait: float) -> None:
        self.num_failed += 1
        self._reason = reason(error)
        with self._changed:
            self._is_wanted = True
            self._not_before = time.monotonic() + wait
        if self._reason not in self._told:
            self._told.add(self._reason)
            further = "nothing is" if isinstance(error, ConfigError) else "what is newest is later"
            self._watcher.say(
                f"push_to_hub: {self._reason}. The run goes on, in {self._run.path}; {further} "
                "pushed."
            )

    def _next(self) -> bool:
        """Wait until a push is due; False when none will be."""
        with self._changed:
            while True:
                now = time.monotonic()
                end = self._deadline
                if end is not None and (not self._is_wanted or now >= end):
                    return False
                if self._is_wanted and now >= self._not_before:
                    self._is_wanted = False
                    return True
                until = self._not_before if end is None else min(end, self._not_before)
                self._changed.wait(until - now if self._is_wanted else None)

    def _push_newest(self) -> None:
        get_session().timeout = SILENT_SECONDS
        api, created = HfApi(), read_record(self._run).get("created")
        remote = look(api, self._repo_id)
        if remote is None:
            api.create_repo(self._repo_id, private=True, exist_ok=True)
            remote = look(api, self._repo_id)
        if remote is None:
            raise RunError(f"{self._repo_id} was made, and cannot be seen by this token")
        if not self._is_known_ours:
            require_ours(api, remote, created)
        with snapshot_of(self._run) as snapshot:
            adds, deletes = difference(snapshot, remote.files)
            for add in adds:  # one by one, for the library's pool would be waited for at the end
                if add.path_in_repo.endswith(".safetensors"):
                    api.preupload_lfs_files(self._repo_id, [add], free_memory=False)
            if adds or deletes:
                api.create_commit(
                    self._repo_id,
                    [*adds, *deletes],
                    commit_message=f"Thinktune: {snapshot.title()}",
                    parent_commit=remote.sha,
                )
        self._is_known_ours = True
        self._on_hub = snapshot.title()
