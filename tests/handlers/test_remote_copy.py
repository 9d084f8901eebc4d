"""A run goes on on another machine, from what is in the bucket."""

import shutil
import socket

import fsspec
import pytest
import torch
from ignite.engine import Engine, Events

from custom.errors import DataError
from custom.handlers import RemoteCopy

SHORT = {"epochs": 2, "steps": 5}


@pytest.fixture
def bucket():
    """A URL in memory."""
    system = fsspec.filesystem("memory")
    yield "memory://bucket/run"
    system.rm("/bucket", recursive=True)


@pytest.fixture
def storage(monkeypatch):
    """A URL of a storage server on this machine."""
    emulator = pytest.importorskip("gcp_storage_emulator.server")
    pytest.importorskip("gcsfs")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = emulator.create_server("127.0.0.1", port, in_memory=True, default_bucket="bucket")
    server.start()
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    monkeypatch.setitem(fsspec.config.conf, "gs", {"token": "anon"})
    yield "gs://bucket/run"
    server.stop()


def names(url):
    system, root = fsspec.core.url_to_fs(url)
    system.invalidate_cache()
    return sorted(path.split("/run/")[1] for path in system.find(root))


def mirrored(tiny_run, folder, url, **options):
    """A tiny run with a mirror before its other handlers, as in a list of handlers."""
    trainer = tiny_run.build(folder, handlers_before=[RemoteCopy(folders={"run": str(folder)}, url=url)], **options)
    return trainer


def weights(path):
    return {key: value.tolist() for key, value in torch.load(path, weights_only=True).items()}


@pytest.mark.parametrize("where", ["bucket", "storage"])
def test_goes_on_on_another_machine(tiny_run, tmp_path, request, where):
    url = request.getfixturevalue(where)
    tiny_run.build(tmp_path / "whole", **SHORT).run()
    first = mirrored(tiny_run, tmp_path / "first", url, **SHORT)
    first.add_event_handler(Events.ITERATION_COMPLETED(once=7), lambda e: e.terminate(skip_completed=True))
    first.run()
    assert "run/checkpoints/step_00000007.pt" in names(url) and "run/model.pt" in names(url)

    shutil.rmtree(tmp_path / "first")
    second = mirrored(tiny_run, tmp_path / "second", url, resume=True, **SHORT)
    starts = []
    second.add_event_handler(Events.EPOCH_STARTED, lambda engine: starts.append(engine.state.iteration))
    second.run()
    assert starts == [7]
    for name in ("model.pt", "model_final.pt"):
        assert weights(tmp_path / "second" / name) == weights(tmp_path / "whole" / name)
    assert names(url) == [
        "run/checkpoints/step_00000009.pt",
        "run/checkpoints/step_00000010.pt",
        "run/curves.png",
        "run/metrics.csv",
        "run/model.pt",
        "run/model_final.pt",
    ]
    system, root = fsspec.core.url_to_fs(url)
    assert system.cat_file(f"{root}/run/model_final.pt") == (tmp_path / "second" / "model_final.pt").read_bytes()


def test_only_what_changed_is_uploaded_and_checkpoints_last(tmp_path, bucket, monkeypatch):
    system = fsspec.filesystem("memory")
    sent = []
    put = system.put_file
    monkeypatch.setattr(
        type(system),
        "put_file",
        lambda _, local, remote, **k: (sent.append(remote.split("/run/")[1]), put(local, remote)),
    )
    mirror = RemoteCopy(folders={"a": str(tmp_path)}, url=bucket)
    for name in ("step_00000001.pt", "zz.csv", ".1.step_00000002.pt", "aa.csv"):
        (tmp_path / name).write_text("1")
    mirror.upload()
    assert sent == ["a/aa.csv", "a/zz.csv", "a/step_00000001.pt"]
    (tmp_path / "zz.csv").write_text("22")
    (tmp_path / "step_00000001.pt").rename(tmp_path / "step_00000003.pt")
    mirror.upload()
    assert sent[3:] == ["a/zz.csv", "a/step_00000003.pt"]
    assert names(bucket) == ["a/aa.csv", "a/step_00000003.pt", "a/zz.csv"]


def test_what_is_here_is_not_fetched(tmp_path, bucket):
    for folder, text in (("there", "old"), ("here", "new")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "both").write_text(text)
    (tmp_path / "there" / "sub").mkdir()
    (tmp_path / "there" / "sub" / "one").write_text("old")
    RemoteCopy(folders={"a": str(tmp_path / "there")}, url=bucket).upload()
    RemoteCopy(folders={"a": str(tmp_path / "here")}, url=bucket).download()
    assert (tmp_path / "here" / "both").read_text() == "new"
    assert (tmp_path / "here" / "sub" / "one").read_text() == "old"


def test_all_is_fetched_where_the_run_has_gone_further(tmp_path, bucket):
    """A machine comes back that has the best weights of its time, after another one has gone on."""
    for folder, step in (("there", 5), ("here", 3)):
        (tmp_path / folder / "checkpoints").mkdir(parents=True)
        (tmp_path / folder / "checkpoints" / f"step_{step:08d}.pt").write_text(folder)
        (tmp_path / folder / "model.pt").write_text(folder)
    RemoteCopy(folders={"a": str(tmp_path / "there")}, url=bucket).upload()
    mirror = RemoteCopy(folders={"a": str(tmp_path / "here")}, url=bucket)
    mirror.download()
    assert (tmp_path / "here" / "model.pt").read_text() == "there"
    mirror.upload()
    assert fsspec.filesystem("memory").cat("/bucket/run/a/model.pt") == b"there"


@pytest.mark.parametrize("steps", [2, 5, 7])
def test_another_run_is_written_over_neither_here_nor_there(tiny_run, tmp_path, bucket, steps):
    first = mirrored(tiny_run, tmp_path / "first", bucket, cases=["a"], **SHORT)
    first.add_event_handler(Events.ITERATION_COMPLETED(once=5), lambda e: e.terminate(skip_completed=True))
    first.run()
    second = tiny_run.build(tmp_path / "second", cases=["b"], **SHORT)
    second.add_event_handler(Events.ITERATION_COMPLETED(once=steps), lambda e: e.terminate(skip_completed=True))
    second.run()
    files = {path: path.read_bytes() for path in (tmp_path / "second").rglob("*") if path.is_file()}
    system = fsspec.filesystem("memory")
    there = {path: system.cat(path) for path in system.find("/bucket")}
    with pytest.raises(
        DataError, match=r"memory://bucket/run: found another run .*training cases: \['a'\], now \['b'\]"
    ):
        mirrored(tiny_run, tmp_path / "second", bucket, cases=["b"], resume=True, **SHORT).run()
    assert files == {path: path.read_bytes() for path in (tmp_path / "second").rglob("*") if path.is_file()}
    assert there == {path: system.cat(path) for path in system.find("/bucket")}


def test_weights_of_a_run_that_was_replaced_do_not_stay_there(tmp_path, bucket):
    (tmp_path / "checkpoints").mkdir()
    for name in ("checkpoints/step_00000009.pt", "model.pt", "model_final.pt", "notes.txt"):
        (tmp_path / name).write_text("first run")
    mirror = RemoteCopy(folders={"a": str(tmp_path)}, url=bucket)
    mirror.upload()
    for path in [*tmp_path.glob("*"), *tmp_path.glob("checkpoints/*")]:  # as with --overwrite True
        path.unlink() if path.is_file() else None
    (tmp_path / "checkpoints" / "step_00000002.pt").write_text("second run")
    mirror.upload()
    assert names(bucket) == ["a/checkpoints/step_00000002.pt", "a/notes.txt"]


def run(mirror, step=lambda *_: None):
    engine = Engine(step)
    mirror.attach(engine)
    engine.run([0], max_epochs=1)


def test_a_lost_connection_does_not_end_the_run(tmp_path, bucket, monkeypatch, caplog):
    (tmp_path / "file").write_text("1")
    mirror = RemoteCopy(folders={"a": str(tmp_path)}, url=bucket)

    def lost(*_, **__):
        raise OSError("connection lost")

    monkeypatch.setattr(type(fsspec.filesystem("memory")), "put_file", lost)
    run(mirror)
    assert "memory://bucket/run: not up to date (OSError: connection lost)" in caplog.text
    monkeypatch.undo()
    mirror.upload()
    assert names(bucket) == ["a/file"]


def test_a_failed_run_is_uploaded_too(tmp_path, bucket):
    def step(*_):
        (tmp_path / "non_finite.json").write_text("[]")
        raise ArithmeticError("not finite")

    with pytest.raises(ArithmeticError, match="not finite"):
        run(RemoteCopy(folders={"a": str(tmp_path)}, url=bucket), step)
    assert names(bucket) == ["a/non_finite.json"]


def test_uploads_while_training_runs(tmp_path, bucket):
    def step(*_):
        (tmp_path / "file").write_text("1")
        while not fsspec.filesystem("memory").exists("/bucket/run/a/file"):
            pass

    run(RemoteCopy(folders={"a": str(tmp_path)}, url=bucket, interval_s=0.01), step)
    assert names(bucket) == ["a/file"]


def test_without_a_url_nothing_happens(tmp_path):
    run(RemoteCopy(folders={"a": str(tmp_path)}))
