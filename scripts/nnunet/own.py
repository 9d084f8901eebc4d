"""Prediction with an imported model, for ``scripts/compare_nnunet.py``: ``python -m scripts.nnunet.own JOB.json``."""

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.transforms import Compose

from scripts.nnunet.reference import measured, middle

from custom.handlers.load_weights import load_weights

BUNDLES = Path(__file__).resolve().parents[2] / "bundles"


def predict(bundle: str, imported: str, images: list[str], output: str) -> None:
    """Predict images, and write probabilities and masks in nnU-Net's order of axes, and what it took.

    Args:
        bundle: name of the bundle.
        imported: folder that ``scripts/import_nnunet.py`` wrote.
        images: their files.
        output: folder to write ``<index>.npz`` and ``cost.json`` to.
    """
    torch.set_num_threads(1)
    parser = ConfigParser()
    parser.read_config([str(BUNDLES / bundle / "configs" / "inference.json"), str(Path(imported, "nnunet.json"))])
    parser["precision"], parser["inferer#progress"] = "float32", False
    network = parser.get_parsed_content("network_def").eval()
    load_weights(str(Path(imported, "model.pt")), network)
    preprocessing: Compose = parser.get_parsed_content("preprocessing")
    *loading, normalize = preprocessing.transforms
    inferer = parser.get_parsed_content("inferer")
    entry = "surface_postprocessing" if "surface_postprocessing" in parser.get() else "to_label"
    to_label = parser.get_parsed_content(entry)
    costs = []
    for index, path in enumerate(images):
        item: dict[str, Any] = Compose(loading)({"image": path})
        image = item.pop("image")

        def work(image: MetaTensor) -> tuple[MetaTensor, torch.Tensor, torch.Tensor]:
            normalized = normalize({"image": image})["image"]
            probabilities = inferer(normalized[None], network)[0]
            return normalized, probabilities, to_label({"pred": probabilities})["pred"]

        if not costs:  # what is allocated once and stays is no cost of a prediction
            work(middle(image))
        (image, probabilities, mask), cost = measured(partial(work, image))
        costs.append(cost)
        values = {"mask": mask, "probabilities": probabilities}
        np.savez(
            Path(output, f"{index}.npz"),
            **{key: _as_in_the_file(value, image, loading, path) for key, value in values.items()},
        )
    Path(output, "cost.json").write_text(json.dumps(costs))


def _as_in_the_file(values: torch.Tensor, image: MetaTensor, loading: list, path: str) -> np.ndarray:
    """Undo the reorientation, and reverse the axes as nnU-Net's readers do, except for TIFF."""
    back = Compose(loading).inverse({"image": MetaTensor(values).copy_meta_from(image)})["image"].numpy()
    return back if path.endswith(".tif") else back.transpose(0, 3, 2, 1)


if __name__ == "__main__":
    predict(**json.loads(Path(sys.argv[1]).read_text()))
