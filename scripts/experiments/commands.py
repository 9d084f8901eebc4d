"""Runs and prints the commands of an experiment. A failure ends the script."""

import resource
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def run_bundle(bundle: Path, run_id: str, configs: Sequence[str], **options: Any) -> None:
    """Run ``python -m monai.bundle run`` with configuration files of a bundle, given by name, or others."""
    files = [str((bundle / "configs" / name).with_suffix(".json")) for name in configs]
    run_python("-m", "monai.bundle", "run", run_id, config_file=files, bundle_root=bundle, **options)


def run_python(*words: object, python: str = sys.executable, **options: Any) -> None:
    """Run ``python WORDS --OPTION=VALUE`` in the repository's root."""
    command = [python, *map(str, words), *(f"--{name}={value}" for name, value in options.items())]
    print("$ python " + " ".join(command[1:]), flush=True)
    done = subprocess.run(command, cwd=ROOT)
    if done.returncode:
        sys.exit(done.returncode)


def children_seconds() -> float:
    """Return the processor seconds of all finished child processes and of theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows))


def chosen(names: str | Sequence[str], known: Sequence[str]) -> list[str]:
    """Return the names given as a list or separated by commas; exits if one is unknown."""
    found = names.split(",") if isinstance(names, str) else list(names)
    if unknown := [name for name in found if name not in known]:
        sys.exit(f"error: found {unknown[0]!r}, expected some of {', '.join(known)}")
    return found
