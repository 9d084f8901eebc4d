"""Labels near whole numbers are read as these, others refused with the digits that differ."""

import nibabel
import numpy as np
import pytest

from custom.data import VolumeCache, read_volume, write_volume
from custom.data.labels import as_labels, whole_numbers
from custom.data.volumes import Volume, to_canonical
from custom.errors import DataError
from custom.metrics import liver
from custom.metrics import vesuvius_metric as vesuvius

KINDS = ["u1", "i1", "<i4", ">i2", "u8", "f2", "f4", ">f4", "f8"]


@pytest.mark.parametrize("kind", [*KINDS, "?"])
def test_whole_values_of_every_type(kind):
    label = np.array([[[0, 1], [1, 0]]], kind)
    found = as_labels(label, (0, 1), "a")
    assert found.dtype == np.uint8 and found.tolist() == [[[0, 1], [1, 0]]]
    assert whole_numbers(label, "a").tolist() == found.tolist()


@pytest.mark.parametrize("kind", ["f4", "f8"])
def test_nearly_whole_values_are_rounded_not_cut_off(kind):
    label = np.array([[[-0.001, 0.001, 0.999, 1.001, 1.999, 2.001]]], kind)
    assert as_labels(label, (0, 1, 2), "a").ravel().tolist() == [0, 0, 1, 1, 2, 2]
    assert whole_numbers(label, "a").ravel().tolist() == [0, 0, 1, 1, 2, 2]


def test_other_values_than_the_allowed_are_refused():
    with pytest.raises(DataError, match=r"a: found label values 0, 1, 2, expected only 0, 1"):
        as_labels(np.array([[[0, 1, 1]], [[2, 2, 2]]], np.float32), (1, 0), "a")
    for bad in (0.5, -1, 255):
        with pytest.raises(DataError, match=f"found label values .*{bad:g}"):
            as_labels(np.array([[[0, bad]]]), (0, 1, 2), "a")


@pytest.mark.parametrize(
    ("value", "shown"),
    [(1.0025, "1.0025"), (0.9985, "0.9985"), (-0.002, "-0.002"), (255.0015, "255.0015"), (0.5, "0.5"), (np.nan, "nan")],
)
@pytest.mark.parametrize("kind", ["f4", "f8"])
def test_refusals_show_the_digits_that_differ(value, shown, kind):
    label = np.array([[[0, 1, 2, value, value]]], kind)
    message = rf"^a: found label values {shown}\d{{0,2}}, expected whole numbers"
    for read in (lambda: as_labels(label, (0, 1, 2), "a"), lambda: whole_numbers(label, "a")):
        with pytest.raises(DataError, match=message):
            read()


@pytest.mark.parametrize(("value", "shown"), [(3, "3"), (256, "256"), (-1, "-1"), (257.0002, "257"), (65536, "65536")])
def test_other_whole_numbers_are_refused(value, shown):
    with pytest.raises(DataError, match=rf"a: found label values .*{shown}.*, expected only 0, 1, 2"):
        as_labels(np.array([[[0, 1, value]]]), (0, 1, 2), "a")


def write_rescaled(path, slope):
    """Labels 0, 1, 2 stored as 0, 1000, 2000, to be multiplied by the slope."""
    label = np.zeros((6, 7, 8), np.uint8)
    label[1:4, 1:5, 1:6], label[2, 2:4, 2:4] = 1, 2
    image = nibabel.Nifti1Image((label * 1000.0).astype(np.int16), np.diag([1, 1, 2, 1]))
    path.parent.mkdir(exist_ok=True)
    nibabel.save(image, path)
    content = bytearray(path.read_bytes())
    content[112:120] = np.array([slope, 0], "<f4").tobytes()  # scl_slope, scl_inter
    path.write_bytes(content)
    return label


def test_a_rescaled_label_counts_as_itself_everywhere(tmp_path):
    slope = 0.0009998
    label = write_rescaled(tmp_path / "rescaled" / "a.nii", slope)
    values = read_volume(tmp_path / "rescaled" / "a.nii").array
    assert values.dtype.kind == "f" and 1.999 < values.max() < 2  # truncated it would be 1
    for folder in ("plain", "images"):
        write_volume(tmp_path / folder / "a.nii", label, np.diag([1, 1, 2, 1]))

    cases = [{"id": "a", "image": str(tmp_path / "images/a.nii"), "label": str(tmp_path / "rescaled/a.nii")}]
    (cached,) = VolumeCache(cases=cases, cache_dir=tmp_path / "cache", modality="ct", trust_values=True)
    np.testing.assert_array_equal(cached.label, to_canonical(Volume(label, np.diag([1, 1, 2, 1]))).array)
    assert cached.label_histogram.sum(0).tolist() == np.bincount(label.ravel()).tolist()

    for pair in (("plain", "rescaled"), ("rescaled", "plain")):
        folders = [str(tmp_path / folder) for folder in pair]
        assert liver.score_folders(*folders)[0]["mean"]["tumor"]["dice"] == 1
        assert vesuvius.score_folders(*folders, parts=("surface_dice",))[0]["mean"]["score"] == 1


def test_fractions_are_refused_everywhere(tmp_path):
    write_rescaled(tmp_path / "bad" / "a.nii", 0.0010025)
    write_volume(tmp_path / "good" / "a.nii", write_rescaled(tmp_path / "images" / "a.nii", 1.0))
    bad, good = str(tmp_path / "bad"), str(tmp_path / "good")
    cases = [{"id": "a", "image": str(tmp_path / "images/a.nii"), "label": f"{bad}/a.nii"}]
    for work in (
        lambda: VolumeCache(cases=cases, cache_dir=tmp_path / "cache", modality="ct", trust_values=True),
        lambda: liver.score_folders(bad, good),
        lambda: liver.score_folders(good, bad),
        lambda: vesuvius.score_folders(bad, good),
        lambda: vesuvius.score_folders(good, bad),
    ):
        with pytest.raises(DataError, match=r"bad/a.nii: found label values 1\.0025, 2\.005, expected whole numbers"):
            work()
