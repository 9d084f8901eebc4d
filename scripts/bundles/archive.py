"""Reproducible zip files, and checksums."""

import re
import shutil
import stat
import zipfile
from pathlib import Path

from custom.system.files import write_whole
from custom.system.identity import sha256

SUMS = "SHA256SUMS"
_DATE = (1980, 1, 1, 0, 0, 0)
_PACKED = {".json", ".md", ".py", ".txt", ".conf", ".yml", ""}


def files_of(folder: Path) -> list[Path]:
    """Return the files below a folder by name, without Python's caches."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)


def zip_folder(folder: Path, path: Path) -> Path:
    """Put a folder into a zip, under its own name, with fixed dates, order and permissions."""

    def write(file: Path) -> None:
        with zipfile.ZipFile(file, "w") as archive:
            for source in files_of(folder):
                entry = zipfile.ZipInfo(source.relative_to(folder.parent).as_posix(), _DATE)
                entry.create_system = 3  # Unix, on any system
                entry.external_attr = (stat.S_IFREG | 0o644) << 16
                # weights do not compress
                entry.compress_type = zipfile.ZIP_DEFLATED if source.suffix in _PACKED else zipfile.ZIP_STORED
                entry.file_size = source.stat().st_size  # for automatic zip64
                with source.open("rb") as stream, archive.open(entry, "w") as target:
                    shutil.copyfileobj(stream, target)

    return write_whole(path, write)


def write_sums(folder: Path, made: list[Path]) -> Path:
    """Update ``SHA256SUMS`` in ``folder``: ``sha256sum -c SHA256SUMS`` checks zips and folders.

    Args:
        folder: folder of the file.
        made: new files and folders in it; lines of things that no longer exist are removed.
    """
    sums = {name: value for name, value in read_sums(folder / SUMS).items() if (folder / name).is_file()}
    for path in made:
        prefix = path.relative_to(folder).as_posix()
        sums = {name: value for name, value in sums.items() if name != prefix and not name.startswith(f"{prefix}/")}
        for file in files_of(path) if path.is_dir() else [path]:
            sums[file.relative_to(folder).as_posix()] = sha256(file)
    text = "".join(f"{value}  {name}\n" for name, value in sorted(sums.items()))
    return write_whole(folder / SUMS, lambda file: file.write_text(text, encoding="utf-8"))


def read_sums(path: Path) -> dict[str, str]:
    """Return the checksums by file name; empty if there is no such file."""
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    return {name: value for value, name in re.findall(r"^([0-9a-f]{64}) [ *](.+)$", text, re.MULTILINE)}
