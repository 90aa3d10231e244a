"""Teach a distilled reasoning model your chain of thought, and prove what changed.

The stages as functions: `read_recipe`, `run_recipe`, `evaluate_run`, `load_model`,
`load_run_model` and `distill`. The data workbench is `thinktune.data`.
"""

from importlib import import_module

_HOMES = {
    "read_recipe": "config",
    "run_recipe": "pipeline",
    "evaluate_run": "pipeline",
    "load_model": "loading",
    "load_run_model": "loading",
    "distill": "teacher.distilling",
    "ThinktuneError": "errors",
}
__all__ = list(_HOMES)  # pyright: ignore[reportUnsupportedDunderAll] - found on first use


def __getattr__(name: str) -> object:
    """Import a stage when it is first asked for: torch takes seconds, ``--help`` must not."""
    if name not in _HOMES:
        raise AttributeError(f"module thinktune has no {name}")
    return getattr(import_module(f"thinktune.{_HOMES[name]}"), name)
