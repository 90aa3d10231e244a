"""What a run tells others as it goes: its trackers, and its mirror on the Hub."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from datetime import datetime
from typing import Any, Literal

from thinktune.config import RunConfig, to_plain
from thinktune.errors import RunError, ThinktuneError
from thinktune.evaluating import Outcome
from thinktune.evaluation.scores import to_metrics
from thinktune.hub.mirror import HubMirror
from thinktune.hub.repository import fetch, require_hub
from thinktune.paths import user_path
from thinktune.run_folder import RunFolder, run_to_resume, update_record
from thinktune.run_table import RUNS
from thinktune.tracking import Tracker, Watcher


@contextmanager
def tracked(
    run: RunFolder, config: RunConfig, steps_done: int, watcher: Watcher
) -> Iterator[Tracker]:
    """The run's numbers go where they were asked for; run.json says what came of it."""
    tracker = Tracker(
        run.path,
        report_to=config.report_to,
        name=run.path.name,
        settings=to_plain(config),
        resume_step=steps_done,
        watcher=watcher,
    )
    end: dict[str, Any] = {}
    try:
        yield tracker
    except (ThinktuneError, OSError) as error:
        end["failure"] = " ".join(str(error).split())
        raise
    except BaseException:
        end["failure"] = None  # interrupted: it can go on
        raise
    finally:
        delivered = tracker.close(failed=bool(end))
        if delivered:
            end["trackers"] = {name: asdict(each) for name, each in delivered.items()}
        if end:
            with suppress(OSError, RunError):  # the disk may be what failed
                update_record(run, end)


def track_outcome(tracker: Tracker, outcome: Outcome) -> None:
    """Send the samples side by side, the verdict and the means to the trackers."""
    assert outcome.results is not None
    tracker.samples(
        [
            {
                "task": name,
                "id": before.problem.id,
                "question": before.problem.question,
                "reference": before.problem.reference,
                "before": before.graded[0].sample.completion,
                "after": after.graded[0].sample.completion,
                "right_before": before.graded[0].grade.strict,
                "right_after": after.graded[0].grade.strict,
            }
            for name, sides in outcome.answered.items()
            for before, after in zip(*sides, strict=True)
        ]
    )
    means = {
        f"{key}/{name}": mean
        for task in outcome.results.tasks
        for key in outcome.results.titles
        for name, mean in to_metrics(task.scores[key]).items()
    }
    tracker.summary({"verdict": str(outcome.results.verdict)} | means)


def run_to_go_on_with(
    config: RunConfig, recipe_name: str, resume: bool | Literal["auto"], watcher: Watcher
) -> RunFolder | None:
    """The run ``--resume`` means, here or, where there is none, on the Hub.

    Raises:
        ConfigError: the Hub does not let us in, or the repository is another run's.
        RunError: as `run_to_resume`.
    """
    run, repo = run_to_resume(config, recipe_name, resume), config.push_to_hub
    if repo is None:
        return run
    if run is None and resume == "auto":
        name = f"{recipe_name}-{datetime.now():%Y%m%d-%H%M%S}"
        folder = user_path(config.output_dir) if config.output_dir else RUNS / name
        if fetch(repo, folder):
            watcher.say(f"{folder} was fetched from {repo} on the Hub.")
            run = run_to_resume(config, recipe_name, resume)
    require_hub(repo, run)
    return run


@contextmanager
def mirrored(run: RunFolder, config: RunConfig, watcher: Watcher) -> Iterator[Callable[[], None]]:
    """The run's mirror on the Hub, if it is to have one; what it lacks is sent at once.

    Yields:
        What has the run's state sent, and returns at once.
    """
    if config.push_to_hub is None:
        yield lambda: None
        return
    mirror = HubMirror(config.push_to_hub, run, watcher)
    try:
        mirror.push()
        yield mirror.push
    finally:
        mirror.close()
