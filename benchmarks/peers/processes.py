"""Each side in a process of its own: started, timed out, and heard."""

import json
import os
import shlex
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from benchmarks.peers.case import Case, find_device
from benchmarks.peers.flash import write_stand_in

MARK = "RESULT "
"""Begins the line on which a side says what it came to."""


def time_ours(case: Case, more: str, timeout: int) -> dict:
    """Our own step, through the command that users have."""
    command = [sys.executable, "-m", "thinktune", "bench", "step", "--json"]
    command += ["--shape", case.shape, "--documents", case.documents, "--steps", str(case.steps)]
    command += ["--dtype", case.base]
    done = run_process([*command, *shlex.split(more)], {}, timeout)
    start = done.stdout.find("{")
    try:
        result = json.loads(done.stdout[start:]) if start >= 0 else last_words(done)
    except json.JSONDecodeError:
        result = last_words(done)
    return {"settings": more} | result


def time_peer(peer: str, case: Case, timeout: int) -> dict:
    """One peer's numbers, or why there are none."""
    written = Path(case.scratch, "written")
    loads_a_folder = peer == "unsloth" and find_spec(peer) and find_device().type == "cuda"
    if loads_a_folder and not written.exists():
        done = start_side("checkpoint", case, timeout)
        if done.returncode:
            return last_words(done)
        written.touch()
    done = start_side(peer, case, timeout)
    results = [line for line in done.stdout.splitlines() if line.startswith(MARK)]
    return json.loads(results[-1].removeprefix(MARK)) if results else last_words(done)


def start_side(side: str, case: Case, timeout: int) -> subprocess.CompletedProcess[str]:
    environment = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    # Unsloth takes torch's kernel by itself, and on equal rows does better without flash_attn.
    if case.flash == "torch" and side != "unsloth" and not find_spec("flash_attn"):
        folder = write_stand_in(Path(case.scratch, "flash"))
        environment["PYTHONPATH"] = os.pathsep.join(
            filter(None, (str(folder), os.environ.get("PYTHONPATH")))
        )
    command = [sys.executable, "-m", "benchmarks.peers", "--side", side]
    return run_process([*command, "--case", json.dumps(case.to_dict())], environment, timeout)


def run_process(
    command: list[str], environment: dict[str, str], timeout: int
) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command,
            env=os.environ | environment,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 1, "", f"not done in {timeout} s")


def last_words(done: subprocess.CompletedProcess[str]) -> dict:
    """Why a process gave no result: the end of what it said."""
    said = (done.stderr.strip() or done.stdout.strip() or f"exit {done.returncode}").splitlines()
    words = [line for line in said if any(character.isalnum() for character in line)]
    return {"failed": (words or said)[-1].strip("│| "), "log": said[-30:]}
