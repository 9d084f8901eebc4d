"""Comparison of the liver bundle's versions and losses on phantoms."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scripts.command_line import command_line
from scripts.experiments.commands import ROOT, chosen, markdown, run_bundle, run_python
from scripts.reports.runs import duration, read_csv

MAGNITUDE = "elastic_magnitude"
BUNDLE = ROOT / "bundles" / "liver_tumor_2d"
SIZE, FULL_SIZE = 96, 512
"""Rows and columns of a slice here, and those that the override files are meant for."""
PHANTOMS = {"size": SIZE, "slices": 24, "n_train": 32, "n_test": 6}
EPOCHS = 4
SETTINGS = {
    "epochs": EPOCHS,
    "batch_size": 8,
    "learning_rate": 0.001,
    "slice_size": [SIZE, SIZE],
    "augmentation#warp#elastic_spacing": 32 * SIZE / FULL_SIZE,
    "n_folds": 8,
    "num_workers": 0,
    "seed": 0,
}

VERSIONS = {
    "v1_baseline": ["v1_baseline"],
    "v2": ["v2_unetplusplus"],
    "v3_context": ["v3_context"],
    "v4_resnet_elastic": ["v4_resnet_elastic"],
    **{
        f"v3_context+{loss}": ["v3_context", loss]
        for loss in ("loss_tversky", "loss_focal_tversky", "loss_dice_focal", "loss_log_cosh_dice", "loss_lovasz")
    },
}
"""The override files of each version, by folder name. Losses are compared with V3, the cheapest good version."""


def experiment(output: str = "experiments/liver", only: Sequence[str] = tuple(VERSIONS), steps: int = 320) -> None:
    """Train each version on the same phantoms, score it on others, and print a Markdown table.

    Steps, batch size, learning rate and seed are the same for all; networks, context, augmentation and losses are those
    of the override files at full size. An eighth of the training volumes is used for validation; the scores are those
    of six other volumes. Finished trainings are not repeated: the same command continues after an interruption, and
    is refused with other options. About an hour on 2 CPU cores.

    Example: python scripts/experiments_liver.py --output experiments/liver --only v1_baseline,v2

    Args:
        output: folder for phantoms and one folder per version; scripts/report.py takes the training/ in these.
        only: names of the versions, see VERSIONS.
        steps: optimizer steps of each training, a multiple of 4.
    """
    names = chosen(only, list(VERSIONS))
    out = Path(str(output)).resolve()
    data = out / "phantoms"
    run_python("scripts/make_phantoms.py", "abdomen", output=data, **PHANTOMS)
    settings = SETTINGS | {"steps_per_epoch": steps // EPOCHS, "cache_dir": out / "cache"}
    for name in names:
        _train_and_score(VERSIONS[name], out / name, data, settings)
    print(f"\n{table([out / name for name in names])}\n\nEverything lies in {out}")


def _train_and_score(overrides: list[str], folder: Path, data: Path, settings: dict[str, Any]) -> None:
    options = {**settings, **_scaled_elastic(overrides), "model_dir": folder / "models"}
    configs = ["train", *overrides]
    training = {"dataset_dir": data, "output_dir": folder / "training", "resume": True}
    run_bundle(BUNDLE, "training", configs, **options, **training)
    held_out = {"dataset_dir": data / "held_out.json", "subset": "all", "output_dir": folder / "held_out"}
    run_bundle(BUNDLE, "evaluating", [*configs, "evaluate"], **options, **held_out)


def table(folders: Sequence[Path]) -> str:
    """Return scores on the held-out volumes and costs of training, in Markdown."""
    rows = []
    for folder in folders:
        mean = json.loads((folder / "held_out" / "scores.json").read_text(encoding="utf-8"))["mean"]
        scores = (mean["liver"]["dice"], mean["tumor"]["dice"], mean["lesions"]["f1"])
        seconds = float(read_csv(folder / "training" / "metrics.csv")[-1]["seconds"])
        rows.append([folder.name, *("-" if score is None else f"{score:.3f}" for score in scores), duration(seconds)])
    return markdown(["version", "liver Dice", "tumour Dice", "lesion F1", "training"], rows)


def _scaled_elastic(overrides: list[str]) -> dict[str, Any]:
    """The override's elastic deformation, scaled to slices of the size used here."""
    changed: dict[str, Any] = {}
    for name in overrides:
        changed |= json.loads((BUNDLE / "configs" / f"{name}.json").read_text(encoding="utf-8"))
    magnitude = changed.get(MAGNITUDE)
    return {} if magnitude is None else {MAGNITUDE: [pixels * SIZE / FULL_SIZE for pixels in magnitude]}


if __name__ == "__main__":
    command_line(experiment, "experiments_liver.py")
