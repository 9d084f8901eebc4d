"""nnU-Net's own training and prediction, for ``scripts/compare_nnunet.py`` and ``scripts/experiments_recipe.py``.

Runs in an environment with nnunetv2 2.8.1, and imports nothing of this project. ``python reference.py
train|train_for|predict JOB.json``: the job is a JSON object with the arguments of the function of that name.
"""

import gc
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

CALIBRATION, STEPS_PER_EPOCH = 20, 25
"""Steps by which the time of a step is measured, and of an epoch, in the comparison of recipes."""


def train(folder: str, steps: int, folds: int, **plan: Any) -> None:
    """Plan, preprocess and train on ``folder``/raw for a few steps; results are in ``folder``/results.

    Args:
        folder: the place of all data.
        steps: number of steps of training.
        folds: number of networks.
        plan: arguments of ``_planned``.
    """
    plans, dataset = _planned(folder, **plan)
    import torch

    preprocessed = Path(folder, "preprocessed", plan["name"])
    cases = sorted(path.name.split(".")[0] for path in Path(folder, "raw", plan["name"], "labelsTr").iterdir()
                   if not path.name.endswith(".json"))  # fmt: skip
    (preprocessed / "splits_final.json").write_text(json.dumps([{"train": cases, "val": cases[:1]}] * folds))
    for fold in range(folds):
        torch.manual_seed(fold)
        _trained(plans, plan["configuration"], fold, dataset, 1, steps)


def train_for(folder: str, seconds: float, seed: int, tests: dict, output: str, **plan: Any) -> None:
    """Plan, preprocess and train on ``folder``/raw for a given processor time, and predict.

    Planner, augmentation, loss, optimizer and schedule are nnU-Net's.

    Args:
        folder: the place of all data.
        seconds: processor seconds of the training.
        seed: of the training.
        tests: folders of images, by the folder for their predictions.
        output: the file for the number of steps and the seconds that they took.
        plan: arguments of ``_planned``.
    """
    plans, dataset = _planned(folder, **plan)
    import numpy as np
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    step = _trained(plans, plan["configuration"], "all", dataset, 1, CALIBRATION) / CALIBRATION
    torch.manual_seed(seed)
    np.random.seed(seed)
    epochs = max(1, round(seconds / step / STEPS_PER_EPOCH))
    used = _trained(plans, plan["configuration"], "all", dataset, epochs, STEPS_PER_EPOCH)
    predictor = nnUNetPredictor(
        use_mirroring=False, perform_everything_on_device=False, device=torch.device("cpu"), allow_tqdm=False
    )
    (model,) = Path(folder, "results", plan["name"]).iterdir()
    predictor.initialize_from_trained_model_folder(str(model), ("all",), "checkpoint_final.pth")
    for predictions, images in tests.items():
        Path(predictions).mkdir(parents=True, exist_ok=True)
        predictor.predict_from_files_sequential(images, predictions)
    Path(output).write_text(json.dumps({"steps": epochs * STEPS_PER_EPOCH, "seconds": used}))


def _planned(folder: str, name: str, planner: str, configuration: str, changes: dict, architecture: dict) -> tuple:
    """Plan and preprocess; returns the plans and the dataset's description.

    Args:
        folder: the place of all data.
        name: of the dataset.
        planner: nnU-Net's class that makes the plans, which are then made smaller:
        configuration: ``2d`` or ``3d_fullres``.
        changes: entries of the configuration to replace.
        architecture: arguments of the network to replace.
    """
    _paths(folder)
    from nnunetv2.experiment_planning.plan_and_preprocess_api import extract_fingerprints, plan_experiments, preprocess

    extract_fingerprints([1], num_processes=1, verbose=False)
    plan_experiments([1], planner)
    file = next(Path(folder, "preprocessed", name).glob("*Plans.json"))
    plans = json.loads(file.read_text())
    plan = plans["configurations"][configuration]
    plan.update(changes)
    plan["architecture"]["arch_kwargs"].update(architecture)
    plans["configurations"] = {configuration: plan}
    file.write_text(json.dumps(plans))
    preprocess([1], file.stem, (configuration,), (1,))
    os.environ |= {"nnUNet_n_proc_DA": "0"}  # no processes beside this one; planning needs 1
    return plans, json.loads(Path(folder, "raw", name, "dataset.json").read_text())


def _trained(plans: dict, configuration: str, fold: int | str, dataset: dict, epochs: int, steps: int) -> float:
    """Train a network; returns the processor seconds."""
    import torch
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    started = time.process_time()
    trainer = nnUNetTrainer(plans | {"continue_training": False}, configuration, fold, dataset, torch.device("cpu"))
    trainer.num_epochs, trainer.num_iterations_per_epoch, trainer.num_val_iterations_per_epoch = epochs, steps, 1
    trainer.run_training()
    return time.process_time() - started


def predict(model: str, images: list[str], output: str, sums: str) -> None:
    """Predict images with all folds of a model, and write probabilities, masks and what it took.

    Args:
        model: folder of the trainer.
        images: their files.
        output: folder to write ``<index>.npz`` and ``cost.json`` to.
        sums: ``float16`` as nnU-Net adds logits up, or ``float32``.
    """
    _paths(output)
    import numpy as np
    import torch
    from nnunetv2.inference import predict_from_raw_data

    torch.set_num_threads(1)
    if sums == "float32":
        predict_from_raw_data.torch = _InFloat32()
    predictor = predict_from_raw_data.nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
    checkpoint = "checkpoint_final.pth"
    predictor.initialize_from_trained_model_folder(model, None, checkpoint)
    reader = predictor.plans_manager.image_reader_writer_class()
    costs = []
    for index, image in enumerate(images):
        values, properties = reader.read_images([image])
        if not costs:  # what is allocated once and stays is no cost of a prediction
            predictor.predict_single_npy_array(middle(values), properties, None, None, True)
        found, cost = measured(lambda: predictor.predict_single_npy_array(values, properties, None, None, True))  # noqa: B023
        costs.append(cost)
        mask, probabilities = found
        np.savez(Path(output, f"{index}.npz"), mask=mask, probabilities=probabilities)
    Path(output, "cost.json").write_text(json.dumps(costs))


class _InFloat32:
    """The module torch, with float32 in place of half."""

    def __getattr__(self, name: str):
        import torch

        return torch.float32 if name == "half" else getattr(torch, name)


def measured(work: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """Return the result of ``work``, and its processor and wall seconds, and peak of additional memory in bytes."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before, started, begun = _memory("VmRSS"), time.process_time(), time.perf_counter()
    result = work()
    seconds, wall = time.process_time() - started, time.perf_counter() - begun
    return result, {"seconds": seconds, "wall": wall, "memory": _memory("VmHWM") - before}


def middle(volume: Any) -> Any:
    """Return up to 32 voxels along each axis of ``(C, D, H, W)``."""
    return volume[(slice(None), *(slice(length // 3, length // 3 + 32) for length in volume.shape[1:]))]


def _memory(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) * 1024


def _paths(folder: str) -> None:
    for name in ("raw", "preprocessed", "results"):
        os.environ[f"nnUNet_{name}"] = str(Path(folder, name))
    os.environ |= {"nnUNet_n_proc_DA": "1", "nnUNet_compile": "false", "nnUNet_def_n_proc": "1"}


if __name__ == "__main__":
    {"train": train, "train_for": train_for, "predict": predict}[sys.argv[1]](
        **json.loads(Path(sys.argv[2]).read_text())
    )
