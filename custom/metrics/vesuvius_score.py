"""The score of the Kaggle competition "Vesuvius Challenge - Surface Detection" (2025/26).

``0.30 * TopoScore + 0.35 * SurfaceDice@2 + 0.35 * VOI_score`` for each volume, then the mean over volumes. Voxels with
label 2 are background in both prediction and label; any other value than 0 is surface.

- **TopoScore**: F1 of the topological features (components, tunnels, cavities, with weights 0.34, 0.33, 0.33) that
  Betti matching pairs, counted in eight octants with 6-connectivity.
- **SurfaceDice@2**: fraction of both surfaces' area within 2 voxels of the other surface.
- **VOI_score**: ``1 / (1 + 0.3 * VOI)``, where VOI is the variation of information in bits between the 26-connected
  components of prediction and label, over the voxels that are surface in either.

All distances are in voxels: the competition's volumes have no spacing.
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from ..errors import DataError
from ..ops.betti import betti_extension
from ..ops.betti_counts import match_counts_of_all
from ..ops.components import label_components
from ..ops.surface_distance import surface_dice
from ..ops.target_layout import IGNORE_LABEL

WEIGHTS = {"toposcore": 0.30, "surface_dice": 0.35, "voi_score": 0.35}
DIMENSION_WEIGHTS = (0.34, 0.33, 0.33)
TOLERANCE = 2.0
VOI_ALPHA = 0.3

PARTS = tuple(WEIGHTS)
DETAILS = {
    "toposcore": ("f1_components", "f1_tunnels", "f1_cavities"),
    "surface_dice": (),
    "voi_score": ("voi_split", "voi_merge", "components", "label_components"),
}


def score_volume(
    prediction: np.ndarray,
    label: np.ndarray,
    *,
    parts: Sequence[str] = PARTS,
    processes: int | None = None,
    done: Callable[[], object] | None = None,
) -> dict[str, float]:
    """Return all scores of one volume.

    Args:
        prediction: (D, H, W); 0 is background, anything else surface.
        label: (D, H, W); 0 background, 1 surface, 2 ignored.
        parts: the parts to compute; without "toposcore" a 320^3 volume takes about a second instead of a minute.
        processes: octants matched in parallel; None: as many as cores and free memory allow (5.6 GiB for 160^3).

    Returns:
        ``score``, the official one or, if parts are left out, the weighted mean of the others; the ``parts``; and their
        details: ``f1_components``, ``f1_tunnels``, ``f1_cavities`` (NaN if neither mask has any), ``voi_split`` (bits;
        for split sheets), ``voi_merge`` (bits; for merged sheets), ``components`` and ``label_components``.

    Raises:
        ValueError: shapes differ or are not 3-D, or a part is unknown.
        BettiUnavailableError: "toposcore" without the compiled Betti matching.
    """
    check_parts(parts)
    prediction, label = without_ignored(prediction, label)
    scores: dict[str, float] = {}
    with ThreadPoolExecutor(1) as pool:  # in parallel with the other parts
        topology = pool.submit(topo_score, prediction, label, processes, done) if "toposcore" in parts else None
        if "surface_dice" in parts:
            scores["surface_dice"] = surface_dice(prediction, label, TOLERANCE)
        if "voi_score" in parts:
            scores |= voi_score(prediction, label)
        if topology is not None:
            scores |= topology.result()
    return {"score": _weighted(scores)} | {name: scores[name] for name in column_names(parts)[1:]}


def without_ignored(prediction: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return both as bool masks that are background where the label is 2.

    Raises:
        ValueError: shapes differ or are not 3-D.
    """
    if prediction.shape != label.shape or prediction.ndim != 3:
        raise ValueError(f"expected two volumes (D, H, W) of one shape, got {prediction.shape} and {label.shape}")
    counted = label != IGNORE_LABEL
    return (prediction != 0) & counted, (label != 0) & counted


def topo_score(
    prediction: np.ndarray,
    label: np.ndarray,
    processes: int | None = None,
    done: Callable[[], object] | None = None,
) -> dict[str, float]:
    """Return ``toposcore`` and the F1 of each dimension for two (D, H, W) bool masks; see :func:`score_volume`."""
    pairs = [(prediction[octant], label[octant]) for octant in octants(prediction.shape)]
    counts = np.sum(match_counts_of_all(pairs, processes, done), axis=0)
    f1 = [dimension_f1(*row) for row in counts.tolist()]
    active = [(weight, value) for weight, value in zip(DIMENSION_WEIGHTS, f1, strict=True) if not math.isnan(value)]
    total = sum(weight for weight, _ in active)
    score = sum(weight * value for weight, value in active) / total if active else 1.0
    return {"toposcore": score, **dict(zip(DETAILS["toposcore"], f1, strict=True))}


def octants(shape: Sequence[int]) -> list[tuple[slice, ...]]:
    """Return the parts of a volume halved along each axis; the first half is one voxel longer if the length is odd."""
    halves = [[slice(0, (n + 1) // 2), slice((n + 1) // 2, n)] if n > 1 else [slice(0, n)] for n in shape]
    return list(itertools.product(*halves))


def dimension_f1(matched: int, predicted: int, present: int) -> float:
    """Return the F1 of the features of one dimension.

    NaN if there are none: the dimension is excluded. If only the label has none, one false feature gives 1/3, two give
    1/5 and so on, never 0.
    """
    if present:
        return 2 * matched / (predicted + present)
    return 0.5 / (predicted + 0.5) if predicted else math.nan


def voi_score(prediction: np.ndarray, label: np.ndarray) -> dict[str, float]:
    """Return ``voi_score`` of two (D, H, W) bool masks, its two summands in bits, and the numbers of components.

    ``voi_split`` is the conditional entropy of the predicted components given the label's, ``voi_merge`` the reverse.
    Background counts as a class where only the other mask has surface. The score of two empty masks is 1.
    """
    predicted, components = label_components(prediction)
    present, label_count = label_components(label)
    surface = prediction | label
    split, merge = _conditional_entropies(predicted[surface], present[surface])
    return {
        "voi_score": 1 / (1 + VOI_ALPHA * (split + merge)),
        "voi_split": split,
        "voi_merge": merge,
        "components": components,
        "label_components": label_count,
    }


def _conditional_entropies(first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """H(first | second) and H(second | first) in bits, for two labellings of the same voxels."""
    if not first.size:
        return 0.0, 0.0
    pairs, counts = np.unique(first.astype(np.int64) << 32 | second, return_counts=True)
    joint = counts / first.size
    of_first = np.bincount(pairs >> 32, weights=joint)[pairs >> 32]
    of_second = np.bincount(pairs & 0xFFFFFFFF, weights=joint)[pairs & 0xFFFFFFFF]
    return float(joint @ np.log2(of_second / joint)), float(joint @ np.log2(of_first / joint))


def column_names(parts: Sequence[str]) -> list[str]:
    """Return the keys of :func:`score_volume`, in order."""
    ordered = [part for part in PARTS if part in parts]
    return ["score", *ordered, *itertools.chain.from_iterable(DETAILS[part] for part in ordered)]


def check_parts(parts: Sequence[str]) -> None:
    """Raise ValueError for unknown ``parts``, or BettiUnavailableError if they cannot be computed."""
    unknown = set(parts) - set(PARTS)
    if unknown or not parts:
        raise DataError(f"parts must be some of {', '.join(PARTS)}; got {', '.join(parts) or 'none'}")
    if "toposcore" in parts:
        betti_extension()


def _weighted(scores: Mapping[str, float]) -> float:
    weights = {part: weight for part, weight in WEIGHTS.items() if part in scores}
    return sum(weight * scores[part] for part, weight in weights.items()) / sum(weights.values())
