"""Files that are whole or absent."""

import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

CANNOT_WRITE = (OSError, RuntimeError)
"""What a full or lost disk raises: the system the first, ``torch.save`` the second."""

logger = logging.getLogger(__name__)


def write_whole(path: str | Path, write: Callable[[Path], None]) -> Path:
    """Let ``write`` fill a file beside ``path`` and rename it: nobody ever sees half a file.

    Args:
        path: the file to make; its folder is created.
        write: called with the temporary path, which ends like ``path`` so that writers that go by the name agree.
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
    """Around writing what a run can do without, such as a picture: a full disk costs the file, with a warning."""
    try:
        yield
    except OSError as error:
        logger.warning("%s: not written (%s); the run goes on", path, error)


def why_unwritten(folder: str | Path, error: BaseException) -> str:
    """The reason in a few words, with the room that is left: torch's own says nothing of disks."""
    reason = " ".join(str(error).split())
    return f"{type(error).__name__}: {reason}; {shutil.disk_usage(folder).free / 1e9:.3g} GB free"
