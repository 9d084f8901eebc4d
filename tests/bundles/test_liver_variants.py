"""Every version and loss of the liver bundle trains, and predicts with the weights it left."""

import csv
import json
import math
from itertools import islice
from pathlib import Path

import itk
import nibabel
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow

from custom.data import VolumeDataset, find_cases

# 48 x 48 slices of the phantoms are no multiple of 32: the networks see them padded.
TINY = {
    "epochs": 1,
    "steps_per_epoch": 1,
    "batch_size": 2,
    "slice_size": [64, 64],
    "n_folds": 3,
    "num_workers": 0,
    "sw_batch_size": 4,
    "augmentation#warp#elastic_spacing": 40,
}
SMALL_NETWORK = {"network_def#decoder_channels": [16, 16, 8, 8, 8]}

# The network of these is their point; the others train a small one.
OWN_NETWORK = {"v1_baseline", "v2_unetplusplus", "v3_context", "v4_resnet_elastic", "v5_wide_context"}
LOSSES = ["loss_tversky", "loss_focal_tversky", "loss_dice_focal", "loss_log_cosh_dice", "loss_lovasz"]
VARIANTS = [*sorted(OWN_NETWORK), "binary", "v3_context+binary", "kaggle_p100", *LOSSES]


@pytest.fixture(scope="module")
def liver(phantoms):
    return phantoms["liver_tumor_2d"]


def workflow(liver, names, kind, **options):
    if not OWN_NETWORK & set(names):
        options = SMALL_NETWORK | options
    sizes = TINY if kind == "train" else {"sw_batch_size": TINY["sw_batch_size"]}
    return ConfigWorkflow(
        liver.configs(*names),
        workflow_type=kind,
        run_id={"train": "training", "infer": "inferring"}[kind],
        logging_file=False,
        bundle_root=str(liver.root),
        **sizes | options,
    )


@pytest.fixture(scope="module")
def trained(liver, make_folder):
    """The folder a variant left after one step, by the names of its override files."""
    cache = make_folder("cache")
    done: dict[str, Path] = {}

    def train(variant: str) -> Path:
        if variant not in done:
            out = done[variant] = make_folder(variant or "default")
            folders = {"cache_dir": str(cache), "model_dir": str(out / "models"), "output_dir": str(out / "eval")}
            flow = workflow(liver, ["train", *names(variant)], "train", dataset_dir=str(liver.data), **folders)
            flow.initialize()
            flow.run()
        return done[variant]

    return train


def names(variant: str) -> list[str]:
    return variant.split("+") if variant else []


def infer(liver, trained, variant, images, output_dir) -> None:
    flow = workflow(
        liver,
        ["inference", *names(variant)],
        "infer",
        dataset_dir=str(images),
        model_dir=str(trained(variant) / "models"),
        output_dir=str(output_dir),
    )
    flow.initialize()
    flow.run()


def only_row(path: Path) -> dict[str, str]:
    with path.open() as stream:
        (row,) = csv.DictReader(stream)
    return row


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_variant_trains_and_predicts(liver, trained, variant, tmp_path):
    out = trained(variant)
    history = only_row(out / "eval" / "metrics.csv")
    assert math.isfinite(float(history["train_loss"]))
    assert 0 <= float(history["liver_dice"]) <= 1

    infer(liver, trained, variant, liver.images, tmp_path)
    (source,) = liver.images.glob("volume-*.nii.gz")
    image, found = nibabel.load(source), nibabel.load(tmp_path / source.name)
    np.testing.assert_allclose(found.affine, image.affine, atol=1e-5)
    assert found.shape == image.shape
    assert set(np.unique(found.dataobj)) <= ({0, 1} if "binary" in variant else {0, 1, 2})


def test_a_merged_region_is_judged_against_a_merged_label(trained):
    """``mask > 0`` of a dataset with tumours: no tumour is asked for, and none is missed."""
    scores = json.loads((trained("binary") / "eval" / "scores.json").read_text())
    assert scores["mean"]["liver"]["dice"] is not None
    assert scores["mean"]["tumor"]["dice"] is None
    assert all(case["lesions"] == {"tp": 0, "fp": 0, "fn": 0} for case in scores["cases"].values())
    history = only_row(trained("binary") / "eval" / "metrics.csv")
    assert float(history["mean_dice"]) == pytest.approx(scores["mean"]["liver"]["dice"], abs=1e-6)


def test_a_dataset_whose_labels_are_merged(liver, tmp_path):
    cases = find_cases(liver.data)
    for case in cases:
        label = nibabel.load(case["label"])
        merged = nibabel.Nifti1Image((np.asarray(label.dataobj) > 0).astype(np.uint8), label.affine)
        case["label"] = str(tmp_path / Path(case["label"]).name)
        nibabel.save(merged, case["label"])
    (tmp_path / "list.json").write_text(json.dumps([{**case, "image": str(case["image"])} for case in cases]))
    folders = {"cache_dir": str(tmp_path / "c"), "model_dir": str(tmp_path / "m"), "output_dir": str(tmp_path / "o")}
    flow = workflow(liver, ["train", "binary"], "train", dataset_dir=str(tmp_path / "list.json"), **folders)
    flow.initialize()
    batches = flow.parser.get_parsed_content("train#dataloader")
    labels = torch.cat([batch["label"] for batch in islice(batches, 20)])
    assert labels.shape == (20 * flow.parser["batch_size"], 1, 64, 64) and labels.amax((1, 2, 3)).float().mean() > 0.5
    flow.run()
    assert (tmp_path / "m" / "model.pt").exists()


def test_context_is_the_same_in_training_and_inference(liver, tmp_path):
    """The phantoms' slices are 5 mm apart, so that 12 mm are two slices."""
    flow = workflow(
        liver,
        ["train", "v3_context"],
        "train",
        dataset_dir=str(liver.data),
        cache_dir=str(tmp_path / "cache"),
        output_dir=str(tmp_path),
        context_mm=12.0,
    )
    flow.initialize()
    dataset = flow.parser.get_parsed_content("train#dataset")
    dataset.transform = dataset.slice_size = None
    item = dataset[0]
    volume = next(volume for volume in dataset.volumes if volume.id == item["id"])
    index = item["slice"]
    expected = [volume.image[min(max(k, 0), 11)] for k in (index - 2, index, index + 2)]
    np.testing.assert_array_equal(item["image"], expected)

    seen = []

    def network(batch):
        seen.append(batch)
        return batch[:, :1]

    (whole,) = VolumeDataset(data=[volume])
    flow.parser.get_parsed_content("validate#inferer")(whole["image"][None], network)
    batches = seen[::2]  # every second one is mirrored
    np.testing.assert_array_equal(torch.cat(batches)[index, :, :48, :48], expected)


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["", "v3_context"])
def test_one_slice_alone(liver, trained, tmp_path, variant):
    """A NIfTI of two dimensions and one DICOM file."""
    plane = np.random.default_rng(0).integers(-100, 200, (40, 50)).astype(np.int16)
    flat = tmp_path / "images" / "flat.nii.gz"
    flat.parent.mkdir()
    nibabel.save(nibabel.Nifti1Image(plane, np.diag([0.8, 0.7, 1, 1])), flat)
    dicom = write_dicom_slice(tmp_path / "images" / "slice.dcm", plane)
    for image in (flat, dicom):
        infer(liver, trained, variant, image, tmp_path / "out")
    flat, dicom = (nibabel.load(tmp_path / "out" / name) for name in ("flat.nii.gz", "slice.nii.gz"))
    assert flat.shape[:2] == (40, 50)
    np.testing.assert_allclose(flat.affine[:2, :2], np.diag([0.8, 0.7]), atol=1e-6)
    assert dicom.shape[:2] == (50, 40)
    np.testing.assert_allclose(np.abs(np.diag(dicom.affine))[:2], [0.7, 0.8], atol=1e-6)


def write_dicom_slice(path: Path, plane: np.ndarray) -> Path:
    image = itk.image_from_array(plane[None])
    image.SetSpacing([0.7, 0.8, 2.5])
    image.GetMetaDataDictionary()["0008|0060"] = "CT"
    writer = itk.ImageFileWriter[type(image)].New(Input=image, FileName=str(path))
    writer.SetImageIO(itk.GDCMImageIO.New())
    writer.Write()
    return path


@pytest.mark.parametrize("name", [*VARIANTS[:4], "kaggle_p100", *LOSSES])
def test_an_override_holds_only_what_differs(liver, name):
    whole = ConfigParser(ConfigParser.load_config_file(liver.configs("train")[0]))
    override = ConfigParser.load_config_file(liver.configs(name)[0])
    for key, value in override.items():
        assert whole.get(key, "absent") not in (value, "absent"), f"{name}.json: {key}"


def test_v5_normalises_crops_as_whole_slices(liver):
    """Statistics of instance normalisation would differ between crops in training and slices in inference."""
    parser = ConfigParser(ConfigParser.load_config_file(liver.configs("v5_wide_context")[0]))
    norms = {type(m).__name__ for m in parser.get_parsed_content("network_def").modules() if "Norm" in type(m).__name__}
    assert norms == {"BatchNorm2d"}


def test_all_overrides_are_tested(liver):
    known = {"train", "evaluate", "inference", "metadata", "quickstart", "multi_gpu_train", "multi_gpu_evaluate"}
    known |= {"probabilities", "multi_gpu_inference", "inference_onnx", "inference_deploy"}  # of inference alone
    known |= {"export_onnx"}
    present = {path.stem for path in (liver.root / "configs").glob("*.json")} - known
    assert present == {name for variant in VARIANTS for name in names(variant)}
