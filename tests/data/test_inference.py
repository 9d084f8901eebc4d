"""Items of a data list that are read, are done, or cannot be read; what is done is for test_predictions."""

import json

import numpy as np
import pytest
from monai.data import MetaTensor

from custom.configuration import Configuration
from custom.data import find_images, write_volume
from custom.data.inference import InferenceDataset
from custom.data.predictions import PredictionRecord
from custom.errors import DataError
from custom.transforms import SaveVolumed

SHAPE = (3, 4, 5)


def write(path, shape=SHAPE):
    return write_volume(path, np.zeros(shape, np.uint8))


@pytest.fixture
def make(tmp_path):
    """A dataset of one image with weights, and predictions to come in ``out``."""
    write(tmp_path / "in" / "a.tif")
    (tmp_path / "model.pt").touch()

    def dataset(transform=lambda case: {"read": case["image"]}, image=tmp_path / "in", output_ext=None, **options):
        saver = SaveVolumed("pred", output_dir=str(tmp_path / "out"), output_ext=output_ext)
        record = PredictionRecord(saver=saver, weights=str(tmp_path / "model.pt"), configuration=Configuration())
        return InferenceDataset(find_images(image), transform, saver=saver, record=record, **options)

    return dataset


def test_urls_are_refused(tmp_path):
    saver = SaveVolumed("pred", output_dir=str(tmp_path))
    with pytest.raises(DataError, match=r"gs://bucket/a.tif: found a URL, expected files on this machine"):
        InferenceDataset([{"id": "a", "image": "gs://bucket/a.tif"}], dict, saver=saver, record=None)


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
        dataset.record.complete(item["source"], item["id"])
    assert all("done" in item for item in make(image=tmp_path / "scans"))
    SaveVolumed("pred", output_dir=str(tmp_path / "out"))({"image": image, "pred": image})  # as servers have it
    assert sorted(path.name for path in (tmp_path / "out").glob("*.tif")) == ["ct.tif", "one_ct.tif", "two_ct.tif"]


@pytest.mark.parametrize(
    "content", [["in/a.tif"], [{"image": "in/a.tif", "label": "in/a.tif"}], {"test": ["in/a.tif"]}]
)
def test_a_list_in_a_file(make, tmp_path, content):
    (tmp_path / "list.json").write_text(json.dumps(content))
    assert make(image=str(tmp_path / "list.json"))[0] == {"read": str(tmp_path / "in" / "a.tif")}


def test_a_whole_prediction_is_done(make, tmp_path):
    dataset = make()
    assert dataset[0] == {"read": str(tmp_path / "in" / "a.tif")}
    path = write(tmp_path / "out" / "a.tif")
    dataset.record.complete(str(tmp_path / "in" / "a.tif"))
    assert dataset[0] == {"id": "a", "done": str(path)}
    assert make(overwrite=True)[0] == {"read": str(tmp_path / "in" / "a.tif")}


@pytest.mark.parametrize("world_size", [1, 2, 5])
def test_ranks_share_the_cases_and_have_equally_many_items(make, tmp_path, monkeypatch, world_size):
    for name in "bc":
        write(tmp_path / "in" / f"{name}.tif")
    read, lengths = [], set()
    for rank in range(world_size):
        monkeypatch.setattr("custom.data.inference.distributed.rank", lambda rank=rank: rank)
        monkeypatch.setattr("custom.data.inference.distributed.world_size", lambda: world_size)
        items = list(make(dict))
        read += [item["id"] for item in items if "shared" not in item]
        lengths.add(len(items))
    assert sorted(read) == ["a", "b", "c"] and lengths == {-(-3 // world_size)}


def test_an_item_says_what_it_is_of_and_why_it_is_made_again(make, tmp_path):
    write(tmp_path / "out" / "a.tif")
    item = make(lambda case: case)[0]
    assert (item["source"], item["again"]) == (str(tmp_path / "in" / "a.tif"), "unknown origin")


def test_an_image_that_cannot_be_read_costs_no_earlier_prediction(make, tmp_path):
    def read(case):
        raise DataError.of(case["image"], "no such file", "an image")

    dataset = make(read)
    dataset[0]
    path = write(tmp_path / "out" / "a.tif")
    (tmp_path / "in" / "a.tif").unlink()
    assert dataset[0]["failed"].endswith("a.tif: found no such file, expected an image")
    assert path.exists()
