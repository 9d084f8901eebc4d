"""Liver and tumour segmentation scores per volume, as a MONAI metric and for two folders.

The scores, and how tumour-free volumes and empty predictions are treated, are defined in
:mod:`custom.metrics.liver_case`; summaries are in :mod:`custom.metrics.liver_report`.
"""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor

from ..data.labels import as_labels
from ..data.plausibility import known_spacing
from ..data.volumes import Volume, align_label, read_volume, spacing
from ..errors import DataError
from .case_metric import CaseMetric, Cases
from .liver_case import COLUMNS, REGIONS, measure
from .liver_report import format_table, summarise, write_reports
from .pairs import pair_files

KEYS = ("mean_dice", *(f"{region}_dice" for region in REGIONS))


class LiverMetrics(CaseMetric):
    """Liver and tumour scores of label maps with 0 background, 1 liver, 2 tumour.

    Voxel sizes are those of the affine of the label's (or else the prediction's) MetaTensor. Without an affine, or with
    the identity, ASSD and HD95 are not computed, with a warning.

    Example: ``{"_target_": "custom.metrics.LiverMetrics", "key": "tumor_dice"}``

    Args:
        key: score returned by :meth:`aggregate`: ``"mean_dice"`` (of liver and tumour), ``"liver_dice"`` or
            ``"tumor_dice"``.
        distances: whether to compute ASSD and HD95, which take most of the time.
    """

    columns = tuple(COLUMNS)

    def __init__(self, *, key: str = "mean_dice", distances: bool = True) -> None:
        if key not in KEYS:
            raise ValueError(f"key {key!r}: expected one of {', '.join(KEYS)}")
        super().__init__()
        self.key, self.keys = key, KEYS
        self.distances = distances

    def measure(self, prediction: torch.Tensor, label: torch.Tensor, name: str) -> dict[str, float]:
        described = next((t for t in (label, prediction) if isinstance(t, MetaTensor)), None)
        affine = np.eye(4) if described is None else described.affine.detach().cpu().numpy()
        found, true = (_plane_as_volume(tensor.detach().cpu().numpy()[0]) for tensor in (prediction, label))
        millimetres = known_spacing(affine, true.shape)
        if millimetres is None and self.distances:
            _warn_of_identity(name)
        return measure(found, true, millimetres, distances=self.distances)

    def means(self) -> dict[str, float]:
        """Return all defined means over the cases as a flat dictionary, for logs and curves."""
        scores = summarise(self.cases())
        mean, lesions = scores["mean"], scores["mean"]["lesions"]
        flat = {f"{region}_{name}": value for region in REGIONS for name, value in mean[region].items()}
        flat |= {f"lesion_{name}": lesions[name] for name in ("precision", "recall", "f1")}
        flat |= {"tumor_burden_rmse": mean["tumor_burden_rmse"]}
        flat |= {f"global_{name}": value for name, value in scores["global"].items()}
        return {name: value for name, value in flat.items() if value is not None}

    def aggregate(self) -> torch.Tensor:
        """Return the key metric, which selects the best weights; ``mean_dice`` averages those that are defined.

        It is 0 if nothing is defined, since MONAI would keep a NaN of the first epoch as the best value.
        """
        means = self.means()
        keys = KEYS[1:] if self.key == "mean_dice" else (self.key,)
        defined = [means[key] for key in keys if key in means]
        return torch.tensor(sum(defined) / len(defined) if defined else 0.0)

    def table(self) -> str:
        return format_table(self.cases())

    def write_cases(self, cases: Cases, folder: Path) -> None:
        write_reports(cases, folder)


def score_folders(predictions: str | Path, labels: str | Path) -> tuple[dict[str, Any], str]:
    """Compare every prediction of a folder with its label.

    A prediction with other axes than its label is reoriented. If the affines disagree on the position, array order is
    kept, with a warning, and the prediction's spacing is used, which is that of the image. If either affine is the
    identity, no distances are computed, with a warning.

    Args:
        predictions, labels: folders of volumes in any format of :func:`custom.data.volumes.read_volume`, with the
            values 0, 1 and 2, paired by :func:`custom.metrics.pairs.pair_files`.

    Returns:
        the scores as from :func:`custom.metrics.liver_report.summarise`, and a text table of them.

    Raises:
        DataError: a file is missing, unreadable, of another shape or with other values.
    """
    from tqdm import tqdm

    pairs = pair_files(predictions, labels)
    bar = tqdm(pairs.items(), desc="scoring", unit="volume", disable=None)
    cases = {case: _measure_files(case, *paths) for case, paths in bar}
    return summarise(cases), format_table(cases)


def _measure_files(case: str, prediction_path: Path, label_path: Path) -> dict[str, float]:
    prediction, label = (_labels_of(path) for path in (prediction_path, label_path))
    if sorted(prediction.array.shape) != sorted(label.array.shape):
        expected = f"the shape {label.array.shape} of {label_path}"
        raise DataError.of(prediction_path, f"shape {prediction.array.shape}", expected)
    known = all(known_spacing(volume.affine, volume.array.shape) is not None for volume in (prediction, label))
    if not known:
        _warn_of_identity(case)
    # The label is reoriented to the prediction's axes, as to the image's in training.
    true = align_label(prediction, label, label_path)
    return measure(prediction.array, true, spacing(prediction.affine) if known else None)


def _labels_of(path: Path) -> Volume:
    volume = read_volume(path)
    return Volume(as_labels(volume.array, (0, 1, 2), path), volume.affine)


def _plane_as_volume(array: np.ndarray) -> np.ndarray:
    """Reshape a slice ``(H, W)`` to ``(H, W, 1)``, whose first two axes are those of the affine."""
    return array[..., None] if array.ndim == 2 else array


def _warn_of_identity(case: str) -> None:
    warnings.warn(f"{case}: its affine is the identity, so there is no ASSD and HD95 in millimetres", stacklevel=3)
