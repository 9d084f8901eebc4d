"""Pictures of image, label, prediction and errors."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from ignite.engine import Engine

from ..configuration import without_effect
from ..system.files import dispensable, write_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Classes 1 and 2; false negatives and false positives.
LABEL_COLOURS = ["#f4a261", "#e63946"]
ERROR_COLOURS = ["#4895ef", "#f72585"]


@without_effect()
class Panels:
    """Draws image, label, prediction and errors of an evaluator's first volumes as ``panels/<id>.png``.

    The slice shown is the one with most of the label's highest class, such as tumour.

    Example: ``{"_target_": "custom.handlers.Panels", "output_dir": "@results_dir", "n_cases": 8}``

    Args:
        ignored: label value that is never an error; None if there is none.
    """

    def __init__(self, *, output_dir: str, n_cases: int = 4, ignored: int | None = None) -> None:
        self.folder = Path(output_dir) / "panels"
        self.n_cases = n_cases
        self.ignored = ignored

    def attach(self, engine: Engine) -> None:
        """Register with an evaluator whose key metric is :class:`custom.handlers.CaseMetrics`.

        Pictures show the post-processed prediction, and are drawn where the volume is post-processed.
        """
        engine.state.case_steps.append(self._plan)

    def _plan(self, case: str, item: Mapping[str, Any], number: int) -> Callable[[Mapping[str, Any]], None] | None:
        """A function that draws the case, once its prediction is post-processed; it may run in another process."""
        if number >= self.n_cases:
            return None
        index = _largest_slice(_volume(item["label"]), self.ignored)
        # one slice of the image is all that has to be copied to another process
        return partial(self._draw, case, _volume(item["image"])[index : index + 1].copy(), index)

    def _draw(self, case: str, image: np.ndarray, index: int, item: Mapping[str, Any]) -> None:
        label, pred = (_volume(item[key])[index : index + 1] for key in ("label", "pred"))
        figure = draw_panel(image, label, pred, title=case, ignored=self.ignored, first=index)
        path = self.folder / f"{case}.png"
        with dispensable(path):
            write_whole(path, lambda file: figure.savefig(file, dpi=100))


def draw_panel(
    image: np.ndarray,
    label: np.ndarray,
    pred: np.ndarray,
    *,
    title: str,
    ignored: int | None = None,
    first: int = 0,
) -> "Figure":
    """Draw one slice of a volume four times: plain, with the label, with the prediction, with the errors.

    Args:
        image, label, pred: ``(D, H, W)``; label and prediction hold class indices.
        ignored: label value that is never an error.
    """
    from matplotlib.colors import ListedColormap
    from matplotlib.figure import Figure

    index = _largest_slice(label, ignored)
    layers = [
        ("image", None, LABEL_COLOURS),
        ("label", np.where(label[index] == ignored, 0, label[index]), LABEL_COLOURS),
        ("prediction", pred[index], LABEL_COLOURS),
        ("missed / false alarm", _errors(label[index], pred[index], ignored), ERROR_COLOURS),
    ]
    figure = Figure(figsize=(3.2 * len(layers), 3.6), layout="constrained")
    figure.suptitle(f"{title}, slice {first + index}", fontsize="medium")
    for axis, (name, layer, colours) in zip(figure.subplots(1, len(layers)), layers, strict=True):
        axis.imshow(image[index], cmap="gray")
        if layer is not None:
            axis.imshow(np.ma.masked_equal(layer, 0), cmap=ListedColormap(colours), vmin=1, vmax=2, alpha=0.65)
        axis.set_title(name, fontsize="small")
        axis.set_axis_off()
    return figure


def _largest_slice(label: np.ndarray, ignored: int | None) -> int:
    classes = label if ignored is None else np.where(label == ignored, 0, label)
    return int(np.argmax(np.count_nonzero(classes == classes.max(), axis=(1, 2)))) if classes.any() else 0


def _errors(label: np.ndarray, pred: np.ndarray, ignored: int | None) -> np.ndarray:
    """1 where a labelled voxel has another prediction, 2 where background does; 0 in the ignored region."""
    errors = np.where(label == pred, 0, np.where(label > 0, 1, 2))
    return errors if ignored is None else np.where(label == ignored, 0, errors)


def _volume(tensor: Any) -> np.ndarray:
    """``(C, D, H, W)`` to ``(D, H, W)``: the middle channel, which in a 2.5-D image is the slice itself."""
    array = torch.as_tensor(tensor).detach().cpu().numpy()
    return array[array.shape[0] // 2]
