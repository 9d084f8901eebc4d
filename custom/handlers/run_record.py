"""What a run was made of, kept beside what it made."""

import json
import platform
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events

from ..configuration import Configuration, without_effect
from ..system.distributed import rank, world_size
from ..system.files import write_whole

RECORD = "run.json"
_PACKAGES = ("torch", "monai", "numpy", "scipy", "scikit-image", "nibabel", "itk", "pytorch-ignite")
_SOURCE = Path(__file__).parent


@without_effect()
class RunRecord:
    """Writes ``run.json`` when training starts: configuration, cases, versions, commit, machine and command line.

    The configuration is complete, with all overrides and with the values of the knobs at its top, and can be run again;
    ``settings`` are those of it that can change results.
    List it after :class:`Checkpoints`: a run that is refused there leaves the record of the one before.

    Args:
        folders: where to write it: the run's folder, and that of the weights.
        cases: lists of cases by name, such as ``{"training": [...], "validation": [...]}``.
        configuration: of the run.
    """

    def __init__(
        self,
        *,
        folders: Sequence[str],
        cases: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
        configuration: Configuration | None = None,
    ) -> None:
        self.folders = [Path(folder) for folder in folders]
        self.cases = {name: [dict(case) for case in listed] for name, listed in (cases or {}).items()}
        self.configuration = configuration

    def attach(self, engine: Engine) -> None:
        """Register with the trainer."""
        engine.add_event_handler(Events.STARTED, self._write)

    def _write(self, _: Engine) -> None:
        if rank() != 0:
            return
        record = {
            "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "command": sys.orig_argv,
            "commit": commit(),
            "versions": versions(),
            "device": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or "cpu",
            "ranks": world_size(),
            "configuration": {} if self.configuration is None else self.configuration.plain(),
            "settings": {} if self.configuration is None else self.configuration.effective(),
            "cases": self.cases,
        }
        text = json.dumps(record, indent=1, default=str)
        for folder in self.folders:
            write_whole(folder / RECORD, lambda file: file.write_text(text, encoding="utf-8"))


def versions() -> dict[str, str]:
    """Versions of Python, CUDA and the packages that computations go through, as far as they are there."""
    found = {"python": platform.python_version(), "cuda": torch.version.cuda or "none"}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def commit() -> str | None:
    """The commit of this package's source, with ``+changes`` if files differ from it; None outside of a repository."""
    try:
        head = _git("rev-parse", "HEAD")
        return f"{head}+changes" if _git("status", "--porcelain", "--untracked-files=no") else head
    except (OSError, subprocess.SubprocessError):
        return None


def _git(*arguments: str) -> str:
    process = subprocess.run(
        ["git", "-C", str(_SOURCE), *arguments], capture_output=True, text=True, check=True, timeout=30
    )
    return process.stdout.strip()
