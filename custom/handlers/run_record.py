"""A record of configuration, data and software versions for each run."""

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

    ``configuration`` is complete, with all overrides applied, and can be run again; ``settings`` are those of its
    values that can change results. List this handler after :class:`Checkpoints`, so that a run that is refused there
    does not overwrite the record of an earlier one.

    Example: ``{"_target_": "custom.handlers.RunRecord", "folders": ["@model_dir"], "configuration": "@configuration"}``

    Args:
        folders: where to write the file: the run's folder and that of the weights.
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
    """Return the versions of Python, CUDA and the installed packages that affect results."""
    found = {"python": platform.python_version(), "cuda": torch.version.cuda or "none"}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def commit() -> str | None:
    """Return the commit of this package's source, with ``+changes`` if modified; None outside a repository."""
    try:
        # without tags, this is the hash of the commit
        command = ["git", "describe", "--always", "--exclude=*", "--abbrev=40", "--dirty=+changes"]
        return subprocess.run(
            command, cwd=_SOURCE, capture_output=True, text=True, check=True, timeout=30
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
