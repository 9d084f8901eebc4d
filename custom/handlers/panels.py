"""Pictures of image, label, prediction and errors."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from ignite.engine import Engine, Events

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

    The slice shown is the one with most foreground in the label (without a label: in the prediction).

    Example: ``{"_target_": "custom.handlers.Panels", "output_dir": "@results_dir", "n_cases": 8}``

    Args:
        output_dir: the run's folder; ``panels`` is created in it.
        n_cases: number of volumes to draw.
        ignored: label value that is never an error; None if there is none.
    """

    def __init__(self, *, output_dir: str, n_cases: int = 4, ignored: int | None = None) -> None:
        self.folder = Path(output_dir) / "panels"
        self.n_cases = n_cases
        self.ignored = ignored
        self._drawn = 0

    def attach(self, engine: Engine) -> None:
        """Register with an evaluator with decollated outputs; ``pred`` and ``label`` are ``(1, D, H, W)``."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._restart)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._draw_batch)

    def _restart(self, _: Engine) -> None:
        self._drawn = 0

    def _draw_batch(self, engine: Engine) -> None:
        for item in engine.state.output[: max(0, self.n_cases - self._drawn)]:
            image, label, pred = (_volume(item[key]) for key in ("image", "label", "pred"))
            case = engine.state.batch[self._drawn % len(engine.state.batch)].get("id", str(self._drawn))
            figure = draw_panel(image, label, pred, title=str(case), ignored=self.ignored)
            path = self.folder / f"{case}.png"
            with dispensable(path):
                write_whole(path, lambda file, figure=figure: figure.savefig(file, dpi=100))
            self._drawn += 1


def draw_panel(
    image: np.ndarray, label: np.ndarray | None, pred: np.ndarray, *, title: str, ignored: int | None = None
) -> "Figure":
    """Draw one slice of a volume four times: plain, with the label, with the prediction, with the errors.

    Args:
        image, label, pred: ``(D, H, W)``; label and prediction hold class indices.
        title: text above the figure.
        ignored: label value that is never an error.
    """
    from matplotlib.colors import ListedColormap
    from matplotlib.figure import Figure

    shown = pred if label is None else np.where(label == ignored, 0, label) if ignored is not None else label
    index = int(np.argmax((shown > 0).sum(axis=(1, 2))))
    layers: list[tuple[str, np.ndarray | None, list[str]]] = [("image", None, LABEL_COLOURS)]
    if label is not None:
        layers.append(("label", shown[index], LABEL_COLOURS))
    layers.append(("prediction", pred[index], LABEL_COLOURS))
    if label is not None:
        layers.append(("missed / false alarm", _errors(label[index], pred[index], ignored), ERROR_COLOURS))

    figure = Figure(figsize=(3.2 * len(layers), 3.6), layout="constrained")
    figure.suptitle(f"{title}, slice {index}", fontsize="medium")
    for axis, (name, layer, colours) in zip(figure.subplots(1, len(layers)), layers, strict=True):
        axis.imshow(image[index], cmap="gray")
        if layer is not None:
            axis.imshow(np.ma.masked_equal(layer, 0), cmap=ListedColormap(colours), vmin=1, vmax=2, alpha=0.65)
        axis.set_title(name, fontsize="small")
        axis.set_axis_off()
    return figure


def _errors(label: np.ndarray, pred: np.ndarray, ignored: int | None) -> np.ndarray:
    """1 where a labelled voxel has another prediction, 2 where background does; 0 in the ignored region."""
    errors = np.where(label == pred, 0, np.where(label > 0, 1, 2))
    return errors if ignored is None else np.where(label == ignored, 0, errors)


def _volume(tensor: Any) -> np.ndarray | None:
    """``(C, D, H, W)`` to ``(D, H, W)``: the middle channel, which in a 2.5-D image is the slice itself."""
    if tensor is None:
        return None
    array = torch.as_tensor(tensor).detach().cpu().float().numpy()
    return array[array.shape[0] // 2]
