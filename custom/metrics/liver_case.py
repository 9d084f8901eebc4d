"""Scores of one predicted liver with tumours against its label.

Liver is every voxel of label 1 or 2, tumour every voxel of label 2. P is the prediction, L the label:

======  =============================================================================================================
dice    ``2 |P and L| / (|P| + |L|)``
voe     volumetric overlap error, ``1 - |P and L| / |P or L|``
rvd     relative volume difference, ``(|P| - |L|) / |L|``: positive for oversegmentation
assd    average symmetric surface distance in mm: the mean over the surface voxels of both
hd95    95th percentile of the surface distances in mm, the larger of the two directions. This is MONAI's definition;
        medpy takes the percentile over both directions together.
======  =============================================================================================================

Undefined values are NaN, and are left out of means:

- Neither label nor prediction has the region (true negative): all five scores are undefined. LiTS counts such a volume
  as Dice 1, which raises the mean by the fraction of healthy patients.
- Only the prediction has it (false positive): Dice is 0 and VOE 1; RVD and distances are undefined.
- Only the label has it (false negative): Dice is 0, VOE 1 and RVD -1; distances are undefined.
- Unknown spacing: distances are undefined.

Distances thus cover only volumes in which something was found, and must be read together with Dice and their count.
"""

import math

import numpy as np
from monai.metrics.utils import get_mask_edges, get_surface_distance

from ..ops.boxes import bounding_box
from ..ops.components import component_sizes, label_components
from ..ops.liver_labels import LIVER, TUMOR

REGIONS = {"liver": LIVER, "tumor": TUMOR}
"""The smallest label of each region."""

SCORES = ("dice", "voe", "rvd", "assd", "hd95")
LESIONS = ("tp", "fp", "fn")
VOXELS = ("overlap", "predicted", "labelled")

COLUMNS = (
    *(f"{region}_{score}" for region in REGIONS for score in SCORES),
    *(f"lesion_{count}" for count in LESIONS),
    "tumor_burden_error",
    *(f"{region}_{count}" for region in REGIONS for count in VOXELS),
)
"""Keys of the result of :func:`measure`, in this order."""


def measure(
    prediction: np.ndarray, label: np.ndarray, spacing: np.ndarray | None = None, *, distances: bool = True
) -> dict[str, float]:
    """Compare one volume with its label.

    Args:
        prediction, label: ``(D, H, W)`` in the same, arbitrary axis order: 0 background, 1 liver, 2 tumour. An axis of
            length 1 is ignored for surfaces.
        spacing: mm between voxels along each axis; None if unknown.
        distances: whether to compute ``assd`` and ``hd95``, which take most of the time.

    Returns:
        the values of :data:`COLUMNS`. ``lesion_tp``, ``_fp`` and ``_fn`` are from :func:`match_lesions`.
        ``tumor_burden_error`` is the tumours' fraction of the liver in the prediction minus that in the label,
        undefined if either has no liver. ``*_overlap``, ``*_predicted`` and ``*_labelled`` count voxels, for the global
        Dice.

    Raises:
        ValueError: the shapes differ or are not three-dimensional.
    """
    if prediction.shape != label.shape or label.ndim != 3:
        raise ValueError(f"two volumes of one shape expected, found {prediction.shape} and {label.shape}")
    thick = [axis for axis, length in enumerate(label.shape) if length > 1]
    box = bounding_box((prediction > 0) | (label > 0)) or (slice(0, 1),) * 3
    prediction, label = prediction[box], label[box]

    values = dict.fromkeys(COLUMNS, math.nan)
    for region, least in REGIONS.items():
        found, true = prediction >= least, label >= least
        overlap, predicted, labelled = (int(np.count_nonzero(mask)) for mask in (found & true, found, true))
        scores = _volume_scores(overlap, predicted, labelled) | dict(
            zip(VOXELS, (overlap, predicted, labelled), strict=True)
        )
        if distances and spacing is not None and predicted and labelled:
            scores |= _surface_scores(found, true, np.asarray(spacing, float), thick)
        values |= {f"{region}_{name}": float(value) for name, value in scores.items()}
    values |= {f"lesion_{name}": float(n) for name, n in zip(LESIONS, match_lesions(prediction, label), strict=True)}
    if values["liver_predicted"] and values["liver_labelled"]:
        burdens = (values[f"tumor_{which}"] / values[f"liver_{which}"] for which in ("predicted", "labelled"))
        values["tumor_burden_error"] = next(burdens) - next(burdens)
    return values


def match_lesions(prediction: np.ndarray, label: np.ndarray) -> tuple[int, int, int]:
    """Count true positive, false positive and false negative lesions.

    A lesion is a 26-connected component of label 2. It is found if a predicted lesion overlaps it with an IoU above
    0.5, which makes matches unique.
    """
    found, n_found = label_components(prediction == REGIONS["tumor"])
    true, n_true = label_components(label == REGIONS["tumor"])
    both = (found > 0) & (true > 0)
    pairs, overlap = np.unique(np.stack([found[both], true[both]]).astype(np.int64), axis=1, return_counts=True)
    union = component_sizes(found, n_found)[pairs[0]] + component_sizes(true, n_true)[pairs[1]] - overlap
    hits = int(np.count_nonzero(2 * overlap > union))
    return hits, n_found - hits, n_true - hits


def _volume_scores(overlap: int, predicted: int, labelled: int) -> dict[str, float]:
    either = predicted + labelled
    return {
        "dice": 2 * overlap / either if either else math.nan,
        "voe": 1 - overlap / (either - overlap) if either else math.nan,
        "rvd": (predicted - labelled) / labelled if labelled else math.nan,
    }


def _surface_scores(found: np.ndarray, true: np.ndarray, spacing: np.ndarray, thick: list[int]) -> dict[str, float]:
    """MONAI's average surface distance and 95 % Hausdorff distance, from a single computation of distances."""
    shape = [found.shape[axis] for axis in thick]
    if not shape:  # a single voxel, contained in both
        return {"assd": 0.0, "hd95": 0.0}
    edges = get_mask_edges(found.reshape(shape), true.reshape(shape))
    there, back = (
        get_surface_distance(one, other, spacing=spacing[thick]).astype(np.float64)
        for one, other in (edges, edges[::-1])
    )
    return {
        "assd": float(np.concatenate([there, back]).mean()),
        "hd95": float(max(np.quantile(there, 0.95), np.quantile(back, 0.95))),
    }
