"""The command line: killed in the middle, started again, and given nonsense."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from ..scroll.tiny_scroll import CONFIG, grouped, tree, write_bundle

psutil = pytest.importorskip("psutil")
distributed = pytest.importorskip("distributed", reason="needs the extra scroll")

REPOSITORY = Path(__file__).resolve().parents[2]
SLOW = """
import time
import torch

class SlowConv(torch.nn.Conv3d):
    def forward(self, windows):
        time.sleep(0.03)
        return super().forward(windows)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A scroll, and a bundle whose network takes its time."""
    from custom.scroll.ome_zarr import write_image

    folder = tmp_path_factory.mktemp("command")
    values = np.random.default_rng(0).integers(1, 255, (40, 28, 26)).astype(np.uint8)
    write_image(str(folder / "scroll"), values, chunk=8)
    (folder / "slow_network.py").write_text(SLOW)
    write_bundle(folder / "bundle", network_def=CONFIG["network_def"] | {"_target_": "slow_network.SlowConv"})
    return folder


def start(folder, *options):
    command = [
        sys.executable,
        "scripts/predict_scroll.py",
        f"--input={folder / 'scroll'}",
        f"--bundle={folder / 'bundle'}",
    ]
    return subprocess.Popen(
        [*command, "--chunk=8", "--shard=8", *map(str, options)],
        cwd=REPOSITORY,
        # Dask's time for a worker to come back is as short as 15 s are on a busy machine.
        env=os.environ | {"PYTHONPATH": str(folder), "DASK_DISTRIBUTED__DEPLOY__LOST_WORKER_TIMEOUT": "0.1s"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_shards(output, count, process):
    """Until so many shards are written."""
    while len(list(output.glob(".progress/0/*"))) < count:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)


def workers(process):
    children = psutil.Process(process.pid).children(recursive=True)
    return [child for child in children if "spawn_main" in " ".join(child.cmdline())]


@pytest.mark.slow
def test_killed_and_started_again_the_output_is_the_same(folder, monkeypatch):
    from custom.scroll.engine import predict_scroll
    from custom.scroll.model import Bundle

    options = ["--threads=1", "--json", folder / "summary.json", "--block=40,32,8"]

    # the main process is killed: its workers end, nothing written is lost
    process = start(folder, f"--output={folder / 'killed'}", "--workers=1", *options)
    wait_for_shards(folder / "killed", 4, process)
    children = workers(process)
    assert len(children) == 1
    process.kill()
    process.communicate()
    psutil.wait_procs(children, timeout=60)
    assert not any(child.is_running() for child in children)
    kept = tree(folder / "killed")
    assert not (folder / "summary.json").exists()

    # started again, a worker is killed: the run ends as if nothing had happened
    process = start(folder, f"--output={folder / 'killed'}", "--workers=1", *options)
    wait_for_shards(folder / "killed", len([name for name in kept if name.startswith(".progress")]) + 4, process)
    (worker,) = workers(process)
    worker.send_signal(signal.SIGKILL)
    stdout, stderr = process.communicate(timeout=300)
    assert process.returncode == 0, stderr
    summary = json.loads(stdout)
    assert summary == json.loads((folder / "summary.json").read_text())
    assert summary["voxels"] < 40 * 28 * 26  # neither the first run's shards nor the killed worker's were made again
    assert "Dask dashboard: http://" in stderr
    assert "voxel/s" in stderr

    # undisturbed, in other blocks, in one process
    monkeypatch.syspath_prepend(str(folder))
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None
    ) as cluster:
        bundle = Bundle.read(str(folder / "bundle"))
        places = {"input": str(folder / "scroll"), "output": str(folder / "whole")}
        options = {"scheduler": cluster.scheduler_address, "threads": 8, "chunk": 8, "shard": 8}
        predict_scroll(**grouped(**places, bundle=bundle, **options))
    killed, whole = tree(folder / "killed"), tree(folder / "whole")
    assert killed == whole
    assert all(whole[name] == content for name, content in kept.items() if ".partial" not in name)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--output_kind=logits"], "error: output_kind: found 'logits', expected one of probability, mask"),
        (["--region=1:2"], "error: region: found '1:2', expected z0:z1,y0:y1,x0:x1 in voxels"),
        (["--checkpoint=nowhere.pt"], "error: nowhere.pt: found no such file, expected trained weights"),
        (["--input=nowhere.zarr"], "error: nowhere.zarr: found nothing that opens"),
        (["--config=inference,nothing"], "nothing.json: found no such file, expected a configuration of a bundle"),
        (["--scheduler=nonsense"], "error: nonsense: found no scheduler"),
        (["--threshold=0.4"], "error: threshold: found 0.4 for probabilities, expected --output_kind mask with it"),
        (["--output_kind=mask", "--threshold=40"], "error: threshold: found 40, expected a probability"),
        (["--output_kind=mask", "--threshold=nan"], "error: threshold: found 'nan', expected a probability"),
        (["--workers=0"], "error: workers: found 0, expected a whole number above 0"),
        (["--chunk=8.5"], "error: chunk: found 8.5, expected a whole number above 0"),
        (["--scheduler=tcp://host:1", "--workers=2"], "error: workers: found 2 with a scheduler"),
        (["--memory_gb=4"], "error: memory_gb: found 4 without --plan True, which alone reads it"),
        (["--shape=9,9,9"], "error: shape: found (9, 9, 9) without --plan True"),
    ],
)
def test_errors_are_one_line(folder, monkeypatch, capsys, options, message):
    import fire

    from scripts.predict_scroll import predict_scroll

    monkeypatch.setattr("custom.scroll.engine.CONNECT_SECONDS", 0.1)
    monkeypatch.syspath_prepend(str(folder))
    defaults = [f"--input={folder / 'scroll'}", f"--bundle={folder / 'bundle'}", f"--output={folder / 'error'}"]
    with pytest.raises(SystemExit) as caught:
        fire.Fire(predict_scroll, [*defaults, *options])
    assert message in str(caught.value.code)
    assert "\n" not in str(caught.value.code)


def test_plan_reads_nothing_but_metadata(folder, tmp_path, capsys):
    """The chunks are broken, the weights are not there."""
    import fire

    from scripts.predict_scroll import predict_scroll

    shutil.copytree(folder / "scroll", tmp_path / "scroll")
    for chunk in (tmp_path / "scroll").glob("0/c/*/*/*"):
        chunk.write_bytes(b"broken")
    write_bundle(tmp_path / "bundle")
    (tmp_path / "bundle" / "models" / "model.pt").unlink()
    where = ["--plan=True", f"--bundle={tmp_path / 'bundle'}", f"--json={tmp_path / 'plan.json'}"]
    options = ["--block=40,32,8", "--chunk=8", "--shard=8", "--workers=2", "--memory_gb=1", "--voxels_per_second=10"]
    fire.Fire(predict_scroll, [*where, *options, f"--input={tmp_path / 'scroll'}"])
    found = json.loads(capsys.readouterr().out)
    assert found == json.loads((tmp_path / "plan.json").read_text())
    assert (found["shape"], found["blocks"], found["workers"]) == ([40, 28, 26], 4, 2)
    assert found["hours"] > 40 * 28 * 26 / 10 / 3600 / 2

    fire.Fire(predict_scroll, [*where, *options, "--shape=40,28,26"])
    on_paper = json.loads(capsys.readouterr().out)
    assert on_paper["requests"] < found["requests"]  # chunks of 128 voxels instead of 8
    same = ("shape", "blocks", "windows", "network_voxels", "bytes_written", "objects_written", "hours")
    assert [on_paper[name] for name in same] == [found[name] for name in same]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "error: found no input, expected one; --help shows how"),
        (["--input=a"], "error: found no output, expected one"),
        (["--plan=True"], "error: plan: found neither, expected an input or a shape"),
        (["--plan=True", "--input=a", "--shape=1,2,3"], "error: plan: found both"),
        (["--plan=True", "--shape=5"], "error: shape: found 5, expected z,y,x in voxels"),
        (["--plan=True", "--shape=5,6,7", "--shard=9", "--chunk=2"], "error: shard: found 9, expected the chunk, 2,"),
    ],
)
def test_ill_plans_are_refused_in_one_line(options, message):
    import fire

    from scripts.predict_scroll import predict_scroll

    with pytest.raises(SystemExit) as caught:
        fire.Fire(predict_scroll, options)
    assert message in str(caught.value.code)
    assert "\n" not in str(caught.value.code)


def test_help():
    answer = subprocess.run(
        [sys.executable, "scripts/predict_scroll.py", "--help"], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert answer.returncode == 0
    text = " ".join((answer.stdout + answer.stderr).split())
    assert "--region" in text
    assert "Example: python scripts/predict_scroll.py --input" in text
