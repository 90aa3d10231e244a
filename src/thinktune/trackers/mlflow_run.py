"""MLflow: the server ``MLFLOW_TRACKING_URI`` names, else its usual store in this folder."""

import json
import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from thinktune.trackers.identity import recall, remember
from thinktune.trackers.relay import Numbers, Rows, Start, Value, flat, unseen

_PARAMS_AT_ONCE = 100
_LONGEST_PARAM, _LONGEST_TAG = 6000, 5000  # MLflow refuses longer ones


class MlflowRun:
    """An MLflow run, written through a client of its own: nothing global is set."""

    def __init__(self, start: Start) -> None:
        """Open the run the folder remembers, or a new one with the settings as params."""
        # Read when MLflow is imported; a run sends nothing that was not asked for.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        import mlflow  # noqa: PLC0415 - optional, slow to import
        from mlflow.entities import Metric  # noqa: PLC0415 - optional, slow to import

        for noisy in ("mlflow", "alembic"):  # they tell of each table of a new store
            logging.getLogger(noisy).setLevel(logging.WARNING)
        # Its own default is refused by MLflow itself where an old ./mlruns lies about.
        store = None if mlflow.is_tracking_uri_set() else f"sqlite:///{Path.cwd()}/mlflow.db"
        self._client: Any = mlflow.MlflowClient(store)
        self._metric = Metric
        known = recall(start.folder).get("mlflow")
        self._id = known if known and self._goes_on(known) else self._new(start)
        self._present = self._steps_there()

    def _goes_on(self, run_id: str) -> bool:
        from mlflow.exceptions import MlflowException  # noqa: PLC0415 - optional, slow to import

        try:
            self._client.update_run(run_id, status="RUNNING")
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":  # another store by now
                return False
            raise
        return True

    def _new(self, start: Start) -> str:
        from mlflow.entities import Param  # noqa: PLC0415 - optional, slow to import

        title = os.environ.get("MLFLOW_EXPERIMENT_NAME", "thinktune")
        experiment = self._client.get_experiment_by_name(title)
        place = experiment.experiment_id if experiment else self._client.create_experiment(title)
        run_id = self._client.create_run(place, run_name=start.name).info.run_id
        remember(start.folder, "mlflow", run_id)
        params = [
            Param(name, (value if isinstance(value, str) else json.dumps(value))[:_LONGEST_PARAM])
            for name, value in flat(start.settings).items()
        ]
        for first in range(0, len(params), _PARAMS_AT_ONCE):
            self._client.log_batch(run_id, params=params[first : first + _PARAMS_AT_ONCE])
        return run_id

    def _steps_there(self) -> dict[str, set[int]]:
        names = self._client.get_run(self._id).data.metrics
        history = self._client.get_metric_history
        return {name: {point.step for point in history(self._id, name)} for name in names}

    def log(self, step: int, metrics: Numbers) -> None:
        """Draw the curves on."""
        now = int(time.time() * 1000)
        points = [
            self._metric(name, float(number), now, step)
            for name, number in unseen(step, metrics, self._present).items()
        ]
        if points:
            self._client.log_batch(self._id, metrics=points)

    def samples(self, step: int, rows: Rows) -> None:
        """Keep a table, in the form of ``mlflow.log_table``, which would need pandas."""
        table = {"columns": list(rows[0]), "data": [list(row.values()) for row in rows]}
        self._client.log_dict(self._id, table, "samples.json")
        told = json.dumps([{"path": "samples.json", "type": "table"}])
        self._client.set_tag(self._id, "mlflow.loggedArtifacts", told)

    def artifact(self, path: Path) -> None:
        """Copy or upload a folder."""
        self._client.log_artifacts(self._id, str(path), path.name)

    def summary(self, step: int, values: Mapping[str, Value]) -> None:
        """Set numbers as metrics of the last step, and words as tags."""
        numbers = {name: v for name, v in values.items() if isinstance(v, int | float)}
        self.log(step, numbers)
        for name in values.keys() - numbers.keys():
            self._client.set_tag(self._id, name, str(values[name])[:_LONGEST_TAG])

    def close(self, *, failed: bool) -> None:
        """Say how the run ended."""
        self._client.set_terminated(self._id, "FAILED" if failed else "FINISHED")
