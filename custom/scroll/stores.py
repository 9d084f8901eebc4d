"""Zarr stores, local or remote, that retry transient failures."""

import asyncio
import logging
from collections.abc import Iterable
from pathlib import Path
from stat import S_ISDIR

import zarr
from zarr.abc.store import RangeByteRequest
from zarr.buffer import cpu, default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import FsspecStore, LocalStore, WrapperStore

from ..data.remote import VERSION_KEYS, is_url
from ..errors import DataError
from ..system.retry import is_transient, retry_async

TRIES = 8
"""Including pauses, these bridge failures of up to a minute."""
CONCURRENCY = 64
"""Parallel requests to a server, whose latency limits the speed."""

METADATA = ("zarr.json", ".zarray", ".zgroup", ".zattrs", ".zmetadata")
INCOMPLETE = ".partial"
"""End of the names under which zarr writes local files before it renames them; a killed process leaves such files."""

logger = logging.getLogger(__name__)


class PatientStore(WrapperStore):
    """Retries requests that failed for a transient reason, and counts what was fetched."""

    def __init__(self, store: FsspecStore | LocalStore) -> None:
        super().__init__(store)
        self.fetched = 0
        """Number of chunks, or parts of shards, that were read."""
        self.bytes = 0
        """Number of bytes of these."""
        self.missing: set[str] = set()
        """Keys of requested chunks that do not exist."""

    async def get(self, key, prototype, byte_range=None):
        """Get a value, with retries.

        Raises:
            ValueError: a chunk without any bytes, which zarr would treat as missing.
        """
        value = await retry_async(lambda: self._store.get(key, prototype, byte_range), key, TRIES)
        if not key.endswith(METADATA):
            if value is None:
                self.missing.add(key)
            elif not len(value):
                raise ValueError("an empty object")
            else:
                self.fetched += 1
                self.bytes += len(value)
        return value

    async def set(self, key, value):
        await retry_async(lambda: self._store.set(key, value), key, TRIES)

    async def set_if_not_exists(self, key, value):
        await retry_async(lambda: self._store.set_if_not_exists(key, value), key, TRIES)

    async def exists(self, key):
        return await retry_async(lambda: self._store.exists(key), key, TRIES)

    def names(self, prefix: str) -> list[str]:
        """Return the keys with a prefix, without that prefix; files that are being written are not listed."""

        async def listed() -> list[str]:
            return [key async for key in self._store.list_prefix(prefix) if not key.endswith(INCOMPLETE)]

        return [key.removeprefix(prefix) for key in sync(retry_async(listed, prefix, TRIES))]

    def children(self) -> list[str]:
        """Return the names of objects and folders at the top level, without files that are being written."""

        async def listed() -> list[str]:
            return [name async for name in self._store.list_dir("") if not name.endswith(INCOMPLETE)]

        return sync(retry_async(listed, str(self), TRIES))

    def read(self, key: str) -> bytes:
        """Return the content of an object; FileNotFoundError if it does not exist."""
        value = sync(self.get(key, default_buffer_prototype()))
        if value is None:
            raise FileNotFoundError(key)
        return value.to_bytes()

    def head(self, key: str, size: int) -> bytes:
        """Return up to ``size`` first bytes of an object; empty if it does not exist."""
        value = sync(
            retry_async(lambda: self._store.get(key, default_buffer_prototype(), RangeByteRequest(0, size)), key, TRIES)
        )
        return b"" if value is None else value.to_bytes()

    def put(self, key: str, value: bytes) -> None:
        sync(self.set(key, cpu.Buffer.from_bytes(value)))

    def remove(self, key: str) -> None:
        sync(retry_async(lambda: self._store.delete(key), key, TRIES))

    def remove_all(self) -> None:
        sync(retry_async(lambda: self._store.delete_dir(""), str(self), TRIES))

    def versions(self, keys: Iterable[str]) -> dict[str, str]:
        """Return the version (size, and modification time or etag) of each existing object."""

        async def all_versions() -> dict[str, str | None]:
            free = asyncio.Semaphore(CONCURRENCY)

            async def one(key: str) -> tuple[str, str | None]:
                async with free:
                    return key, await retry_async(lambda: self._version(key), key, TRIES)

            return dict(await asyncio.gather(*map(one, keys)))

        return {key: version for key, version in sync(all_versions()).items() if version is not None}

    async def _version(self, key: str) -> str | None:
        if isinstance(self._store, LocalStore):
            try:
                found = (self._store.root / key).stat()
            except (FileNotFoundError, NotADirectoryError):
                return None
            return None if S_ISDIR(found.st_mode) else f"{found.st_size} {found.st_mtime_ns}"
        try:
            info = await self._store.fs._info(f"{self._store.path.rstrip('/')}/{key}")
        except (FileNotFoundError, NotADirectoryError) as error:  # HTTP's file system raises this for any failure
            if error.__cause__ is not None and is_transient(error.__cause__):
                raise error.__cause__ from None
            return None
        version = next((info[name] for name in VERSION_KEYS if info.get(name)), "")
        return None if info.get("type") == "directory" else f"{info.get('size')} {version}"


def open_store(url: str, *, read_only: bool) -> PatientStore:
    """Open the store of a local path or an fsspec URL. Credentials come from the environment.

    Raises:
        DataError: the package for this protocol is not installed, or the protocol is unknown.
    """
    if not is_url(url):
        return PatientStore(LocalStore(Path(url), read_only=read_only))
    zarr.config.set({"async.concurrency": CONCURRENCY})
    try:
        # A cached listing would not include what other workers write.
        store = FsspecStore.from_url(url, read_only=read_only, storage_options={"use_listings_cache": False})
    except (ImportError, ValueError) as error:
        raise DataError.of(url, f"a URL that cannot be opened ({error})", "an installed fsspec file system") from None
    return PatientStore(store)
