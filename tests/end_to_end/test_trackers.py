"""What each tracker wrote offline, read back with its own reader, of a run that was resumed."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from thinktune.tracking import read_metrics

RUN = """
import socket, sys
from pathlib import Path
from thinktune.tracking import Report, Tracker

asked = []
connect, look_up = socket.socket.connect, socket.getaddrinfo
HERE = ("127.0.0.1", "::1", "localhost", None)
def only_here(self, address):
    if self.family != socket.AF_UNIX and address[0] not in HERE:
        asked.append(address)
    return connect(self, address)
def only_here_look_up(host, *more, **others):
    if host not in HERE:
        asked.append(host)
    return look_up(host, *more, **others)
socket.socket.connect, socket.getaddrinfo = only_here, only_here_look_up

folder, trackers, first, last = Path(sys.argv[1]), sys.argv[2].split(","), *map(int, sys.argv[3:5])
said = []
class Listener:
    def stage(self, title, total=None): pass
    def advance(self, done, numbers=None): pass
    def say(self, text): said.append(text)

tracker = Tracker(
    folder, report_to=[Report(t) for t in trackers], name="mine", resume_step=first - 1,
    settings={"seed": 3, "lora": {"rank": 4, "target_modules": ["q_proj"]},
              "data": {"train": "https://me:hunter22@host/rows.jsonl?token=abcdef"},
              "template": {"system_prompt": "the key is " + "k" * 12}},
    watcher=Listener(), patience=120,
)
for step in range(first, last + 1):
    tracker.log(step, {"train/loss": 1.0 / step, "train/num_tokens": step})
    if step % 2 == 0:
        tracker.log(step, {"probe/pass_at_1": step / 10, "evaluation/loss": float("nan")})
if sys.argv[5] == "dies":
    import os, signal
    if sys.stdin.readline():
        os.kill(os.getpid(), signal.SIGKILL)
if sys.argv[5] == "finishes":
    (folder / "adapter").mkdir()
    (folder / "adapter" / "adapter_config.json").write_text("{}")
    (folder / "adapter" / "adapter_model.safetensors").write_bytes(bytes(64))
    tracker.samples([
        {"id": "a", "question": "Fever?", "before": "no | idea", "after": "flu\\n發燒"},
        {"id": "b", "question": "Cough?", "before": "", "after": "cold"},
    ])
    tracker.artifact(folder / "adapter")
    tracker.summary({"verdict": "better", "after/evaluation/heldout/pass_at_1": 0.75})
delivered = tracker.close(failed=sys.argv[5] == "stops")
assert not asked, asked
assert not said, said
assert list(delivered) == trackers
assert all(d.dropped == 0 and d.error is None and d.sent > 0 for d in delivered.values()), delivered
"""
SECRETS = ("hunter22", "abcdef", "k" * 12)
LOSSES = {step: 1.0 / step for step in range(1, 7)}
PASSES = {2: 0.2, 4: 0.4, 6: 0.6}
SAMPLES = [
    ["a", "Fever?", "no | idea", "flu\n發燒"],
    ["b", "Cough?", "", "cold"],
]
NAMES = ("wandb", "tensorboard", "mlflow", "trackio")


def surroundings(folder: Path) -> dict[str, str]:
    """No key, no home of one's own, no settings of a tracker."""
    names = ("WANDB", "NETRC", "MLFLOW", "TRACKIO", "HF_", "DATABRICKS")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(names)}
    return environment | {
        "HOME": str(folder),
        "TRACKIO_DIR": str(folder / "trackio"),
        "SOME_API_KEY": "k" * 12,
    }


def command(folder: Path, trackers: str, first: int, last: int, end: str) -> list[str]:
    words = [str(folder / "run"), trackers, str(first), str(last), end]
    return [sys.executable, "-c", RUN, *words]


def log_steps(folder: Path, trackers: str, first: int, last: int, end: str) -> str:
    """Run that in a process of its own, with no input; what it printed."""
    done = subprocess.run(
        command(folder, trackers, first, last, end),
        capture_output=True,
        text=True,
        env=surroundings(folder),
        cwd=folder,
        stdin=subprocess.DEVNULL,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def resumed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Steps 1 to 4, then from step 2 on to step 6: steps 3 and 4 are made twice."""
    folder = tmp_path_factory.mktemp("trackers")
    present = ",".join(name for name in NAMES if is_installed(name))
    printed = log_steps(folder, present, 1, 4, "stops")
    return folder, printed + log_steps(folder, present, 3, 6, "finishes")


def is_installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def test_metrics_are_whole_and_each_tracker_has_one_identity(resumed: tuple[Path, str]) -> None:
    folder, _ = resumed
    losses = {r["step"]: r["train/loss"] for r in read_metrics(folder / "run") if "train/loss" in r}
    assert losses == LOSSES
    known = json.loads((folder / "run" / "trackers.json").read_text())
    assert set(known) == {name for name in NAMES if is_installed(name)}


def test_no_secret_is_in_any_file_or_in_what_was_printed(resumed: tuple[Path, str]) -> None:
    folder, printed = resumed
    texts = {"printed": printed.encode()}
    texts |= {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    found = {(name, s) for name, text in texts.items() for s in SECRETS if s.encode() in text}
    assert not found
    assert len(texts) > 5


# --- Weights & Biases -------------------------------------------------------------------------


def wandb_records(path: Path) -> Iterator[Any]:
    """Records of a .wandb file: LevelDB's log format, after a header of seven bytes."""
    proto = pytest.importorskip("wandb.proto.wandb_internal_pb2")
    content = path.read_bytes()
    assert content[:4] == b":W&B"
    place, parts = 7, b""
    while place + 7 <= len(content):
        if 32768 - place % 32768 < 7:  # the rest of a block that holds no header
            place += 32768 - place % 32768
            continue
        length, kind = int.from_bytes(content[place + 4 : place + 6], "little"), content[place + 6]
        parts += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            record = proto.Record()
            record.ParseFromString(parts)
            yield record
            parts = b""


def wandb_history(record: Any) -> dict[str, Any]:
    items = record.history.item
    return {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items}


def wandb_files(folder: Path) -> list[Path]:
    return sorted((folder / "run" / "wandb").glob("offline-run-*/run-*.wandb"))


def wandb_curve(files: list[Path], name: str) -> list[tuple[int, float]]:
    rows = [wandb_history(r) for f in files for r in wandb_records(f) if r.HasField("history")]
    return [(row["_step"], row[name]) for row in rows if name in row]


def test_wandb_has_curves_settings_samples_adapter_and_verdict(resumed: tuple[Path, str]) -> None:
    pytest.importorskip("wandb")
    folder, _ = resumed
    files = wandb_files(folder)
    assert len(files) == 1
    assert wandb_curve(files, "train/loss") == list(LOSSES.items())
    assert wandb_curve(files, "probe/pass_at_1") == list(PASSES.items())
    records = [record for file in files for record in wandb_records(file)]
    identity = json.loads((folder / "run" / "trackers.json").read_text())["wandb"]
    runs = [record.run for record in records if record.HasField("run")]
    assert {(run.run_id, run.display_name, run.project) for run in runs} == {
        (identity, "mine", "thinktune")
    }
    config = {u.key: json.loads(u.value_json) for run in runs for u in run.config.update}
    assert config["lora"] == {"rank": 4, "target_modules": ["q_proj"]}
    assert config["seed"] == 3
    artifacts = [record.artifact for record in records if record.HasField("artifact")]
    (artifact,) = (artifact for artifact in artifacts if artifact.type == "model")
    assert {entry.path for entry in artifact.manifest.contents} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    (table,) = (folder / "run" / "wandb").rglob("samples*.table.json")
    content = json.loads(table.read_text(encoding="utf-8"))
    assert content["columns"] == ["id", "question", "before", "after"]
    assert content["data"] == SAMPLES
    values = {u.key: json.loads(u.value_json) for r in records for u in r.summary.update}
    assert values["verdict"] == "better"
    assert [r.exit.exit_code for r in records if r.HasField("exit")] == [0]


def test_wandb_has_each_step_once_although_the_run_was_killed(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    killed = subprocess.Popen(
        command(tmp_path, "wandb", 1, 4, "dies"),
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=surroundings(tmp_path),
        cwd=tmp_path,
    )
    until = time.monotonic() + 120
    while not wandb_files(tmp_path):
        assert time.monotonic() < until
        time.sleep(0.05)
    killed.communicate(b"now\n")
    assert killed.returncode == -signal.SIGKILL
    log_steps(tmp_path, "wandb", 3, 6, "finishes")
    files = wandb_files(tmp_path)
    assert wandb_curve(files, "train/loss") == list(LOSSES.items())
    assert wandb_curve(files, "probe/pass_at_1") == list(PASSES.items())


# --- TensorBoard ------------------------------------------------------------------------------


def test_tensorboard_has_curves_settings_samples_adapter_and_verdict(
    resumed: tuple[Path, str],
) -> None:
    reading = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    plugin = pytest.importorskip("tensorboard.plugins.hparams.plugin_data_pb2")
    folder, _ = resumed
    events = reading.EventAccumulator(str(folder / "run" / "tensorboard"))
    events.Reload()
    read = {e.step: e.value for e in events.Scalars("train/loss")}
    assert [e.step for e in events.Scalars("train/loss")] == list(LOSSES)
    assert read == pytest.approx(LOSSES, rel=1e-7)  # kept as float32
    assert [e.step for e in events.Scalars("probe/pass_at_1")] == list(PASSES)
    assert [e.value for e in events.Scalars("after/evaluation/heldout/pass_at_1")] == [0.75]
    assert "evaluation/loss" not in events.Tags()["scalars"]

    def text(tag: str) -> str:
        (event,) = events.Tensors(f"{tag}/text_summary")
        return event.tensor_proto.string_val[0].decode()

    assert text("verdict") == "better"
    assert "| a | Fever? | no &#124; idea | flu<br>發燒 |" in text("samples")
    assert "adapter_model.safetensors | 64 |" in text("artifact/adapter")
    content = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    hparams = plugin.HParamsPluginData.FromString(content).session_start_info.hparams
    assert hparams["seed"].number_value == 3
    assert hparams["lora.rank"].number_value == 4
    assert hparams["lora.target_modules"].string_value == '["q_proj"]'


# --- MLflow -----------------------------------------------------------------------------------


def test_mlflow_has_curves_settings_samples_adapter_and_verdict(
    resumed: tuple[Path, str],
) -> None:
    if not is_installed("mlflow"):  # importing it here would set its warnings off
        pytest.skip("mlflow is not installed")
    folder, _ = resumed
    identity = json.loads((folder / "run" / "trackers.json").read_text())["mlflow"]
    code = f"""
import json
from mlflow import MlflowClient
client = MlflowClient("sqlite:///{folder}/mlflow.db")
(experiment,) = (e for e in client.search_experiments() if e.name == "thinktune")
(run,) = client.search_runs([experiment.experiment_id])
def curve(name):
    return [[m.step, m.value] for m in client.get_metric_history(run.info.run_id, name)]
with open(client.download_artifacts(run.info.run_id, "samples.json")) as file:
    samples = json.load(file)
print(json.dumps(dict(
    id=run.info.run_id, name=run.info.run_name, status=run.info.status, params=run.data.params,
    tags=run.data.tags, loss=curve("train/loss"), probe=curve("probe/pass_at_1"),
    summary=curve("after/evaluation/heldout/pass_at_1"), samples=samples,
    files=[f.path for f in client.list_artifacts(run.info.run_id, "adapter")],
)))
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=folder,
        env=surroundings(folder) | {"MLFLOW_DISABLE_TELEMETRY": "true"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    run = json.loads(done.stdout)
    assert (run["id"], run["name"], run["status"]) == (identity, "mine", "FINISHED")
    assert run["loss"] == [list(pair) for pair in LOSSES.items()]
    assert run["probe"] == [list(pair) for pair in PASSES.items()]
    assert run["summary"] == [[6, 0.75]]
    assert run["params"]["lora.rank"] == "4"
    assert run["params"]["lora.target_modules"] == '["q_proj"]'
    assert run["tags"]["verdict"] == "better"
    assert run["samples"]["data"] == SAMPLES
    assert "samples.json" in run["tags"]["mlflow.loggedArtifacts"]
    assert run["files"] == ["adapter/adapter_config.json", "adapter/adapter_model.safetensors"]


# --- Trackio ----------------------------------------------------------------------------------


def test_trackio_has_curves_settings_samples_adapter_and_verdict(
    resumed: tuple[Path, str],
) -> None:
    pytest.importorskip("trackio")
    folder, _ = resumed
    name = json.loads((folder / "run" / "trackers.json").read_text())["trackio"]
    code = """
import json, trackio
from trackio.sqlite_storage import SQLiteStorage as store
(run,) = trackio.Api().runs("thinktune")
print(json.dumps(dict(
    name=run.name, config=run.config, logs=store.get_logs("thinktune", run.name),
    artifacts=store.list_artifacts("thinktune"),
), default=str))
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=folder,
        env=surroundings(folder),
        check=False,
    )
    assert done.returncode == 0, done.stderr
    run = json.loads(done.stdout)
    assert run["name"] == name
    assert name.startswith("mine-")

    def curve(name: str) -> list[tuple[int, float]]:
        return [(row["step"], row[name]) for row in run["logs"] if name in row]

    assert curve("train/loss") == list(LOSSES.items())
    assert curve("probe/pass_at_1") == list(PASSES.items())
    assert curve("verdict") == [(6, "better")]
    ((_, table),) = curve("samples")
    assert [list(row.values()) for row in table["_value"]] == SAMPLES
    assert run["config"]["lora"] == {"rank": 4, "target_modules": ["q_proj"]}
    assert f"adapter-{name}" in json.dumps(run["artifacts"])


# --- A server that takes calls and does not answer ---------------------------------------------


SILENT = """
import os, socket, sys, threading, time
from pathlib import Path
server = socket.create_server(("127.0.0.1", 0), backlog=50)
held = []
def hold():
    while True:
        held.append(server.accept())
threading.Thread(target=hold, daemon=True).start()
url = f"127.0.0.1:{server.getsockname()[1]}"
os.environ |= {"WANDB_MODE": "online", "WANDB_API_KEY": "k" * 40, "WANDB_BASE_URL": "http://" + url}
os.environ["MLFLOW_TRACKING_URI"] = "http://me:hunter22@" + url
from thinktune.tracking import Report, Tracker
tracker = Tracker(Path("run"), report_to=[Report.WANDB, Report.MLFLOW], name="mine", patience=2)
for step in range(1, 21):
    tracker.log(step, {"train/loss": 1.0})
while not held:  # one of them calls
    time.sleep(0.05)
begun = time.monotonic()
delivered = tracker.close()
assert time.monotonic() - begun < 10
print([(name, d.sent, d.dropped) for name, d in delivered.items()])
"""


def test_a_process_ends_although_the_trackers_servers_do_not_answer(tmp_path: Path) -> None:
    if not (is_installed("wandb") and is_installed("mlflow")):
        pytest.skip("wandb or mlflow is not installed")
    begun = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", SILENT],
        capture_output=True,
        text=True,
        env=surroundings(tmp_path),
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        timeout=85,  # W&B alone would wait for 90 seconds
        check=False,
    )
    assert time.monotonic() - begun < 80
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[('wandb', 0, 20), ('mlflow', 0, 20)]\n"
    assert "hunter22" not in done.stderr
    assert "Traceback" not in done.stderr
    assert len(read_metrics(tmp_path / "run")) == 20
