"""Files that are whole or absent."""

import os
from collections.abc import Callable
from pathlib import Path


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
