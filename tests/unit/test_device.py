"""Which device is taken, and how its memory is."""

import os

import pytest
import torch

from thinktune.loading import pick_device


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({}, "expandable_segments:True"),
        ({"PYTORCH_ALLOC_CONF": "max_split_size_mb:64"}, "max_split_size_mb:64"),
        ({"PYTORCH_CUDA_ALLOC_CONF": "max_split_size_mb:64"}, None),
    ],
    ids=["nothing said", "said", "said in the older way"],
)
def test_memory_comes_in_segments_that_grow_unless_the_environment_says_how(
    given: dict[str, str], wanted: str | None, monkeypatch: pytest.MonkeyPatch
):
    for name in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"):
        monkeypatch.setenv(name, "to be taken back")
        monkeypatch.delenv(name)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert pick_device().type == "cuda"
    assert os.environ.get("PYTORCH_ALLOC_CONF") == wanted


def test_without_a_gpu_nothing_is_said_about_its_memory(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PYTORCH_ALLOC_CONF", "to be taken back")
    monkeypatch.delenv("PYTORCH_ALLOC_CONF")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device().type == "cpu"
    assert "PYTORCH_ALLOC_CONF" not in os.environ
