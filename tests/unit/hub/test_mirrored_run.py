"""A run on a machine that is taken away goes on on another, from its mirror."""

import shutil
from pathlib import Path

import pytest

from tests.hub_server import HubServer
from tests.small_runs import Interrupter, small_config, without_timing
from thinktune.errors import ConfigError
from thinktune.pipeline import run_recipe
from thinktune.tracking import read_metrics


def outcome_of(run: Path) -> tuple[object, bytes]:
    weights = run / "adapter" / "adapter_model.safetensors"
    return without_timing(read_metrics(run)), weights.read_bytes()


# The library's own, on the way that large files take without xet.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_same_command_on_a_fresh_machine_goes_on_from_the_mirror(
    tmp_path: Path, hub: HubServer
) -> None:
    whole = run_recipe(small_config(tmp_path), "small", compare_after=False).folder
    wanted = outcome_of(whole)
    config = small_config(tmp_path, push_to_hub="me/run", output_dir=str(tmp_path / "elsewhere"))
    with pytest.raises(KeyboardInterrupt):
        run_recipe(config, "small", compare_after=False, watcher=Interrupter("Training", 4))
    shutil.rmtree(tmp_path / "elsewhere")
    again = Interrupter("nothing", 0)
    run = run_recipe(config, "small", resume="auto", compare_after=False, watcher=again).folder
    assert any("was fetched from me/run on the Hub" in line for line in again.said)
    assert any("goes on after step 4" in line for line in again.said)
    assert outcome_of(run) == wanted
    files = hub.repos["me/run"].files
    assert hub.repos["me/run"].is_private
    assert files["adapter/adapter_model.safetensors"] == wanted[1]
    assert files["run.json"] == (run / "run.json").read_bytes()


def test_a_mirror_without_a_token_is_refused_before_anything_is_made(
    tmp_path: Path, hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(ConfigError, match="HF_TOKEN"):
        run_recipe(small_config(tmp_path, push_to_hub="me/run"), "small", compare_after=False)
    assert not (tmp_path / "run").exists()
