"""Prediction by a deadline, on tiny networks with random weights."""

import gc
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import nibabel
import numpy as np
import pytest
import tifffile
import torch
from monai.bundle import ConfigParser

from scripts.phantoms import write_abdomens, write_scrolls

from custom.competition import timed_inference
from custom.competition.timed_inference import FAILED, NO_TIME, PREDICTED, gpus, predict_in_time
from custom.competition.timed_worker import TimedPredictor
from custom.data.predictions import RECORD
from custom.data.volumes import read_volume
from custom.data.writing import write_volume
from custom.errors import DataError

REPOSITORY = Path(__file__).resolve().parents[2]
SCROLL, LIVER = "vesuvius_surface_3d", "liver_tumor_2d"
OPTIONS = {
    SCROLL: {"patch_size": [16, 32, 32], "network_def#init_filters": 8},
    LIVER: {"network_def#backbone": "resnet18", "network_def#decoder_channels": [16, 16, 8, 8, 8]},
}


def parsed(name, **options):
    parser = ConfigParser()
    parser.read_config([str(REPOSITORY / "bundles" / name / "configs" / "inference.json")])
    for key, value in {**OPTIONS[name], **options}.items():
        parser[key] = value
    return parser


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Options of each bundle, with random weights."""
    made = {}
    for name in OPTIONS:
        torch.manual_seed(0)
        path = tmp_path_factory.mktemp("weights") / "model.pt"
        torch.save(parsed(name).get_parsed_content("network_def").state_dict(), path)
        made[name] = {**OPTIONS[name], "checkpoint": str(path)}
    return made


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    write_scrolls(folder / "scroll", n_train=1, n_test=3, size=32)
    write_abdomens(folder / "abdomen", n_train=1, n_test=1, size=40, slices=5)
    return {SCROLL: folder / "scroll" / "test_images", LIVER: folder / "abdomen" / "test" / "volume-500.nii.gz"}


class Clock:
    """Moves by a second each time the network is called."""

    def __init__(self, network=None):
        self.now = 0.0

    def __call__(self):
        return self.now

    def tick(self, *_):
        self.now += 1.0


def predictor(name, options, folder, clock=None):
    root = REPOSITORY / "bundles" / name
    clock = clock or Clock()
    made = TimedPredictor(
        bundle_root=str(root),
        configs=[str(root / "configs" / "inference.json")],
        options={**options, "output_dir": str(folder)},
        device=torch.device("cpu"),
        clock=clock,
    )
    made.network.register_forward_hook(clock.tick)
    return made


def reference(name, options, image, folder, **more):
    """What the bundle's own evaluator writes."""
    parser = parsed(name, **options, dataset_dir=str(image), output_dir=str(folder), **more)
    parser.get_parsed_content("evaluator").run()
    return read_volume(next(predictions(folder))).array


def predictions(folder):
    return iter(sorted(path for path in folder.iterdir() if path.name != RECORD))


def medians(options, image):
    """Thresholds for the two regions that half of the voxels pass."""
    parser = parsed(LIVER, **options)
    network = parser.get_parsed_content("network_def").eval()
    network.load_state_dict(torch.load(options["checkpoint"], weights_only=True))
    item = parser.get_parsed_content("preprocessing")({"image": str(image)})
    values = parser.get_parsed_content("inferer")(item["image"][None], network)[0]
    return [float(channel.median()) for channel in values]


@pytest.mark.parametrize("name, tta", [(SCROLL, []), (LIVER, []), (LIVER, ["horizontal", "vertical"])])
def test_with_enough_time_the_prediction_is_the_bundles(name, tta, weights, images, tmp_path):
    options = {**weights[name], "tta": tta}
    image = images[name] if name == LIVER else sorted(images[name].iterdir())[0]
    if name == LIVER:
        options |= {"clean_liver": False, "threshold": medians(options, image)}
    expected = reference(name, options, image, tmp_path / "expected")
    answer = predictor(name, options, tmp_path / "timed").predict({"image": str(image)}, share=1e9, limit=1e9)
    assert answer["views"] == 2 ** len(tta)
    found = next(predictions(tmp_path / "timed"))
    assert found.name == next(predictions(tmp_path / "expected")).name
    assert 0 < np.count_nonzero(expected) < expected.size
    assert np.array_equal(read_volume(found).array, expected)
    if name == LIVER:
        assert np.array_equal(nibabel.load(found).affine, nibabel.load(image).affine)


@pytest.mark.slow
def test_all_flips_agree_with_the_inferers_own(weights, images, tmp_path):
    """Windows lie elsewhere in a volume that is flipped as a whole, so only nearly."""
    options, image = weights[SCROLL], sorted(images[SCROLL].iterdir())[0]
    expected = reference(SCROLL, options, image, tmp_path / "expected", tta=["depth", "vertical", "horizontal"])
    timed = predictor(SCROLL, {**options, "tta": ["depth", "vertical", "horizontal"]}, tmp_path / "timed")
    assert timed.predict({"image": str(image)}, share=1e9, limit=1e9)["views"] == 8
    found = read_volume(next(predictions(tmp_path / "timed"))).array
    assert np.mean(found != expected) < 0.02
    plain = reference(SCROLL, options, image, tmp_path / "plain")
    assert np.mean(found != expected) < np.mean(found != plain)


@pytest.mark.slow
def test_views_are_added_while_they_fit_into_the_share(weights, images, tmp_path):
    image = sorted(images[SCROLL].iterdir())[0]
    options = {**weights[SCROLL], "tta": ["depth", "vertical", "horizontal"], "sw_batch_size": 1000}
    calls = Clock()
    timed = predictor(SCROLL, options, tmp_path, calls)
    assert timed.predict({"image": str(image)}, share=1e9, limit=1e9)["views"] == 8
    seconds = calls.now / 8  # of a view
    for share, views in ((0.0, 1), (2 * seconds - 0.5, 1), (3 * seconds, 3), (3.9 * seconds, 3)):
        assert timed.predict({"image": str(image)}, share=share, limit=1e9)["views"] == views


def test_the_limit_cuts_off_and_complete_views_count(weights, images, tmp_path):
    image = sorted(images[SCROLL].iterdir())[0]
    clock = Clock()
    timed = predictor(SCROLL, {**weights[SCROLL], "tta": ["depth", "vertical", "horizontal"]}, tmp_path / "p", clock)
    assert timed.predict({"image": str(image)}, share=1e9, limit=1.0) == {"views": 0, "seconds": 2.0}
    assert not list(predictions(tmp_path / "p"))
    before = clock.now
    assert timed.predict({"image": str(image)}, share=0.0, limit=1e9)["views"] == 1
    seconds = clock.now - before
    assert timed.predict({"image": str(image)}, share=1e9, limit=2.5 * seconds)["views"] == 2
    assert [path.name for path in predictions(tmp_path / "p")] == [image.name]


def run(images, output, options, **more):
    lines = []
    outcomes = predict_in_time(
        bundle_root=REPOSITORY / "bundles" / SCROLL,
        dataset_dir=images,
        output_dir=output,
        options=options,
        log=lines.append,
        **more,
    )
    return outcomes, lines


@pytest.mark.slow
def test_two_processes_share_and_a_bad_image_costs_no_other(weights, images, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for image in images[SCROLL].iterdir():
        (folder / image.name).write_bytes(image.read_bytes())
    (folder / "bad.tif").write_bytes(b"II*\0 and nothing more")
    write_volume(folder / "dark.tif", np.eye(32, dtype=np.uint8)[None].repeat(32, 0))
    outcomes, lines = run(folder, tmp_path / "p", weights[SCROLL], seconds=600, devices=["cpu", "cpu"])
    assert {outcome.id: outcome.status for outcome in outcomes} == {
        "1500": PREDICTED,
        "1501": PREDICTED,
        "1502": PREDICTED,
        "bad": FAILED,
        "dark": PREDICTED,
    }
    assert [path.name for path in predictions(tmp_path / "p")] == ["1500.tif", "1501.tif", "1502.tif", "dark.tif"]
    assert all(read_volume(path).array.shape == (32, 32, 32) for path in predictions(tmp_path / "p"))
    assert "bad.tif: found" in next(outcome.error for outcome in outcomes if outcome.id == "bad")
    assert lines[0].count("CPU") == 2 and len(lines) == 7
    (warning,) = (line for line in lines if line.startswith("warning: "))
    assert f"{folder / 'dark.tif'}: found values from 0 to 1, which is almost black" in warning
    assert {path.name for path in tmp_path.glob("*.log")} == {"process_0.log", "process_1.log"}


def test_what_is_there_is_kept_only_if_it_would_be_made_alike(weights, images, tmp_path):
    """In one process: a worker looks at the folder before any case is predicted."""
    folder, other = tmp_path / "p", tmp_path / "other.pt"
    torch.save({key: value * 2 for key, value in torch.load(weights[SCROLL]["checkpoint"]).items()}, other)
    cases = [{"id": path.stem, "image": str(path)} for path in sorted(images[SCROLL].iterdir())]
    options = {**weights[SCROLL], "tta": ["depth", "vertical", "horizontal"]}
    first = predictor(SCROLL, options, folder)
    first.predict(cases[0], share=1e9, limit=1e9)
    first.predict(cases[1], share=0.0, limit=1e9)
    assert first.keep(cases) == {"kept": [cases[0]["id"]]}
    assert len(list(predictions(folder))) == 2  # that of one view may be all that there will be
    assert predictor(SCROLL, {**options, "sw_batch_size": 1}, folder).keep(cases)["kept"] == [cases[0]["id"]]
    assert predictor(SCROLL, {**options, "checkpoint": str(other)}, folder).keep(cases) == {"kept": []}
    assert not list(predictions(folder))


def test_a_prediction_of_another_image_of_the_same_name_is_not_kept(weights, images, tmp_path):
    source, image = sorted(images[SCROLL].iterdir())[0], tmp_path / "images" / "a.tif"
    content = tifffile.imread(source)
    image.parent.mkdir()
    tifffile.imwrite(image, content, photometric="minisblack", metadata=None)
    cases, size = [{"id": "a", "image": str(image)}], image.stat().st_size
    timed = predictor(SCROLL, weights[SCROLL], tmp_path / "p")
    timed.predict(cases[0], share=1e9, limit=1e9)
    assert timed.keep(cases) == {"kept": ["a"]}
    tifffile.imwrite(image, content[::-1], photometric="minisblack", metadata=None)
    os.utime(image, (1e9, 1e9))
    assert image.stat().st_size == size and timed.keep(cases) == {"kept": []}
    assert not list(predictions(tmp_path / "p"))


@pytest.mark.slow
def test_old_predictions_are_not_handed_in_where_time_is_out(weights, images, tmp_path):
    run(images[SCROLL], tmp_path / "p", weights[SCROLL], seconds=600, devices=["cpu"])
    stamps = [path.stat().st_mtime_ns for path in predictions(tmp_path / "p")]
    outcomes, lines = run(images[SCROLL], tmp_path / "p", weights[SCROLL], seconds=600, devices=["cpu"])
    assert [path.stat().st_mtime_ns for path in predictions(tmp_path / "p")] == stamps
    assert {outcome.status for outcome in outcomes} == {PREDICTED} and "3 of 3 predictions were there already" in lines
    options = weights[SCROLL] | {"surface_postprocessing#threshold_low": 0.9}
    outcomes, _ = run(images[SCROLL], tmp_path / "p", options, seconds=0.0, devices=["cpu"])
    assert {outcome.status for outcome in outcomes} == {NO_TIME} and not list(predictions(tmp_path / "p"))


STAND_IN = """#!{python}
import json, os, sys, time
json.loads(sys.stdin.readline())
print(json.dumps({ready}), flush=True)
for line in sys.stdin:
    request = json.loads(line)
    if request["case"]["id"].startswith("crash") and os.environ["CUDA_VISIBLE_DEVICES"] != "0":
        os.kill(os.getpid(), 9)
    if os.environ["CUDA_VISIBLE_DEVICES"] == "0":
        time.sleep(0.2)
    if request["case"]["id"].startswith("stuck"):
        time.sleep(600)
    print(json.dumps({{"views": 1, "seconds": 0.0}}), flush=True)
"""


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """Processes that start at once, and do nothing but answer."""

    def install(ready, *names):
        (tmp_path / "python").write_text(STAND_IN.format(python=sys.executable, ready=ready))
        (tmp_path / "python").chmod(0o755)
        monkeypatch.setattr(timed_inference, "sys", SimpleNamespace(executable=str(tmp_path / "python")))
        (tmp_path / "images").mkdir()
        for size, name in enumerate(names, 1):
            write_volume(tmp_path / "images" / f"{name}.tif", np.zeros((size, 2, 2), np.uint8))
        return tmp_path / "images"

    return install


READY = {"device": "stand-in", "gpu": False, "views": 8}


def test_without_time_nothing_is_predicted_and_each_case_says_so(stand_in, tmp_path):
    outcomes, lines = run(stand_in(READY, "a", "b"), tmp_path / "p", {}, seconds=0.0, devices=["cpu"])
    assert [outcome.status for outcome in outcomes] == [NO_TIME] * 2
    assert sum("NO TIME" in line for line in lines) == 2


def test_a_crash_costs_one_case(stand_in, tmp_path):
    outcomes, lines = run(stand_in(READY, "a", "crash", "b"), tmp_path / "p", {}, seconds=60, devices=["cpu"])
    assert {outcome.id: outcome.status for outcome in outcomes} == {"a": PREDICTED, "crash": FAILED, "b": PREDICTED}
    assert "its process ended with -9" in lines[2]


def test_a_gpu_that_does_not_start_leaves_its_share_to_the_other(stand_in, tmp_path):
    ready = f"{{'error': 'broken'}} if os.environ['CUDA_VISIBLE_DEVICES'] == '1' else {READY}"
    outcomes, lines = run(stand_in(ready, "a", "b"), tmp_path / "p", {}, seconds=60, devices=["0", "1"])
    assert [outcome.status for outcome in outcomes] == [PREDICTED, PREDICTED]
    assert lines[0] == "broken"


def test_a_gpu_that_does_not_start_again_leaves_its_cases_to_the_other(stand_in, tmp_path):
    """The second one fails at each case, and once it has started a file is in the way of a second start."""
    is_second, file = "os.environ['CUDA_VISIBLE_DEVICES'] == '1'", str(tmp_path / "started")
    ready = f"{{'error': 'broken'}} if {is_second} and os.path.exists({file!r}) else {READY}"
    ready = f"({ready}, {is_second} and open({file!r}, 'w'))[0]"
    names = [f"crash{number}" for number in range(5)]
    outcomes, lines = run(stand_in(ready, *names), tmp_path / "p", {}, seconds=60, devices=["0", "1"])
    assert sorted(outcome.status for outcome in outcomes) == [FAILED] + [PREDICTED] * 4
    assert "broken" in lines


def test_an_interrupt_ends_all_processes(stand_in, tmp_path, monkeypatch, request):
    """As the stop button of a notebook does, while a case is at work."""
    started = []
    start = timed_inference._Process.start
    monkeypatch.setattr(timed_inference._Process, "start", lambda self: (start(self), started.append(self.process)))

    def interrupt(line):
        if "predicting on" not in line:
            return
        timer = threading.Timer(0.3, os.kill, [os.getpid(), signal.SIGINT])
        request.addfinalizer(timer.cancel)  # where the test fails first, it would interrupt another
        timer.start()

    images = stand_in(READY, "stuck", "stuck2", "stuck3")
    gc.disable()  # hypothesis has a callback in it, where an interrupt would be lost
    request.addfinalizer(gc.enable)
    # A shell lets processes in the background ignore interrupts.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    with pytest.raises(KeyboardInterrupt):
        predict_in_time(
            bundle_root=tmp_path,
            dataset_dir=images,
            output_dir=tmp_path / "p",
            seconds=60,
            devices=["cpu"],
            log=interrupt,
        )
    time.sleep(0.5)  # in which a thread would start another
    assert len(started) == 1 and started[0].poll() is not None


def test_a_process_that_hangs_is_stopped(stand_in, tmp_path, monkeypatch):
    monkeypatch.setattr(timed_inference, "GRACE", 0.1)
    outcomes, _ = run(stand_in(READY, "a", "stuck", "b"), tmp_path / "p", {}, seconds=2.0, devices=["cpu"])
    assert [outcome.status for outcome in outcomes] == [PREDICTED, NO_TIME, NO_TIME]  # a, b, stuck


def test_shares_are_equal_and_what_is_left_over_passes_on(stand_in, tmp_path):
    outcomes, _ = run(stand_in(READY, "a", "b", "c", "d"), tmp_path / "p", {}, seconds=400, devices=["cpu"])
    assert [round(outcome.share, -2) for outcome in outcomes] == [100, 100, 200, 400]
    assert outcomes[0].share < 100


def test_nothing_but_failures_is_an_error(stand_in, tmp_path):
    with pytest.raises(RuntimeError, match="no case could be predicted: crash: its process ended with -9"):
        run(stand_in(READY, "crash"), tmp_path / "p", {}, seconds=60, devices=["cpu"])


def test_gpus_of_no_use_leave_one_process(stand_in, tmp_path, monkeypatch):
    monkeypatch.setattr(timed_inference, "gpus", lambda: ["0", "1"])
    _, lines = run(stand_in({**READY, "device": "CPU; no code for a P100"}, "a"), tmp_path / "p", {}, seconds=60)
    assert lines[0] == "predicting on: CPU; no code for a P100"


def test_what_is_wrong_with_the_bundle_is_said(stand_in, tmp_path):
    images = stand_in({"error": "model.pt: found no such file, expected trained weights"}, "a")
    with pytest.raises(DataError, match=r"model\.pt: found no such file"):
        run(images, tmp_path / "p", {}, seconds=60, devices=["cpu"])


def test_missing_weights_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"none\.pt: found no such file"):
        predictor(SCROLL, {**OPTIONS[SCROLL], "checkpoint": str(tmp_path / "none.pt")}, tmp_path)


def test_gpus_are_counted_without_torch(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,3")
    assert gpus() == ["0", "3"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert gpus() == []
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setattr(timed_inference.shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    listed = "GPU 0: Tesla T4 (UUID: GPU-1)\nGPU 1: Tesla T4 (UUID: GPU-2)\n"
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 0, listed))
    assert gpus() == ["0", "1"]


def test_one_process_where_memory_is_short(monkeypatch):
    lines = []
    monkeypatch.setattr(timed_inference, "free_bytes", lambda: int(6e9))
    assert timed_inference._fitting(["0", "1"], 10**6, lines.append) == ["0"]
    assert timed_inference._fitting(["0"], 10**9, lines.append) == ["0"]
    monkeypatch.setattr(timed_inference, "free_bytes", lambda: int(29e9))
    assert timed_inference._fitting(["0", "1"], 320**3, lines.append) == ["0", "1"]
    assert json.dumps(lines).count("1 of 2 GPUs") == 1
