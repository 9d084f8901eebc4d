"""Scrolls in a bucket and behind a web server, both of which are too busy to answer now and then."""

import functools
import http.client
import http.server
import itertools
import json
import socket
import threading
import urllib.parse
from pathlib import Path
from types import SimpleNamespace

import pytest
import zarr

from custom.scroll.stores import open_store

from .tiny_scroll import tree


def serve(handler):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


class Busy:
    """Says which requests get the answer 503: every tenth."""

    def __init__(self):
        self.numbers = itertools.count(1)
        self.refused = 0

    def __call__(self):
        busy = next(self.numbers) % 10 == 0
        self.refused += busy
        return busy


def refuse(handler):
    handler.send_response(503)
    handler.send_header("Content-Length", "0")
    handler.end_headers()


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch):
    monkeypatch.setattr("custom.system.retry.FIRST_PAUSE", 0.01)


@pytest.fixture
def bucket(monkeypatch):
    """URL of a bucket of an emulator behind a busy proxy, and who counts the refusals."""
    emulator = pytest.importorskip("gcp_storage_emulator.server")
    import fsspec
    import gcsfs.retry

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = emulator.create_server("127.0.0.1", port, in_memory=True, default_bucket="bucket")
    server.start()
    busy, one_by_one = Busy(), threading.Lock()

    class Proxy(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def forward(self):
            content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if busy():
                refuse(self)
                return
            path = self.path
            if "uploadType=multipart" in path:  # the emulator would cut off a last byte of 13
                _, metadata, content = content.split(b"\n\n", 2)
                metadata, boundary = metadata.split(b"\n--", 1)
                content = content[: -len(b"\n--" + boundary.splitlines()[0] + b"--")]
                name = urllib.parse.quote(json.loads(metadata)["name"], safe="")
                path = path.replace("uploadType=multipart", f"uploadType=media&name={name}")
                self.headers.replace_header("Content-Length", str(len(content)))
                self.headers.replace_header("Content-Type", "application/octet-stream")
            with one_by_one:  # the emulator's queue is short
                connection = http.client.HTTPConnection("127.0.0.1", port)
                headers = {key: value for key, value in self.headers.items() if key.lower() != "transfer-encoding"}
                connection.request(self.command, path, content, headers)
                answer = connection.getresponse()
                body = answer.read()
                connection.close()
            self.send_response(answer.status)
            self.send_header("Content-Type", answer.headers.get("Content-Type", "application/json"))
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_PUT = do_DELETE = forward

        def log_message(self, *_):
            pass

    proxy = serve(Proxy)
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{proxy.server_address[1]}")
    monkeypatch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    monkeypatch.setitem(fsspec.config.conf, "gs", {"token": "anon"})

    async def at_once(_):
        pass

    monkeypatch.setattr(gcsfs.retry, "asyncio", SimpleNamespace(sleep=at_once))
    gcsfs.GCSFileSystem.clear_instance_cache()
    yield "gs://bucket", busy
    proxy.shutdown()
    server.stop()
    gcsfs.GCSFileSystem.clear_instance_cache()


@pytest.mark.slow
def test_a_busy_bucket_changes_nothing(predict, undisturbed, scroll, bucket):
    url, busy = bucket
    store = open_store(f"{url}/in", read_only=False)
    for name, content in tree(Path(scroll)).items():
        store.put(name, content)
    summary = predict(input=f"{url}/in", output=f"{url}/out", block=(16, 32, 16))
    assert not summary["failed"]
    assert busy.refused > 10
    written = open_store(f"{url}/out", read_only=True)
    expected = tree(undisturbed)
    found = {name: written.read(name) for name in written.names("")}
    assert found.keys() == expected.keys()
    assert {name for name in found if found[name] != expected[name]} == {"zarr.json"}  # it names the input
    assert predict(input=f"{url}/in", output=f"{url}/out")["blocks_done_now"] == 0


def test_a_busy_web_server_changes_nothing(predict, undisturbed, scroll, tmp_path):
    pytest.importorskip("aiohttp")
    busy = Busy()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self):
            refuse(self) if busy() else super().do_GET()

        def log_message(self, *_):
            pass

    server = serve(functools.partial(Handler, directory=scroll))
    summary = predict(input=f"http://127.0.0.1:{server.server_address[1]}", output=tmp_path / "out")
    server.shutdown()
    assert not summary["failed"]
    assert busy.refused > 5
    found, expected = (zarr.open_array(str(path), path="0", mode="r") for path in (tmp_path / "out", undisturbed))
    assert (found[...] == expected[...]).all()
