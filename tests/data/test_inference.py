"""What is done is left alone only where it is whole and newer than what it was made from."""

import json
import os

import numpy as np
import pytest
from monai.data import MetaTensor

from custom.data import find_images, write_volume
from custom.data.inference import InferenceDataset
from custom.errors import DataError
from custom.transforms import SaveVolumed

SHAPE = (3, 4, 5)


def write(path, shape=SHAPE, seconds=0):
    """A volume that was written so many seconds after the others."""
    write_volume(path, np.zeros(shape, np.uint8))
    os.utime(path, (1e9 + seconds, 1e9 + seconds))
    return path


@pytest.fixture
def make(tmp_path):
    """A dataset of one image with weights, and predictions to come in ``out``."""
    write(tmp_path / "in" / "a.tif")
    (tmp_path / "model.pt").touch()
    os.utime(tmp_path / "model.pt", (1e9, 1e9))

    def dataset(transform=lambda case: {"read": case["image"]}, image=tmp_path / "in", output_ext=None, **options):
        options = {"weights": str(tmp_path / "model.pt")} | options
        saver = SaveVolumed("pred", output_dir=str(tmp_path / "out"), output_ext=output_ext)
        return InferenceDataset(find_images(image), transform, saver=saver, **options)

    return dataset


def test_urls_are_refused(tmp_path):
    saver = SaveVolumed("pred", output_dir=str(tmp_path))
    with pytest.raises(DataError, match=r"gs://bucket/a.tif: found a URL, expected files on this machine"):
        InferenceDataset([{"id": "a", "image": "gs://bucket/a.tif"}], dict, saver=saver, weights="model.pt")


@pytest.mark.parametrize("output_ext", [None, ".nii.gz", ".mha"])
def test_a_whole_prediction_is_done(make, tmp_path, output_ext):
    dataset = make(output_ext=output_ext)
    assert dataset[0] == {"read": str(tmp_path / "in" / "a.tif")}
    path = write(tmp_path / "out" / f"a{output_ext or '.tif'}", seconds=10)
    assert dataset[0] == {"id": "a", "done": str(path)}


def older_than_the_image(path, folder):
    write(path, seconds=-10)


def older_than_the_weights(path, folder):
    write(path, seconds=10)
    os.utime(folder / "model.pt", (1e9 + 20, 1e9 + 20))


def of_another_shape(path, folder):
    write(path, shape=(3, 4, 6), seconds=10)


def cut_off(path, folder):
    write(path, seconds=10)
    path.write_bytes(path.read_bytes()[:-100])


def empty(path, folder):
    path.parent.mkdir()
    path.touch()


@pytest.mark.parametrize("spoil", [older_than_the_image, older_than_the_weights, of_another_shape, cut_off, empty])
def test_any_other_prediction_is_made_again(make, tmp_path, spoil):
    spoil(tmp_path / "out" / "a.tif", tmp_path)
    assert "read" in make()[0]


def test_all_are_made_again_on_demand(make, tmp_path):
    write(tmp_path / "out" / "a.tif", seconds=10)
    assert "done" in make()[0]
    assert "read" in make(overwrite=True)[0]


def test_several_weights_are_all_looked_at(make, tmp_path):
    write(tmp_path / "out" / "a.tif", seconds=10)
    (tmp_path / "newer.pt").touch()
    assert "read" in make(weights=[str(tmp_path / "model.pt"), str(tmp_path / "newer.pt")])[0]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (DataError.of("a.tif", "nothing", "something"), "a.tif: found nothing, expected something"),
        (RuntimeError("no\nluck"), "/in/a.tif: RuntimeError: no luck"),
    ],
)
def test_what_cannot_be_read_is_an_item_too(make, error, message):
    def read(case):
        try:
            raise error
        except Exception as cause:  # as MONAI does
            raise RuntimeError("applying transform") from cause

    item = make(read)[0]
    assert item["id"] == "a"
    assert item["failed"].endswith(message)


def test_predictions_go_to_different_files_that_are_no_images(make, tmp_path):
    other = write(tmp_path / "other" / "a.tif")
    with pytest.raises(DataError, match=r"found the prediction of both .*, expected images with different names"):
        make(image=[str(tmp_path / "in"), str(other)])
    with pytest.raises(DataError, match="found an image to predict, expected another output_dir"):
        make(image=str(write(tmp_path / "out" / "a.tif")))


def test_predictions_of_equal_file_names_in_two_folders(make, tmp_path):
    for patient in ("one", "two"):
        write(tmp_path / "scans" / patient / "ct.tif")
    dataset = make(image=tmp_path / "scans", transform=dict)
    assert [path.name for (path,) in dataset.paths] == ["one_ct.tif", "two_ct.tif"]
    for item in dataset:
        image = MetaTensor(np.ones((1, *SHAPE)), meta={"filename_or_obj": item["image"]})
        SaveVolumed("pred", output_dir=str(tmp_path / "out"))({**item, "image": image, "pred": image})
    assert all("done" in item for item in make(image=tmp_path / "scans"))
    SaveVolumed("pred", output_dir=str(tmp_path / "out"))({"image": image, "pred": image})  # as servers have it
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["ct.tif", "one_ct.tif", "two_ct.tif"]


@pytest.mark.parametrize(
    "content", [["in/a.tif"], [{"image": "in/a.tif", "label": "in/a.tif"}], {"test": ["in/a.tif"]}]
)
def test_a_list_in_a_file(make, tmp_path, content):
    (tmp_path / "list.json").write_text(json.dumps(content))
    assert make(image=str(tmp_path / "list.json"))[0] == {"read": str(tmp_path / "in" / "a.tif")}


def test_planes_and_single_frames_have_three_axes(make, tmp_path):
    import nibabel

    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 5, 6, 1), np.uint8), np.eye(4)), tmp_path / "frames.nii.gz")
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 5), np.uint8), np.eye(4)), tmp_path / "plane.nii")
    write(tmp_path / "out" / "frames.nii.gz", (4, 5, 6))
    write(tmp_path / "out" / "plane.nii", (4, 5, 1))
    for name in ("frames.nii.gz", "plane.nii"):
        os.utime(tmp_path / name, (1e9, 1e9))
        assert "done" in make(image=str(tmp_path / name))[0]
