"""Atomic writing of files."""

import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

CANNOT_WRITE = (OSError, RuntimeError)
"""Errors raised by a full or lost disk: by the system, and by ``torch.save``."""

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


@contextmanager
def dispensable(path: str | Path) -> Iterator[None]:
    """Context for writing optional files, such as pictures: an error is logged as a warning."""
    try:
        yield
    except OSError as error:
        logger.warning("%s: not written (%s); the run goes on", path, error)


def why_unwritten(folder: str | Path, error: BaseException) -> str:
    """Describe the error in a few words, with the free space on the disk."""
    reason = " ".join(str(error).split())
    return f"{type(error).__name__}: {reason}; {shutil.disk_usage(folder).free / 1e9:.3g} GB free"
