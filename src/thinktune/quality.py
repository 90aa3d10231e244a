"""What each way of holding the base costs: measured on real weights, beside its float32 form."""

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter

from thinktune import atomic
from thinktune.closeness import Closeness, Yardstick, true_float32
from thinktune.config import RunConfig, to_plain
from thinktune.data.loader import PackedRow, pack, segment_weights
from thinktune.data.segments import Rendered
from thinktune.errors import ConfigError, RunError
from thinktune.evaluating import make_task
from thinktune.evaluation.tasks import Task
from thinktune.loading import Data, Model, load_data, load_model, pick_device
from thinktune.model.checkpoint_io import BaseDtype
from thinktune.model.lora import attach, detach
from thinktune.probing import Probe
from thinktune.quality_gates import Asked, Quality, Trained, gates
from thinktune.run_folder import versions
from thinktune.tracking import Silence, Tracker, Watcher
from thinktune.training.checkpoints import CheckpointFolder
from thinktune.training.loop import train
from thinktune.training.progress import TrainingData
from thinktune.training.step import heldout_loss

_NUM_STEPS = 4
"""Steps whose gradients are compared; the rows are dealt out to them."""


@dataclass(frozen=True, slots=True)
class QualityRequest:
    """What to measure."""

    kinds: tuple[BaseDtype, ...]
    """Ways of holding the base; each is compared with float32."""
    num_rows: int = 64
    """Rows that predictions and gradients are compared on, half of them held out."""
    num_seeds: int = 3
    """Trainings of each kind; 0 for none."""
    max_steps: int | None = None
    """Of each training; None for the recipe's."""


def measure_quality(
    config: RunConfig,
    request: QualityRequest,
    watcher: Watcher,
    journal: Path | None = None,
) -> Quality:
    """Measure how near each kind of base comes to float32, and what training on it gives.

    One base is loaded at a time, the float32 one first; it must fit too. Every adapter is asked
    on the base it was trained on and on the plain one: bfloat16 on a GPU, float32 on a CPU.

    Args:
        config: model, data and training; its ``base_dtype`` is not used, its seed is the first.
        request: what to measure.
        watcher: who watches.
        journal: a JSON file of all results, written as they come; what it holds of the same
            settings is not measured again. Checkpoints of the trainings, from which an
            interrupted one goes on, stand beside it in a folder ``NAME.adapters``.

    Raises:
        ConfigError: a kind cannot be had here, or the journal is of other settings.
        DataError: the rows cannot be read or used, or none is held out.
    """
    if request.max_steps is not None:
        training = config.training.model_copy(update={"max_steps": request.max_steps})
        config = config.model_copy(update={"training": training})
    for kind in request.kinds:
        if kind is BaseDtype.AUTO:
            raise ConfigError("--kinds: auto is no kind; name float32, bfloat16, fp8, nf4 or so")
        _load(config, kind, Silence(), weights=False)  # refuses early what cannot be had
    told = _load(config, BaseDtype.FLOAT32, Silence(), weights=False)
    data = load_data(config, told.template, told.context, watcher)
    if not data.heldout_rows.rows:
        raise ConfigError("bench quality needs held-out rows with reasoning and answer")
    with _opened(journal, _head(config, request)) as notes:
        _measure_closeness(config, request, data, notes, watcher)
        if request.num_seeds:
            trainings = _Trainings(config, data, notes.folder, watcher)
            seeds = range(config.seed, config.seed + request.num_seeds)
            _train_all(trainings, request.kinds, seeds, notes)
        return notes.quality


def _load(config: RunConfig, kind: BaseDtype, watcher: Watcher, *, weights: bool = True) -> Model:
    return load_model(
        config.base_model,
        revision=config.revision,
        base_dtype=kind,
        template=config.template,
        watcher=watcher,
        weights=weights,
    )


def _measure_closeness(
    config: RunConfig, request: QualityRequest, data: Data, notes: "_Notes", watcher: Watcher
) -> None:
    missing = [kind for kind in request.kinds if kind not in notes.quality.closeness]
    if not missing:
        return
    steps = _steps(config, data, request.num_rows)
    exact = _load(config, BaseDtype.FLOAT32, watcher)
    watcher.stage("Predictions and gradients in float32")
    yardstick = Yardstick(exact.decoder, steps, config.lora)
    del exact
    for kind in missing:
        model = _load(config, kind, watcher)
        watcher.stage(f"Predictions and gradients in {kind}")
        notes.add_closeness(kind, yardstick.measure(model.decoder))
        del model  # before the next takes its memory


def _steps(config: RunConfig, data: Data, num_rows: int) -> list[list[PackedRow]]:
    """Rows rendered as in training, spread over held-out and training rows, dealt to steps."""
    heldout = _spread(data.heldout_rows.rows, num_rows // 2)
    rows = [*heldout, *_spread(data.train_rows.rows, num_rows - len(heldout))]
    weights = segment_weights(config.reasoning, config.answer)
    dealt = [rows[first::_NUM_STEPS] for first in range(_NUM_STEPS)]
    return [pack(step, weights, config.packing.max_tokens) for step in dealt if step]


def _spread(rows: Sequence[Rendered], num: int) -> list[Rendered]:
    """So many rows at equal distances, or all."""
    num = min(num, len(rows))
    return [rows[place * len(rows) // num] for place in range(num)]


def _train_all(
    trainings: "_Trainings", kinds: Sequence[BaseDtype], seeds: Sequence[int], notes: "_Notes"
) -> None:
    for kind in kinds:
        missing = [seed for seed in seeds if (kind, seed) not in notes.trained]
        if missing:
            trainings.train(kind, missing, notes)
    plain = BaseDtype.BFLOAT16 if pick_device().type == "cuda" else BaseDtype.FLOAT32
    unasked = [trained for trained in notes.trained.values() if trained.plain is None]
    for trained in unasked:
        if trained.kind is plain:
            notes.add_trained(replace(trained, plain=trained.own))
    if unasked := [trained for trained in unasked if trained.kind is not plain]:
        trainings.ask_on(plain, unasked, notes)


class _Trainings:
    """The recipe's training on each kind of base; owns the folder of their checkpoints."""

    def __init__(self, config: RunConfig, data: Data, folder: Path, watcher: Watcher) -> None:
        self._config, self._data, self._folder, self._watcher = config, data, folder, watcher
        self._task: Task = make_task(config, data, "heldout")
        self._weights = segment_weights(config.reasoning, config.answer)
        self._heldout = pack(data.heldout_rows.rows, self._weights, config.packing.max_tokens)
        probed = config.evaluation.model_copy(update={"num_probe": len(self._task.problems)})
        self._asking = config.model_copy(update={"evaluation": probed})

    def train(self, kind: BaseDtype, seeds: Sequence[int], notes: "_Notes") -> None:
        """Train with each seed on a base of that kind, and ask the adapters there."""
        model = _load(self._config, kind, self._watcher)
        for seed in seeds:
            self._watcher.say(f"{kind}, seed {seed}")
            self._train(model, kind, seed)
            asked = self._ask(model, self._of(kind, seed))
            detach(model.decoder)
            notes.add_trained(Trained(kind, seed, asked))

    def ask_on(self, plain: BaseDtype, trained: Sequence[Trained], notes: "_Notes") -> None:
        """Ask adapters trained on other kinds on the plain base."""
        model = _load(self._config, plain, self._watcher)
        for each in trained:
            self._watcher.say(f"{each.kind}, seed {each.seed}, asked on {plain}")
            checkpoints = self._checkpoints(model, each.kind, each.seed)
            if not checkpoints.read(model.decoder, self._watcher):
                raise RunError(f"{self._of(each.kind, each.seed)}: no checkpoint of it is left")
            asked = self._ask(model, self._of(each.kind, each.seed) / f"on-{plain}")
            detach(model.decoder)
            notes.add_trained(replace(each, plain=asked))

    def _of(self, kind: BaseDtype, seed: int) -> Path:
        return self._folder / f"{kind}-seed-{seed}"

    def _checkpoints(self, model: Model, kind: BaseDtype, seed: int) -> CheckpointFolder:
        folder = self._of(kind, seed) / "checkpoints"
        return CheckpointFolder(folder, self._config.lora, model.base, keep=1)

    def _train(self, model: Model, kind: BaseDtype, seed: int) -> None:
        config, checkpoints = self._config, self._checkpoints(model, kind, seed)
        if not (steps_done := checkpoints.read(model.decoder, self._watcher)):
            attach(model.decoder, config.lora, seed=seed)
        tracker = Tracker(self._of(kind, seed), resume_step=steps_done)
        rows = self._data.train_rows.rows
        try:
            train(
                model.decoder,
                TrainingData(rows, (), self._weights, config.packing),
                config.training,
                config.optimizer,
                seed=seed,
                checkpoints=checkpoints,
                tracker=tracker,
                watcher=self._watcher,
                steps_done=steps_done,
            )
        finally:
            tracker.close()

    def _ask(self, model: Model, folder: Path) -> Asked:
        """Held-out loss and questions of the adapter that is attached; what it wrote is kept."""
        folder.mkdir(parents=True, exist_ok=True)
        model.decoder.eval()
        rows = [row.to(model.decoder.device) for row in self._heldout]
        with true_float32():
            loss = heldout_loss(model.decoder, rows).loss
        num = len(self._task.problems)
        self._watcher.stage("Asking the held-out questions", num)
        means = Probe(model, self._task, self._asking, folder).look(0)
        self._watcher.advance(num)
        return Asked(loss, means["probe/pass_at_1"], num)


def _head(config: RunConfig, request: QualityRequest) -> dict[str, Any]:
    """What must be the same for results to stand beside each other."""
    settings = to_plain(config)
    for free in ("base_dtype", "output_dir", "report_to"):
        del settings[free]
    device = pick_device()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    return {"settings": settings, "num_rows": request.num_rows, "device": name,
            "versions": versions()}  # fmt: skip


@contextmanager
def _opened(path: Path | None, head: Mapping[str, Any]) -> Iterator["_Notes"]:
    """The journal at a path; without one, notes that are forgotten, with a temporary folder."""
    if path is not None:
        folder = path.with_suffix(".adapters")
        if folder.exists() and not path.is_file():
            raise ConfigError(f"--json: {folder} is left from other results; remove it first")
        yield _Notes(path, folder, head)
        return
    with tempfile.TemporaryDirectory(prefix="quality-") as folder:
        yield _Notes(Path(folder) / "quality.json", Path(folder), head)


class _Notes:
    """Results as they come, on disk; owns the file."""

    def __init__(self, path: Path, folder: Path, head: Mapping[str, Any]) -> None:
        """Take over what the file holds, if it is of the same settings."""
        self.quality, self.folder = Quality(), folder
        self._path, self._head = path, json.loads(json.dumps(head))
        if path.is_file():
            self.quality = _read(path, self._head)

    @property
    def trained(self) -> dict[tuple[BaseDtype, int], Trained]:
        """By kind and seed."""
        return {(trained.kind, trained.seed): trained for trained in self.quality.trained}

    def add_closeness(self, kind: BaseDtype, closeness: Closeness) -> None:
        """Keep how near a kind comes."""
        self._keep(replace(self.quality, closeness={**self.quality.closeness, kind: closeness}))

    def add_trained(self, trained: Trained) -> None:
        """Keep a training, in the place of what was known of it."""
        known = self.trained | {(trained.kind, trained.seed): trained}
        self._keep(replace(self.quality, trained=tuple(known.values())))

    def _keep(self, quality: Quality) -> None:
        self.quality = quality
        told = [asdict(gate) | {"passed": gate.passed} for gate in gates(quality)]
        content = self._head | asdict(quality) | {"gates": told}
        atomic.write_text(self._path, json.dumps(content, indent=2) + "\n")


def _read(path: Path, head: Mapping[str, Any]) -> Quality:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        quality = TypeAdapter(Quality).validate_python(content)
    except ValueError:  # pydantic's too
        raise ConfigError(f"--json: {path} holds no results of this; name another file") from None
    for name, value in head.items():
        if content.get(name) != value:
            raise ConfigError(f"--json: {path} holds results with other {name}; name another file")
    return quality
