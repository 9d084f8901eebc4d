"""A prediction is kept only where it would be made alike; nothing that is not ours is lost."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from custom.data.predictions import RECORD, PredictionRecord
from custom.transforms import SaveVolumed

SETTINGS = {"threshold": 0.5, "network_def#_target_": "UNet", "n_context": 0}


class Case:
    """An image, weights of two networks, and a folder with the image's prediction, written as inference does."""

    def __init__(self, folder, channel_names=None):
        self.image, self.out = folder / "in" / "a.nii.gz", folder / "out"
        self.weights = [folder / "1.pt", folder / "2.pt"]
        self.channel_names = channel_names
        self.image.parent.mkdir()
        self.image.write_bytes(bytes(range(200)))
        for path in self.weights:
            path.write_bytes(path.name.encode() * 50)

    def record(self, settings=SETTINGS, ext=None, weights=None):
        saver = SaveVolumed("pred", output_dir=str(self.out), output_ext=ext, channel_names=self.channel_names)
        weights = [str(path) for path in weights or self.weights]
        return PredictionRecord(
            saver=saver, weights=weights, configuration=SimpleNamespace(effective=lambda: dict(settings))
        )

    def predict(self, content=b"mask"):
        record = self.record()
        record.prepare(str(self.image))
        for path in record.saver.paths(str(self.image)):
            path.write_bytes(content)
        record.complete(str(self.image))

    def why(self, **options):
        return self.record(**options).prepare(str(self.image))

    @property
    def prediction(self):
        return self.out / "a.nii.gz"


@pytest.fixture
def case(tmp_path):
    case = Case(tmp_path)
    case.predict()
    return case


def older(path):
    """As cp -p, rsync -a, tar and unzip leave it."""
    os.utime(path, (1e9, 1e9))


def test_the_same_again_is_kept(case):
    assert case.why() is None
    assert case.prediction.read_bytes() == b"mask"


def test_the_same_weights_under_other_names_are_kept(case, tmp_path):
    for path in case.weights:
        shutil.copy(path, tmp_path / f"copy_of_{path.name}")
    assert case.why(weights=[tmp_path / f"copy_of_{path.name}" for path in case.weights]) is None


def test_a_folder_that_was_copied_or_moved_is_kept(case):
    shutil.copytree(case.out, case.out.with_name("copy"), copy_function=shutil.copyfile)
    case.out = case.out.with_name("copy")
    assert case.why() is None


def another_image(case):
    case.image.write_bytes(bytes(200))
    older(case.image)


def the_image_touched(case):
    os.utime(case.image, (2e9, 2e9))


def a_link_to_another_image(case):
    other = case.image.with_name("b.nii.gz")
    other.write_bytes(bytes(reversed(range(200))))
    shutil.copystat(case.image, other)
    case.image.unlink()
    case.image.symlink_to(other)


def one_byte_with_size_and_time_restored(case):
    before = case.image.stat()
    case.image.write_bytes(case.image.read_bytes()[:-1] + b"!")
    os.utime(case.image, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize(
    "change", [another_image, the_image_touched, a_link_to_another_image, one_byte_with_size_and_time_restored]
)
def test_another_image_of_the_same_name(case, change):
    change(case)
    assert case.why() == "another image of the same name"
    assert not case.prediction.exists()


def test_an_ensemble_with_one_member_exchanged(case):
    case.weights[1].write_bytes(b"another" * 15)
    older(case.weights[1])
    assert case.why() == "other weights"
    case.predict()
    assert case.why(weights=case.weights[:1]) == "other weights"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"threshold": 0.9}, "threshold: 0.5, now 0.9"),
        ({"n_context": 1}, "n_context: 0, now 1"),
        ({"network_def#_target_": "SegResNet"}, "network_def#_target_: 'UNet', now 'SegResNet'"),
        ({"tta": ["depth"]}, "tta: absent, now ['depth']"),
    ],
)
def test_other_settings_are_named(case, settings, said):
    assert case.why(settings=SETTINGS | settings) == f"other settings ({said})"
    assert not case.prediction.exists()


def test_another_ending_is_another_file(case):
    assert case.why(ext=".nrrd") == ""
    assert case.prediction.exists()


def test_killed_before_it_was_noted(case):
    """Between the writing of the output and of the record."""
    case.prediction.unlink()
    case.record().prepare(str(case.image))
    case.prediction.write_bytes(b"the new one")
    assert case.why() == "a run that was cut off"
    assert sorted(path.name for path in case.out.iterdir()) == ["a.nii.gz", RECORD]
    assert case.why(settings={}) == "a run that was cut off"
    assert not case.prediction.exists()


def edited(case):
    case.prediction.write_bytes(b"corrected by hand")


def without_a_record(case):
    edited(case)
    (case.out / RECORD).unlink()


def with_a_damaged_record(case):
    edited(case)
    (case.out / RECORD).write_text((case.out / RECORD).read_text()[:-20])


def with_a_record_that_was_edited(case):
    edited(case)
    (case.out / RECORD).write_text(json.dumps({"settings": {}, "predictions": {"a.nii.gz": {"image": {}}}}))


@pytest.mark.parametrize("spoil", [edited, without_a_record, with_a_damaged_record, with_a_record_that_was_edited])
def test_what_was_not_written_here_stays_under_another_name(case, caplog, spoil):
    spoil(case)
    assert case.why() in ("another content than was written", "unknown origin")
    (aside,) = case.out.glob("a.nii.gz.replaced_*")
    assert aside.read_bytes() == b"corrected by hand" and not case.prediction.exists()
    assert str(aside) in caplog.text and f"{case.prediction}: found a file" in caplog.text


def test_overwrite_keeps_nothing(case):
    edited(case)
    assert case.record().prepare(str(case.image), overwrite=True) is not None
    assert [path.name for path in case.out.iterdir()] == [RECORD]


@pytest.mark.parametrize("lost", [0, 1])
def test_one_of_two_channels_is_missing(tmp_path, lost):
    case = Case(tmp_path, ["liver", "tumor"])
    case.predict()
    assert case.why() is None
    (case.out / f"a_{case.channel_names[lost]}.nii.gz").unlink()
    assert case.why() == ""
    assert [path.name for path in case.out.iterdir()] == [RECORD]


def test_a_dicom_folder_is_known_by_all_of_its_files(tmp_path):
    case = Case(tmp_path)
    case.image.unlink()
    case.image.mkdir()
    for number in range(3):
        (case.image / f"{number}.dcm").write_bytes(bytes([number] * 40))
    case.predict()
    assert case.why() is None
    (case.image / "1.dcm").write_bytes(bytes([7] * 40))
    older(case.image / "1.dcm")
    assert case.why() == "another image of the same name"


def test_settings_are_noted_once_and_forgotten_with_the_last_prediction(case):
    other = case.image.with_name("b.nii.gz")
    other.write_bytes(b"b")
    case.record().prepare(str(other))
    assert len(json.loads((case.out / RECORD).read_text())["settings"]) == 1
    case.record(settings={}).prepare(str(case.image))
    case.record(settings={}).prepare(str(other))
    assert list(json.loads((case.out / RECORD).read_text())["settings"].values()) == [{}]


@pytest.mark.slow
def test_two_processes_lose_no_entry(tmp_path):
    """Each notes cases of its own, as fast as it can."""
    program = """
import sys
from pathlib import Path
from custom.configuration import Configuration
from custom.data.predictions import PredictionRecord
from custom.transforms import SaveVolumed
folder, name = Path(sys.argv[1]), sys.argv[2]
saver = SaveVolumed("pred", output_dir=str(folder / "out"))
record = PredictionRecord(saver=saver, weights=[], configuration=Configuration())
for number in range(40):
    image = folder / f"{name}{number}.tif"
    image.write_bytes(b"image")
    record.prepare(str(image))
    (folder / "out" / image.name).write_bytes(b"mask")
    record.complete(str(image))
"""
    root = Path(__file__).parents[2]
    running = [subprocess.Popen([sys.executable, "-c", program, str(tmp_path), name], cwd=root) for name in "ab"]
    assert [process.wait() for process in running] == [0, 0]
    found = json.loads((tmp_path / "out" / RECORD).read_text())["predictions"]
    assert len(found) == 80 and all("sha256" in entry for entry in found.values())


def test_another_settings_prediction_that_is_written_meanwhile_is_not_taken_for_ours(case):
    ours, theirs = case.record(settings={}), case.record(settings={"threshold": 0.1})
    ours.prepare(str(case.image))
    theirs.prepare(str(case.image))
    case.prediction.write_bytes(b"ours")
    ours.complete(str(case.image))
    assert case.why(settings={}) == "a run that was cut off"


def test_numpy_values_among_the_settings(case):
    settings = {"threshold": np.float32(0.5)}
    case.record(settings=settings).prepare(str(case.image))
    assert RECORD in os.listdir(case.out)
