"""Both exported bundles pass; bundles that are not what they should be are refused without being run."""

import errno
import io
import json
import os
import pickle
import stat
import subprocess
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigParser

from scripts.bundles import checks, unpacking
from scripts.bundles.process import last_line, run_python
from scripts.bundles.trial import PROBE, same_network
from scripts.export_bundle import export_bundle
from scripts.verify_bundle import verify_bundle

from custom.errors import DataError
from custom.system.identity import sha256

REPOSITORY = Path(__file__).resolve().parents[2]
SMALL = {
    "liver_tumor_2d": {"network_def#backbone": "resnet10", "network_def#decoder_channels": [8, 8, 8, 8, 8]},
    "vesuvius_surface_3d": {"network_def#init_filters": 8},
}
RUN = ("inference", "training", "evaluation", "network in and out", "TorchScript export", "predictions", "model.ts")


@pytest.fixture(scope="module")
def exported(make_folder) -> dict[str, Path]:
    """The zips of both bundles, with random weights of a small network."""
    zips = {}
    for name, small in SMALL.items():
        folder = make_folder(name)
        parser = ConfigParser(json.loads((REPOSITORY / "bundles" / name / "configs" / "inference.json").read_text()))
        parser.update(small)
        torch.save(parser.get_parsed_content("network_def").state_dict(), folder / "weights.pt")
        (folder / "small.json").write_text(json.dumps(small))
        zips[name] = export_bundle(
            name, output=str(folder), weights=str(folder / "weights.pt"), variant=str(folder / "small.json")
        )
    return zips


@pytest.fixture(scope="module")
def content(exported) -> dict[str, bytes]:
    """Files of a whole bundle by their path in the zip."""
    with zipfile.ZipFile(exported["vesuvius_surface_3d"]) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture
def verify(tmp_path, monkeypatch, capsys) -> Callable[..., tuple[bool, list[str]]]:
    """Verify and return the verdict and the lines; nothing may be left behind anywhere below ``tmp_path``."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))

    def run(path: Path, **options) -> tuple[bool, list[str]]:
        before = sorted(tmp_path.rglob("*"))
        verdict = verify_bundle(str(path), **{"offline": True, **options})
        assert sorted(tmp_path.rglob("*")) == before
        return verdict, capsys.readouterr().out.splitlines()

    return run


def write_zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)
    return path


def failures(lines: list[str]) -> list[str]:
    return [line for line in lines if line.startswith("failed")]


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(SMALL))
def test_an_exported_bundle_passes(name, exported, verify):
    verdict, lines = verify(exported[name])
    assert verdict, lines
    assert failures(lines) == []
    found = {line[8:].split(":")[0] for line in lines[:-1]}
    assert found >= {*checks.CHECKS, *RUN}
    assert lines[-1].endswith(f"all {len(lines) - 1} checks passed")


def test_the_folder_passes_as_well(exported, verify):
    path = exported["vesuvius_surface_3d"]
    verdict, lines = verify(path.parent / "vesuvius_surface_3d", quick=True)
    assert verdict, lines
    assert any("files as in SHA256SUMS" in line for line in lines)
    assert not any(name in line for line in lines for name in RUN if name != "inference")


def test_the_repositorys_own_folder_is_no_exported_bundle(verify):
    verdict, lines = verify(REPOSITORY / "bundles" / "liver_tumor_2d", quick=True)
    assert not verdict
    assert any("LICENSE" not in line and line.startswith("failed  files:") for line in lines)


def test_the_official_schema_is_looked_for(content, tmp_path, verify, monkeypatch):
    """It is served from a file here; where it cannot be reached, that is said and nothing fails."""
    schema = tmp_path / "schema.json"
    schema.write_text(json.dumps({"type": "object", "required": ["supported_apps"]}))
    opened = []

    def urlopen(url, timeout):
        opened.append(url)
        if len(opened) == 1:
            raise OSError("no route")
        return schema.open("rb")

    monkeypatch.setattr(checks.urllib.request, "urlopen", urlopen)
    path = write_zip(tmp_path / "bundle.zip", content)
    verdict, lines = verify(path, quick=True, offline=False)
    assert verdict
    assert "ok      official schema: not reached (no route)" in lines
    verdict, lines = verify(path, quick=True, offline=False)
    assert not verdict
    assert "'supported_apps' is a required property" in failures(lines)[0]
    assert set(opened) == {"https://project-monai.github.io/schema/meta_schema_20240725.json"}


# Zips that are not unpacked at all.

ROOT = "vesuvius_surface_3d"
PATHS = [
    ("../outside.txt", "the path '../outside.txt'"),
    (f"{ROOT}/../../outside.txt", "the path"),
    ("/outside.txt", "the path '/outside.txt'"),
    ("C:/outside.txt", "the path 'C:/outside.txt'"),
    (f"{ROOT}\\..\\outside.txt", "the path"),
    ("other/file.txt", "2 files or folders at its top"),
    (f"{ROOT}/scripts/__pycache__/data.cpython-311.pyc", "a .pyc file"),
    (f"{ROOT}/models/model.pkl", "a .pkl file"),
    (f"{ROOT}/scripts/fast.so", "a .so file"),
    (f"{ROOT}/license", "2 times"),
]


@pytest.mark.parametrize(("name", "found"), PATHS, ids=[name for name, _ in PATHS])
def test_a_zip_with_odd_paths_is_refused_whole(name, found, content, tmp_path, verify):
    path = write_zip(tmp_path / "bundle.zip", {**content, name: b"outside"})
    verdict, lines = verify(path)
    assert not verdict
    assert len(lines) == 2 and lines[0].startswith(f"failed  reading: {path}: found ") and found in lines[0]


def test_links_in_a_zip_are_refused(content, tmp_path, verify):
    path = write_zip(tmp_path / "bundle.zip", content)
    with zipfile.ZipFile(path, "a") as archive:
        link = zipfile.ZipInfo(f"{ROOT}/models/link.pt")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    verdict, lines = verify(path)
    assert not verdict
    assert "link.pt, which is a link or a device" in lines[0] and len(lines) == 2


def test_a_bomb_is_refused(content, tmp_path, verify):
    path = write_zip(tmp_path / "bundle.zip", {**content, f"{ROOT}/models/model.ts": bytes(2 * 10**7)})
    verdict, lines = verify(path)
    assert not verdict
    assert "bytes that unpack to 20000000" in lines[0] and len(lines) == 2


@pytest.mark.parametrize(("limit", "value"), [("MAX_BYTES", 10**6), ("MAX_FILES", 20)])
def test_sizes_have_limits(limit, value, content, tmp_path, verify, monkeypatch):
    monkeypatch.setattr(unpacking, limit, value)
    verdict, lines = verify(write_zip(tmp_path / "bundle.zip", content))
    assert not verdict
    assert f"found {len(content)} files with 0.0 GiB" in lines[0] and len(lines) == 2


def test_a_size_that_is_a_lie_is_found(content, tmp_path, verify):
    """The directory of the zip says one byte; more than that is never unpacked."""
    path = write_zip(tmp_path / "bundle.zip", {**content, f"{ROOT}/large.txt": bytes(1000)})
    data = bytearray(path.read_bytes())
    place = data.rindex(f"{ROOT}/large.txt".encode()) - 46 + 24  # the uncompressed size in the central directory
    assert int.from_bytes(data[place : place + 4], "little") == 1000
    data[place : place + 4] = (1).to_bytes(4, "little")
    path.write_bytes(data)
    verdict, lines = verify(path)
    assert not verdict
    assert "BadZipFile" in lines[0] and len(lines) == 2


def test_a_stream_that_cannot_be_decompressed_is_a_damaged_zip(tmp_path):
    path = tmp_path / "bundle.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{ROOT}/a.txt", "".join(map(str, range(2000))))
    data = bytearray(path.read_bytes())
    start = 30 + len(f"{ROOT}/a.txt") + 8  # behind the file's header in the zip
    data[start : start + 10] = b"\xff" * 10
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"bundle\.zip: found error: .*decompress.*, expected the zip of a bundle"):
        unpacking.unpack(path, tmp_path / "out")


def test_a_full_disk_is_no_fault_of_the_zip(content, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(unpacking.shutil, "copyfileobj", full)
    with pytest.raises(DataError, match="found No space left on device, expected room and a right to read and write"):
        unpacking.unpack(write_zip(tmp_path / "bundle.zip", content), tmp_path / "out")


def test_a_damaged_zip_is_refused(exported, tmp_path, verify):
    data = bytearray(exported[ROOT].read_bytes())
    data[len(data) // 2] ^= 255
    path = tmp_path / "bundle.zip"
    path.write_bytes(data)
    verdict, lines = verify(path)
    assert not verdict
    assert "BadZipFile" in lines[0] and len(lines) == 2
    path.write_bytes(data[:1000])
    verdict, lines = verify(path)
    assert not verdict
    assert "found no folder and no zip" in lines[0]


def test_a_wrong_hash_of_the_zip_is_refused(content, tmp_path, verify):
    path = write_zip(tmp_path / "bundle.zip", content)
    (tmp_path / "SHA256SUMS").write_text(f"{'0' * 64}  bundle.zip\n")
    verdict, lines = verify(path)
    assert not verdict
    assert f"{path}: found another content, expected the checksum in {tmp_path / 'SHA256SUMS'}" in lines[0]


def test_a_wrong_hash_of_a_file_is_refused(content, tmp_path, verify):
    path = write_zip(tmp_path / "bundle.zip", content)
    (tmp_path / "SHA256SUMS").write_text(f"{'0' * 64}  {ROOT}/models/model.pt\n")
    verdict, lines = verify(path)
    assert not verdict
    assert [line.split(":")[0] for line in failures(lines)] == ["failed  checksums", "failed  running it"]


def test_files_of_a_later_version_in_the_same_folder_are_no_fault(content, tmp_path, verify):
    """Two zips and one folder lie beside one list of checksums, of which the files' are the later version's."""
    path = write_zip(tmp_path / "bundle_v1.zip", content)
    sums = f"{sha256(path)}  {path.name}\n{'0' * 64}  {ROOT}/models/model.pt\n"
    (tmp_path / "SHA256SUMS").write_text(sums)
    verdict, lines = verify(path, quick=True)
    assert verdict, lines


def test_only_a_web_address_is_opened_as_a_schema(content, tmp_path, verify):
    change = {
        f"{ROOT}/configs/metadata.json": changed(content, "metadata", lambda c: c.update(schema="file:///etc/passwd"))
    }
    _, lines = verify(write_zip(tmp_path / "bundle.zip", content | change), quick=True, offline=False)
    assert any(line.startswith("failed  official schema") and "https://" in line for line in failures(lines))


# Bundles whose files are unpacked, looked at, and never run.


class Evil:
    """Unpickling makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def changed(content, name, change) -> bytes:
    config = json.loads(content[f"{ROOT}/configs/{name}.json"])
    change(config)
    return json.dumps(config).encode()


def weights(state: object) -> Callable[[dict, Path], dict[str, bytes]]:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return lambda content, _: {"models/model.pt": buffer.getvalue()}


def packed_weights(content, _) -> dict[str, bytes]:
    """As good as what torch writes, but a file that can unpack to any size."""
    packed = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(content[f"{ROOT}/models/model.pt"])) as source,
        zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for name in source.namelist():
            target.writestr(name, source.read(name))
    return {"models/model.pt": packed.getvalue()}


def large_file(**entry) -> Callable[[dict, Path], dict[str, bytes]]:
    whole = {"path": "models/model.pt", "url": "https://example.org/x", "hash_val": "a" * 64, "hash_type": "sha256"}
    lines = ["large_files:", *(f"{'- ' if key == 'path' else '  '}{key}: {whole[key]}" for key in whole)]
    text = "\n".join(lines)
    for key, value in entry.items():
        text = text.replace(str(whole[key]), str(value))
    return lambda content, _: {"large_files.yml": text.encode()}


def edit(name: str, change: Callable[[dict], object]) -> Callable[[dict, Path], dict[str, bytes]]:
    return lambda content, _: {f"configs/{name}.json": changed(content, name, change)}


HOSTILE: dict[str, tuple[Callable[[dict, Path], dict[str, bytes | None]], str, str]] = {
    "pickle for weights": (
        lambda content, evil: {"models/model.pt": pickle.dumps(Evil(evil))},
        "weights",
        "found an unreadable file",
    ),
    "nested weights": (weights({"network": {"a": torch.zeros(1)}, "epoch": 3}), "weights", "other things than tensors"),
    "weights that are not finite": (weights({"a": torch.tensor([torch.nan])}), "weights", "values in a that are not"),
    "weights larger than their file": (weights({"a": torch.zeros(1).expand(10**11)}), "weights", "a of shape (1000"),
    "packed weights": (packed_weights, "weights", "packed tensors"),
    "large file's hash": (large_file(), "large files", "the checksum in large_files.yml"),
    "large file's path": (large_file(path="../../outside.pt"), "large files", "a path within the bundle"),
    "large file's URL": (large_file(url="http://example.org/x"), "large files", "a URL of https://"),
    "version": (edit("metadata", lambda c: c.update(version="9.9.9")), "version and changelog", "version 9.9.9"),
    "metadata without task": (edit("metadata", lambda c: c.pop("task")), "metadata", "'task' is a required property"),
    "a made-up score": (
        edit("metadata", lambda c: c.update(eval_metrics={"dice": "very good"})),
        "metadata",
        "$.eval_metrics.dice",
    ),
    "shape with code": (
        edit(
            "metadata",
            lambda c: c["network_data_format"]["inputs"]["image"].update(spatial_shape=["exit()"] * 3),
        ),
        "metadata",
        "spatial_shape",
    ),
    "no licence": (lambda content, _: {"LICENSE": None}, "files", "no LICENSE"),
    "no weights": (lambda content, _: {"models/model.pt": None}, "files", "no models/model.pt"),
    "import of custom": (
        lambda content, _: {"scripts/files.py": b"from custom.data import find_cases\n"},
        "package",
        "an import of custom in line 1",
    ),
    "import of what is not listed": (
        edit("metadata", lambda c: c["required_packages_version"].pop("einops")),
        "package",
        "an import of einops in line",
    ),
    "JSON that is none": (lambda content, _: {"configs/inference.json": b"{"}, "configurations", "JSONDecodeError"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_bundle_that_is_not_as_it_should_be_is_not_run(case, content, tmp_path, verify):
    make, check, found = HOSTILE[case]
    evil = tmp_path / "evil"
    files = dict(content)
    for name, data in make(content, evil).items():
        if data is None:
            del files[f"{ROOT}/{name}"]
        else:
            files[f"{ROOT}/{name}"] = data.replace(b"{evil}", str(evil).encode())
    # what runs it says so by making a file: no code of the bundle may be reached
    files[f"{ROOT}/scripts/__init__.py"] += f"\nopen({str(evil)!r}, 'w').close()\n".encode()
    verdict, lines = verify(write_zip(tmp_path / "bundle.zip", files))
    assert not verdict
    line = next(line for line in lines if line.startswith(f"failed  {check}: "))
    assert found in line
    assert "failed  running it: not run, because of what failed above" in lines
    assert not evil.exists()


@pytest.mark.slow
def test_what_is_wrong_in_a_run_is_said_and_the_next_one_is_tried(tmp_path):
    """Without a network: what MONAI raises, what it requires and what the bundle raises, each in a line of its own."""
    configs = {
        "no run": {"a": 1},
        "not all": {"run": ["$print('trained')"]},
        "an error": {"run": ["$1 / 0"]},
    }
    calls = {}
    for name, config in configs.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(config))
        options = {"config_file": str(tmp_path / f"{name}.json"), "bundle_root": str(tmp_path)}
        calls[name] = ("create_workflow", options | {"workflow_type": "infer"})
    done = run_python([str(PROBE), json.dumps(calls)], tmp_path)
    found = {name: (passed, text) for name, passed, text in map(json.loads, done.stdout.splitlines())}
    assert [passed for passed, _ in found.values()] == [False] * 3
    assert found["no run"][1] == "ValueError: run ID 'run' doesn't exist in the config file."
    assert "not in the config" in found["not all"][1]
    assert found["an error"][1] == "ZeroDivisionError: division by zero"
    assert "trained" in done.stderr


def test_exported_networks_are_compared_with_the_weights(tmp_path):
    """A TorchScript file of other weights, one of the same, one that is none."""
    images = [torch.rand(1, 1, 4, 4)]
    for name in ("fresh", "other"):
        torch.jit.script(torch.nn.Conv2d(1, 2, 1)).save(tmp_path / f"{name}.ts")
    (tmp_path / "broken.ts").write_bytes(b"x")
    assert same_network(tmp_path / "fresh.ts", tmp_path / "fresh.ts", images)[0]
    passed, found = same_network(tmp_path / "other.ts", tmp_path / "fresh.ts", images)
    assert not passed and "not close" in found
    assert not same_network(tmp_path / "broken.ts", tmp_path / "fresh.ts", images)[0]
    assert same_network(tmp_path / "model.ts", tmp_path / "fresh.ts", images) == (True, "no models/model.ts")


def test_what_a_process_ended_with_is_one_line():
    def said(text: str) -> str:
        return last_line(subprocess.CompletedProcess([], 1, "", text))

    assert said("Traceback\n  File x\ntorch.ExportError: \x1b[96mno way\x1b[0m out\n- Try this\n(see above)\n") == (
        "torch.ExportError: no way out"
    )
    assert said("error: a: found b, expected c\n\n") == "error: a: found b, expected c"
    assert said("Killed\n") == "Killed"
    assert said("") == "no message"
