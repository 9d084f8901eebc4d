"""A run that is cut anywhere ends as one that is not."""

import csv
import logging
import os
import random
import shutil
import signal
import time
import zipfile
from collections import namedtuple

import numpy as np
import pytest
import tifffile
import torch
from ignite.engine import Engine, Events
from monai.bundle import ConfigParser

from custom.data import VolumeCache, write_volume
from custom.errors import DataError
from custom.handlers import Checkpoints
from custom.inferers import autocast

SHORT = {"epochs": 2, "steps": 5}


def outcome(folder):
    """All that a run leaves, except for the time it took."""
    weights = {
        f"{name} {key}": value.tolist()
        for name in ("model.pt", "model_final.pt")
        for key, value in torch.load(folder / name, weights_only=True).items()
    }
    with (folder / "metrics.csv").open() as stream:
        rows = [{key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(stream)]
    return weights, rows


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch):
    """They take longer than the runs here."""
    monkeypatch.setattr("custom.handlers.history.draw_curves", lambda _, file: file.touch())


@pytest.fixture(scope="session")
def undisturbed(tiny_run, tmp_path_factory):
    """The outcome of a run that is not cut."""
    folder = tmp_path_factory.mktemp("undisturbed")
    tiny_run.build(folder, **SHORT).run()
    return outcome(folder)


def cut(trainer, engine, event, count):
    """Run until the ``count``-th time of an event."""
    seen = []

    class Cut(BaseException):
        pass

    def strike(_):
        seen.append(event)
        if len(seen) == count:
            raise Cut

    engine.add_event_handler(event, strike)
    with pytest.raises(Cut):
        trainer.run()
    trainer.checkpoints.wait()


@pytest.mark.parametrize("iteration", range(1, 11))
def test_cut_after_any_iteration(tiny_run, undisturbed, tmp_path, iteration):
    """Groups of two, so that the cut is also within a group, and in a short one at the end of an epoch."""
    trainer = tiny_run.build(tmp_path, **SHORT)
    cut(trainer, trainer, Events.ITERATION_COMPLETED, iteration)
    again = tiny_run.build(tmp_path, resume=True, **SHORT)
    starts = []
    again.add_event_handler(Events.EPOCH_STARTED, lambda engine: starts.append(engine.state.iteration))
    again.run()
    assert outcome(tmp_path) == undisturbed
    stepped = max(n for n in (0, 2, 4, 5, 7, 9, 10) if n <= iteration)
    assert starts[:1] == ([stepped] if stepped < 10 else [])


@pytest.mark.parametrize("volume", [1, 3, 4, 5, 8])
def test_cut_within_a_validation(tiny_run, undisturbed, tmp_path, volume):
    """Four volumes in each of two validations; the second ends the run."""
    trainer = tiny_run.build(tmp_path, **SHORT)
    cut(trainer, trainer.evaluator, Events.ITERATION_COMPLETED, volume)
    again = tiny_run.build(tmp_path, resume=True, **SHORT)
    validated = []
    again.evaluator.add_event_handler(Events.COMPLETED, lambda engine: validated.append(engine.state.epoch))
    again.run()
    assert validated == ([1, 2] if volume <= 4 else [2])
    assert outcome(tmp_path) == undisturbed


@pytest.mark.parametrize("schedule", ["poly", "cosine", "constant", "plateau"])
def test_every_schedule_goes_on(tiny_run, tmp_path, schedule):
    tiny_run.build(tmp_path / "whole", schedule=schedule, **SHORT).run()
    trainer = tiny_run.build(tmp_path / "cut", schedule=schedule, **SHORT)
    cut(trainer, trainer, Events.ITERATION_COMPLETED, 7)
    tiny_run.build(tmp_path / "cut", schedule=schedule, resume=True, **SHORT).run()
    assert outcome(tmp_path / "cut") == outcome(tmp_path / "whole")


@pytest.mark.slow
def test_with_another_number_of_workers(tiny_run, undisturbed, tmp_path):
    trainer = tiny_run.build(tmp_path, **SHORT)
    cut(trainer, trainer, Events.ITERATION_COMPLETED, 3)
    tiny_run.build(tmp_path, resume=True, num_workers=1, **SHORT).run()
    assert outcome(tmp_path) == undisturbed


@pytest.mark.slow
def test_killed_at_random_moments(processes, tmp_path):
    """Twelve times, by SIGKILL; a checkpoint is written after every optimizer step.

    However fast the machine, the steps take longer than the 5.7 s that the twelve have together.
    """
    epochs = 24
    processes.start(folder=tmp_path / "whole", epochs=epochs, resume=True)
    assert processes.wait()[0] == 0
    chance = random.Random(0)
    options = {"folder": tmp_path / "killed", "epochs": epochs, "resume": True, "step_s": 0.05, "volume_s": 0.02}
    for _ in range(12):
        processes.start(**options)
        time.sleep(chance.uniform(0.05, 0.8))
        processes.signal(signal.SIGKILL)
        status, output = processes.wait()
        assert status == -signal.SIGKILL, output
    processes.start(**options | {"step_s": 0.0})
    status, output = processes.wait()
    assert status == 0, output
    assert outcome(tmp_path / "killed") == outcome(tmp_path / "whole")
    assert len(list((tmp_path / "killed" / "checkpoints").iterdir())) == 2


def truncate(path):
    path.write_bytes(path.read_bytes()[:-500])


def empty(path):
    path.write_bytes(b"")


def flip_a_bit(path):
    with zipfile.ZipFile(path) as file:
        record = max(file.infolist(), key=lambda entry: entry.file_size)
    content = bytearray(path.read_bytes())
    content[record.header_offset + 200 + record.file_size // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [truncate, empty, flip_a_bit])
def test_a_damaged_newest_is_skipped(tiny_run, undisturbed, tmp_path, caplog, damage):
    trainer = tiny_run.build(tmp_path, **SHORT)
    cut(trainer, trainer, Events.ITERATION_COMPLETED, 7)
    newest, before = trainer.checkpoints._files()
    damage(newest)
    again = tiny_run.build(tmp_path, resume=True, **SHORT)
    with caplog.at_level(logging.INFO):
        again.run()
    assert f"{newest}: a damaged checkpoint" in caplog.text
    assert f"continues after step 5 ({before})" in caplog.text
    assert outcome(tmp_path) == undisturbed


def test_only_damaged_ones_are_no_fresh_start(tiny_run, tmp_path):
    trainer = tiny_run.build(tmp_path, **SHORT)
    cut(trainer, trainer, Events.ITERATION_COMPLETED, 7)
    for path in trainer.checkpoints._files():
        truncate(path)
    with pytest.raises(DataError, match="checkpoints: found only damaged checkpoints"):
        tiny_run.build(tmp_path, resume=True, **SHORT).run()


def test_a_foreign_file_is_refused_without_running_it(tiny_run, tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "executed"),)

    (tmp_path / "checkpoints").mkdir()
    torch.save(Evil(), tmp_path / "checkpoints" / "step_00000001.pt")
    with pytest.raises(DataError, match=r"step_00000001.pt: found an unreadable file"):
        tiny_run.build(tmp_path, resume=True, **SHORT).run()
    assert not (tmp_path / "executed").exists()


def test_other_settings_are_refused_by_name(tiny_run, tmp_path):
    trainer = tiny_run.build(tmp_path, cases=["a", "b"], **SHORT)
    cut(trainer, trainer, Events.ITERATION_COMPLETED, 2)
    with pytest.raises(DataError) as refusal:
        tiny_run.build(tmp_path, cases=["a", "c"], resume=True, **SHORT).run()
    assert "found a run of other settings (training cases: ['a', 'b'], now ['a', 'c'])" in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_the_folder_of_the_data_is_no_setting(tmp_path):
    """The ids of the cases are; a dataset may lie elsewhere in the next session."""

    def settings(folder):
        config = {
            "dataset_dir": folder,
            "cases": {"_target_": "custom.data.find_cases", "dataset_dir": "@dataset_dir"},
            "checkpoints": {"_target_": "custom.handlers.Checkpoints", "folder": str(tmp_path), "objects": {}},
        }
        return ConfigParser(config).get_parsed_content("checkpoints")._current_settings(Engine(lambda *_: None))

    assert settings("/first") == settings("/second")


@pytest.fixture
def run_on(tmp_path, monkeypatch):
    """Train on a GPU that is fast in a data type; or on a CPU."""
    monkeypatch.setattr(autocast, "check_gpu", lambda _: None)

    def run(fast, precision="auto"):
        monkeypatch.setattr(autocast, "fast_dtype", lambda _: fast)
        options = {"precision": "@precision", "device": "cpu" if fast is None else "cuda"}
        parser = ConfigParser(
            {
                "precision": precision,
                "configuration": {"_target_": "custom.configuration.Configuration"},
                "inferer": {"_target_": "custom.inferers.AutocastInferer", **options},
                "checkpoints": {
                    "_target_": "custom.handlers.Checkpoints",
                    "folder": str(tmp_path),
                    "objects": {},
                    "resume": True,
                    "configuration": "@configuration",
                },
            }
        )
        engine = Engine(lambda *_: None)
        engine.inferer, engine.scaler = parser.get_parsed_content("inferer"), None
        parser.get_parsed_content("checkpoints").attach(engine)
        engine.run([0], max_epochs=1)

    return run


def rewrite(folder, change):
    (file,) = folder.glob("*.pt")
    state = torch.load(file, weights_only=True)
    change(state)
    torch.save(state, file)


@pytest.mark.parametrize(
    ("first", "second", "before", "now"),
    [
        (torch.float16, torch.bfloat16, "float16", "bfloat16"),
        (torch.bfloat16, None, "bfloat16", "float32"),
        (None, torch.float16, "float32", "float16"),
    ],
)
def test_a_run_goes_on_in_its_precision_only(run_on, tmp_path, first, second, before, now):
    run_on(first)
    run_on(first)
    with pytest.raises(DataError, match=rf"other settings \(precision: '{before}', now '{now}'\)"):
        run_on(second)
    run_on(second, precision=before)  # that of the run, by name
    rewrite(tmp_path, lambda state: state["settings"].update(precision="auto"))  # as before it was recorded
    run_on(second)


def test_a_run_in_float16_needs_a_scaler(run_on, tmp_path):
    run_on(torch.float16)
    rewrite(tmp_path, lambda state: state.update(scaler={"scale": 1.0}) or state["settings"].update(precision="auto"))
    with pytest.raises(DataError, match=r"found a run in float16, expected --precision float16, or another"):
        run_on(torch.bfloat16)


@pytest.fixture
def data(tmp_path):
    """The volumes of a folder with two cases, read anew at each call."""
    for name in ("a", "b"):
        for kind in ("image", "label"):
            write_plain(tmp_path / "data" / f"{name}_{kind}.tif", np.zeros((3, 4, 5), np.uint8))

    def read(folder="data", cache="cache"):
        cases = [
            {"id": name, **{kind: str(tmp_path / folder / f"{name}_{kind}.tif") for kind in ("image", "label")}}
            for name in ("a", "b")
        ]
        options = {"modality": "scroll", "cache_dir": tmp_path / cache, "progress": False}
        return [VolumeCache(cases=cases[:1], **options), VolumeCache(cases=cases[1:], **options)]

    return read


def write_plain(path, array):
    path.parent.mkdir(exist_ok=True)
    tifffile.imwrite(path, array, photometric="minisblack", metadata=None)


def replace(path):
    """Other content under the same name, of the same size and with an older time."""
    size, array = path.stat().st_size, np.ones((3, 4, 5), np.uint8)
    write_plain(path, array)
    os.utime(path, (1e9, 1e9))
    assert path.stat().st_size == size


@pytest.mark.parametrize("finished", [False, True])
@pytest.mark.parametrize("name", ["a_image", "a_label", "b_image", "b_label"])
def test_a_run_does_not_go_on_with_other_data(tiny_run, data, tmp_path, name, finished):
    trainer = tiny_run.build(tmp_path / "run", volumes=data(), **SHORT)
    trainer.run() if finished else cut(trainer, trainer, Events.ITERATION_COMPLETED, 7)
    replace(tmp_path / "data" / f"{name}.tif")
    with pytest.raises(DataError) as refusal:
        tiny_run.build(tmp_path / "run", volumes=data(), resume=True, **SHORT).run()
    assert f"found a run on other data (not as they were: {tmp_path / 'data' / name}.tif), expected" in str(
        refusal.value
    )
    assert str(refusal.value).endswith("--changed_data True to go on with these")
    tiny_run.build(tmp_path / "run", volumes=data(), resume=True, changed_data=True, **SHORT).run()
    if not finished:  # from here on these are the run's data
        tiny_run.build(tmp_path / "run", volumes=data(), resume=True, **SHORT).run()


def test_the_same_data_elsewhere_with_other_times_are_the_same(tiny_run, data, undisturbed, tmp_path):
    trainer = tiny_run.build(tmp_path / "run", volumes=data(), **SHORT)
    cut(trainer, trainer, Events.ITERATION_COMPLETED, 7)
    shutil.copytree(tmp_path / "data", tmp_path / "elsewhere", copy_function=shutil.copyfile)
    write_volume(tmp_path / "elsewhere" / "a_image.tif", np.zeros((3, 4, 5), np.uint8))  # compressed
    tiny_run.build(tmp_path / "run", volumes=data("elsewhere", "another cache"), resume=True, **SHORT).run()
    assert outcome(tmp_path / "run") == undisturbed


def test_volumes_that_came_or_went_are_named(tiny_run, data, tmp_path):
    first, second = data()
    trainer = tiny_run.build(tmp_path / "run", volumes=[first], **SHORT)
    cut(trainer, trainer, Events.ITERATION_COMPLETED, 7)
    with pytest.raises(DataError, match=r"b_image.tif, .*b_label.tif, a\), expected the same"):
        tiny_run.build(tmp_path / "run", volumes=[second], resume=True, **SHORT).run()


def test_another_affine_is_other_data(tmp_path):
    contents = []
    for spacing in (1.0, 2.0):
        write_volume(tmp_path / "a.nii", np.zeros((3, 4, 5), np.int16), np.diag([1, 1, spacing, 1]))
        cases = [{"id": "a", "image": str(tmp_path / "a.nii")}]
        (volume,) = VolumeCache(
            cases=cases, cache_dir=tmp_path / "cache", modality="ct", trust_values=True, progress=False
        )
        contents.append(volume.content["image"])
    assert contents[0] != contents[1]


def test_results_of_another_run_are_not_written_over(tiny_run, undisturbed, tmp_path):
    results = str(tmp_path / "first")
    tiny_run.build(tmp_path / "first", results=results, **SHORT).run()
    (tmp_path / "first" / "panels").mkdir()
    for name in ("panels/gone.png", "events.out.tfevents.1", "notes.txt"):
        (tmp_path / "first" / name).write_text("x")
    for resume in (False, True):
        with pytest.raises(
            DataError, match=r"metrics.csv: found results of another run, expected another --output_dir"
        ):
            tiny_run.build(tmp_path / "second", results=results, resume=resume, **SHORT).run()
    assert outcome(tmp_path / "first") == undisturbed
    tiny_run.build(tmp_path / "second", results=results, overwrite=True, **SHORT).run()
    assert (tmp_path / "first" / "notes.txt").exists()
    for name in ("metrics.csv", "panels/gone.png", "events.out.tfevents.1"):
        assert not (tmp_path / "first" / name).exists()


def test_an_unfinished_run_is_not_overwritten(tiny_run, tmp_path):
    trainer = tiny_run.build(tmp_path, **SHORT)
    cut(trainer, trainer, Events.ITERATION_COMPLETED, 4)
    with pytest.raises(DataError, match=r"found an unfinished run \(4 steps done\), expected --resume True"):
        tiny_run.build(tmp_path, **SHORT).run()


def test_a_finished_run_is_not_replaced_unless_told_to(tiny_run, undisturbed, tmp_path):
    tiny_run.build(tmp_path, **SHORT).run()
    with pytest.raises(DataError, match=r"found a finished run \(10 steps done\), expected another --model_dir, or"):
        tiny_run.build(tmp_path, **SHORT).run()
    assert outcome(tmp_path) == undisturbed
    (tmp_path / "model.pt").write_bytes(b"of another run")
    tiny_run.build(tmp_path, overwrite=True, **SHORT).run()
    assert outcome(tmp_path) == undisturbed


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("name", ["model.pt", "model_final.pt", "model.onnx", "model.ts"])
def test_weights_without_checkpoints_are_not_replaced(tiny_run, tmp_path, name, resume):
    (tmp_path / name).write_bytes(b"downloaded")
    with pytest.raises(DataError, match=rf"{name}: found weights of another run, without its checkpoints"):
        tiny_run.build(tmp_path, resume=resume, **SHORT).run()
    assert (tmp_path / name).read_bytes() == b"downloaded"


def test_an_unfinished_run_is_replaced_when_told_to(tiny_run, undisturbed, tmp_path):
    trainer = tiny_run.build(tmp_path, **SHORT)
    cut(trainer, trainer, Events.ITERATION_COMPLETED, 4)
    tiny_run.build(tmp_path, overwrite=True, **SHORT).run()
    assert outcome(tmp_path) == undisturbed


def test_resuming_a_finished_run_changes_nothing(tiny_run, undisturbed, tmp_path, caplog):
    tiny_run.build(tmp_path, **SHORT).run()
    again = tiny_run.build(tmp_path, resume=True, **SHORT)
    again.add_event_handler(Events.ITERATION_STARTED, lambda _: pytest.fail("a step"))
    (tmp_path / "model_final.pt").unlink()  # as if killed just before it was written
    with caplog.at_level(logging.INFO):
        again.run()
    assert "the run was complete" in caplog.text
    assert outcome(tmp_path) == undisturbed


def test_the_last_ones_are_kept_and_leftovers_removed(tiny_run, tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / ".12345.step_00000003.pt").write_bytes(b"half")
    tiny_run.build(tmp_path, keep=3, **SHORT).run()
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["step_00000007.pt", "step_00000009.pt", "step_00000010.pt"]


def test_only_every_few_minutes_and_every_epoch(tiny_run, tmp_path):
    tiny_run.build(tmp_path, minutes=1.0, keep=9, **SHORT).run()
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["step_00000005.pt", "step_00000010.pt"]


def test_too_little_space_is_refused_before_the_first_step(tiny_run, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9, 1000))
    trainer = tiny_run.build(tmp_path, **SHORT)
    trainer.add_event_handler(Events.ITERATION_STARTED, lambda _: pytest.fail("a step"))
    with pytest.raises(DataError, match=r"checkpoints: found 0\.0 GiB too little free space for 3 checkpoints"):
        trainer.run()


def test_the_size_is_known_before_the_first_step(tiny_run, tmp_path):
    trainer = tiny_run.build(tmp_path, **SHORT)
    before = trainer.checkpoints.size
    trainer.run()
    # Adam counts its steps for each of the six parameters; one-cycle and history hold no tensors then
    assert trainer.checkpoints.size == before + 6 * 4


def test_a_disk_that_is_full_for_a_while_costs_a_checkpoint_and_not_the_run(
    tiny_run, undisturbed, tmp_path, monkeypatch, caplog
):
    write, calls = Checkpoints._write, []

    def full_at_first(self, *arguments):
        calls.append(arguments)
        if len(calls) <= 2:
            raise OSError(28, "No space left on device")
        write(self, *arguments)

    monkeypatch.setattr(Checkpoints, "_write", full_at_first)
    tiny_run.build(tmp_path, **SHORT).run()
    assert caplog.text.count("a checkpoint that cannot be written (OSError: [Errno 28] No space left on device") == 2
    assert outcome(tmp_path) == undisturbed and list((tmp_path / "checkpoints").glob("step_*10.pt"))


def test_a_last_checkpoint_that_cannot_be_written_is_an_error_in_one_line(tiny_run, tmp_path, monkeypatch):
    def full(*_):
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 704 vs 598")  # torch's words

    monkeypatch.setattr(Checkpoints, "_write", full)
    with pytest.raises(
        DataError, match=r"checkpoints: found a checkpoint that cannot be written .* GB free\)"
    ) as error:
        tiny_run.build(tmp_path, **SHORT).run()
    assert "\n" not in str(error.value)


def test_the_state_is_that_of_the_moment(tmp_path):
    """The file is written while training goes on."""
    tensor = torch.zeros(3)
    network = torch.nn.Module()
    network.register_buffer("tensor", tensor)
    checkpoints = Checkpoints(folder=str(tmp_path), objects={"network": network})
    engine = Engine(lambda *_: tensor.add_(1))
    checkpoints.minutes = 0
    checkpoints.attach(engine)
    engine.run([0, 1, 2], max_epochs=1)
    for step in (2, 3):
        state = torch.load(tmp_path / f"step_0000000{step}.pt", weights_only=True)
        assert state["objects"]["network"]["tensor"].tolist() == [step] * 3
