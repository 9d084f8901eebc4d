"""Runs Python in a separate process, isolated from this repository."""

import os
import re
import subprocess
import sys
from pathlib import Path

TIMEOUT_S = 1800


def run_python(arguments: list[str], folder: Path) -> subprocess.CompletedProcess:
    """Run ``python ARGUMENTS`` in a folder, without the caller's PYTHONPATH and without writing bytecode."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    # TorchScript writes attributes in the order of a set, which depends on the seed of Python's hashes.
    environment |= {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONHASHSEED": "0"}
    command = [sys.executable, *arguments]
    try:
        return subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 1, "", f"not done in {TIMEOUT_S} s")


def last_line(done: subprocess.CompletedProcess) -> str:
    """Return the last line of a process's output that names an error, or else the last line."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", done.stderr or done.stdout)  # colours
    lines = [line.strip() for line in text.splitlines() if line.strip()] or ["no message"]
    errors = [line for line in lines if re.match(r"error: |[\w.]+(Error|Exception): \S", line)]
    return (errors or lines)[-1][:300]
