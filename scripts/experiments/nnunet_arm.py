"""Train nnU-Net on scroll phantoms for a given processor time, and predict; run by nnU-Net's own Python.

Planner, augmentation, loss, optimizer and schedule are nnU-Net's. Patch, batch size and number of features are those of
the other arms, since the planner chooses them for a GPU.
"""

import argparse
import json
import os
import shutil
import time
from pathlib import Path

STEPS_PER_EPOCH = 25
CALIBRATION = 20
NAME = "Dataset001_Scroll"
DATA_FOLDERS = {"nnUNet_raw": "raw", "nnUNet_preprocessed": "preprocessed", "nnUNet_results": "results"}


def copy_volume(source: Path, target: Path) -> None:
    """Copy a TIFF stack, with the spacing that nnU-Net's reader looks for beside it."""
    shutil.copy(source, target)
    name = target.name.removesuffix(".tif").removesuffix("_0000")
    (target.parent / f"{name}.json").write_text('{"spacing": [1, 1, 1]}')


def write_dataset(data: Path, raw: Path) -> None:
    """Copy labelled volumes into nnU-Net's folder layout."""
    for kind, folder, ending in (("images", "imagesTr", "_0000.tif"), ("labels", "labelsTr", ".tif")):
        (raw / folder).mkdir(parents=True)
        for path in sorted((data / f"train_{kind}").glob("*.tif")):
            copy_volume(path, raw / folder / f"{path.stem}{ending}")
    description = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, "surface": 1, "ignore": 2},
        "numTraining": len(list((raw / "labelsTr").glob("*.tif"))),
        "file_ending": ".tif",
        "overwrite_image_reader_writer": "Tiff3DIO",
    }
    (raw / "dataset.json").write_text(json.dumps(description))


def plan(folder: Path) -> dict:
    """Plan and preprocess, then replace patch, batch size and features."""
    from nnunetv2.experiment_planning.plan_and_preprocess_api import extract_fingerprints, plan_experiments, preprocess

    extract_fingerprints([1], num_processes=1)
    plan_experiments([1])
    preprocess([1], configurations=("3d_fullres",), num_processes=(1,))
    file = folder / "preprocessed" / NAME / "nnUNetPlans.json"
    plans = json.loads(file.read_text())
    configuration = plans["configurations"]["3d_fullres"]
    configuration |= {"patch_size": [48, 48, 48], "batch_size": 2, "batch_dice": False}
    arguments = configuration["architecture"]["arch_kwargs"]
    stages = 4  # 48 -> 6
    arguments |= {
        "n_stages": stages,
        "features_per_stage": [8 * 2**stage for stage in range(stages)],
        "kernel_sizes": [[3, 3, 3]] * stages,
        "strides": [[1, 1, 1]] + [[2, 2, 2]] * (stages - 1),
        "n_conv_per_stage": [2] * stages,
        "n_conv_per_stage_decoder": [2] * (stages - 1),
    }
    file.write_text(json.dumps(plans))
    return plans


def train(plans: dict, folder: Path, epochs: int, steps: int) -> float:
    """Train, and return the processor seconds."""
    import torch
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    started = time.process_time()
    description = json.loads((folder / "raw" / NAME / "dataset.json").read_text())
    trainer = nnUNetTrainer(
        {**plans, "continue_training": False}, "3d_fullres", "all", description, device=torch.device("cpu")
    )
    trainer.num_epochs, trainer.num_iterations_per_epoch, trainer.num_val_iterations_per_epoch = epochs, steps, 1
    trainer.run_training()
    return time.process_time() - started


def predict(model: Path, images: Path, output: Path, scratch: Path) -> None:
    """Predict all volumes of a folder as ``<id>.tif``."""
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    scratch.mkdir(parents=True)
    output.mkdir(parents=True, exist_ok=True)
    for path in sorted(images.glob("*.tif")):
        copy_volume(path, scratch / f"{path.stem}_0000.tif")
    predictor = nnUNetPredictor(
        use_mirroring=False, perform_everything_on_device=False, device=torch.device("cpu"), allow_tqdm=False
    )
    predictor.initialize_from_trained_model_folder(str(model), ("all",), "checkpoint_final.pth")
    predictor.predict_from_files_sequential(str(scratch), str(output))


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser()
    for name in ("data", "output", "test"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--seed", type=int, required=True)
    options = parser.parse_args()
    output = Path(options.output)
    work = output / "nnunet"
    shutil.rmtree(work, ignore_errors=True)
    os.environ |= {name: str(work / folder) for name, folder in DATA_FOLDERS.items()}
    os.environ["nnUNet_compile"] = "f"  # noqa: SIM112
    write_dataset(Path(options.data), work / "raw" / NAME)

    import numpy as np
    import torch

    plans = plan(work)
    os.environ["nnUNet_n_proc_DA"] = "0"  # noqa: SIM112 - batches are made in this process, which is timed
    step = train(plans, work, 1, CALIBRATION) / CALIBRATION
    torch.manual_seed(options.seed)
    np.random.seed(options.seed)
    epochs = max(1, round(options.seconds / step / STEPS_PER_EPOCH))
    seconds = train(plans, work, epochs, STEPS_PER_EPOCH)
    model = work / "results" / NAME / "nnUNetTrainer__nnUNetPlans__3d_fullres"
    for name, images in json.loads(options.test).items():
        predict(model, Path(images), output / "predictions" / name, work / "test" / name)
    done = {"steps": epochs * STEPS_PER_EPOCH, "seconds": seconds}
    (output / "nnunet.json").write_text(json.dumps(done))


if __name__ == "__main__":
    main()
