"""Records: where they come from, how they are checked, mended, rendered and packed.

The workbench as functions: `read_examples`, `stream_examples`, `write_examples`, `inspect`,
`write_report`; and one a verb, `convert`, `clean`, `dedup`, `split`, `sample`, `mix`,
`decontaminate`, each from a `Source`, or its name, to files.
"""

from importlib import import_module

_HOMES = {
    "read_examples": "sources",
    "stream_examples": "sources",
    "write_examples": "sources",
    "Source": "intake",
    "inspect": "inspection",
    "write_report": "report",
    "convert": "conversion",
    "clean": "conversion",
    "dedup": "curation",
    "decontaminate": "curation",
    "split": "splitting",
    "sample": "sampling",
    "mix": "mixing",
}
__all__ = list(_HOMES)  # pyright: ignore[reportUnsupportedDunderAll] - found on first use


def __getattr__(name: str) -> object:
    """Import a verb when it is first asked for: none of them is needed by all."""
    if name not in _HOMES:
        raise AttributeError(f"module thinktune.data has no {name}")
    return getattr(import_module(f"thinktune.data.{_HOMES[name]}"), name)
