"""Train nnU-Net on phantoms for a given processor time, and predict; run by nnU-Net's own Python.

Planner, augmentation, loss, optimizer and schedule are nnU-Net's. Patch, batch size and number of features are those of
the other arms, since the planner chooses them for a GPU.
"""

import argparse
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any, NamedTuple

STEPS_PER_EPOCH = 25
CALIBRATION = 20
DATASET = "Dataset001_Phantoms"
DATA_FOLDERS = {"nnUNet_raw": "raw", "nnUNet_preprocessed": "preprocessed", "nnUNet_results": "results"}


class Data(NamedTuple):
    """How a kind of phantoms is described to nnU-Net, and trained on."""

    description: dict[str, Any]
    configuration: str
    patch: list[int]
    batch: int
    features: int
    """Of the first stage; they double from stage to stage."""
    images: str
    """Pattern of the image files."""


DATA = {
    "vesuvius_surface_3d": Data(
        {
            "channel_names": {"0": "CT"},
            "labels": {"background": 0, "surface": 1, "ignore": 2},
            "file_ending": ".tif",
            "overwrite_image_reader_writer": "Tiff3DIO",
        },
        configuration="3d_fullres",
        patch=[48, 48, 48],
        batch=2,
        features=8,
        images="*.tif",
    ),
    "liver_tumor_2d": Data(
        {
            "channel_names": {"0": "CT"},
            "labels": {"background": 0, "liver": 1, "tumor": 2},
            "file_ending": ".nii.gz",
            "overwrite_image_reader_writer": "NibabelIOWithReorient",
        },
        configuration="2d",
        patch=[96, 96],
        batch=8,
        features=16,
        images="volume-*.nii.gz",
    ),
}


def copy_volume(source: Path, target: Path) -> None:
    """Copy a volume; a TIFF stack with the spacing that nnU-Net's reader looks for beside it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, target)
    if target.suffix == ".tif":
        name = target.name.removesuffix(".tif").removesuffix("_0000")
        (target.parent / f"{name}.json").write_text('{"spacing": [1, 1, 1]}')


def write_dataset(folder: Path, data: Data, raw: Path) -> None:
    """Copy labelled volumes into nnU-Net's folder layout."""
    ending = data.description["file_ending"]
    images = folder / "train_images" if (folder / "train_images").is_dir() else folder
    cases = sorted(images.glob(data.images))
    for path in cases:
        name = path.name.removesuffix(ending)
        label = Path(str(path).replace("train_images", "train_labels").replace("volume-", "segmentation-"))
        copy_volume(path, raw / "imagesTr" / f"{name}_0000{ending}")
        copy_volume(label, raw / "labelsTr" / f"{name}{ending}")
    (raw / "dataset.json").write_text(json.dumps({**data.description, "numTraining": len(cases)}))


def plan(folder: Path, data: Data) -> dict:
    """Plan and preprocess, then replace patch, batch size and features."""
    from nnunetv2.experiment_planning.plan_and_preprocess_api import extract_fingerprints, plan_experiments, preprocess

    extract_fingerprints([1], num_processes=1)
    plan_experiments([1])
    preprocess([1], configurations=(data.configuration,), num_processes=(1,))
    file = folder / "preprocessed" / DATASET / "nnUNetPlans.json"
    plans = json.loads(file.read_text())
    configuration = plans["configurations"][data.configuration]
    configuration |= {"patch_size": data.patch, "batch_size": data.batch, "batch_dice": len(data.patch) == 2}
    axes = len(data.patch)
    stages = 4  # 48 -> 6
    while data.patch[0] / 2 ** (stages - 1) > 6:
        stages += 1
    configuration["architecture"]["arch_kwargs"] |= {
        "n_stages": stages,
        "features_per_stage": [data.features * 2**stage for stage in range(stages)],
        "kernel_sizes": [[3] * axes] * stages,
        "strides": [[1] * axes] + [[2] * axes] * (stages - 1),
        "n_conv_per_stage": [2] * stages,
        "n_conv_per_stage_decoder": [2] * (stages - 1),
    }
    file.write_text(json.dumps(plans))
    return plans


def train(plans: dict, configuration: str, folder: Path, epochs: int, steps: int) -> float:
    """Train, and return the processor seconds."""
    import torch
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    started = time.process_time()
    description = json.loads((folder / "raw" / DATASET / "dataset.json").read_text())
    trainer = nnUNetTrainer(
        {**plans, "continue_training": False}, configuration, "all", description, device=torch.device("cpu")
    )
    trainer.num_epochs, trainer.num_iterations_per_epoch, trainer.num_val_iterations_per_epoch = epochs, steps, 1
    trainer.run_training()
    return time.process_time() - started


def predict(model: Path, images: Path, output: Path, scratch: Path, data: Data) -> None:
    """Predict all volumes of a folder, under their names."""
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    ending = data.description["file_ending"]
    output.mkdir(parents=True, exist_ok=True)
    for path in sorted(images.glob(data.images)):
        copy_volume(path, scratch / f"{path.name.removesuffix(ending)}_0000{ending}")
    predictor = nnUNetPredictor(
        use_mirroring=False, perform_everything_on_device=False, device=torch.device("cpu"), allow_tqdm=False
    )
    predictor.initialize_from_trained_model_folder(str(model), ("all",), "checkpoint_final.pth")
    predictor.predict_from_files_sequential(str(scratch), str(output))


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser()
    for name in ("bundle", "data", "output", "test"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--seed", type=int, required=True)
    options = parser.parse_args()
    data, output = DATA[options.bundle], Path(options.output)
    work = output / "nnunet"
    shutil.rmtree(work, ignore_errors=True)
    os.environ |= {name: str(work / folder) for name, folder in DATA_FOLDERS.items()}
    os.environ["nnUNet_compile"] = "f"  # noqa: SIM112
    write_dataset(Path(options.data), data, work / "raw" / DATASET)

    import numpy as np
    import torch

    plans = plan(work, data)
    os.environ["nnUNet_n_proc_DA"] = "0"  # noqa: SIM112 - batches are made in this process, which is timed
    step = train(plans, data.configuration, work, 1, CALIBRATION) / CALIBRATION
    torch.manual_seed(options.seed)
    np.random.seed(options.seed)
    epochs = max(1, round(options.seconds / step / STEPS_PER_EPOCH))
    seconds = train(plans, data.configuration, work, epochs, STEPS_PER_EPOCH)
    model = work / "results" / DATASET / f"nnUNetTrainer__nnUNetPlans__{data.configuration}"
    for name, images in json.loads(options.test).items():
        predict(model, Path(images), output / "predictions" / name, work / "test" / name, data)
    done = {"steps": epochs * STEPS_PER_EPOCH, "seconds": seconds}
    (output / "nnunet.json").write_text(json.dumps(done))


if __name__ == "__main__":
    main()
