"""Draw three slices of a whole scroll with its prediction."""

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from scripts.command_line import command_line

from custom.errors import DataError
from custom.metrics.vesuvius_score import TOLERANCE, without_ignored
from custom.ops.surface_distance import surface_dice
from custom.ops.target_layout import IGNORE_LABEL
from custom.system.files import write_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

AXES = ("z", "y", "x")
FOUND, MISSED, FALSE = (0.16, 0.62, 0.56), (0.28, 0.58, 0.94), (0.9, 0.22, 0.27)


def draw_scroll(
    input: str,
    prediction: str,
    label: str | None = None,
    output: str = "scroll.png",
    at: Sequence[int] | None = None,
    threshold: float | None = None,
) -> None:
    """Draw the CT, the label, the prediction and its errors in the three planes through a point.

    With a label, Dice and SurfaceDice at 2 voxels of the whole volume are printed and shown in the title.

    Example: python scripts/draw_scroll.py --input scroll.zarr --label label.zarr --prediction surface.zarr

    Args:
        input: OME-Zarr of the scroll, a path or a URL; only the three planes are read.
        prediction: OME-Zarr of the whole scroll, written by scripts/predict_scroll.py.
        label: OME-Zarr of 0 background, 1 surface, 2 unlabelled; read completely, so it must fit into memory.
        output: the PNG to write.
        at: z,y,x of the point in voxels; the centre by default.
        threshold: probability above which a voxel counts as surface, 0.5 by default; not for masks.
    """
    try:
        from custom.scroll.ome_zarr import open_image, read_prediction
    except ModuleNotFoundError as error:
        sys.exit(f"error: found no module {error.name!r}, expected what pip install -e '.[scroll]' installs")
    places = {"CT": input, "label": label}
    try:
        arrays = {name: open_image(str(url)).array for name, url in places.items() if url is not None}
        predicted, is_mask = read_prediction(str(prediction))
        arrays["prediction"] = predicted.array
        shapes = {name: array.shape for name, array in arrays.items()}
        if len(set(shapes.values())) > 1:
            raise DataError.of(prediction, f"shapes that differ, {shapes}", "a prediction of the whole volume")
        if threshold is not None and (is_mask or not 0 <= threshold < 1):
            expected = "none, since the prediction is a mask" if is_mask else "a probability from 0 to below 1"
            raise DataError.of("threshold", str(threshold), expected)
        least = 0 if is_mask else 255 * (0.5 if threshold is None else threshold)
    except DataError as error:
        sys.exit(f"error: {error}")
    shape = shapes["CT"]
    point = tuple(length // 2 for length in shape) if at is None else tuple(at)
    if len(point) != 3 or not all(0 <= place < length for place, length in zip(point, shape, strict=True)):
        sys.exit(f"error: at: found {point}, expected z,y,x within {shape} voxels")

    title = f"{' x '.join(map(str, shape))} voxels"
    if label is not None:
        labels = arrays["label"][...]
        if labels.max() > IGNORE_LABEL:
            sys.exit(f"error: {label}: found a value of {labels.max()}, expected 0 background, 1 surface, 2 unlabelled")
        scores = _scores(arrays["prediction"][...] > least, labels)
        title += ": " + ", ".join(f"{name} {value:.3f}" for name, value in scores.items())
    figure = _draw(arrays, point, least, title)
    write_whole(output, lambda file: figure.savefig(file, dpi=100))
    print(f"{title}\nPicture: {output}")


def _scores(found: np.ndarray, label: np.ndarray) -> dict[str, float]:
    """Scores with unlabelled voxels as background in both."""
    found, label = without_ignored(found, label)
    total = np.count_nonzero(found) + np.count_nonzero(label)
    dice = 2 * np.count_nonzero(found & label) / total if total else 1.0
    return {"Dice": dice, f"SurfaceDice@{TOLERANCE:.0f}": surface_dice(found, label, TOLERANCE)}


def _draw(arrays: Mapping[str, Any], point: Sequence[int], least: float, title: str) -> "Figure":
    """Draw a row for each plane, and columns for each volume and the errors."""
    from matplotlib.figure import Figure

    columns = [*arrays, "found, missed, false"] if "label" in arrays else [*arrays]
    figure = Figure(figsize=(4 * len(columns), 12.4), layout="constrained")
    figure.suptitle(title)
    for axis, row in enumerate(figure.subplots(3, len(columns), squeeze=False)):
        at = tuple(point[axis] if other == axis else slice(None) for other in range(3))
        planes = {name: array[at] for name, array in arrays.items()}
        if "label" in planes:
            planes[columns[-1]] = _errors(planes["CT"], planes["prediction"] > least, planes["label"])
            planes["label"] = np.where(planes["label"] == IGNORE_LABEL, 0.5, planes["label"])
        for cell, (name, plane) in zip(row, planes.items(), strict=True):
            cell.imshow(plane, cmap="gray", vmin=0, vmax=max(float(plane.max()), 1))
            cell.set_title(f"{name}, {AXES[axis]} = {point[axis]}", fontsize="medium")
            cell.set_axis_off()
    return figure


def _errors(image: np.ndarray, found: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Grey slice with coloured surface: green true positive, blue false negative, red false positive; ``(H, W, 3)``."""
    picture = np.repeat(image[..., None] / 255, 3, axis=2)
    surface, known = label == 1, label != IGNORE_LABEL
    picture[found & surface] = FOUND
    picture[~found & surface] = MISSED
    picture[found & known & ~surface] = FALSE
    return picture


if __name__ == "__main__":
    command_line(draw_scroll, "draw_scroll.py")
