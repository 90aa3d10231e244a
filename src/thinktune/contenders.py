"""Who is asked: a base model, alone or with an adapter, found by name and loaded once."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from thinktune.config import RunConfig
from thinktune.data.template import TemplateConfig
from thinktune.errors import ConfigError, RunError
from thinktune.loading import Model, load_model
from thinktune.model.adapter_io import CONFIG as ADAPTER_CONFIG
from thinktune.model.adapter_io import WEIGHTS as ADAPTER_WEIGHTS
from thinktune.model.adapter_io import read_adapter, read_adapter_config
from thinktune.model.checkpoint_io import BaseDtype
from thinktune.model.lora import detach
from thinktune.paths import user_path
from thinktune.run_folder import open_run
from thinktune.tracking import Watcher


@dataclass(frozen=True, slots=True)
class Contender:
    """Who answers: a base model, alone or with an adapter."""

    base_model: str
    revision: str | None = None
    base_dtype: BaseDtype = BaseDtype.AUTO
    template: TemplateConfig = field(default_factory=TemplateConfig)
    adapter: Path | None = None

    @property
    def name(self) -> str:
        """The adapter's folder, else the model's name."""
        return self.base_model if self.adapter is None else str(self.adapter)

    @property
    def identity(self) -> dict[str, object]:
        """What tells its adapter from others."""
        if self.adapter is None:
            return {"adapter": None}
        content = (self.adapter / ADAPTER_WEIGHTS).read_bytes()
        return {"adapter": hashlib.sha256(content).hexdigest()[:16]}


def contender_of(config: RunConfig, adapter: Path | None) -> Contender:
    """The base model of a run, with or without an adapter."""
    return Contender(
        config.base_model, config.revision, config.base_dtype, config.template, adapter
    )


def find_contender(
    target: str, adapter: str | None = None, *, base: Contender | None = None
) -> Contender:
    """Who a name on the command line means: a run, an adapter's folder, or a model.

    Args:
        target: what was named.
        adapter: an adapter's folder, for a model.
        base: whose base model an adapter's folder goes with; None for what the adapter names.

    Raises:
        ThinktuneError: an adapter for a run, which has its own; an unfinished run; no adapter.
    """
    path = user_path(target)
    if (path / "run.json").is_file():
        if adapter is not None:
            raise ConfigError("--adapter goes with a model; a run has its own adapter")
        run, config, _ = open_run(path)
        if not run.adapter.is_dir():
            raise RunError(f"{run.path}: no adapter yet; finish it with `thinktune train --resume`")
        return contender_of(config, run.adapter)
    if (path / ADAPTER_CONFIG).is_file():
        _, identity = read_adapter_config(path)
        made = base or Contender(identity.name, identity.revision, identity.base_dtype)
        return replace(made, adapter=path)
    if adapter is None:
        return Contender(target)
    folder = user_path(adapter)
    if (folder / "run.json").is_file():
        folder /= "adapter"
    _, identity = read_adapter_config(folder)
    return Contender(target, base_dtype=identity.base_dtype, adapter=folder)


class Stage:
    """Holds the one model that is loaded, and puts on it what each contender is."""

    def __init__(self, contenders: Sequence[Contender], watcher: Watcher, *, weights: bool) -> None:
        """Load nothing yet.

        Args:
            contenders: all who will answer.
            watcher: who watches.
            weights: False where servers answer, and only templates are needed here.
        """
        self._contenders, self._watcher, self._weights = contenders, watcher, weights
        self._model: Model | None = None
        self._carried: Contender | None = None

    def take(self, contender: Contender) -> Model:
        """The model of a contender; contenders with the same base share its weights.

        A base model alone carries the other's adapter, to be asked with `base_only`, so that
        both answer through the same arithmetic.
        """
        base = replace(contender, adapter=None)
        adapters = [c.adapter for c in self._contenders if replace(c, adapter=None) == base]
        wanted = contender.adapter or next((a for a in reversed(adapters) if a), None)
        carried = self._carried
        if self._model is None or carried is None or replace(carried, adapter=None) != base:
            self._model = None  # frees the memory before the next takes it
            self._model = load_model(
                contender.base_model,
                revision=contender.revision,
                base_dtype=contender.base_dtype,
                template=contender.template,
                watcher=self._watcher,
                weights=self._weights,
            )
            carried = base
        if self._weights and wanted is not None and wanted != carried.adapter:
            detach(self._model.decoder)
            read_adapter(self._model.decoder, wanted, self._watcher)
        self._carried = replace(base, adapter=wanted or carried.adapter)
        return self._model


def titles_of(contenders: Sequence[Contender]) -> tuple[str, str]:
    """What two are called side by side: before and after, or the ends of their names."""
    first, last = contenders[0], contenders[-1]
    if replace(first, adapter=None) == replace(last, adapter=None) and first.adapter is None:
        return "before", "after"
    names = [Path(c.name).name for c in (first, last)]
    if names[0] == names[1]:
        names = [Path(c.name).parent.name or c.name for c in (first, last)]
    if names[0] == names[1]:
        names = [c.name for c in (first, last)]
    return names[0], names[1]
