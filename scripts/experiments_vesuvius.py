"""Effect of topology losses and post-processing on the official score, on phantoms."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from scripts.command_line import command_line
from scripts.experiments.commands import ROOT, chosen, markdown, run_bundle, run_python

from custom.data import find_cases, fold_cases
from custom.data.volumes import read_volume
from custom.metrics.vesuvius_score import PARTS, score_volume
from custom.system.files import write_json
from custom.transforms.postprocessing import PostprocessSurfaced

BUNDLE = ROOT / "bundles" / "vesuvius_surface_3d"

VARIANTS = {"dice_ce": ["exp001_full", "loss_dice_ce"], "topology": ["exp001_full"]}
"""The trainings, and their override files for train.json."""

SIZE, N_TRAIN, N_TEST = 128, 6, 3
"""Edge of a phantom in voxels, volumes for training (one of them for validation), volumes to score."""

SMALL = {"network_def#init_filters": 8, "patch_size": [32, 48, 48], "overlap": 0.25}
"""Overrides that make the bundle small enough for two CPU cores."""

TRAINING = {"epochs": 1, "val_interval": 2, "learning_rate": 0.002, "ema#decay": 0.98, "num_workers": 0, "resume": True}

GRID = {
    "threshold_low": [0.3, 0.4, 0.6],
    "threshold_high": [0.7, 0.85],
    "min_component_voxels": [100, 300, 1000],
    "closing_radius": [2, 3],
    "pinhole_iterations": [1, 3],
    "max_hole_area": [100, 400],
    "max_cavity_voxels": [1000],
}
"""Values of the post-processing's parameters that are tried on the validation volume."""

COLUMNS = ("score", *PARTS, "f1_components", "f1_tunnels")


def experiment(
    output: str = "experiments/vesuvius", steps: int = 800, variants: Sequence[str] = tuple(VARIANTS)
) -> None:
    """Train a network with and without the topology terms, post-process, score, and print a Markdown table.

    Phantoms, initial weights, patches, augmentation and steps are the same. One training volume is held out to choose
    the post-processing; the scores are those of other volumes. Finished trainings and predictions are not repeated: the
    same command continues after an interruption, and is refused with other options. About 15 minutes on 2 CPU cores.

    Example: python scripts/experiments_vesuvius.py --output experiments/vesuvius

    Args:
        output: folder for phantoms, weights, probabilities and scores.
        steps: steps of each training.
        variants: some of dice_ce, topology.
    """
    variants = chosen(variants, list(VARIANTS))
    out = Path(str(output)).resolve()
    data = out / "phantoms"
    run_python("scripts/make_phantoms.py", "scroll", output=data, size=SIZE, n_train=N_TRAIN, n_test=N_TEST)
    options = {**TRAINING, "n_folds": N_TRAIN, "steps_per_epoch": steps}
    options |= {"dataset_dir": data, "cache_dir": out / "cache"}
    validation = [case["image"] for case in fold_cases(find_cases(data), n_folds=N_TRAIN, subset="validation")]

    rows: dict[str, dict[str, float]] = {}
    for variant in variants:
        folder = out / variant
        files = {"model_dir": folder / "models", "output_dir": folder / "training"}
        run_bundle(BUNDLE, "training", ["train", *VARIANTS[variant]], **SMALL | options | files)
        _predict(validation, folder / "models", folder / "validation")
        _predict(data / "test_images", folder / "models", folder / "test")
        tuned = _tune(folder / "validation", data / "train_labels", folder / "postprocessing.json", GRID)
        for name, knobs in ((variant, {}), (f"{variant}, post-processed", tuned)):
            rows[name] = _score(folder / "test", data / "test_labels", knobs, folder / f"{name}.json")
    lines = [[name, *(f"{row[key]:.3f}" for key in COLUMNS)] for name, row in rows.items()]
    shown = markdown(["training", *COLUMNS], lines)
    print(f"\n{shown}\n\nMean of {N_TEST} phantoms of {SIZE}^3 after {steps} steps. Everything lies in {out}")


def _predict(images: object, model_dir: Path, folder: Path) -> None:
    """Predict the images as TIFFs of 0 to 255; existing predictions of the same weights are kept."""
    files = {"dataset_dir": images, "checkpoint": model_dir / "model_final.pt", "output_dir": folder}
    run_bundle(BUNDLE, "inferring", ["inference", "exp001_full", "probabilities"], **SMALL | files)


def _tune(probabilities: Path, labels: Path, file: Path, grid: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Return the best post-processing for some probabilities."""
    run_python("scripts/tune_postprocessing.py", probabilities, labels, output=file, rounds=1, grid=dict(grid))
    return {key.rpartition("#")[2]: value for key, value in json.loads(file.read_text()).items()}


def _score(probabilities: Path, labels: Path, knobs: Mapping[str, float], file: Path) -> dict[str, float]:
    """Return the mean scores of post-processed probabilities, and write them to ``file``."""
    postprocess = PostprocessSurfaced("pred", **knobs)
    cases = {}
    for path in sorted(probabilities.glob("*.tif")):
        mask = postprocess({"pred": read_volume(path).array[None]})["pred"][0]
        cases[path.stem] = score_volume(mask, read_volume(labels / path.name).array)
    # F1 is NaN for a dimension without features.
    mean = {column: float(np.nanmean([case[column] for case in cases.values()])) for column in COLUMNS}
    write_json(file, {"postprocessing": dict(knobs), "cases": cases, "mean": mean})
    return mean


if __name__ == "__main__":
    command_line(experiment, "experiments_vesuvius.py")
