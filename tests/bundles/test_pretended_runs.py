"""Plan, training, resume, evaluation and inference on a pretended GPU leave what they leave on the CPU."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow

from scripts.pretended_gpu import PretendedGPU, why_not

from custom.data import read_volume

pytestmark = [
    pytest.mark.skipif(why_not() is not None, reason=str(why_not())),
    pytest.mark.slow,
]
NO_PICTURES = {"validate#handlers#0#panels": False}
SAME_LAYOUT = {"module": "$@network_def.to(@device)"}
"""Of weights in memory: convolutions with channels last, which only a GPU gets, round differently."""
SMALLER = {
    "vesuvius_surface_3d": {"epochs": 1, "network_def#init_filters": 4, "batch_size": 1, **NO_PICTURES},
    "liver_tumor_2d": {"epochs": 1, **NO_PICTURES, **SAME_LAYOUT},
}


def run(bundle, folder: Path, device: str, kind: str, configs: list[str], run_id: str, **options):
    small = bundle.inference_options if kind == "infer" else {**bundle.options, "cache_dir": str(folder / "cache")}
    small |= {key: value for key, value in SMALLER[bundle.name].items() if kind == "train" or "network" in key}
    options = {
        "device": f"$torch.device('{device}')",
        "precision": "float32",
        "bundle_root": str(bundle.root),
    } | options
    flow = ConfigWorkflow(
        bundle.configs(*configs),
        workflow_type=kind,
        run_id=run_id,
        logging_file=False,
        model_dir=str(folder / "models"),
        **small | options,
    )
    flow.initialize()
    flow.run()


def everything(bundle, folder: Path, device: str) -> dict[str, list]:
    """Train until the budget ends, at once; resume, evaluate and infer; return what is left."""
    training = {"output_dir": str(folder / "training")}
    run(bundle, folder, device, "train", ["train"], "training", **training, budget_hours=1e-6)
    run(bundle, folder, device, "train", ["train"], "training", **training, resume=True)
    run(bundle, folder, device, "train", ["train", "evaluate"], "evaluating", output_dir=str(folder / "evaluation"))
    images = {"dataset_dir": str(bundle.images), "output_dir": str(folder / "predictions")}
    run(bundle, folder, device, "infer", ["inference"], "run", **images)
    weights = torch.load(folder / "models" / "model.pt")
    predictions = sorted(path for path in (folder / "predictions").iterdir() if path.suffix != ".json")
    return {
        "weights": [weights[key] for key in sorted(weights)],
        "scores": [float(row["score"]) for row in rows(folder / "training" / "metrics.csv") if "score" in row],
        "cases": [len(rows(folder / "evaluation" / "cases.csv"))],
        "predictions": [read_volume(path).array for path in predictions],
    }


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as stream:
        return list(csv.DictReader(stream))


def test_the_same_is_left(bundle, tmp_path):
    expected = everything(bundle, tmp_path / "cpu", "cpu")
    with PretendedGPU("real"):
        found = everything(bundle, tmp_path / "gpu", "cuda")
    for a, b in zip(found["weights"], expected["weights"], strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)
    assert found["cases"] == expected["cases"] and found["predictions"]
    assert found["scores"] == pytest.approx(expected["scores"], abs=1e-3)
    for a, b in zip(found["predictions"], expected["predictions"], strict=True):
        assert (a == b).mean() > 0.999 and a.dtype == np.uint8


def test_a_plan_names_the_device_and_its_memory(phantoms, tmp_path, capsys):
    bundle = phantoms["vesuvius_surface_3d"]
    with PretendedGPU("real", name="Imagined 9000"):
        run(bundle, tmp_path, "cuda", "train", ["train"], "plan", **{"planner#steps": 1})
    printed = capsys.readouterr().out
    assert "| device | Imagined 9000 |" in printed and "| GPU memory |" in printed
