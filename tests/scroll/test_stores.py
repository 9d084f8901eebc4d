"""Patience with a server that is busy, and none with one that says no."""

import itertools
import os
from types import SimpleNamespace

import pytest
from zarr.buffer import default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import MemoryStore

from custom.errors import DataError
from custom.scroll import stores
from custom.scroll.stores import PatientStore, open_store
from custom.system.retry import is_transient


class Answer(Exception):
    def __init__(self, code):
        super().__init__(f"status {code}")
        self.code = code


class BusyStore(MemoryStore):
    """Fails ``failures`` times in a row, again and again."""

    def __init__(self, failures, error):
        super().__init__()
        self.failures = self.left = failures
        self.error = error

    def _busy(self):
        self.left -= 1
        if self.left >= 0:
            raise self.error
        self.left = self.failures

    async def get(self, *args, **kwargs):
        self._busy()
        return await super().get(*args, **kwargs)

    async def set(self, *args, **kwargs):
        self._busy()
        return await super().set(*args, **kwargs)

    async def list_prefix(self, prefix):
        self._busy()
        async for key in super().list_prefix(prefix):
            yield key


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch):
    monkeypatch.setattr("custom.system.retry.FIRST_PAUSE", 0.0)


def read(store, key):
    return sync(store.get(key, default_buffer_prototype()))


@pytest.mark.parametrize("error", [Answer(503), Answer(429), TimeoutError(), ConnectionResetError()])
def test_a_busy_server_is_asked_again(error, caplog):
    store = PatientStore(BusyStore(stores.TRIES - 1, error))
    store.put("a/1", b"abc")
    assert read(store, "a/1").to_bytes() == b"abc"
    assert store.names("a/") == ["1"]
    assert (store.fetched, store.bytes) == (1, 3)
    assert read(store, "a/2") is None
    assert store.fetched == 1
    assert caplog.text.count("again in") == 4 * (stores.TRIES - 1)


def test_patience_ends():
    with pytest.raises(Answer, match="503"):
        read(PatientStore(BusyStore(stores.TRIES, Answer(503))), "a")


@pytest.mark.parametrize(
    "error", [Answer(403), Answer(404), PermissionError(), FileNotFoundError(), ValueError(), OSError("Forbidden")]
)
def test_a_refusal_is_final(error):
    assert not is_transient(error)
    store = BusyStore(1, error)
    with pytest.raises(type(error)):
        read(PatientStore(store), "a")
    assert store.left == 0  # asked once


def test_chunks_that_are_absent_are_remembered_and_empty_ones_refused():
    store = PatientStore(MemoryStore())
    store.put("0/c/1", b"")
    assert read(store, "0/c/0") is None
    assert read(store, "0/zarr.json") is None
    assert store.missing == {"0/c/0"}
    with pytest.raises(ValueError, match="an empty object"):
        read(store, "0/c/1")


def test_versions_are_of_what_is_there(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "a").write_bytes(b"123")
    os.utime(tmp_path / "a", ns=(5, 7))
    keys = ["a", "b", "folder", "a/b"]
    assert open_store(str(tmp_path), read_only=True).versions(keys) == {"a": "3 7"}
    remote = open_store(f"local://{tmp_path}", read_only=True)
    assert remote.versions(keys).keys() == {"a"}
    assert remote.versions(["a"])["a"].startswith("3 ")


def test_a_busy_web_server_is_not_taken_for_an_empty_one():
    """fsspec's HTTP makes "no such file" of every failure."""

    async def info(url, answers=itertools.count()):  # noqa: B008
        if next(answers) == 0:
            raise FileNotFoundError(url) from Answer(503)
        if url.endswith("absent"):
            raise FileNotFoundError(url) from Answer(404)
        return {"size": 3, "ETag": "xyz"}

    store = PatientStore(SimpleNamespace(fs=SimpleNamespace(_info=info), path="http://host/a"))
    assert store.versions(["there", "absent"]) == {"there": "3 xyz"}


@pytest.mark.parametrize("url", ["nonsense://bucket/scroll", "ssh://host/scroll"])
def test_unknown_kinds_of_places(url):
    with pytest.raises(DataError, match="a URL that cannot be opened"):
        open_store(url, read_only=True)
