import csv
import zipfile

import itk
import nibabel
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageSequence

from custom.competition import submission
from custom.competition.submission import check_ids, fill_missing, write_liver, write_vesuvius
from custom.data.writing import write_volume
from custom.errors import DataError


def lumps(seed, shape=(9, 7, 4)):
    label = np.random.default_rng(seed).integers(0, 3, shape, np.uint8)
    label[:, :, 0] = 0
    return label


@pytest.fixture
def livers(tmp_path):
    """Two volumes of different shapes, one of them with turned axes."""
    volumes = {"volume-2": lumps(0), "volume-010": lumps(1, (5, 8, 3))}
    for name, affine in zip(volumes, (np.diag([-1.0, -1.0, 5.0, 1.0]), np.eye(4)[[1, 2, 0, 3]]), strict=True):
        (tmp_path / "p").mkdir(exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(volumes[name], affine), tmp_path / "p" / f"{name}.nii.gz")
    return tmp_path / "p", volumes


def read_csv(path):
    with path.open(newline="") as stream:
        rows = list(csv.reader(stream))
    assert rows[0] == ["id", "rle"]
    return dict(rows[1:])


def pixels(code, shape):
    """What the competition's page says of the code, pixel by pixel."""
    numbers = [int(word) for word in code.split()]
    mask = np.zeros(shape, bool)
    for start, length in zip(numbers[::2], numbers[1::2], strict=True):
        for pixel in range(start - 1, start - 1 + length):
            mask[pixel % shape[0], pixel // shape[0]] = True
    return mask


def test_liver_rows_are_the_slices_as_stored(livers, tmp_path, capsys):
    folder, volumes = livers
    output = tmp_path / "out" / "submission.csv"
    write_liver(str(folder), output=str(output))
    rows = read_csv(output)
    assert list(rows) == [f"volume-2_{k}" for k in range(4)] + [f"volume-010_{k}" for k in range(3)]
    for name, label in volumes.items():
        for k in range(label.shape[2]):
            assert np.array_equal(pixels(rows[f"{name}_{k}"], label.shape[:2]), label[:, :, k] > 0)
        assert rows[f"{name}_0"] == "1 0"
    assert "2 volumes, 7 slices, 5 of them with liver" in capsys.readouterr().out


def test_liver_transposed_with_another_id(livers, tmp_path):
    folder, volumes = livers
    output = tmp_path / "submission.csv"
    template = "case{number:03d}-{slice:02d}"
    write_liver(str(folder), output=str(output), id_template=template, first_slice=1, transpose=True)
    rows = read_csv(output)
    assert list(rows)[:2] == ["case002-01", "case002-02"]
    label = volumes["volume-010"]
    assert np.array_equal(pixels(rows["case010-03"], label.shape[1::-1]), label[:, :, 2].T > 0)


@pytest.mark.parametrize(
    "template, message", [("{volume}", "twice"), ("{name}_{slice}", "KeyError 'name'"), ("{", ".")]
)
def test_a_template_that_does_not_work_is_refused(livers, tmp_path, template, message):
    output = tmp_path / "submission.csv"
    output.write_text("what was there")
    with pytest.raises(DataError, match=message):
        write_liver(str(livers[0]), output=str(output), id_template=template)
    assert output.read_text() == "what was there"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p", "submission.csv"]


def test_a_wrong_code_is_noticed(livers, tmp_path, monkeypatch):
    right = submission.encode
    monkeypatch.setattr(submission, "encode", lambda mask: right(mask.T))  # down the rows: a common mistake
    with pytest.raises(DataError, match="does not decode to its slice"):
        write_liver(str(livers[0]), output=str(tmp_path / "submission.csv"))
    assert not (tmp_path / "submission.csv").exists()


def test_probabilities_are_refused(tmp_path):
    nibabel.save(nibabel.Nifti1Image(np.full((3, 3, 3), 0.3, np.float32), np.eye(4)), tmp_path / "volume-1.nii")
    with pytest.raises(DataError, match=r"volume-1.nii: found label values 0.3, expected whole numbers"):
        write_liver(str(tmp_path), output=str(tmp_path / "submission.csv"))
    nibabel.save(nibabel.Nifti1Image(np.full((3, 3, 3), 7, np.uint8), np.eye(4)), tmp_path / "volume-1.nii")
    with pytest.raises(DataError, match=r"volume-1.nii: found label values 7, expected only 0, 1, 2"):
        write_liver(str(tmp_path), output=str(tmp_path / "submission.csv"))


@pytest.fixture
def surfaces(tmp_path):
    masks = {"14": lumps(0, (4, 6, 5)) % 2, "7": np.zeros((3, 6, 5), np.uint8)}
    for name, mask in masks.items():
        write_volume(tmp_path / "p" / f"{name}.tif", mask)
    return tmp_path / "p", masks


def test_vesuvius_zip_holds_the_stacks(surfaces, tmp_path):
    folder, masks = surfaces
    output = tmp_path / "submission.zip"
    write_vesuvius(str(folder), output=str(output))
    with zipfile.ZipFile(output) as archive:
        assert archive.namelist() == ["7.tif", "14.tif"]
        archive.extractall(tmp_path / "unpacked")
    for name, mask in masks.items():
        stack = itk.array_from_image(itk.imread(str(tmp_path / "unpacked" / f"{name}.tif")))
        assert stack.dtype == np.uint8 and np.array_equal(stack, mask)


def test_masks_of_other_programs_become_plain_stacks(tmp_path):
    mask = lumps(0, (5, 6, 7)) % 2
    (tmp_path / "p").mkdir()
    tifffile.imwrite(tmp_path / "p" / "1.tif", mask, imagej=True, metadata={"axes": "ZYX"}, truncate=True)  # one page
    tifffile.imwrite(tmp_path / "p" / "2.tif", mask == 0, photometric="miniswhite")  # one bit
    write_volume(tmp_path / "p" / "3.tif", mask.astype(np.int32))
    write_volume(tmp_path / "p" / "4.tif", mask * np.float32(0.9999))
    write_vesuvius(str(tmp_path / "p"), output=str(tmp_path / "submission.zip"))
    with zipfile.ZipFile(tmp_path / "submission.zip") as archive:
        for name in ("1.tif", "2.tif", "3.tif", "4.tif"):
            with Image.open(archive.open(name)) as image:
                np.testing.assert_array_equal(
                    np.stack([np.array(page) for page in ImageSequence.Iterator(image)]), mask
                )
            with tifffile.TiffFile(archive.open(name)) as file:
                assert (file.pages[0].dtype, file.pages[0].compression, len(file.pages)) == (np.uint8, 5, 5)


def test_vesuvius_zip_is_the_same_twice(surfaces, tmp_path):
    for name in ("a.zip", "b.zip"):
        write_vesuvius(str(surfaces[0]), output=str(tmp_path / name))
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


@pytest.mark.parametrize(
    "name, array, message",
    [
        ("1.tif", lumps(0), "1.tif: found label values 0, 1, 2, expected only 0, 1"),
        ("1.tif", (lumps(0) % 2) * np.uint16(257), "1.tif: found label values 0, 257"),
        ("1.tif", (lumps(0) % 2) * np.float32(0.9), "1.tif: found label values 0.9, expected whole numbers"),
        ("1.nii", lumps(0) % 2, "1.nii: found a file ending in .nii, expected TIFF"),
    ],
)
def test_vesuvius_refuses_what_is_no_mask(tmp_path, name, array, message):
    write_volume(tmp_path / "p" / name, array)
    with pytest.raises(DataError, match=message):
        write_vesuvius(str(tmp_path / "p"), output=str(tmp_path / "submission.zip"))
    assert [path.name for path in tmp_path.iterdir()] == ["p"]


def test_a_damaged_zip_is_noticed(surfaces, tmp_path):
    folder, masks = surfaces
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as archive:
        write_volume(tmp_path / "other.tif", 1 - masks["7"])
        for name, source in (("7.tif", tmp_path / "other.tif"), ("14.tif", folder / "14.tif")):
            archive.write(source, name)
    with pytest.raises(DataError, match=r"another 7\.tif"):
        submission._check_zip(tmp_path / "bad.zip", {n: folder / f"{n}.tif" for n in ("7", "14")}, "bad.zip")


def test_missing_predictions_become_zeros_in_the_place_of_the_image(livers, tmp_path):
    images, volumes = livers
    write_volume(tmp_path / "out" / "volume-2.nii.gz", volumes["volume-2"])
    cases = [{"id": name, "image": str(images / f"{name}.nii.gz")} for name in volumes]
    assert fill_missing(cases, tmp_path / "out", ".nii.gz") == ["volume-010"]
    empty = nibabel.load(tmp_path / "out" / "volume-010.nii.gz")
    assert empty.shape == (5, 8, 3) and not np.asarray(empty.dataobj).any()
    assert np.array_equal(empty.affine, np.eye(4)[[1, 2, 0, 3]])
    assert np.array_equal(nibabel.load(tmp_path / "out" / "volume-2.nii.gz").dataobj, volumes["volume-2"])


@pytest.mark.parametrize("shape", [(4, 5, 6), (4, 5, 6, 1), (4, 5)])
def test_missing_predictions_have_the_images_qform_and_sform(tmp_path, shape):
    image = nibabel.Nifti1Image(np.zeros(shape, np.int16), np.diag([0.7, 0.7, 2.5, 1]))
    image.set_qform(np.diag([-0.7, -0.7, 2.5, 1]), 1)
    nibabel.save(image, tmp_path / "a.nii.gz")
    cases = [{"id": "a", "image": str(tmp_path / "a.nii.gz")}]
    assert fill_missing(cases, tmp_path / "out", ".nii.gz") == ["a"]
    assert fill_missing(cases, tmp_path / "out", ".nii.gz") == []
    empty = nibabel.load(tmp_path / "out" / "a.nii.gz")
    assert empty.shape == (*shape, 1, 1)[:3]
    for field in ("qform_code", "quatern_d", "sform_code", "srow_x", "srow_z"):
        assert np.array_equal(empty.header[field], image.header[field]), field


def test_missing_stacks_become_zeros_of_the_images_shape(surfaces, tmp_path):
    cases = [{"id": name, "image": str(surfaces[0] / f"{name}.tif")} for name in ("14", "7")]
    assert fill_missing(cases, tmp_path / "out", ".tif") == ["14", "7"]
    empty = itk.array_from_image(itk.imread(str(tmp_path / "out" / "14.tif")))
    assert empty.shape == (4, 6, 5) and empty.dtype == np.uint8 and not empty.any()
    assert fill_missing(cases, tmp_path / "out", ".tif") == []


def test_a_prediction_of_another_shape_is_refused(surfaces, tmp_path):
    write_volume(tmp_path / "out" / "14.tif", np.zeros((4, 6, 4), np.uint8))
    cases = [{"id": "14", "image": str(surfaces[0] / "14.tif")}]
    with pytest.raises(DataError, match=r"14.tif: found the shape \(4, 6, 4\), expected \(4, 6, 5\)"):
        fill_missing(cases, tmp_path / "out", ".tif")


def test_ids_are_those_of_the_sample(tmp_path):
    (tmp_path / "a.csv").write_text("id,rle\nv_0,1 0\nv_1,1 2\n")
    (tmp_path / "sample.csv").write_text("id,rle\nv_1,\nv_0,\n")
    assert check_ids(tmp_path / "a.csv", tmp_path / "sample.csv") == 2
    (tmp_path / "sample.csv").write_text("id,rle\nv_1,\nv_2,\n")
    with pytest.raises(DataError, match=r"2 ids, without 'v_2', expected the 2 ids of"):
        check_ids(tmp_path / "a.csv", tmp_path / "sample.csv")
    (tmp_path / "sample.csv").write_text("id,rle\nv_1,\n")
    with pytest.raises(DataError, match="with 'v_0'"):
        check_ids(tmp_path / "a.csv", tmp_path / "sample.csv")
