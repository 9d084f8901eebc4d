"""Safe unpacking of bundles: all entries of the zip are checked before anything is written."""

import shutil
import stat
import zipfile
import zlib
from collections import Counter
from pathlib import Path, PurePosixPath

from custom.errors import DataError

KINDS = {"", ".json", ".yaml", ".yml", ".md", ".txt", ".conf", ".py", ".png", ".jpg", ".csv", ".pt", ".ts", ".onnx"}
"""Allowed suffixes in a bundle; no compiled code and no pickles."""

MAX_BYTES = 4 * 2**30
MAX_FILES = 5000
MAX_RATIO = 1000
"""Deflate reaches 1032 for zeros; text and weights are far below."""


def unpack(path: Path, folder: Path) -> Path:
    """Unpack a bundle's zip into an empty folder; returns the bundle's folder in it.

    Raises:
        DataError: the zip is damaged, or has entries that a bundle must not have: paths leading outside, links, several
            folders, other file types, too many or too large files. This is checked before anything is written, except
            for damaged entries, which are detected during unpacking. Nothing is ever written outside of ``folder``.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            _check_amount(path, entries)
            for entry in entries:
                _check_entry(path, entry)
            name = _only_folder(path, entries)
            for entry in entries:
                if not entry.is_dir():
                    target = folder.joinpath(*PurePosixPath(entry.filename).parts)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    with archive.open(entry) as source, target.open("xb") as file:
                        shutil.copyfileobj(source, file)
    except OSError as error:  # of the zip, or of the disk
        where, found = error.filename or path, error.strerror or error
        raise DataError.of(where, found, "room and a right to read and write") from None
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:  # the last: a compression of later
        raise DataError.of(path, f"{type(error).__name__}: {error}", "the zip of a bundle") from None
    return folder / name


def _check_amount(path: Path, entries: list[zipfile.ZipInfo]) -> None:
    size = sum(entry.file_size for entry in entries)
    if len(entries) > MAX_FILES or size > MAX_BYTES:
        found = f"{len(entries)} files with {size / 2**30:.1f} GiB"
        raise DataError.of(path, found, f"up to {MAX_FILES} with {MAX_BYTES / 2**30:.0f} GiB")
    for entry in entries:
        if entry.file_size > MAX_RATIO * max(entry.compress_size, 1):
            found = f"{entry.filename}, {entry.compress_size} bytes that unpack to {entry.file_size}"
            raise DataError.of(path, found, f"at most {MAX_RATIO} times as many")


def _check_entry(path: Path, entry: zipfile.ZipInfo) -> None:
    name, mode = entry.filename, entry.external_attr >> 16
    pure = PurePosixPath(name)
    odd = any(ord(letter) < 32 or letter in '\\:*?"<>|' for letter in name)
    if odd or pure.is_absolute() or ".." in name.split("/") or entry.orig_filename != name or not pure.parts:
        raise DataError.of(path, f"the path {name!r}", "paths within the bundle's folder")
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise DataError.of(path, f"{name}, which is a link or a device", "plain files")
    if entry.flag_bits & 1:
        raise DataError.of(path, f"{name}, which is encrypted", "plain files")
    if not entry.is_dir() and pure.suffix.lower() not in KINDS:
        raise DataError.of(path, f"{name}, a {pure.suffix} file", "configurations, documents, Python, weights")


def _only_folder(path: Path, entries: list[zipfile.ZipInfo]) -> str:
    [(name, times)] = Counter(entry.filename.rstrip("/").casefold() for entry in entries).most_common(1) or [("", 0)]
    if times > 1:
        raise DataError.of(path, f"{name} {times} times", "every file once")
    tops = {PurePosixPath(entry.filename).parts[0] for entry in entries}
    if len(tops) != 1 or not any("/" in entry.filename for entry in entries):
        raise DataError.of(path, f"{len(tops)} files or folders at its top", "one folder, the bundle's")
    return tops.pop()
