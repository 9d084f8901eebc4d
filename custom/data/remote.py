"""The same functions for local paths and fsspec URLs (``gs://``, ``s3://``, ``https://``, ...).

Credentials come from the environment, as documented by each fsspec package. Requests that fail for a transient reason
(busy server, dropped connection) are retried with increasing pauses.
"""

import base64
import hashlib
import logging
import os
import posixpath
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from ..errors import DataError
from ..system.identity import file_identity
from ..system.retry import retry

_READERS = 8
_BLOCK = 1 << 24
"""Bytes per request of a download, which are held in memory and lost when a connection drops."""

_SAMPLE = 1 << 16

VERSION_KEYS = (
    *("etag", "ETag", "generation", "mtime", "updated"),
    *("LastModified", "last_modified", "Last-Modified", "created"),
)
"""Names of the modification time or another version identifier in various file systems."""

Result = TypeVar("Result")

logger = logging.getLogger(__name__)


def is_url(path: object) -> bool:
    """Whether a path is an fsspec URL rather than a local path."""
    return "://" in str(path)


def join(folder: str, relative: str) -> str:
    """Join a relative path to a folder or URL; absolute paths and URLs are returned unchanged."""
    if is_url(relative) or os.path.isabs(relative):
        return relative
    if is_url(folder):
        return f"{folder.rstrip('/')}/{posixpath.normpath(relative)}"
    return os.path.normpath(os.path.join(folder, relative))


def list_files(folder: str) -> list[str]:
    """List files below a folder recursively, relative to it and with ``/``, without hidden ones.

    Links to folders are followed. A folder ``*.zarr`` is listed as one array, without its files.

    Raises:
        DataError: the folder does not exist, is not a folder, or cannot be read completely.
    """
    names = _list_url(folder) if is_url(folder) else _list_local(Path(folder))
    return [name for name in names if not any(part.startswith(".") for part in name.split("/"))]


def read_text(path: str) -> str:
    """Return the content of a small text file, UTF-8."""
    if is_url(path):
        system = filesystem(path)
        return retry(lambda: system.cat_file(path), path).decode()
    return Path(path).read_text(encoding="utf-8")


def exists(path: str) -> bool:
    """Whether a file, folder or object exists."""
    if is_url(path):
        system = filesystem(path)
        return retry(lambda: system.exists(path), path)
    return os.path.exists(path)


def identities(paths: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return what identifies the version of each source, by path.

    Returns:
        for a local file or folder ``path`` and the result of :func:`custom.system.identity.file_identity`; for a URL
        ``path``, ``size``, ``version`` (etag, generation or modification time), and ``md5`` if the server provides it.

    Raises:
        DataError: a source is missing or cannot be reached.
    """
    paths = list(paths)
    local = [path for path in paths if not is_url(path)]
    with ThreadPoolExecutor(_READERS) as pool:  # hundreds of files on a slow disk
        found = dict(zip(local, pool.map(_local_identity, local), strict=True))
    parents: dict[str, list[str]] = {}
    for path in paths:
        if is_url(path):
            parents.setdefault(path.rsplit("/", 1)[0], []).append(path)
    for parent, urls in parents.items():
        found.update(_url_identities(parent, urls))
    return found


def fetch(url: str, folder: str | os.PathLike, identity: dict[str, Any]) -> Path:
    """Download a file in blocks, continuing an earlier attempt for the same version.

    Args:
        url: an fsspec URL.
        folder: where to store it, named like the source; only one process at a time may use it.
        identity: of the URL, from :func:`identities`.

    Raises:
        DataError: the source cannot be reached, does not exist, or does not match the server's MD5.
    """
    if url.lower().endswith(".mhd"):
        raise DataError.of(url, "a header whose data is another file", "a .mha file")
    if identity["size"] is None:
        raise DataError.of(url, "a server that does not tell the size", "a server that does")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    version = hashlib.sha256(f"{identity['size']} {identity['version']}".encode()).hexdigest()[:16]
    partial = folder / f"{version}.download"
    for repetition in range(2):
        _append_blocks(url, partial, identity["size"])
        if identity.get("md5") in (None, _md5(partial)):
            break
        partial.unlink()
        if repetition:
            raise DataError.of(url, "content that does not match its MD5, twice", identity["md5"])
        logger.warning("%s: the download does not match its MD5; trying once more", url)
    return partial.replace(folder / url.rsplit("/", 1)[1])


def filesystem(url: str) -> Any:
    """Return the fsspec file system of a URL.

    Raises:
        DataError: the package for this protocol is not installed, or the protocol is unknown.
    """
    import fsspec

    try:
        return fsspec.core.url_to_fs(url)[0]
    except (ImportError, ValueError) as error:
        raise DataError.of(url, f"a URL that cannot be opened ({error})", "an installed fsspec file system") from None


def _list_local(root: Path) -> list[str]:
    if not root.is_dir():
        raise DataError.of(root, "a file" if root.exists() else "no such folder", "a folder")

    def refuse(error: OSError) -> None:
        raise DataError.of(error.filename, f"a folder that cannot be read ({error.strerror})", "read permission")

    names = []
    for parent, folders, files in os.walk(root, onerror=refuse, followlinks=True):
        relative = Path(parent).relative_to(root)
        arrays = [name for name in folders if name.lower().endswith(".zarr")]
        names += [(relative / name).as_posix() for name in [*files, *arrays]]
        above = {os.path.realpath(root / place) for place in (relative, *relative.parents)}
        folders[:] = [
            name
            for name in folders
            if name not in arrays and not name.startswith(".") and os.path.realpath(Path(parent, name)) not in above
        ]  # a link to a parent folder would recurse endlessly
    return names


def _list_url(folder: str) -> list[str]:
    system = filesystem(folder)
    root = system._strip_protocol(folder).rstrip("/")
    system.invalidate_cache()  # an earlier listing may be outdated
    found = retry(lambda: system.find(root), folder)
    names = [name for name in (path[len(root) :].lstrip("/") for path in found) if name]
    if not names:
        raise DataError.of(folder, "nothing", "a folder with files")
    return names


def _local_identity(path: str) -> dict[str, Any]:
    try:
        return {"path": os.path.abspath(path), **file_identity(path)}
    except FileNotFoundError as error:
        raise DataError.of(error.filename, "no such file", f"the file of case {path}") from None
    except OSError as error:
        raise DataError.of(path, f"a source that cannot be read ({error.strerror})", "read permission") from None


def _url_identities(parent: str, urls: list[str]) -> dict[str, dict[str, Any]]:
    system = filesystem(parent)
    system.invalidate_cache()
    entries: dict[str, dict[str, Any]] = {}
    if len(urls) > 2:  # one listing instead of a request per file
        listed = retry(lambda: system.ls(parent, detail=True), parent)
        entries = {entry["name"]: entry for entry in listed if _version(entry)}  # web servers list names only
    found = {}
    for url in urls:
        entry = entries.get(system._strip_protocol(url)) or retry(lambda url=url: system.info(url), url)
        size = entry.get("size")
        identity = {"path": url, "size": size, "version": _version(entry) or _sampled(system, url, size)}
        if entry.get("md5Hash"):
            identity["md5"] = base64.b64decode(entry["md5Hash"]).hex()
        found[url] = identity
    return found


def _version(entry: dict[str, Any]) -> str:
    return next((str(entry[key]) for key in VERSION_KEYS if entry.get(key)), "")


def _sampled(system: Any, url: str, size: int | None) -> str:
    """Hash both ends of a file whose server provides no version."""
    if size is None:
        return ""
    spans = {(start, min(start + _SAMPLE, size)) for start in (0, max(0, size - _SAMPLE))}
    ends = [retry(lambda span=span: _block(system, url, *span), url) for span in sorted(spans)]
    return hashlib.sha256(b"".join(ends)).hexdigest()


def _append_blocks(url: str, partial: Path, size: int) -> None:
    system = filesystem(url)
    with partial.open("ab") as file:
        if file.tell() > size:
            file.truncate(0)
        while (start := file.seek(0, os.SEEK_END)) < size:
            stop = min(start + _BLOCK, size)
            block = retry(lambda start=start, stop=stop: _block(system, url, start, stop), url)
            file.write(block)


def _block(system: Any, url: str, start: int, stop: int) -> bytes:
    block = system.cat_file(url, start=start, end=stop)
    if len(block) != stop - start:
        raise OSError(f"{len(block)} bytes for the range from {start} to {stop}")
    return block


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
