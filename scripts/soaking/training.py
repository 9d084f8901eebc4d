"""Training of a bundle as configured, but with a network of one layer."""

import logging
import math
from logging.handlers import BufferingHandler
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigWorkflow

from scripts.reports.runs import read_csv

EPOCHS = 4
ALL_TERMS = {"vesuvius_surface_3d": ["exp001_full"]}
"""Override files with which all terms of the loss have a weight."""
CONFIGS = Path(__file__).resolve().parents[2] / "bundles"


def workflow(bundle: str, data: Path, folder: Path, *, steps: int, num_workers: int) -> ConfigWorkflow:
    """Create the workflow of ``train.json``, with all losses, on tiny patches of all volumes, which are also validated.

    Args:
        bundle: its name.
        data: the list of cases.
        folder: for cache, weights and tables.
        steps: optimizer steps.
        num_workers: worker processes of the loader.
    """
    layer = {"in_channels": 1, "out_channels": 2, "kernel_size": 3, "padding": 1}
    own: dict[str, Any] = {
        "vesuvius_surface_3d": {"network_def": {"_target_": "torch.nn.Conv3d", **layer}, "patch_size": [12, 24, 24]},
        "liver_tumor_2d": {"network_def": {"_target_": "torch.nn.Conv2d", **layer}, "slice_size": [48, 48]},
    }
    flow = ConfigWorkflow(
        [str(CONFIGS / bundle / "configs" / f"{name}.json") for name in ("train", *ALL_TERMS.get(bundle, ()))],
        workflow_type="train",
        bundle_root=str(CONFIGS / bundle),
        dataset_dir=str(data),
        cache_dir=str(folder / "cache"),
        model_dir=str(folder / "models"),
        output_dir=str(folder / "eval"),
        epochs=min(EPOCHS, steps),
        steps_per_epoch=math.ceil(steps / EPOCHS),
        num_workers=num_workers,
        **{"train#dataset#data": "@cases", "validate#dataset#data": "@cases"},
        **own[bundle],
    )
    flow.initialize()
    return flow


def run_training(flow: ConfigWorkflow, folder: Path) -> list[str]:
    """Train, and check the results.

    Returns:
        the faults, one line each: an error, a skipped step, a loss or weights that are not finite.
    """
    said = BufferingHandler(math.inf)
    said.setLevel(logging.WARNING)
    logging.getLogger("custom").addHandler(said)
    try:
        flow.run()
        flow.finalize()
    except Exception as error:  # any error has ended the training
        return [f"training: {type(error).__name__}: {error}"]
    finally:
        logging.getLogger("custom").removeHandler(said)
    lines = [record.getMessage() for record in said.buffer]
    faults = [f"training: {line}" for line in lines if "left out the optimizer step" in line]
    losses = [float(row["train_loss"]) for row in read_csv(folder / "eval" / "metrics.csv")]
    if len(losses) != flow.parser["epochs"] or not all(map(math.isfinite, losses)):
        faults.append(f"training: losses {losses}")
    for name in ("model.pt", "model_final.pt"):
        weights = torch.load(folder / "models" / name, weights_only=True).values()
        if not all(weight.isfinite().all() for weight in weights):
            faults.append(f"training: {name} is not finite")
    return faults
