"""Atomic writing of files."""

import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import DataError

logger = logging.getLogger(__name__)


def write_whole(path: str | Path, write: Callable[[Path], None]) -> Path:
    """Let ``write`` create a temporary file next to ``path``, and rename it: readers never see an incomplete file.

    Args:
        path: the file to write; its folder is created if missing.
        write: called with the temporary path, which has the same suffix as ``path``.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        write(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def write_json(path: str | Path, content: Any, indent: int = 1) -> Path:
    """Write a JSON file, complete or not at all."""
    text = json.dumps(content, indent=indent) + "\n"
    return write_whole(path, lambda file: file.write_text(text, encoding="utf-8"))


@contextmanager
def dispensable(path: str | Path) -> Iterator[None]:
    """Context for writing optional files, such as pictures: an error is logged as a warning."""
    try:
        yield
    except OSError as error:
        logger.warning("%s: not written (%s); the run goes on", path, error)


@contextmanager
def indispensable(path: Path, what: str) -> Iterator[None]:
    """Context for writing what a run is for.

    Raises:
        DataError: instead of the errors of a full or lost disk.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:  # the latter by torch.save
        free = shutil.disk_usage(path if path.is_dir() else path.parent).free / 1e9
        why = f"{type(error).__name__}: {' '.join(str(error).split())}; {free:.3g} GB free"
        expected = "enough free space; --resume True continues the run"
        raise DataError.of(path, f"{what} that cannot be written ({why})", expected) from error
