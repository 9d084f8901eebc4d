"""What is wrong with a dataset is said in one line, by file name, before the first step."""

import shutil

import itk
import nibabel
import numpy as np
import pytest
from monai.bundle import ConfigWorkflow

from custom.errors import DataError, find_data_error


def prepare(bundle, tmp_path, **options):
    """Everything that happens before the first training step."""
    flow = ConfigWorkflow(
        bundle.configs("train", "quickstart"),
        workflow_type="train",
        bundle_root=str(bundle.root),
        cache_dir=str(tmp_path / "cache"),
        **bundle.options | options,
    )
    flow.initialize()
    return flow.parser.get_parsed_content("train#trainer")


def refusal(bundle, tmp_path, **options) -> str:
    with pytest.raises(Exception) as caught:
        prepare(bundle, tmp_path, **options)
    error = find_data_error(caught.value)
    assert isinstance(error, DataError), caught.value
    assert "\n" not in str(error)
    assert "found" in str(error) and "expected" in str(error)
    return str(error)


@pytest.fixture
def faulty(bundle, tmp_path):
    """A copy of the phantoms to spoil: the folder, an image, its label."""
    folder = shutil.copytree(bundle.data, tmp_path / "data")
    if bundle.name == "liver_tumor_2d":
        return folder, folder / "volume-001.nii.gz", folder / "segmentation-001.nii.gz"
    image = sorted((folder / "train_images").iterdir())[1]
    return folder, image, folder / "train_labels" / image.name


def read(path):
    if path.suffix == ".tif":
        return itk.array_from_image(itk.imread(str(path)))
    return np.asarray(nibabel.load(path).dataobj)


def write(path, array):
    if path.suffix == ".tif":
        itk.imwrite(itk.image_from_array(array), str(path))
    else:
        nibabel.save(nibabel.Nifti1Image(array, nibabel.load(path).affine), path)


def other_shape(image, label):
    write(label, read(label)[:, :, :-1].copy())
    return label


def unknown_value(image, label):
    array = read(label).copy()
    array[0, 0, 0] = 7
    write(label, array)
    return label


def truncated(image, label):
    image.write_bytes(image.read_bytes()[: image.stat().st_size // 2])
    return image


def empty_file(image, label):
    image.write_bytes(b"")
    return image


def no_label(image, label):
    label.unlink()
    return image


def not_a_number(image, label):
    array = read(image).astype(np.float32)
    array[1, 2, 3] = np.nan
    write(image, array)
    return image


@pytest.mark.parametrize("spoil", [other_shape, unknown_value, truncated, empty_file, no_label, not_a_number])
def test_a_faulty_file_is_named(bundle, faulty, tmp_path, spoil):
    folder, image, label = faulty
    if spoil is not_a_number and image.suffix == ".tif":
        pytest.skip("a TIFF of whole numbers holds no NaN")
    named = spoil(image, label)
    assert str(named) in refusal(bundle, tmp_path, dataset_dir=str(folder))


def test_a_missing_or_empty_folder_is_named(bundle, tmp_path):
    missing = str(tmp_path / "nowhere")
    assert missing in refusal(bundle, tmp_path, dataset_dir=missing)
    (tmp_path / "empty").mkdir()
    assert str(tmp_path / "empty") in refusal(bundle, tmp_path, dataset_dir=str(tmp_path / "empty"))


def test_several_frames_are_refused_and_one_is_not(phantoms, tmp_path):
    bundle = phantoms["liver_tumor_2d"]
    folder = shutil.copytree(bundle.data, tmp_path / "data")
    image = folder / "volume-001.nii.gz"
    array = read(image)
    write(image, array[..., None].astype(np.int32))
    assert prepare(bundle, tmp_path, dataset_dir=str(folder)) is not None
    write(image, np.stack([array, array], -1))
    assert "volume-001.nii.gz" in refusal(bundle, tmp_path, dataset_dir=str(folder))


@pytest.mark.slow
def test_on_the_command_line_it_is_one_line_and_exit_code_1(bundle, faulty, tmp_path):
    folder, image, label = faulty
    named = truncated(image, label)
    process = bundle.run(
        "training",
        ["configs/train.json", "configs/quickstart.json"],
        **bundle.options | {"dataset_dir": folder, "cache_dir": tmp_path / "cache", "output_dir": tmp_path / "out"},
    )
    assert process.returncode == 1
    assert "Traceback" not in process.stderr
    last = process.stderr.strip().splitlines()[-1]
    assert last.startswith(f"error: {named}: found ") and "expected" in last
    assert "training [1/2]" not in process.stderr
