"""Sources behind URLs, against a storage server and a faulty proxy, both on loopback."""

import hashlib
import http.client
import http.server
import os
import socket
import threading
import urllib.parse
from types import SimpleNamespace

import nibabel
import numpy as np
import pytest

from custom.data import remote
from custom.data.cache import VolumeCache
from custom.data.cases import find_cases, find_images
from custom.data.remote import fetch, identities, is_url, join
from custom.errors import DataError
from custom.system.identity import file_identity

DATA = np.random.default_rng(0).integers(0, 256, 1_000_000, np.uint8).tobytes()


class Faults:
    """What the proxy does to requests for content, and what it saw."""

    def __init__(self):
        self.busy = 0  # so many requests are answered by 503
        self.drop = 0  # so many answers end half-way
        self.flip = 0  # so many answers have a byte changed
        self.ranges = []

    def next(self, kind):
        left = getattr(self, kind)
        setattr(self, kind, max(left - 1, 0))
        return left > 0


def make_proxy(upstream_port, faults):
    class Proxy(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            connection = http.client.HTTPConnection("127.0.0.1", upstream_port)
            connection.request("GET", self.path, headers=dict(self.headers))
            answer = connection.getresponse()
            body, status = answer.read(), answer.status
            connection.close()
            content = "alt=media" in self.path
            if content:
                faults.ranges.append(self.headers.get("Range"))
                if faults.next("busy"):
                    status, body = 503, b'{"error": {"code": 503, "message": "busy"}}'
                elif faults.next("flip"):
                    body = bytes([body[0] ^ 1]) + body[1:]
            self.send_response(status)
            self.send_header("Content-Type", answer.headers.get("Content-Type", "application/json"))
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if content and status < 300 and faults.next("drop"):
                self.wfile.write(body[: len(body) // 2])
                self.wfile.flush()
                self.close_connection = True
            else:
                self.wfile.write(body)

        def log_message(self, *_):
            pass

    return http.server.ThreadingHTTPServer(("127.0.0.1", 0), Proxy)


class Storage:
    """A storage server in memory with one bucket, and the proxy in front of it."""

    def __init__(self):
        from gcp_storage_emulator.server import create_server

        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.server = create_server("127.0.0.1", self.port, in_memory=True, default_bucket="bucket")
        self.server.start()
        self.faults = Faults()
        self.proxy = make_proxy(self.port, self.faults)
        threading.Thread(target=self.proxy.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.proxy.server_address[1]}"

    def put(self, name, content):
        connection = http.client.HTTPConnection("127.0.0.1", self.port)
        path = f"/upload/storage/v1/b/bucket/o?uploadType=media&name={urllib.parse.quote(name, safe='')}"
        connection.request("POST", path, content, {"Content-Type": "application/octet-stream"})
        assert connection.getresponse().status == 200
        connection.close()
        return f"gs://bucket/{name}"

    def stop(self):
        self.proxy.shutdown()
        self.server.stop()


@pytest.fixture(scope="module")
def server():
    pytest.importorskip("gcp_storage_emulator")
    pytest.importorskip("gcsfs")
    storage = Storage()
    yield storage
    storage.stop()


@pytest.fixture
def storage(server, monkeypatch):
    """The server, found through the environment as a user's would be; without pauses between tries."""
    import fsspec
    import gcsfs.retry

    monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.url)
    monkeypatch.setitem(fsspec.config.conf, "gs", {"token": "anon"})  # what the variable FSSPEC_GS holds at import

    async def no_pause(_):
        pass

    monkeypatch.setattr(gcsfs.retry, "asyncio", SimpleNamespace(sleep=no_pause))
    monkeypatch.setattr("custom.system.retry.time", SimpleNamespace(sleep=lambda _: None))
    server.faults.__init__()
    return server


def download(url, folder):
    return fetch(url, folder, identities([url])[url])


def test_paths():
    assert is_url("gs://b/x") and not is_url("/a/b") and not is_url("a b")
    assert join("gs://b/x/", "./y/z.nii") == "gs://b/x/y/z.nii"
    assert join("/a", "../b") == "/b" and join("/a", "/c") == "/c" and join("/a", "gs://b") == "gs://b"


def test_identity_of_local_sources(tmp_path):
    (tmp_path / "a.nii").write_bytes(b"12345")
    os.utime(tmp_path / "a.nii", ns=(0, 1_000_000_007))
    path = str(tmp_path / "a.nii")
    assert identities([path]) == {path: {"path": path, **file_identity(path)}}
    (tmp_path / "h.mhd").write_text("NDims = 3\nElementDataFile = h.raw\n")
    (tmp_path / "h.raw").write_bytes(b"123")
    header = str(tmp_path / "h.mhd")
    before = identities([header])[header]
    os.utime(tmp_path / "h.raw", ns=(0, 1))  # older than the header, as a restored copy may be
    assert identities([header])[header] != before
    (tmp_path / "h.raw").unlink()
    with pytest.raises(DataError, match=r"h\.raw: found no such file, expected the file of case .*h\.mhd"):
        identities([header])


def test_identity_of_an_object_follows_its_content(storage):
    url = storage.put("x/a.nii", DATA[:1000])
    first = identities([url])[url]
    assert (first["path"], first["size"], first["md5"]) == (url, 1000, hashlib.md5(DATA[:1000]).hexdigest())
    storage.put("x/a.nii", DATA[1000:2000])
    assert identities([url])[url]["version"] != first["version"]
    many = [storage.put(f"x/{k}.nii", DATA[: k + 1]) for k in range(4)]
    assert [entry["size"] for entry in identities(many).values()] == [1, 2, 3, 4]
    with pytest.raises(DataError, match=r"gs://bucket/x/nothing\.nii: found no such object"):
        identities(["gs://bucket/x/nothing.nii"])


class Unversioned(dict):
    """A file system whose server tells sizes at most, and names alone where it lists."""

    def invalidate_cache(self):
        pass

    _strip_protocol = staticmethod(str)

    def ls(self, parent, detail):
        return [{"name": url, "size": None, "type": "file"} for url in self]

    def info(self, url):
        return {"name": url, "size": len(self[url])}

    def cat_file(self, url, start, end):
        return self[url][start:end]


@pytest.mark.parametrize("number", [1, 5])
@pytest.mark.parametrize("place", [0, -1])
def test_content_of_the_same_size_is_noticed_where_a_server_tells_no_version(monkeypatch, number, place):
    urls = [f"http://host/{k}.nii" for k in range(number)]
    system = Unversioned({url: DATA[:200_000] for url in urls})
    monkeypatch.setattr(remote, "filesystem", lambda _: system)
    before = identities(urls)
    assert [before[url]["size"] for url in urls] == [200_000] * number
    changed = bytearray(DATA[:200_000])
    changed[place] ^= 1
    system[urls[0]] = bytes(changed)
    after = identities(urls)
    assert [url for url in urls if before[url] != after[url]] == urls[:1]


def test_download_in_blocks(storage, tmp_path, monkeypatch):
    monkeypatch.setattr(remote, "_BLOCK", 300_000)
    path = download(storage.put("big/a.tif", DATA), tmp_path)
    assert path.name == "a.tif" and path.read_bytes() == DATA
    assert storage.faults.ranges == [f"bytes={a}-{b}" for a, b in [(0, 299999), (300000, 599999), (600000, 899999)]] + [
        "bytes=900000-999999"
    ]
    assert [file.name for file in tmp_path.iterdir()] == ["a.tif"]


@pytest.mark.parametrize("fault", ["busy", "drop"])
@pytest.mark.parametrize("times", [1, 8])
def test_busy_server_and_dropped_connection(storage, tmp_path, monkeypatch, fault, times):
    monkeypatch.setattr(remote, "_BLOCK", 300_000)
    url = storage.put("faulty/a.tif", DATA)
    setattr(storage.faults, fault, times)
    assert download(url, tmp_path).read_bytes() == DATA
    assert len(storage.faults.ranges) == 4 + times  # only what failed was asked for again


def test_interrupted_download_goes_on(storage, tmp_path, monkeypatch):
    monkeypatch.setattr(remote, "_BLOCK", 300_000)
    url = storage.put("resumed/a.tif", DATA)
    whole = remote._block

    def killed(system, url, start, stop):
        if start >= 600_000:
            raise KeyboardInterrupt
        return whole(system, url, start, stop)

    with monkeypatch.context() as patch:
        patch.setattr(remote, "_block", killed)
        with pytest.raises(KeyboardInterrupt):
            download(url, tmp_path)
    (partial,) = tmp_path.iterdir()
    assert partial.stat().st_size == 600_000
    storage.faults.ranges.clear()
    assert download(url, tmp_path).read_bytes() == DATA
    assert storage.faults.ranges == ["bytes=600000-899999", "bytes=900000-999999"]


def test_other_version_does_not_continue_an_old_download(storage, tmp_path):
    url = storage.put("versions/a.tif", DATA)
    old = identities([url])[url]
    stale = hashlib.sha256(f"{old['size']} {old['version']}".encode()).hexdigest()[:16]
    (tmp_path / f"{stale}.download").write_bytes(b"0" * 500)
    storage.put("versions/a.tif", DATA[::-1])
    assert download(url, tmp_path).read_bytes() == DATA[::-1]


def test_changed_bytes_are_noticed(storage, tmp_path):
    url = storage.put("flipped/a.tif", DATA)
    storage.faults.flip = 1
    assert download(url, tmp_path).read_bytes() == DATA
    storage.faults.flip = 2
    with pytest.raises(
        DataError, match=r"gs://bucket/flipped/a\.tif: found content that does not match its MD5, twice"
    ):
        download(url, tmp_path / "again")


def test_server_that_stays_busy_is_given_up(storage, tmp_path):
    url = storage.put("down/a.tif", DATA)
    storage.faults.busy = 10_000
    with pytest.raises(DataError, match=r"gs://bucket/down/a\.tif: found no usable answer at try 6 .*busy") as refusal:
        download(url, tmp_path)
    assert "\n" not in str(refusal.value)


def test_header_with_data_elsewhere_and_server_without_sizes(tmp_path):
    with pytest.raises(DataError, match=r"expected a \.mha file"):
        fetch("gs://b/a.mhd", tmp_path, {"size": 3, "version": ""})
    with pytest.raises(DataError, match="does not tell the size"):
        fetch("gs://b/a.nii", tmp_path, {"size": None, "version": ""})


def put_lits(storage, tmp_path, folder):
    rng = np.random.default_rng(2)
    for number in range(3):
        for kind, high, dtype in (("volume", 900, np.int16), ("segmentation", 3, np.uint8)):
            path = tmp_path / "local" / f"{kind}-{number}.nii.gz"
            path.parent.mkdir(exist_ok=True)
            array = rng.integers(0, high, (20, 21, 8)).astype(dtype)
            nibabel.save(nibabel.Nifti1Image(array, np.diag([0.7, 0.7, 2.5, 1])), path)
            storage.put(f"{folder}/{path.name}", path.read_bytes())
    return tmp_path / "local", f"gs://bucket/{folder}"


def test_cache_from_a_bucket_equals_that_from_local_files(storage, tmp_path):
    local, url = put_lits(storage, tmp_path, "lits")
    assert [case["image"] for case in find_images(url)] == [f"{url}/volume-{k}.nii.gz" for k in range(3)]
    options = {"modality": "ct", "progress": False}
    storage.faults.busy, storage.faults.drop = 1, 1
    here = VolumeCache(cases=find_cases(local), cache_dir=tmp_path / "a", **options)
    there = VolumeCache(cases=find_cases(url), cache_dir=tmp_path / "b", **options)
    for a, b in zip(here, there, strict=True):
        np.testing.assert_array_equal(a.image, b.image)
        np.testing.assert_array_equal(a.label, b.label)
        assert b.image_path == f"{url}/{b.id}.nii.gz"
    assert not any((tmp_path / "b" / ".downloads").iterdir())  # copies are removed after use
    storage.faults.ranges.clear()
    VolumeCache(cases=find_cases(url), cache_dir=tmp_path / "b", **options)
    assert storage.faults.ranges == []
    storage.put("lits/volume-1.nii.gz", (local / "volume-2.nii.gz").read_bytes())
    again = VolumeCache(cases=find_cases(url), cache_dir=tmp_path / "b", **options)
    np.testing.assert_array_equal(again[1].image, here[2].image)
    assert len(storage.faults.ranges) == 2  # the changed image and its label


def test_bad_file_in_a_bucket_is_named_by_its_url(storage, tmp_path):
    local, url = put_lits(storage, tmp_path, "bad")
    storage.put("bad/volume-1.nii.gz", (local / "volume-1.nii.gz").read_bytes()[:-100])
    with pytest.raises(DataError, match=r"^gs://bucket/bad/volume-1\.nii\.gz: found a damaged or cut-off file"):
        VolumeCache(cases=find_cases(url), cache_dir=tmp_path / "c", modality="ct", progress=False)
