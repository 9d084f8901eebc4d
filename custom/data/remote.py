"""Local paths and fsspec URLs (``gs://``, ``s3://``, ``https://``, ...) behind the same few functions.

Credentials come from the environment alone, the way each fsspec package documents it.
"""

import os
import posixpath
from pathlib import Path
from typing import Any

from ..errors import DataError


def is_url(path: object) -> bool:
    """Whether a path is an fsspec URL rather than a local path."""
    return "://" in str(path)


def join(folder: str, relative: str) -> str:
    """A path below a folder or URL; absolute paths and URLs are returned as they are."""
    if is_url(relative) or os.path.isabs(relative):
        return relative
    if is_url(folder):
        return f"{folder.rstrip('/')}/{posixpath.normpath(relative)}"
    return os.path.normpath(os.path.join(folder, relative))


def list_files(folder: str, *, depth: int = 3) -> list[str]:
    """Files below a folder, relative to it, with ``/`` between the parts; hidden ones are left out.

    Raises:
        DataError: the folder does not exist, is no folder, or it or one below cannot be read.
    """
    names = _list_url(folder, depth) if is_url(folder) else _list_local(folder, depth)
    return [name for name in names if not any(part.startswith(".") for part in name.split("/"))]


def read_text(path: str) -> str:
    """The whole of a small text file, UTF-8."""
    if is_url(path):
        return filesystem(path).cat_file(path).decode()
    return Path(path).read_text(encoding="utf-8")


def exists(path: str) -> bool:
    """Whether a file, folder or object is there."""
    return filesystem(path).exists(path) if is_url(path) else os.path.exists(path)


def filesystem(url: str) -> Any:
    """The fsspec file system of a URL.

    Raises:
        DataError: the package for this kind of URL is not installed, or the kind is unknown.
    """
    import fsspec

    try:
        return fsspec.core.url_to_fs(url)[0]
    except (ImportError, ValueError) as error:
        raise DataError.of(url, f"a URL that cannot be opened ({error})", "an installed fsspec file system") from None


def _list_local(folder: str, depth: int) -> list[str]:
    root = Path(folder)
    if not root.is_dir():
        found = "a file" if root.exists() else "no such folder"
        raise DataError.of(folder, found, "a folder")

    def refuse(error: OSError) -> None:
        raise DataError.of(error.filename, f"a folder that cannot be read ({error.strerror})", "read permission")

    names = []
    for parent, folders, files in os.walk(root, onerror=refuse, followlinks=True):
        relative = Path(parent).relative_to(root)
        if len(relative.parts) >= depth - 1:
            folders.clear()  # links may form loops: the depth ends them
        names += [(relative / file).as_posix() for file in files]
    return names


def _list_url(folder: str, depth: int) -> list[str]:
    system = filesystem(folder)
    root = system._strip_protocol(folder).rstrip("/")
    try:
        found = system.find(root, maxdepth=depth)
    except (FileNotFoundError, NotADirectoryError):
        found = []
    names = [name[len(root) :].lstrip("/") for name in found]
    names = [name for name in names if name]
    if not names:
        raise DataError.of(folder, "nothing", "a folder with files")
    return names
