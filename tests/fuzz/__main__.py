"""Coverage-guided fuzzing by hand: ``python -m tests.fuzz data -max_total_time=600``.

The first word is a target, or ``all``; the others are libFuzzer's options. A finding is written to
the working folder, and ``python -m tests.fuzz TARGET FILE`` repeats it.
"""

import sys
import tempfile
import warnings
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["thinktune", "yaml"], enable_loader_override=False):
    from tests.fuzz.targets import TARGETS, seeds


def every(content: bytes) -> None:
    """All targets by turns, chosen by the first byte."""
    if content:
        list(TARGETS.values())[content[0] % len(TARGETS)](content[1:])


def main() -> None:
    """Fuzz one target from its seeds."""
    warnings.simplefilter("ignore")
    name, *options = sys.argv[1:]
    folder = Path(tempfile.mkdtemp(prefix="seeds-"))
    chosen = list(TARGETS) if name == "all" else [name]
    for place, target in enumerate(chosen):
        for number, seed in enumerate(seeds(target)):
            first = bytes([place]) if name == "all" else b""
            (folder / f"{target}-{number}").write_bytes(first + seed)
    given = any(Path(option).is_file() for option in options)
    limits = ["-timeout=20", "-rss_limit_mb=4000", "-max_len=65536"]
    corpus = [] if given else [str(folder)]
    atheris.Setup(
        [sys.argv[0], *limits, *options, *corpus], every if name == "all" else TARGETS[name]
    )
    atheris.Fuzz()


if __name__ == "__main__":
    main()
