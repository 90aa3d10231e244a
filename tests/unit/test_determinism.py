"""Deterministic blocks set PyTorch, put it back, and refuse where they cannot."""

import os

import pytest
import torch

from thinktune.determinism import Level, deterministic, guarantee
from thinktune.errors import ConfigError

CPU = torch.device("cpu")
VARIABLE = "CUBLAS_WORKSPACE_CONFIG"


@pytest.fixture(autouse=True)
def _no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    # First set, then deleted: what a test sets goes again.
    monkeypatch.setenv(VARIABLE, "")
    monkeypatch.delenv(VARIABLE)


def test_the_level_holds_within_the_block_alone() -> None:
    assert guarantee(CPU).level is Level.SEEDED
    with deterministic(True):
        inside = guarantee(CPU)
        assert os.environ[VARIABLE] == ":4096:8"
    assert inside.level is Level.BITWISE
    assert str(torch.get_num_threads()) in inside.why
    assert torch.__version__ in inside.why
    assert guarantee(CPU).level is Level.SEEDED
    assert torch.utils.deterministic.fill_uninitialized_memory


def test_a_block_that_is_not_wanted_changes_nothing() -> None:
    with deterministic(False):
        assert guarantee(CPU).level is Level.SEEDED
        assert VARIABLE not in os.environ


def test_algorithms_that_only_warn_promise_no_bits() -> None:
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        assert guarantee(CPU).level is Level.SEEDED
        with deterministic(True):
            assert guarantee(CPU).level is Level.BITWISE
        assert torch.is_deterministic_algorithms_warn_only_enabled()
    finally:
        torch.use_deterministic_algorithms(False)


def test_what_has_no_deterministic_form_is_refused_with_the_way_out() -> None:
    values = torch.zeros(4)
    refused = pytest.raises(ConfigError, match=r"deterministic=true: put_.*; leave it off")
    with refused, deterministic(True):
        values.put_(torch.tensor([0, 0]), torch.ones(2))
    assert guarantee(CPU).level is Level.SEEDED


def test_an_error_of_another_kind_passes_as_it_is() -> None:
    with pytest.raises(RuntimeError, match="size of tensor"), deterministic(True):
        torch.zeros(2) + torch.zeros(3)


@pytest.mark.parametrize("value", [":16:8", ":4096:8"])
def test_a_workspace_that_adds_in_one_order_is_left_as_it_is(
    value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, value)
    with deterministic(True):
        assert os.environ[VARIABLE] == value


def test_another_workspace_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, ":0:0")
    with pytest.raises(ConfigError, match="is :0:0"), deterministic(True):
        pytest.fail("it went on")
