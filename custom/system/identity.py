"""Hashes that identify the content of files."""

import hashlib
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

WHOLE = 1 << 20
"""Files up to this size are hashed completely; of larger ones this much is read, in :data:`BLOCKS` places."""
BLOCKS = 8


def file_identity(path: str | os.PathLike) -> dict[str, Any]:
    """Return size, modification time and a hash of a file, or of all files below a folder; links are followed.

    A header with separate data files (MetaImage, NRRD) is combined with these.

    Args:
        path: a file or a folder (a DICOM series).

    Returns:
        ``size`` in bytes, ``mtime_ns`` (of several files the newest), and ``sha256`` of the content; of large files of
        a sample: beginning, end and places in between. For several files it covers their names, sizes, times and
        hashes.

    Raises:
        OSError: a file is missing or cannot be read.
    """
    root = Path(path)
    files = _below(root) if root.is_dir() else [root, *_data_files(root)]
    found = {os.path.relpath(file, root): _one_file(file) for file in files}
    if list(found) == ["."]:
        return found["."]
    return {
        "size": sum(each["size"] for each in found.values()),
        "mtime_ns": max((each["mtime_ns"] for each in found.values()), default=0),
        "sha256": hashlib.sha256(repr(sorted(found.items())).encode()).hexdigest(),
    }


def weights_identity(paths: str | os.PathLike | Sequence[str | os.PathLike]) -> list[str]:
    """Return the SHA-256 of the complete content of each weights file.

    Raises:
        OSError: a file is missing or cannot be read.
    """
    return [sha256(path) for path in ([paths] if isinstance(paths, str | os.PathLike) else paths)]


def sha256(path: str | os.PathLike) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _one_file(path: Path) -> dict[str, Any]:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        status = os.fstat(file.fileno())
        blocks = 1 if status.st_size <= WHOLE else BLOCKS
        length = WHOLE // blocks
        for number in range(blocks):
            file.seek(number * (status.st_size - length) // (blocks - 1) if number else 0)
            digest.update(file.read(length))
    return {"size": status.st_size, "mtime_ns": status.st_mtime_ns, "sha256": digest.hexdigest()}


def _below(root: Path) -> Iterable[Path]:
    seen: set[str] = set()
    for folder, folders, names in os.walk(root, followlinks=True):
        seen.add(os.path.realpath(folder))
        folders[:] = [name for name in folders if os.path.realpath(os.path.join(folder, name)) not in seen]  # loops
        yield from (Path(folder, name) for name in names if os.path.isfile(os.path.join(folder, name)))


def _data_files(header: Path) -> list[Path]:
    key = {".mhd": "ElementDataFile", ".nrrd": "data file|datafile"}.get(header.suffix.lower())
    if key is None:
        return []
    with header.open("rb") as file:
        text = file.read(1 << 16).decode(errors="replace")
    if header.suffix.lower() == ".nrrd":
        text = re.split(r"\r?\n\r?\n", text, maxsplit=1)[0]  # voxels follow
    named = re.search(rf"^(?:{key})\s*[:=][ \t]*(.*?)\s*$(.*)", text, re.MULTILINE | re.DOTALL | re.IGNORECASE)
    if named is None or named[1] == "LOCAL":
        return []
    listed = named[2].split() if named[1].split(" ")[0] == "LIST" else [named[1]]
    return [header.parent / name for name in listed]
